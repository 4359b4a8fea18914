"""Usage tracking: a row in ``system.serving.endpoint_usage`` for each request to an endpoint that tracks its usage.

Requests go through a write-ahead log like that of the inference tables, so that none is lost, but with a log of their
own: what an inference table is told to lose or to repeat, this one does not.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from release_pipeline.local_workspace.serving.inference_log import InferenceLog, TableLog
from release_pipeline.local_workspace.settings import Faults, Settings
from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.system_tables import USAGE, SystemTables
from release_pipeline.local_workspace.state.endpoint_configuration import EndpointConfig
from release_pipeline.local_workspace.state.endpoints import EndpointRecord

# Where a request and an answer carry text, by key; everything else in them is not counted.
_TEXTS = ("content", "text", "input", "prompt", "delta")


class UsageTracking:
    """The usage of all endpoints that track it, and what they serve."""

    def __init__(self, settings: Settings, sql: SqlEngine) -> None:
        self._tables = SystemTables(sql.write)
        self._sql = sql
        self._workspace_id = settings.workspace_id
        self._account_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"local-workspace/{settings.workspace_id}"))
        # Faults of its own: none.
        self._log = InferenceLog(settings.data_dir / "usage_log", self, Faults())

    def start(self) -> None:
        """Make the tables, go on with rows that an earlier server left, and begin to flush."""
        self._tables.make()
        self._log.start()

    async def stop(self) -> None:
        """Flush what is there."""
        await self._log.stop()

    def log(self) -> TableLog:
        """Where requests go."""
        return self._log.table(USAGE.full)

    def note_served(self, record: EndpointRecord) -> None:
        """Record the entities of the endpoint's active configuration, once each. Blocks."""
        if record.config is not None:
            self._tables.add_served([*self._served(record, record.config)])

    def note_deletion(self, record: EndpointRecord) -> None:
        """Record that an endpoint is gone. Blocks."""
        self._tables.note_deletion(record.id)

    def _served(self, record: EndpointRecord, config: EndpointConfig) -> Iterator[dict[str, Any]]:
        for entity in config.entities:
            yield {
                "served_entity_id": entity.id,
                "account_id": self._account_id,
                "workspace_id": self._workspace_id,
                "created_by": entity.creator,
                "endpoint_name": record.name,
                "endpoint_id": record.id,
                "served_entity_name": entity.name,
                "entity_type": "CUSTOM_MODEL",
                "entity_name": entity.entity_name,
                "entity_version": entity.entity_version,
                "endpoint_config_version": config.version,
                "custom_model_config": {
                    "min_concurrency": entity.min_provisioned_concurrency or 0,
                    "max_concurrency": entity.concurrency,
                    "compute_type": entity.workload_type,
                },
                "change_time": datetime.fromtimestamp(config.started_ms / 1000, UTC).replace(tzinfo=None),
            }

    # What the log asks of the tables that it fills.

    def append_inference_rows(self, full_name: str, rows: Sequence[Mapping[str, Any]], log_position: int) -> int:
        """Store requests and the position; the commit version."""
        whose = {"account_id": self._account_id, "workspace_id": self._workspace_id}
        return self._tables.add_usage([{**row, **whose, **_counts(row)} for row in rows], log_position)

    def inference_log_position(self, full_name: str) -> int:
        """The position that was stored last."""
        return self._sql.inference_log_position(full_name)

    def append_derived_rows(
        self, full_name: str, rows: Mapping[str, Sequence[Mapping[str, Any]]], log_position: int
    ) -> None:
        """Nothing is derived from usage."""


def tracks_usage(gateway: Mapping[str, Any]) -> bool:
    """Whether AI Gateway settings ask for usage tracking."""
    return bool((gateway.get("usage_tracking_config") or {}).get("enabled"))


def _counts(row: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the bodies of a request and its answer; nothing of a body that was too large to be kept."""
    request, response = _parsed(row.get("request")), _parsed(row.get("response"))
    usage = _usage(response)
    context = request.get("usage_context") if isinstance(request, dict) else None
    return {
        "request_streaming": isinstance(request, dict) and request.get("stream") is True,
        "usage_context": {str(key): str(value) for key, value in context.items()} if isinstance(context, dict) else {},
        "input_token_count": _number(usage, "prompt_tokens", "input_tokens"),
        "output_token_count": _number(usage, "completion_tokens", "output_tokens"),
        "input_character_count": None if request is None else sum(map(len, _texts(request))),
        "output_character_count": None if response is None else sum(map(len, _answered(response))),
    }


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _usage(response: Any) -> Mapping[str, Any]:
    """The tokens that an answer tells; a stream tells them in one of its last events."""
    for document in reversed(response if isinstance(response, list) else [response]):
        for holder in (document, document.get("response") if isinstance(document, dict) else None):
            if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
                found: Mapping[str, Any] = holder["usage"]
                return found
    return {}


def _number(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((usage[name] for name in names if type(usage.get(name)) is int), None)


def _answered(response: Any) -> Iterator[str]:
    """The texts of an answer; of a stream those that came in parts, without the whole that repeats them at its end."""
    if isinstance(response, list) and any(isinstance(event, dict) and "delta" in event for event in response):
        response = [event for event in response if isinstance(event, dict) and "delta" in event]
    return _texts(response)


def _texts(document: Any) -> Iterator[str]:
    stack = [document]
    while stack:
        each = stack.pop()
        if isinstance(each, list):
            stack += [item for item in each if isinstance(item, dict | list)]
        elif isinstance(each, dict):
            yield from (each[key] for key in _TEXTS if isinstance(each.get(key), str))
            stack += [value for value in each.values() if isinstance(value, dict | list)]
