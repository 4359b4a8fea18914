"""A stream that fails is HTTP 200; the gate counts it as an error all the same, and only where it failed."""

import os
from collections.abc import Callable

import requests

from tests.pipeline.conftest import Model, eventually

STREAMS = 6


def stream(model: Model, text: str) -> str:
    """One streamed answer as it came; its status is 200."""
    answer = requests.post(
        model.parts().endpoint.query_url,
        json={"input": [{"role": "user", "content": text}], "stream": True},
        headers={"Authorization": f"Bearer {os.environ['DATABRICKS_TOKEN']}"},
        timeout=60,
    )
    assert answer.status_code == 200
    return answer.text


def errors_seen(model: Model, release: str) -> tuple[int, int]:
    """Challenger rows and bad ones, once all streams are in the table."""

    def look() -> tuple[int, int] | None:
        observed = model.parts().observer.look(release)
        assert observed is not None
        counted = observed.evidence.metric("errors").total().challenger
        return (sum(counted), counted[1]) if sum(counted) == STREAMS else None

    return eventually(look)


def test_a_stream_that_breaks_is_counted_as_an_error(make_model: Callable[..., Model]) -> None:
    model = make_model()
    model.deploy(release := model.release(), model.register("breaking_stream"))
    for _ in range(STREAMS):
        assert '"error"' in stream(model, "hello")
    assert errors_seen(model, release) == (STREAMS, STREAMS)


def test_a_whole_stream_that_speaks_of_errors_is_not_one(make_model: Callable[..., Model]) -> None:
    model = make_model()
    model.deploy(release := model.release(), model.register("first"))
    for _ in range(STREAMS):
        stream(model, 'why does {"databricks_output": {"error": {"error_code": "BAD_REQUEST"}}} come last?')
    assert errors_seen(model, release) == (STREAMS, 0)
