"""Request counters of an endpoint, per served entity, in the Prometheus text format.

As on the service they begin at zero when the server starts: a reader must take a fall as a restart.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

LATENCY_BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000)


@dataclass
class RequestCounters:
    """What one served entity answered so far."""

    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0
    latency_sum_ms: float = 0.0
    latency_buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_MS) + 1))

    def count(self, status: int, latency_ms: float) -> None:
        """Count one request that was answered to its end."""
        self.requests += 1
        self.client_errors += 400 <= status < 500
        self.server_errors += status >= 500
        self.latency_sum_ms += latency_ms
        self.latency_buckets[bisect_left(LATENCY_BUCKETS_MS, latency_ms)] += 1


def render_metrics(endpoint: str, endpoint_id: str, counters: Mapping[str, RequestCounters]) -> str:
    """The metrics page of one endpoint; ``counters`` by served entity name."""
    lines: list[str] = []

    def family(name: str, kind: str, text: str) -> None:
        lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}"))

    def sample(name: str, entity: str, value: float, **more: str) -> None:
        labels = {"endpoint_id": endpoint_id, "endpoint_name": endpoint, "served_model_name": entity, **more}
        text = ",".join(f'{key}="{label}"' for key, label in labels.items())
        lines.append(f"{name}{{{text}}} {value:g}" if value % 1 else f"{name}{{{text}}} {int(value)}")

    family("request_count_total", "counter", "Requests answered.")
    for entity, counter in counters.items():
        sample("request_count_total", entity, counter.requests)
    family("request_4xx_count_total", "counter", "Requests answered with a 4xx status.")
    for entity, counter in counters.items():
        sample("request_4xx_count_total", entity, counter.client_errors)
    family("request_5xx_count_total", "counter", "Requests answered with a 5xx status.")
    for entity, counter in counters.items():
        sample("request_5xx_count_total", entity, counter.server_errors)
    family("request_latency_ms", "histogram", "Time from the request to the end of its answer, in milliseconds.")
    for entity, counter in counters.items():
        seen = 0
        for limit, number in zip((*LATENCY_BUCKETS_MS, "+Inf"), counter.latency_buckets, strict=True):
            seen += number
            sample("request_latency_ms_bucket", entity, seen, le=str(limit))
        sample("request_latency_ms_sum", entity, counter.latency_sum_ms)
        sample("request_latency_ms_count", entity, counter.requests)
    return "\n".join(lines) + "\n"
