"""A ResponsesAgent that asks the workspace, as itself or on behalf of whoever asks it.

It is told ``<who>: <what>``. Who is ``model`` (a new client for each request), ``kept`` (one client for all) or
``user``; what is a statement, or ``me``, or ``query <endpoint>``.
"""

import functools

import mlflow
from databricks.sdk import WorkspaceClient
from databricks.sdk.credentials_provider import ModelServingUserCredentials
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse


class ReadingAgent(ResponsesAgent):
    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        content = request.input[-1].model_dump()["content"]
        who, _, what = (content if isinstance(content, str) else str(content[0]["text"])).partition(": ")
        text = _told(_client(who), what) if what else "nothing"
        return ResponsesAgentResponse(output=[self.create_text_output_item(text=text, id="item-1")])


def _client(who: str) -> WorkspaceClient:
    if who == "user":
        return WorkspaceClient(credentials_strategy=ModelServingUserCredentials())
    return _kept() if who == "kept" else WorkspaceClient()


@functools.cache
def _kept() -> WorkspaceClient:
    return WorkspaceClient()


def _told(client: WorkspaceClient, what: str) -> str:
    if what == "me":
        return str(client.current_user.me().user_name)
    if what.startswith("query "):
        body = {"input": [{"role": "user", "content": "hello"}]}
        answer = client.api_client.do("POST", f"/serving-endpoints/{what.split()[1]}/invocations", body=body)
        return str(answer["output"][0]["content"][0]["text"])
    answer = client.statement_execution.execute_statement(what, warehouse_id="local", wait_timeout="30s")
    if answer.status.error is not None:
        raise PermissionError(answer.status.error.message)
    return str(answer.result.data_array)


mlflow.models.set_model(ReadingAgent())
