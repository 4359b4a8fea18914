"""The endpoint's own request counters: what the inference table is reconciled with.

Facts: ``GET /api/2.0/serving-endpoints/<name>/metrics`` answers in the Prometheus text format, per served model. Public
descriptions of the service call them gauges of the last full minute and show a time beside each sample, the minute's
end; where there is no time, they are counters that begin at zero when a replica starts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from release_pipeline.workspace.client import Workspace

_SAMPLE = re.compile(
    r"^(?P<family>request_count_total|request_[45]xx_count_total)\{(?P<labels>[^}]*)\}\s+(?P<value>[0-9.eE+]+)(?:\s+(?P<time>\d+))?\s*$"
)
_ENTITY = re.compile(r'\bserved_model_name="(?P<name>[^"]*)"')


@dataclass(frozen=True)
class Counters:
    """What one served entity has answered, since its counters began or in one minute."""

    requests: int = 0
    errors: int = 0
    """Answers with a status of 500 or more."""
    refused: int = 0
    """Answers with a status of 400 to 499."""


@dataclass(frozen=True)
class MetricsPage:
    """What the endpoint says at one time.

    Attributes:
        entities: Counters by served entity name.
        minute_end: End of the minute that they count, unix seconds; None where they count from the start.
    """

    entities: Mapping[str, Counters]
    minute_end: float | None = None


def read_counters(workspace: Workspace, endpoint: str) -> MetricsPage | None:
    """The counters of an endpoint; None where it exports none, or none may be read."""
    from databricks.sdk.errors.base import DatabricksError

    try:
        answer = workspace.client.serving_endpoints.export_metrics(endpoint)
    except (DatabricksError, TimeoutError):
        return None
    if answer.contents is None:
        return None
    with answer.contents as stream:
        text = stream.read().decode("utf-8", errors="replace")
    return parse_counters(text)


def parse_counters(text: str) -> MetricsPage:
    """The counters on a page in the Prometheus text format; several replicas or labels of one entity are added up."""
    families: dict[str, dict[str, int]] = {}
    minute_end: float | None = None
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        entity = _ENTITY.search(sample["labels"]) if sample else None
        if sample and entity:
            counted = families.setdefault(sample["family"], {})
            counted[entity["name"]] = counted.get(entity["name"], 0) + int(float(sample["value"]))
            minute_end = int(sample["time"]) / 1000 if sample["time"] else minute_end
    errors, refused = (families.get(f"request_{each}xx_count_total", {}) for each in (5, 4))
    requests = families.get("request_count_total", {})
    return MetricsPage(
        {name: Counters(count, errors.get(name, 0), refused.get(name, 0)) for name, count in requests.items()},
        minute_end,
    )
