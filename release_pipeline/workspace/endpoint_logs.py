"""The logs of served entities: how each was built, and what its processes print, without what looks like a secret.

Facts: ``GET /api/2.0/serving-endpoints/<name>/served-models/<entity>/build-logs`` and ``/logs``; both answer
``{"logs": text}``, the end of a long log.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from release_pipeline.errors import EndpointError, WorkspaceError, first_sentence

if TYPE_CHECKING:
    from release_pipeline.workspace.client import Workspace

HIDDEN: Final = "[hidden]"
#: Every repetition is bounded, so that a long line costs no more than a short one.
_SECRETS: Final = re.compile(
    r"""
    # API_KEY=..., "token": "..."; a count of tokens is a number
    (?P<name>(?:token|secret|password|passwd|api_?key|credential)[\w-]{0,40}["']?\s{0,4}[=:]\s{0,4}["']?)
    (?!\d+\b)[^\s"',;}\]]{4,}
    | (?P<scheme>\b(?:Bearer|Basic)\s{1,4})[A-Za-z0-9._~+/-]{8,4000}
    | \bdapis?[0-9a-f]{32,48}(?:-\d)?\b  # a token of Databricks
    | \beyJ[\w-]{8,2000}\.[\w-]{1,2000}\.[\w-]{0,2000}  # a JSON web token
    """,
    re.VERBOSE | re.IGNORECASE,
)
#: What a terminal would obey: escape sequences, then every control character but tab and line feed.
_CONTROL: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Entity:
    """A served entity, active or still on its way.

    Attributes:
        name: Its name within the endpoint.
        version: Version of the model.
    """

    name: str
    version: str


def served_versions(workspace: "Workspace", endpoint: str, model: str) -> tuple[Entity, ...]:
    """What an endpoint serves of a model, and what an update is bringing, or failed to bring; by version.

    Raises:
        EndpointError: There is no such endpoint.
        WorkspaceError: The service refused to say.
    """
    from databricks.sdk.errors import NotFound
    from databricks.sdk.errors.base import DatabricksError

    try:
        answer = workspace.client.serving_endpoints.get(endpoint)
    except NotFound:
        raise EndpointError(f"there is no endpoint {endpoint}; no release of {model} has made it yet.") from None
    except (DatabricksError, TimeoutError) as error:
        raise WorkspaceError(f"endpoint {endpoint} could not be read: {first_sentence(error)}.") from None
    served = [
        *((answer.config.served_entities if answer.config else None) or []),
        *((answer.pending_config.served_entities if answer.pending_config else None) or []),
    ]
    found = {Entity(str(each.name), str(each.entity_version)) for each in served if each.entity_name == model}
    return tuple(sorted(found, key=lambda each: (len(each.version), each.version, each.name)))


def read_log(workspace: "Workspace", endpoint: str, entity: Entity, *, build: bool) -> str:
    """The end of one log of an entity, empty where nothing was written yet.

    Raises:
        WorkspaceError: The service refused it.
    """
    from databricks.sdk.errors.base import DatabricksError

    api = workspace.client.serving_endpoints
    try:
        answer = (api.build_logs if build else api.logs)(endpoint, entity.name)
    except (DatabricksError, TimeoutError) as error:
        kind = "build log" if build else "log"
        raise WorkspaceError(
            f"the {kind} of {entity.name} on {endpoint} could not be read: {first_sentence(error)}."
        ) from None
    return readable(answer.logs or "")


def readable(text: str) -> str:
    """A log as it may be shown: without what looks like a secret, and without what a terminal would obey."""
    plain = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return _SECRETS.sub(lambda found: f"{found['name'] or found['scheme'] or ''}{HIDDEN}", plain)
