"""What an endpoint measures of each served entity, from its page in the Prometheus text format.

Facts: ``GET /api/2.0/serving-endpoints/<name>/metrics``; on Databricks gauges of the last full minute, with its end as
their time, on the local workspace counters since its start. Which families there are depends on the workload.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from release_pipeline.errors import WorkspaceError, first_sentence

if TYPE_CHECKING:
    from release_pipeline.workspace.client import Workspace

_SAMPLE: Final = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)\{(?P<labels>.*)\}\s+(?P<value>\S+)(?:\s+(?P<time>\d+))?\s*$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_BUCKET: Final = "_bucket"


@dataclass(frozen=True)
class EntityMetrics:
    """What was measured of one served entity.

    Attributes:
        entity: Its name.
        values: Value by family; of several replicas the sum, of percentages the highest.
        buckets: Requests at most this slow, by family and upper bound, as Prometheus histograms count them.
        at: End of the minute that was measured, unix seconds; None where the values count from a start.
    """

    entity: str
    values: Mapping[str, float] = field(default_factory=dict)
    buckets: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    at: float | None = None

    def quantile(self, share: float, family: str = "request_latency_ms") -> float | None:
        """The bound that ``share`` of the requests does not exceed, ms, evenly spread within a bucket.

        None where nothing was counted. What lies above the last finite bound is said to be at that bound.
        """
        bounds = sorted(self.buckets.get(family, {}).items())
        total = bounds[-1][1] if bounds else 0
        if not total:
            return None
        below, bound_below = 0.0, 0.0
        for bound, seen in bounds:
            if seen >= share * total:
                if bound == float("inf"):
                    return bound_below
                return bound_below + (bound - bound_below) * (share * total - below) / max(seen - below, 1e-12)
            below, bound_below = seen, bound
        return None


def read_metrics(workspace: "Workspace", endpoint: str) -> tuple[EntityMetrics, ...]:
    """Everything that an endpoint measures, by entity.

    Raises:
        WorkspaceError: The service exports none, or refused it.
    """
    from databricks.sdk.errors.base import DatabricksError

    try:
        answer = workspace.client.serving_endpoints.export_metrics(endpoint)
    except (DatabricksError, TimeoutError) as error:
        raise WorkspaceError(f"the metrics of {endpoint} could not be read: {first_sentence(error)}.") from None
    if answer.contents is None:
        return ()
    with answer.contents as stream:
        return parse_metrics(stream.read().decode("utf-8", errors="replace").splitlines())


def parse_metrics(lines: Iterable[str]) -> tuple[EntityMetrics, ...]:
    """The entities of a page, by name; lines that are no samples of an entity are passed over."""
    values: dict[str, dict[str, float]] = {}
    buckets: dict[str, dict[str, dict[float, float]]] = {}
    ends: dict[str, float] = {}
    for name, labels, value, end in _samples(lines):
        entity = labels.get("served_model_name") or labels.get("served_entity_name")
        if entity is None:
            continue
        there = values.setdefault(entity, {})
        if end is not None:
            ends[entity] = end
        if "le" in labels:
            counted = buckets.setdefault(entity, {}).setdefault(name.removesuffix(_BUCKET), {})
            bound = float(labels["le"])
            counted[bound] = counted.get(bound, 0) + value
        elif "percentage" in name:
            there[name] = max(there.get(name, value), value)
        else:
            there[name] = there.get(name, 0) + value
    return tuple(
        EntityMetrics(entity, values[entity], buckets.get(entity, {}), ends.get(entity)) for entity in sorted(values)
    )


def _samples(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, str], float, float | None]]:
    for line in lines:
        found = _SAMPLE.match(line)
        if found is None:
            continue
        try:
            value, labels = float(found["value"]), dict(_LABEL.findall(found["labels"]))
            if "le" in labels:
                float(labels["le"])
        except ValueError:
            continue
        if not math.isnan(value):  # of a minute without requests
            yield found["name"], labels, value, int(found["time"]) / 1000 if found["time"] else None
