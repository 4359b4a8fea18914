"""Which foundation models a workspace offers, asked at run time: names come and go, so the code holds none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from release_pipeline.errors import WorkspaceError, first_sentence

if TYPE_CHECKING:
    from release_pipeline.workspace.client import Workspace

#: Endpoints that the service provides are named so, and others may be, too.
PREFIX: Final = "databricks-"
#: Where the models behind them are.
SCHEMA: Final = "system.ai."


@dataclass(frozen=True)
class FoundationModel:
    """One endpoint of the service's own.

    Attributes:
        endpoint: What a client gives as the model's name, and an agent declares as a resource.
        model: Name of the served model in Unity Catalog, below `system.ai`.
        task: What it answers, as the service names it: `llm/v1/chat`, `llm/v1/embeddings`; empty where it does not say.
        ready: Whether it answers now.
    """

    endpoint: str
    model: str
    task: str
    ready: bool


def foundation_models(workspace: "Workspace", task: str | None = None) -> tuple[FoundationModel, ...]:
    """The foundation models that may be seen, by task and name.

    An endpoint counts when its name starts with `databricks-` and what it serves is in `system.ai`.

    Args:
        workspace: The workspace.
        task: These only, such as `llm/v1/chat`; None for all.

    Raises:
        WorkspaceError: The workspace did not list its endpoints.
    """
    from databricks.sdk.errors.base import DatabricksError

    try:
        answers = [endpoint.as_dict() for endpoint in workspace.client.serving_endpoints.list()]
    except (DatabricksError, TimeoutError) as error:
        raise WorkspaceError(f"the endpoints could not be listed: {first_sentence(error)}.") from None
    found = [each for answer in answers for each in _foundation_model(answer) if task in (None, each.task)]
    return tuple(sorted(found, key=lambda each: (each.task, each.endpoint)))


def _foundation_model(answer: Mapping[str, Any]) -> Iterator[FoundationModel]:
    """The endpoint of an answer of the service, where it is one."""
    name = str(answer.get("name") or "")
    entities = (answer.get("config") or {}).get("served_entities") or [{}]
    model = str(entities[0].get("entity_name") or "")
    if name.startswith(PREFIX) and model.startswith(SCHEMA):
        ready = (answer.get("state") or {}).get("ready") == "READY"
        yield FoundationModel(name, model, str(answer.get("task") or ""), ready)
