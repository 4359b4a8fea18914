"""An agent that acts as whoever asks it, by ``ModelServingUserCredentials``, within the API scopes that it declared."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.sql import StatementParameterListItem

from tests.conftest import RunningWorkspace
from tests.local_workspace.agents_that_read import (
    DECLARES_ALL,
    DECLARES_ANOTHER_SCOPE,
    DECLARES_NOTHING,
    READER,
    TABLE,
    TABLE_QUERY,
    Person,
)
from tests.local_workspace.conftest import AGENT, create, entity, inference_table, traffic, wait_for

pytestmark = pytest.mark.slow

AGENTS = "on-behalf"


@pytest.fixture(scope="module")
def agents(workspace: RunningWorkspace, models: None, reader: None) -> Iterator[WorkspaceClient]:
    """A client, while an endpoint serves every version of the agent."""
    client = WorkspaceClient()
    create(client, "reader-helper", entity("only", AGENT))
    versions = {"all": DECLARES_ALL, "another": DECLARES_ANOTHER_SCOPE, "nothing": DECLARES_NOTHING}
    served = [entity(name, READER, version) for name, version in versions.items()]
    routes = traffic(all=100, another=0, nothing=0)
    create(client, AGENTS, *served, traffic=routes, ai_gateway=inference_table("on_behalf"))
    yield client
    for name in (AGENTS, "reader-helper"):
        client.serving_endpoints.delete(name)


def test_the_agent_reads_what_its_user_may_read_and_no_more(
    workspace: RunningWorkspace, agents: WorkspaceClient, person: Person
) -> None:
    person.may_query(AGENTS)
    assert person.is_told(AGENTS, "user: me") == person.name
    assert "SQL warehouse local" in person.is_told(AGENTS, f"user: {TABLE_QUERY}")
    person.may_use_the_warehouse()
    told = person.is_told(AGENTS, f"user: {TABLE_QUERY}")
    assert "INSUFFICIENT_PERMISSIONS" in told
    assert f"SELECT on Table '{TABLE}'" in told
    person.may_read(TABLE)
    assert person.is_told(AGENTS, f"user: {TABLE_QUERY}") == "[['41']]"
    # Another user, who may query the agent and use the warehouse, is not let through by the first one's right.
    other = Person(workspace, agents)
    other.may_query(AGENTS)
    other.may_use_the_warehouse()
    assert "INSUFFICIENT_PERMISSIONS" in other.is_told(AGENTS, f"user: {TABLE_QUERY}")
    agents.users_v2.delete(other.id)


def test_the_agent_may_do_for_its_user_what_it_declared_only(agents: WorkspaceClient, person: Person) -> None:
    person.may_query(AGENTS, "CAN_MANAGE")
    person.may_use_the_warehouse()
    person.may_read(TABLE)
    another = f"{AGENTS}/served-models/another"
    assert "required scopes: sql.statement-execution" in person.is_told(another, f"user: {TABLE_QUERY}")
    person.may_query("reader-helper")
    assert person.is_told(another, "user: query reader-helper") == "echo: hello"
    assert "required scopes: serving.serving-endpoints" in person.is_told(AGENTS, "user: query reader-helper")
    nothing = person.asks(f"{AGENTS}/served-models/nothing", f"user: {TABLE_QUERY}")
    assert nothing.status_code == 400
    assert "Unable to authenticate using user_credentials" in nothing.json()["message"]
    # Changing tables' rows is the user's right; changing tables, or asking about others, is not the agent's.
    for statement in (f"DROP TABLE {TABLE}", "SHOW SCHEMAS", "SELECT * FROM main.information_schema.tables"):
        assert "INSUFFICIENT_PERMISSIONS" in person.is_told(AGENTS, f"user: {statement}")
    assert "MODIFY on Table" in person.is_told(AGENTS, f"user: INSERT INTO {TABLE} VALUES (1)")


def test_users_at_the_same_time_are_never_mixed_up(workspace: RunningWorkspace, agents: WorkspaceClient) -> None:
    people = [Person(workspace, agents) for _ in range(4)]
    for each in people:
        each.may_query(AGENTS)
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda each: each.is_told(AGENTS, "user: me"), people * 10))
    assert told == [each.name for each in people] * 10
    for each in people:
        agents.users_v2.delete(each.id)


def test_the_row_says_who_asked_and_nobody_asks_for_one_who_is_gone(
    workspace: RunningWorkspace, agents: WorkspaceClient, person: Person
) -> None:
    person.may_query(AGENTS)
    assert person.is_told(AGENTS, "user: me") == person.name
    count = "SELECT count(*) FROM main.default.on_behalf_payload WHERE requester = :who AND status_code = 200"
    who = [StatementParameterListItem(name="who", value=person.name)]

    def rows() -> int:
        answer = agents.statement_execution.execute_statement(count, warehouse_id="local", parameters=who)
        return int(answer.result.data_array[0][0])

    assert wait_for(rows) == 1
    agents.users_v2.delete(person.id)
    assert person.asks(AGENTS, "user: me").status_code == 401
    assert "dapi" not in agents.serving_endpoints.logs(AGENTS, "all").logs
    # The workspace's own user may everything, and the agent on its behalf what the scopes open.
    headers = {"Authorization": f"Bearer {workspace.token}"}
    url = f"{workspace.url}/serving-endpoints/{AGENTS}/invocations"
    body = {"input": [{"role": "user", "content": f"user: {TABLE_QUERY}"}]}
    assert "41" in requests.post(url, json=body, headers=headers, timeout=60).text
