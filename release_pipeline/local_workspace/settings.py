"""The settings of a local workspace: where it lives, what it answers, and how it misbehaves on request."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PAYLOAD_SHAPES = ("ai_gateway", "legacy", "unity_ai_gateway")


@dataclass
class Faults:
    """What the local workspace does on purpose so that a rehearsal is like the service.

    One object is shared by all parts, and `change` takes effect at once. Nothing of it survives a restart.

    Attributes:
        inference_lag_seconds: Delay from the end of a request to its row in the inference table. The service
            takes 10 to 30 minutes, documented up to an hour.
        duplicate_fraction: Share in [0, 1] of inference rows that are delivered a second time, in a later commit.
        unlogged_statuses: HTTP statuses whose rows never reach the inference table.
        sampling_fraction: Share in (0, 1] of the requests that get a row; the share stands in the row.
        body_limit_bytes: A larger request or response is null in its row, with an error code beside it.
        freeze_inference_tables: While true no inference table changes. Requests of that time never get a row; rows
            that were under way arrive when it ends.
        payload_shape: Columns of inference tables that are made from now on, one of `PAYLOAD_SHAPES`.
        change_data_feed: Whether inference tables that are made from now on have a change data feed.
        derived_tables: Delay in seconds from a row of an inference table to the rows of the request logs and
            assessment logs that follow from it, about an hour on the service; None: no such tables, and those that
            are there stay as they are.
        minute_metrics: Metrics count the last full minute, as the service's do, and not all since the start.
        update_seconds: Shortest time that an update of an endpoint takes, on top of starting its workers.
        updates_to_fail: That many of the next updates of endpoints are taken and then end as UPDATE_FAILED. The server
            counts down.
        credential_seconds: How long the credentials of scoring processes are taken; new ones come after half of it.
        enforce_grants: Whether Unity Catalog privileges and the warehouse's permissions are checked for the tokens of
            users and service principals, too, and not only for what an agent does. To see, to query and to manage an
            endpoint always takes a permission on it.
        scale_to_zero_seconds: How long nobody asks an entity with ``scale_to_zero_enabled`` before its processes
            end; the service's is half an hour.
        concurrency_limit: How many requests any entity answers at a time at most; None: as many as its size says.
        queued_requests: How many more wait for their turn before one is answered 429.
    """

    inference_lag_seconds: float = 0.0
    duplicate_fraction: float = 0.0
    unlogged_statuses: tuple[int, ...] = ()
    sampling_fraction: float = 1.0
    body_limit_bytes: int = 1 << 20
    freeze_inference_tables: bool = False
    payload_shape: str = "ai_gateway"
    change_data_feed: bool = True
    derived_tables: float | None = None
    minute_metrics: bool = False
    update_seconds: float = 0.0
    updates_to_fail: int = 0
    credential_seconds: float = 3600.0
    enforce_grants: bool = False
    scale_to_zero_seconds: float = 1800.0
    concurrency_limit: int | None = None
    queued_requests: int = 256

    def __post_init__(self) -> None:
        self.change({each.name: getattr(self, each.name) for each in fields(self)})

    def change(self, values: Mapping[str, Any]) -> None:
        """Set some of them, all or nothing.

        Raises:
            ValueError: A name or a value is not one; the message is a sentence for the user.
        """
        for name, value in values.items():
            if name not in _RULES:
                raise ValueError(f"There is no setting {name!r}; there are {', '.join(_RULES)}.")
            allowed, words = _RULES[name]
            if not allowed(value):
                raise ValueError(f"The setting {name!r} must be {words}, not {value!r}.")
        for name, value in values.items():
            setattr(self, name, tuple(value) if isinstance(value, list) else value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_duration(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1e9


def _are_statuses(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(each) is int and 100 <= each <= 599 for each in value)


_DURATION: tuple[Callable[[Any], bool], str] = (_is_duration, "a number of seconds, 0 or more")
_SWITCH: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, bool), "true or false")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "inference_lag_seconds": _DURATION,
    "duplicate_fraction": (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "unlogged_statuses": (_are_statuses, "a list of HTTP statuses"),
    "sampling_fraction": (lambda value: _is_number(value) and 0 < value <= 1, "a number above 0, at most 1"),
    "body_limit_bytes": (lambda value: type(value) is int and value > 0, "a whole number of bytes above 0"),
    "freeze_inference_tables": _SWITCH,
    "payload_shape": (lambda value: value in PAYLOAD_SHAPES, f"one of {', '.join(PAYLOAD_SHAPES)}"),
    "change_data_feed": _SWITCH,
    "derived_tables": (lambda value: value is None or _is_duration(value), "a number of seconds, or null for off"),
    "minute_metrics": _SWITCH,
    "update_seconds": _DURATION,
    "updates_to_fail": (lambda value: type(value) is int and value >= 0, "a whole number, 0 or more"),
    "credential_seconds": (lambda value: _is_duration(value) and value >= 1, "a number of seconds, 1 or more"),
    "enforce_grants": _SWITCH,
    "scale_to_zero_seconds": _DURATION,
    "concurrency_limit": (
        lambda value: value is None or (type(value) is int and value > 0),
        "a whole number above 0, or null",
    ),
    "queued_requests": (lambda value: type(value) is int and value >= 0, "a whole number, 0 or more"),
}


@dataclass(frozen=True)
class Settings:
    """One local workspace.

    Attributes:
        data_dir: Folder that holds everything that survives a restart.
        token: The bearer token that every request must carry.
        host: Address to listen on; a loopback address unless the caller allowed another by name.
        port: TCP port to listen on.
        workspace_id: The digits that the service answers as ``x-databricks-org-id``.
        user_name: Who the token belongs to, as the identity route answers.
        catalogs: The Unity Catalog catalogs that exist from the start, each with a schema ``default``.
        faults: Misbehaviour on request, which may change while the workspace runs.
        keep_warm_seconds: How long the scoring process of an entity that was removed waits for the same entity to
            come back to the same endpoint, which is then ready at once.
        processes_per_entity: How many scoring processes an entity has at most, whatever its workload size.
        logged_environments: Whether each model runs in an environment of its own with what it was logged with, built
            by uv; otherwise with the workspace's own Python and packages.
    """

    data_dir: Path
    token: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 5005
    workspace_id: str = "1234567890"
    user_name: str = "developer@localhost"
    catalogs: tuple[str, ...] = ("main",)
    faults: Faults = field(default_factory=Faults)
    keep_warm_seconds: float = 0.0
    processes_per_entity: int = 4
    logged_environments: bool = False

    @property
    def url(self) -> str:
        """The address that clients use as ``DATABRICKS_HOST``."""
        return f"http://{self.host}:{self.port}"
