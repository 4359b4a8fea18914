"""The settings of a local workspace: where it lives, what it answers, and how it misbehaves on request."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Faults:
    """What the local workspace does on purpose so that a rehearsal is like the service.

    Attributes:
        inference_lag_seconds: Delay from the end of a request to its row in the inference table. The service
            takes 10 to 30 minutes, documented up to an hour.
        duplicate_fraction: Share in [0, 1] of inference rows that are delivered a second time, in a later commit.
        unlogged_statuses: HTTP statuses whose rows never reach the inference table.
        update_seconds: Shortest time that an update of an endpoint takes, on top of starting its workers.
    """

    inference_lag_seconds: float = 0.0
    duplicate_fraction: float = 0.0
    unlogged_statuses: tuple[int, ...] = ()
    update_seconds: float = 0.0


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
        faults: Misbehaviour on request.
    """

    data_dir: Path
    token: str = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 5005
    workspace_id: str = "1234567890"
    user_name: str = "developer@localhost"
    catalogs: tuple[str, ...] = ("main",)
    faults: Faults = Faults()

    @property
    def url(self) -> str:
        """The address that clients use as ``DATABRICKS_HOST``."""
        return f"http://{self.host}:{self.port}"
