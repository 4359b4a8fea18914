"""Versions of an agent that asks the workspace, the table that it reads, and people with tokens of their own."""

import json
import uuid

import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.catalog import PermissionsChange, Privilege
from databricks.sdk.service.serving import ServingEndpointAccessControlRequest, ServingEndpointPermissionLevel
from databricks.sdk.service.sql import WarehouseAccessControlRequest, WarehousePermissionLevel
from mlflow.models.auth_policy import AuthPolicy, SystemAuthPolicy, UserAuthPolicy
from mlflow.models.resources import (
    DatabricksFunction,
    DatabricksServingEndpoint,
    DatabricksSQLWarehouse,
    DatabricksTable,
)

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, register, said, say

READER, SCHEMA, TABLE, OTHER = "main.default.reader", "main.people", "main.people.readings", "main.people.hidden"
TABLE_QUERY, OTHER_QUERY = f"SELECT level FROM {TABLE}", f"SELECT level FROM {OTHER}"
#: What the versions declare: everything, another scope than that of SQL, nothing.
DECLARES_ALL, DECLARES_ANOTHER_SCOPE, DECLARES_NOTHING = "1", "2", "3"
RESOURCES = [
    DatabricksTable(TABLE),
    DatabricksSQLWarehouse("local"),
    DatabricksServingEndpoint("reader-helper"),
    DatabricksFunction(AGENT),
    # Used with the rights of whoever asks, so it is no resource of the version's own.
    DatabricksTable("main.people.none", on_behalf_of_user=True),
]


def register_reader() -> None:
    """Register the versions, and make two tables with one row each."""
    client = WorkspaceClient()
    statements = [f"CREATE SCHEMA {SCHEMA}"]
    for number, table in enumerate((TABLE, OTHER)):
        statements += [f"CREATE TABLE {table} (level INT)", f"INSERT INTO {table} VALUES ({41 + number})"]
    for statement in statements:
        client.statement_execution.execute_statement(statement, warehouse_id="local", wait_timeout="30s")
    system = SystemAuthPolicy(resources=RESOURCES)
    for policy in (
        AuthPolicy(system_auth_policy=system, user_auth_policy=UserAuthPolicy(api_scopes=["sql"])),
        AuthPolicy(user_auth_policy=UserAuthPolicy(api_scopes=["serving.serving-endpoints"])),
        None,
    ):
        register("reading_agent.py", READER, **({"auth_policy": policy} if policy else {}))


class Person:
    """A user who may query one endpoint, with a token of the user's own."""

    def __init__(self, workspace: RunningWorkspace, client: WorkspaceClient) -> None:
        self.name = f"{uuid.uuid4().hex[:8]}@example.com"
        self.id = str(client.users_v2.create(user_name=self.name).id)
        made = client.api_client.do("POST", "/local/tokens", body={"user_name": self.name})
        self.token = str(made["token_value"])
        self.client = WorkspaceClient(host=workspace.url, token=self.token)
        self._admin = client
        self._url = workspace.url

    def may_query(self, endpoint: str, level: str = "CAN_QUERY") -> None:
        """Be given a level on an endpoint."""
        grant = ServingEndpointAccessControlRequest(
            user_name=self.name, permission_level=ServingEndpointPermissionLevel(level)
        )
        endpoint_id = str(self._admin.serving_endpoints.get(endpoint).id)
        self._admin.serving_endpoints.update_permissions(endpoint_id, access_control_list=[grant])

    def may_use_the_warehouse(self) -> None:
        """Be given the permission to run statements."""
        grant = WarehouseAccessControlRequest(user_name=self.name, permission_level=WarehousePermissionLevel.CAN_USE)
        self._admin.warehouses.update_permissions("local", access_control_list=[grant])

    def may_read(self, table: str) -> None:
        """Be given what reading a table takes."""
        catalog, schema, _ = table.split(".")
        for kind, name, privilege in (
            ("CATALOG", catalog, Privilege.USE_CATALOG),
            ("SCHEMA", f"{catalog}.{schema}", Privilege.USE_SCHEMA),
            ("TABLE", table, Privilege.SELECT),
        ):
            self.is_granted(kind, name, privilege)

    def is_granted(self, kind: str, name: str, *privileges: Privilege) -> None:
        """Be granted privileges on a securable."""
        change = PermissionsChange(principal=self.name, add=list(privileges))
        self._admin.grants.update(kind, name, changes=[change])

    def asks(self, endpoint: str, text: str) -> requests.Response:
        """The answer of an agent to the person."""
        url = f"{self._url}/serving-endpoints/{endpoint}/invocations"
        return requests.post(url, json=say(text), headers={"Authorization": f"Bearer {self.token}"}, timeout=60)

    def is_told(self, endpoint: str, text: str) -> str:
        """What an agent says to the person, an error's message where it fails."""
        answer = self.asks(endpoint, text)
        return said(answer.json()) if answer.status_code == 200 else str(json.loads(answer.text)["message"])
