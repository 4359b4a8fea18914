"""Endpoints of a test module's own, whatever other modules of the same session have registered and serve."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pandas as pd
from databricks.sdk import WorkspaceClient
from mlflow.models import infer_signature

from tests.local_workspace.conftest import create, entity, register

ECHO, CHAT, PLAIN = "echo_responses_agent.py", "echo_chat_agent.py", "doubling_model.py"


@contextmanager
def endpoints() -> Iterator[Callable[[str], str]]:
    """The name of an endpoint that serves a model of tests/local_workspace/models, by the model's file."""
    client = WorkspaceClient()
    names: dict[str, str] = {}
    with ExitStack() as stack:

        def served(file: str) -> str:
            if file not in names:
                name = f"served-{uuid.uuid4().hex[:8]}"
                model = f"main.default.{name.replace('-', '_')}"
                table = {"signature": infer_signature(pd.DataFrame({"x": [1.0]}), [1.0])} if file == PLAIN else {}
                version = register(file, model, **table)
                create(client, name, entity("only", model, version))
                stack.callback(client.serving_endpoints.delete, name)
                names[file] = name
            return names[file]

        yield served
