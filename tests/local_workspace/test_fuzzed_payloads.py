"""Bodies that no client would send, to a model of tables and to agents: an answer each, and never a 5xx."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, CHAT, PLAIN, say

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60.0
#: Words that the echo agent takes as orders are no part of them.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(lambda text: f"«{text}»")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": TEXTS | st.just("user"), "content": VALUES}), max_size=3)
TABLE = st.fixed_dictionaries({"columns": st.lists(st.just("x"), max_size=2), "data": VALUES})
FIELDS = {
    "dataframe_records": VALUES | st.lists(st.fixed_dictionaries({"x": VALUES}), max_size=3),
    "dataframe_split": VALUES | TABLE,
    "inputs": VALUES,
    "instances": VALUES,
    "input": VALUES | MESSAGES,
    "messages": VALUES | MESSAGES,
    "params": VALUES,
    "stream": VALUES,
    "context": VALUES,
    "custom_inputs": VALUES,
    "client_request_id": VALUES,
    "databricks_options": VALUES | st.fixed_dictionaries({"return_trace": VALUES}),
}
OBJECTS = st.fixed_dictionaries({}, optional=FIELDS) | st.dictionaries(TEXTS, VALUES, max_size=3)
TYPES = st.sampled_from(["application/json", "application/json; charset=utf-8", "text/csv", "text/plain", "x", ""])


CHATTED = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("model", "route", "good"),
    [
        (PLAIN, "", {"dataframe_records": [{"x": 1.5}]}),
        (AGENT, "", say("hello")),
        (CHAT, "", CHATTED),
        (AGENT, "responses", say("hello")),
        (CHAT, "chat/completions", CHATTED),
    ],
    ids=["table", "responses agent", "chat agent", "responses", "chat completions"],
)
def test_any_body_gets_an_answer(
    workspace: RunningWorkspace, shared_endpoint: Callable[[str], str], model: str, route: str, good: dict[str, Any]
) -> None:
    """Where the body names the endpoint, most name one that is there."""
    name = shared_endpoint(model)
    url = f"{workspace.url}/serving-endpoints/{route or f'{name}/invocations'}"
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {workspace.token}"
    failed: list[tuple[int, bytes, str, str]] = []
    answered: set[int] = set()
    named = st.sampled_from([name, name, name, None, "nobody"])

    @settings(max_examples=150, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.one_of(OBJECTS, OBJECTS, VALUES, st.binary()), named, TYPES)
    def ask(drawn: Any, endpoint: str | None, content_type: str) -> None:
        if route and endpoint and isinstance(drawn, dict):
            drawn = {**drawn, "model": endpoint}
        body = drawn if isinstance(drawn, bytes) else json.dumps(drawn).encode()
        answer = session.post(url, data=body, headers={"Content-Type": content_type}, timeout=PATIENCE_SECONDS)
        answered.add(answer.status_code)
        if answer.status_code >= 500:
            failed.append((answer.status_code, body, content_type, answer.text[:300]))

    with session:
        ask()
        assert failed == []
        assert 400 in answered
        right = {**good, "model": name} if route else good
        assert session.post(url, json=right, timeout=PATIENCE_SECONDS).status_code == 200
