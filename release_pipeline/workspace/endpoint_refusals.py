"""What to do where a serving endpoint refuses: the platform's known errors, each with its remedy."""

from typing import TYPE_CHECKING

from release_pipeline.errors import WorkspaceError, first_sentence

if TYPE_CHECKING:
    from release_pipeline.workspace.endpoint import Endpoint, EndpointState


def unsure() -> tuple[type[Exception], ...]:
    """Errors that do not say whether the service took what was asked."""
    from databricks.sdk.errors import DeadlineExceeded, InternalError, TemporarilyUnavailable

    return (TimeoutError, InternalError, TemporarilyUnavailable, DeadlineExceeded)


def refused_change(error: Exception) -> str:
    """What the service says about a refused change of an endpoint, and what to do."""
    from databricks.sdk.errors import PermissionDenied

    said = first_sentence(error)
    if isinstance(error, PermissionDenied):
        # Either the endpoint's own permission, or a resource that the version declares.
        return f"{said}; `release-pipeline preflight` tells which permission is missing and how it is granted"
    return said


def refused_query(endpoint: "Endpoint", entity: str, error: Exception) -> str:
    """Why a served entity did not answer, and what to do; a 404 is looked into, because it has three causes."""
    from databricks.sdk.errors import NotFound, PermissionDenied

    said = first_sentence(error)
    if isinstance(error, PermissionDenied):
        return f"{said}; it takes CAN_QUERY, which an app gets with a resource: see `release-pipeline app-snippet`"
    if not isinstance(error, NotFound):
        return said
    try:
        state = endpoint.read()
    except WorkspaceError:
        return said
    if state is None:
        return (
            f"there is no endpoint {endpoint.name}; `databricks serving-endpoints list` shows the names that there are"
        )
    if entity in [each.name for each in state.entities]:
        return said
    if state.updating or not state.ready:
        return f"it is still being set up ({_condition(state)}); try again when `release-pipeline status` says ready"
    return f"the endpoint serves {', '.join(each.name for each in state.entities)} instead"


def kept_from_the_model(error: Exception) -> bool:
    """Whether a request was refused before the model, or timed out, so that it tells nothing of the model."""
    from databricks.sdk import errors

    refused = (errors.Unauthenticated, errors.PermissionDenied, errors.TooManyRequests)
    return isinstance(error, (*refused, errors.TemporarilyUnavailable, errors.DeadlineExceeded, TimeoutError))


def not_ready_in_time(state: "EndpointState", seconds: float) -> str:
    """The sentence about an endpoint that has not become ready, with the command that shows why."""
    # The build log of one entity says what the others' say, too: they share what keeps them.
    entity = next(iter(state.unready), "<entity>")
    return (
        f"endpoint {state.name} was not ready within {seconds:.0f} s ({_condition(state)}); it may still become ready: "
        f"look at its build logs with `databricks serving-endpoints build-logs {state.name} {entity}`, "
        "then materialise again."
    )


def _condition(state: "EndpointState") -> str:
    return state.pending_message or ("an update is in progress" if state.updating else "not ready yet")
