"""What a Databricks App needs to call a model's endpoint: the resource in its bundle, the variable, and Python.

The endpoint is a resource of the app with CAN_QUERY, which the app's service principal gets with it; its name comes in
an environment variable, so that the app's code names no endpoint and no token.
"""

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from release_pipeline.spec import ReleaseSpec

VARIABLE: Final = "SERVING_ENDPOINT"
#: Name of the app's resource; `valueFrom` names it again.
RESOURCE: Final = "serving-endpoint"
#: The scope with which an app may query endpoints as its user.
QUERY_SCOPE: Final = "serving.serving-endpoints"
_NAME_LIMIT: Final = 30

_TOKEN: Final = '''

def token() -> str:
    """The app's own token; the workspace's client renews it before it ends."""
    return workspace.config.authenticate()["Authorization"].removeprefix("Bearer ")
'''
_USER: Final = """
# The agent acts as whoever asks: pass on the user's own token, header x-forwarded-access-token of the app's request."""

_RESPONSES: Final = '''"""Asks the agent behind the app's serving endpoint, and gives its answer as it comes."""

import os
from collections.abc import Iterator

from databricks.sdk import WorkspaceClient
from openai import OpenAI

workspace = WorkspaceClient()  # in an app: the app's own service principal
@TOKEN@
@USER@
def ask(question: str@PARAMETER@) -> Iterator[str]:
    """The answer, piece by piece."""
    client = OpenAI(base_url=f"{workspace.config.host}/serving-endpoints", api_key=@KEY@)
    messages = [{"role": "user", "content": question}]
    for event in client.responses.create(model=os.environ["SERVING_ENDPOINT"], input=messages, stream=True):
        if event.type == "response.output_text.delta":
            yield event.delta
        # An error after the first words comes as the last event, with HTTP status 200.
        if error := (event.model_extra or {}).get("databricks_output", {}).get("error"):
            raise RuntimeError(error["message"])
'''
_CHAT: Final = (
    _RESPONSES.split("    messages =")[0]
    + """    messages = [{"role": "user", "content": question}]
    for chunk in client.chat.completions.create(model=os.environ["SERVING_ENDPOINT"], messages=messages, stream=True):
        # An error after the first words comes as the last chunk, with HTTP status 200.
        if error := (chunk.model_extra or {}).get("databricks_output", {}).get("error"):
            raise RuntimeError(error["message"])
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content
"""
)
_TABLE: Final = '''"""Asks the model behind the app's serving endpoint."""

import os
from typing import Any

from databricks.sdk import WorkspaceClient

workspace = WorkspaceClient()  # in an app: the app's own service principal


def ask(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request such as ask(@EXAMPLE@)."""
    path = f"/serving-endpoints/{os.environ['SERVING_ENDPOINT']}/invocations"
    return workspace.api_client.do("POST", path, body=request)
'''


def snippets(spec: "ReleaseSpec") -> dict[str, str]:
    """The text of each file, by its name: ``databricks.yml``, ``app.yaml``, ``app.py``, ``requirements.txt``."""
    return {
        "databricks.yml": _bundle(spec),
        "app.yaml": f"env:\n  - name: {VARIABLE}\n    valueFrom: {RESOURCE}\n",
        "app.py": _python(spec),
        "requirements.txt": "databricks-sdk\n" + ("openai>=2\n" if _field(spec) else ""),
    }


def app_name(spec: "ReleaseSpec") -> str:
    """A name that the service allows for an app: small letters, digits and hyphens."""
    return f"{re.sub(r'[^a-z0-9]+', '-', spec.name.lower()).strip('-')[: _NAME_LIMIT - 4].rstrip('-')}-app"


def _bundle(spec: "ReleaseSpec") -> str:
    name = app_name(spec)
    lines = [
        "resources:",
        "  apps:",
        f"    {name.replace('-', '_')}:",
        f"      name: {name}",
        "      source_code_path: ./app",
        "      resources:",
        f"        - name: {RESOURCE}",
        "          serving_endpoint:",
        f"            name: {json.dumps(spec.endpoint_name)}",
        "            permission: CAN_QUERY",
    ]
    if scopes := spec.model.user_api_scopes:
        lines.append("      user_api_scopes:")
        lines += [f"        - {json.dumps(scope)}" for scope in dict.fromkeys((QUERY_SCOPE, *scopes))]
    return "\n".join(lines) + "\n"


def _python(spec: "ReleaseSpec") -> str:
    field = _field(spec)
    if field is None:
        return _TABLE.replace("@EXAMPLE@", _example(spec.model.input_example))
    as_user = bool(spec.model.user_api_scopes)
    text = _RESPONSES if field == "input" else _CHAT
    return (
        text.replace("@TOKEN@", "" if as_user else _TOKEN)
        .replace("@USER@", _USER if as_user else "")
        .replace("@PARAMETER@", ", user_token: str" if as_user else "")
        .replace("@KEY@", "user_token" if as_user else "token")
    )


def _field(spec: "ReleaseSpec") -> str | None:
    """The field of an agent's requests, None for a model that takes tables; without an example, an agent's of today."""
    example = spec.model.input_example
    if example is None:
        return "input"
    return next((field for field in ("input", "messages") if field in example), None)


def _example(example: dict[str, Any] | None) -> str:
    text = repr(example)
    return text if len(text) <= 80 else '{"dataframe_records": [{...}]}'
