"""What is deployed, as a table with lines for people, and as JSON for machines."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

from release_pipeline.operate.session import state_dict, state_line
from release_pipeline.operate.status import Deployed, EndpointStatus, ModelStatus

_COLUMNS = ("model", "version", "alias", "endpoint", "traffic", "state", "since", "by")


def status_table(found: Sequence[ModelStatus]) -> Table:
    """A row per version and endpoint; one without versions for a model that is deployed nowhere."""
    table = Table(title="What is deployed; times in UTC")
    for column in _COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column in ("version", "alias", "since"))
    for model in found:
        rows = [_row(model, endpoint, each) for endpoint in model.endpoints for each in endpoint.deployed]
        for row in rows or [_bare_row(model)]:
            table.add_row(*(escape(cell) for cell in row))
    return table


def _row(model: ModelStatus, endpoint: EndpointStatus, each: Deployed) -> tuple[str, ...]:
    traffic = "after the update" if each.traffic_percent is None else f"{each.traffic_percent} %"
    state = f"{each.state}: {each.message}" if each.message and each.state != "ready" else each.state
    since = f"{datetime.fromtimestamp(each.created_ms / 1000, tz=UTC):%Y-%m-%d %H:%M}" if each.created_ms else ""
    by = each.creator or endpoint.creator
    return (model.name, each.version, _aliases(model, each.version), each.endpoint, traffic, state, since, by)


def _bare_row(model: ModelStatus) -> tuple[str, ...]:
    if model.endpoint is None:
        return (model.name, "", "", model.endpoint_name, "", "no such endpoint", "", "")
    return (model.name, "", "", model.endpoint_name, "", f"serves no version of {model.model}", "", "")


def _aliases(model: ModelStatus, version: str) -> str:
    return ", ".join(alias for alias, named in model.aliases.items() if named == version)


def status_lines(model: ModelStatus) -> list[str]:
    """What the table has no room for: the endpoint's condition, the last release, the links."""
    lines = [f"{model.name}: {_condition(model)}"]
    if model.release is not None:
        lines.append(f"  {state_line(model.release)}")
    if model.queued:
        lines.append(f"  waiting: {', '.join(model.queued)}")
    behind = {alias: version for alias, version in model.aliases.items() if version and not _serves(model, version)}
    lines += [
        f"  alias {alias} names version {version}, which is deployed nowhere" for alias, version in behind.items()
    ]
    for each in model.endpoints if model.reader else ():
        if each.creator and each.creator != model.reader:
            where = "the Serving page shows it under All, not under Owned by me"
            lines.append(f"  endpoint {each.name} belongs to {each.creator}: {where}")
    links = {"query": model.links.query, "review": model.links.review, "traces": model.links.traces}
    return lines + [f"  {name}: {link}" for name, link in links.items() if link]


def _serves(model: ModelStatus, version: str) -> bool:
    return any(each.version == version for endpoint in model.endpoints for each in endpoint.deployed)


def _condition(model: ModelStatus) -> str:
    if model.endpoint is None:
        return f"endpoint {model.endpoint_name} is not there" + ("" if model.release else "; no release has begun")
    said = "is ready" if model.endpoint.ready else "is not ready"
    updating = {"in_progress": ", an update is in progress", "update_failed": ", its last update failed"}
    none = "" if model.release else "; no release has begun"
    return f"endpoint {model.endpoint_name} {said}{updating.get(model.endpoint.update, '')}{none}"


def status_dict(model: ModelStatus) -> dict[str, Any]:
    """The same for machines; times in ISO 8601, UTC; null is none."""
    return {
        "model": model.name,
        "registered_name": model.model,
        "aliases": dict(model.aliases),
        "endpoint": model.endpoint_name,
        "ready": model.endpoint is not None and model.endpoint.ready,
        "update": model.endpoint.update if model.endpoint else None,
        "creator": model.endpoint.creator if model.endpoint else None,
        "deployed": [_deployed_dict(model, each) for endpoint in model.endpoints for each in endpoint.deployed],
        "release": state_dict(model.release) if model.release else None,
        "queued": list(model.queued),
        "links": {
            "endpoint": model.links.endpoint,
            "query": model.links.query,
            "review": model.links.review,
            "traces": model.links.traces,
        },
    }


def _deployed_dict(model: ModelStatus, each: Deployed) -> dict[str, Any]:
    at = datetime.fromtimestamp(each.created_ms / 1000, tz=UTC).isoformat() if each.created_ms else None
    return {
        "endpoint": each.endpoint,
        "entity": each.entity,
        "version": each.version,
        "aliases": [alias for alias, named in model.aliases.items() if named == each.version],
        "traffic_percent": each.traffic_percent,
        "state": each.state,
        "message": each.message,
        "creator": each.creator or None,
        "created_at": at,
    }
