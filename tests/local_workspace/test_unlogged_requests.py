"""Requests that were refused: which of them leave a row in the inference table, and which setting changes that."""

from collections.abc import Callable

import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import RateLimit, RateLimitRenewalPeriod

from tests.conftest import RunningWorkspace
from tests.local_workspace.agents_that_read import Person
from tests.local_workspace.conftest import AGENT, say, wait_for

NOBODY_MAY = RateLimit(calls=0, renewal_period=RateLimitRenewalPeriod.MINUTE)


def test_refusals_and_their_rows(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    shared_endpoint: Callable[[str], str],
    person: Person,
    set_faults: Callable[..., requests.Response],
) -> None:
    name = shared_endpoint(AGENT)
    url = f"{workspace.url}/serving-endpoints/{name}/invocations"

    def ask(token: str) -> requests.Response:
        return requests.post(url, json=say("hello"), headers={"Authorization": f"Bearer {token}"}, timeout=60)

    unknown, stranger = ask("dapi-of-nobody"), ask(person.token)
    assert (unknown.status_code, stranger.status_code) == (401, 403)
    # Nothing was asked on their behalf: there is no request that a row could be of.
    assert "x-request-id" not in {**unknown.headers, **stranger.headers}
    # The older call to limit rates; the AI Gateway's has a test of its own.
    assert client.serving_endpoints.put(name, rate_limits=[NOBODY_MAY]).rate_limits == [NOBODY_MAY]
    limited = ask(workspace.token)
    set_faults(unlogged_statuses=[401, 403, 429, 500])
    unlogged = ask(workspace.token)
    client.serving_endpoints.put(name, rate_limits=[])
    last = ask(workspace.token)
    assert [answer.status_code for answer in (limited, unlogged, last)] == [429, 429, 200]
    table = f"main.default.{name.replace('-', '_')}_payload"
    statement = f"SELECT databricks_request_id, status_code, requester FROM {table}"

    def read() -> dict[str, list[str]] | None:
        answer = client.statement_execution.execute_statement(statement, "local", wait_timeout="30s")
        assert answer.result is not None, answer.status
        rows = {row[0]: row[1:] for row in answer.result.data_array or []}
        return rows if last.headers["x-request-id"] in rows else None

    rows = wait_for(read)
    assert rows[limited.headers["x-request-id"]][0] == "429"
    assert unlogged.headers["x-request-id"] not in rows
    assert person.name not in {requester for _, requester in rows.values()}
