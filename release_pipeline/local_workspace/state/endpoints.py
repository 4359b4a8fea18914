"""What a restart must not forget about serving endpoints: one JSON document per endpoint in sqlite."""

import json
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from release_pipeline.local_workspace.state.database import Database
from release_pipeline.local_workspace.state.endpoint_configuration import EndpointConfig, config_from_json

IN_PROGRESS, NOT_UPDATING, UPDATE_FAILED = "IN_PROGRESS", "NOT_UPDATING", "UPDATE_FAILED"


@dataclass
class EndpointRecord:
    """One serving endpoint as it is stored.

    Attributes:
        config: What is served now; None until the first configuration became ready.
        pending: What the endpoint is being updated to, or what the last update failed to reach.
        config_update: ``IN_PROGRESS``, ``NOT_UPDATING`` or ``UPDATE_FAILED``.
        last_version: The highest config_version given out so far.
        failures: Why entities of a failed update failed, by entity id.
    """

    name: str
    creator: str
    created_ms: int
    updated_ms: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    ai_gateway: dict[str, Any] = field(default_factory=dict)
    permissions: list[dict[str, str]] = field(default_factory=list)
    config: EndpointConfig | None = None
    pending: EndpointConfig | None = None
    config_update: str = NOT_UPDATING
    last_version: int = 0
    failures: dict[str, str] = field(default_factory=dict)


class EndpointStore:
    """The table ``serving_endpoints`` of the workspace's database. All methods block."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.transaction() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS serving_endpoints (name TEXT PRIMARY KEY, document TEXT NOT NULL)"
            )

    def load(self) -> list[EndpointRecord]:
        """All endpoints, by name."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT document FROM serving_endpoints ORDER BY name").fetchall()
        return [_record_from_json(json.loads(row["document"])) for row in rows]

    def save(self, record: EndpointRecord) -> None:
        """Insert the endpoint or replace what is stored of it; durable when this returns."""
        document = json.dumps(asdict(record))
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO serving_endpoints (name, document) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET document = excluded.document",
                (record.name, document),
            )

    def delete(self, name: str) -> None:
        """Forget the endpoint."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM serving_endpoints WHERE name = ?", (name,))


def _record_from_json(data: dict[str, Any]) -> EndpointRecord:
    for part in ("config", "pending"):
        if data[part] is not None:
            data[part] = config_from_json(data[part])
    return EndpointRecord(**data)
