"""Fixtures of the tests of ``deploy/``: models of the session's local workspace, and a PostgreSQL server."""

from collections.abc import Iterator

import pytest

from tests.deploy.postgres_server import Postgres, running_server, without_server
from tests.pipeline.conftest import beside_champion, deployed, logged, make_model, make_spec, model

__all__ = ["beside_champion", "deployed", "logged", "make_model", "make_spec", "model"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of the session's own; skips where PostgreSQL is not installed."""
    if why := without_server():
        pytest.skip(why)
    with running_server() as running:
        yield running
