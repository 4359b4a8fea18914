"""The connection to a Databricks workspace; which one is up to the environment."""

import functools
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from release_pipeline.errors import NotConfigured, WorkspaceUnreachable, first_sentence

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from mlflow import MlflowClient

    from release_pipeline.workspace.sql.warehouse import Warehouse

CONNECT_SECONDS = 5.0
# The client's own default would retry for five minutes, longer than a sensor's tick may take.
RETRY_SECONDS = 20
REQUEST_SECONDS = 60
#: MLflow's own defaults keep trying a call that nobody answers for more than eight minutes. What a user has set counts.
MLFLOW_BOUNDS: Final = {
    "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT": "60",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
#: Whether the SDK's calls are made once, whatever comes of them.
_ONCE: ContextVar[bool] = ContextVar("one try", default=False)


@contextmanager
def one_try() -> Iterator[None]:
    """The SDK makes each call inside once: what it would try again ends as a ``TimeoutError``.

    For a write that must not be made any more after something else has happened, which the SDK cannot know.
    """
    token = _ONCE.set(True)
    try:
        yield
    finally:
        _ONCE.reset(token)


@dataclass(frozen=True)
class Workspace:
    """One workspace and the clients that speak to it."""

    client: "WorkspaceClient"
    host: str

    @functools.cached_property
    def warehouse(self) -> "Warehouse":
        """The SQL warehouse: ``DATABRICKS_WAREHOUSE_ID``, else the first running one.

        Raises:
            NotConfigured: The workspace has no warehouse that may be used.
        """
        from release_pipeline.workspace.sql.warehouse import Warehouse, choose_warehouse

        return Warehouse(self.client, choose_warehouse(self.client))

    @functools.cached_property
    def mlflow(self) -> "MlflowClient":
        """The MLflow client; also points mlflow's fluent functions at the workspace, and bounds how long they try."""
        import mlflow

        for variable, bound in MLFLOW_BOUNDS.items():
            os.environ.setdefault(variable, bound)  # read at every call

        mlflow.set_tracking_uri("databricks")
        mlflow.set_registry_uri("databricks-uc")
        return mlflow.MlflowClient(tracking_uri="databricks", registry_uri="databricks-uc")


def connect() -> Workspace:
    """Connect to the workspace that the environment names; the same object for the same environment.

    Raises:
        NotConfigured: Neither ``DATABRICKS_HOST`` nor a configuration profile says which workspace.
        WorkspaceUnreachable: Nothing listens at the workspace's address, or signing in failed there.
    """
    host = os.environ.get("DATABRICKS_HOST", "")
    if host:
        check_reachable(host)
    return _connect(host, os.environ.get("DATABRICKS_TOKEN", ""), os.environ.get("DATABRICKS_CONFIG_PROFILE", ""))


@functools.lru_cache(maxsize=4)
def _connect(host: str, token: str, profile: str) -> Workspace:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.clock import RealClock
    from databricks.sdk.core import Config
    from databricks.sdk.errors.base import DatabricksError

    class TriesClock(RealClock):
        """The SDK sleeps by it between two tries of one call."""

        def sleep(self, seconds: float) -> None:
            if _ONCE.get():
                raise TimeoutError("it was tried once") from sys.exception()
            time.sleep(seconds)

    try:
        config = Config(
            clock=TriesClock(),
            http_timeout_seconds=REQUEST_SECONDS,
            retry_timeout_seconds=RETRY_SECONDS,
            product="release-pipeline",
            product_version="0.1.0",
        )
    except ValueError as error:
        reason = str(error).splitlines()[0].split("Config:")[0].strip().rstrip(".")
        raise NotConfigured(
            f"no Databricks credentials: {reason}; set DATABRICKS_HOST and DATABRICKS_TOKEN, or a profile in "
            "~/.databrickscfg, or start the local workspace with `release-pipeline dev`."
        ) from None
    except (DatabricksError, TimeoutError) as error:  # some ways to sign in ask the workspace at once
        raise WorkspaceUnreachable(
            f"signing in to {host or 'the workspace of the profile'} failed: {first_sentence(error)}; "
            "check DATABRICKS_HOST, the credentials and the network."
        ) from None
    return Workspace(client=WorkspaceClient(config=config), host=str(config.host).rstrip("/"))


def check_reachable(host: str) -> None:
    """Open and close a connection to ``host`` (a URL), because the SDK itself would wait for minutes.

    Raises:
        NotConfigured: The address is not a URL with a host name.
        WorkspaceUnreachable: Nothing listens there.
    """
    parts = urlsplit(host if "//" in host else f"https://{host}")
    if not parts.hostname:
        raise NotConfigured(f"DATABRICKS_HOST is {host!r}, which is not an address such as https://<workspace>.")
    port = parts.port or (80 if parts.scheme == "http" else 443)
    if os.environ.get("HTTPS_PROXY") and parts.scheme == "https":
        return  # the proxy connects, a direct connection may be forbidden
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise WorkspaceUnreachable(
            f"nothing answers at {host} ({error.strerror or error}); check DATABRICKS_HOST and the network, "
            "or start the local workspace with `release-pipeline workspace`."
        ) from None
