"""The settings that an endpoint has beside its configuration: tags, rate limits and permissions, as the YAML says.

None of them needs an update of the configuration. What the YAML does not name stays as it is: each may be somebody
else's, and a release takes nothing away from anybody.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from release_pipeline.errors import EndpointError, NotVerified
from release_pipeline.spec_endpoint import EndpointPart, Permission, RateLimit
from release_pipeline.workspace.endpoint import Endpoint, EndpointState

#: From the lowest to the highest; each has those before it.
_LEVELS = ("CAN_VIEW", "CAN_QUERY", "CAN_MANAGE")


@dataclass(frozen=True)
class Lacking:
    """What an endpoint does not have of the YAML's settings."""

    tags: Mapping[str, str]
    rate_limits: tuple[RateLimit, ...]
    permissions: tuple[Permission, ...]

    def __bool__(self) -> bool:
        return bool(self.tags or self.rate_limits or self.permissions)

    def __str__(self) -> str:
        """The settings in words, in the order in which they are written."""
        said = [f"the tag {key}={value}" for key, value in self.tags.items()]
        said += [
            f"{limit.calls} calls a minute for {limit.principal or limit.key.replace('_', ' ')}"
            for limit in self.rate_limits
        ]
        said += [f"{permission.level} for {permission.principal[1]}" for permission in self.permissions]
        return ", ".join(said)


def settle(wanted: EndpointPart, endpoint: Endpoint, fence: Callable[[], None]) -> None:
    """Give an endpoint the settings that it lacks, and read back that it has them.

    Args:
        wanted: What the YAML says about the endpoint.
        endpoint: The endpoint, which exists.
        fence: Called before each write; raises where nothing may be written any more.

    Raises:
        EndpointError: The service refused one of them, or the endpoint is gone.
        NotVerified: A setting that was written is not there.
        WorkspaceError: The service did not answer.
    """
    if not (wanted.tags or wanted.rate_limits or wanted.permissions):
        return
    endpoint_id, missing = _look(wanted, endpoint)
    if not missing:
        return
    if missing.tags:
        fence()
        endpoint.set_tags(missing.tags)
    if missing.rate_limits:
        fence()
        endpoint.limit(missing.rate_limits)
    if missing.permissions:
        fence()
        endpoint.grant(endpoint_id, missing.permissions)
    if left := _look(wanted, endpoint)[1]:
        raise NotVerified(
            f"endpoint {endpoint.name} was given {left}, and does not have it; another tool may have changed it: look "
            "at the endpoint before going on."
        )


def lacking(wanted: EndpointPart, endpoint: Endpoint) -> Lacking:
    """What an endpoint that exists does not have of the YAML's settings; raises as `settle` does."""
    return _look(wanted, endpoint)[1]


def lacking_of(wanted: EndpointPart, endpoint: Endpoint, now: EndpointState) -> Lacking:
    """As `lacking`, of an endpoint as it was read; raises as `settle` does."""
    held = endpoint.levels(now.id) if wanted.permissions else {}
    return Lacking(
        tags={key: value for key, value in wanted.tags.items() if now.tags.get(key) != value},
        rate_limits=tuple(
            limit for limit in wanted.rate_limits if now.rate_limits.get((limit.key, limit.principal)) != limit.calls
        ),
        # Whoever has more keeps it: the call would lower it.
        permissions=tuple(
            each
            for each in wanted.permissions
            if not held.get(each.principal, frozenset()) & set(_LEVELS[_LEVELS.index(each.level) :])
        ),
    )


def _look(wanted: EndpointPart, endpoint: Endpoint) -> tuple[str, Lacking]:
    """The endpoint's id, which permissions go by, and what it lacks."""
    now = endpoint.read()
    if now is None:
        raise EndpointError(f"endpoint {endpoint.name} does not exist any more.")
    return now.id, lacking_of(wanted, endpoint, now)
