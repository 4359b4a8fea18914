"""Request counters of an endpoint, per served entity, in the Prometheus text format.

By default they count from the start of the server, so a reader must take a fall as a restart. The service's own page
has gauges of the last full minute under the same names, with the minute's end as their time; `minute_metrics` gives
those.
"""

import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

LATENCY_BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000)
MINUTE = 60


@dataclass
class Counts:
    """What one served entity answered in some time."""

    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0
    latency_sum_ms: float = 0.0
    latency_buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_MS) + 1))

    def add(self, status: int, latency_ms: float) -> None:
        """Count one request that was answered to its end."""
        self.requests += 1
        self.client_errors += 400 <= status < 500
        self.server_errors += status >= 500
        self.latency_sum_ms += latency_ms
        self.latency_buckets[bisect_left(LATENCY_BUCKETS_MS, latency_ms)] += 1


class RequestCounters:
    """What one served entity answered since the start, and in the last full minute."""

    def __init__(self) -> None:
        self.total = Counts()
        self._minutes: dict[int, Counts] = {}

    def count(self, status: int, latency_ms: float) -> None:
        """Count one request that was answered to its end."""
        self.total.add(status, latency_ms)
        minute = int(time.time() // MINUTE)
        if minute not in self._minutes:
            self._minutes = {each: counts for each, counts in self._minutes.items() if each == minute - 1}
            self._minutes[minute] = Counts()
        self._minutes[minute].add(status, latency_ms)

    def last_minute(self, now: float) -> Counts:
        """The counts of the full minute before ``now`` (epoch seconds)."""
        return self._minutes.get(int(now // MINUTE) - 1, Counts())


def render_metrics(
    endpoint: str, endpoint_id: str, counters: Mapping[str, RequestCounters], minute: float | None = None
) -> str:
    """The metrics page of one endpoint.

    Args:
        endpoint: Its name.
        endpoint_id: Its id.
        counters: Counters by served entity name.
        minute: Epoch seconds; the page then has gauges of the full minute before. None: counters since the start.
    """
    lines: list[str] = []
    kind = "counter" if minute is None else "gauge"
    at = "" if minute is None else f" {int(minute // MINUTE) * MINUTE * 1000}"
    counts = {
        entity: counter.total if minute is None else counter.last_minute(minute) for entity, counter in counters.items()
    }

    def family(name: str, kind: str, text: str) -> None:
        lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}"))

    def sample(name: str, entity: str, value: float, **more: str) -> None:
        labels = {"endpoint_id": endpoint_id, "endpoint_name": endpoint, "served_model_name": entity, **more}
        text = ",".join(f'{key}="{label}"' for key, label in labels.items())
        lines.append(f"{name}{{{text}}} {f'{value:g}' if value % 1 else int(value)}{at}")

    family("request_count_total", kind, "Requests answered.")
    for entity, each in counts.items():
        sample("request_count_total", entity, each.requests)
    family("request_4xx_count_total", kind, "Requests answered with a 4xx status.")
    for entity, each in counts.items():
        sample("request_4xx_count_total", entity, each.client_errors)
    family("request_5xx_count_total", kind, "Requests answered with a 5xx status.")
    for entity, each in counts.items():
        sample("request_5xx_count_total", entity, each.server_errors)
    family("request_latency_ms", "histogram", "Time from the request to the end of its answer, in milliseconds.")
    for entity, each in counts.items():
        seen = 0
        for limit, number in zip((*LATENCY_BUCKETS_MS, "+Inf"), each.latency_buckets, strict=True):
            seen += number
            sample("request_latency_ms_bucket", entity, seen, le=str(limit))
        sample("request_latency_ms_sum", entity, each.latency_sum_ms)
        sample("request_latency_ms_count", entity, each.requests)
    return "\n".join(lines) + "\n"
