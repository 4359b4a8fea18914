"""The requests that a judge scores: a fixed sample of those that were answered well, oldest first."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.metric_sql import ANSWERED, badness
from release_pipeline.workspace.payload_sql import Rows
from release_pipeline.workspace.score_table import Judged, ScoreTable, source_of
from release_pipeline.workspace.sql.warehouse import parse_timestamp, quoted

#: Rows come into the inference table within this; older ones than the newest score less this are not looked at again.
LAG: Final = timedelta(hours=3)
#: Longer pairs of request and response, in characters, are not fetched, and cannot be judged.
LONGEST: Final = 2_000_000
# A failed answer has nothing to judge; `errors` counts it.
_ERROR, _ERROR_VALUES = badness(Metric(name="errors", kind="errors"), None, 0)


@dataclass(frozen=True)
class Sampled:
    """One request of the sample."""

    request_id: str
    request_time: datetime


@dataclass(frozen=True)
class Bodies:
    """What was asked and answered, in memory only; None where it was not logged, or is too long."""

    request: str | None = field(repr=False)
    response: str | None = field(repr=False)


NO_BODIES: Final = Bodies(None, None)


class JudgeSample:
    """The sample of one model's requests.

    Whether a request is in it depends on a hash of its id and on the metric's ``sample`` alone: repeated runs find the
    same requests, and a larger sample holds the smaller one.
    """

    def __init__(self, scores: ScoreTable) -> None:
        self._scores = scores

    def waiting(self, metric: Metric, since: datetime, until: datetime, at_most: int) -> list[Sampled]:
        """The oldest requests of the sample that have no score yet.

        Raises:
            TableMissing: There is no inference table, or no score table.
            TableUnreadable: The inference table is in no shape that the gate can read.
        """
        newest = self._scores.newest(metric)
        start = since if newest is None else max(since, newest - LAG)
        rows, table = self._between(start, until), quoted(self._scores.name)
        found = self._scores.execute(
            f"Choosing requests for metric {metric.name}",
            f"""
            SELECT request_id, min(request_time) AS request_time FROM ({rows.query}) AS canonical
            WHERE {ANSWERED} AND {_ERROR} = 0
                AND CAST(conv(substr(md5(request_id), 1, 8), 16, 10) AS BIGINT) < :share * 4294967296
                AND NOT EXISTS (
                    SELECT 1 FROM {table} AS old
                    WHERE old.metric = :metric AND old.source = :source AND old.request_id = canonical.request_id
                )
            GROUP BY request_id ORDER BY 2, 1 LIMIT {int(at_most)}
            """,
            {
                **rows.values,
                **_ERROR_VALUES,
                "share": metric.sample,
                "metric": metric.name,
                "source": source_of(metric),
            },
        )
        return [Sampled(row["request_id"] or "", parse_timestamp(row["request_time"] or "")) for row in found]

    def bodies(self, sampled: Sequence[Sampled]) -> dict[str, Bodies]:
        """What was asked and answered, by request id."""
        if not sampled:
            return {}
        rows = self._between(sampled[0].request_time, sampled[-1].request_time + timedelta(milliseconds=1))
        ids = {f"id_{number}": each.request_id for number, each in enumerate(sampled)}
        short = f"coalesce(length(request), 0) + coalesce(length(response), 0) <= {LONGEST}"
        found = self._scores.execute(
            "Reading the requests of the sample",
            f"SELECT request_id, CASE WHEN {short} THEN request END AS request, "
            f"CASE WHEN {short} THEN response END AS response FROM ("
            "SELECT request_id, request, response, row_number() OVER (PARTITION BY request_id ORDER BY request_time) "
            f"AS rp_copy FROM ({rows.query}) AS canonical WHERE {ANSWERED} "
            f"AND request_id IN ({', '.join(f':{name}' for name in ids)})) AS numbered WHERE rp_copy = 1 "
            "ORDER BY request_id",
            {**rows.values, **ids},
        )
        return {row["request_id"] or "": Bodies(row["request"], row["response"]) for row in found}

    def write(self, metric: Metric, sampled: Sequence[Sampled], judged: Sequence[Judged]) -> int:
        """Write scores of these requests; the number of new rows."""
        if not judged:
            return 0
        last = max(each.request_time for each in sampled) + timedelta(milliseconds=1)
        return self._scores.add(metric, judged, min(each.request_time for each in sampled), last)

    def _between(self, since: datetime, until: datetime) -> Rows:
        payload = self._scores.payload
        where, values = payload.shape().between(since, until, "sampled")
        return Rows(payload.shape(), quoted(payload.name), where, values)
