"""The requests that a judge scores: a fixed sample of those that were answered well, oldest first.

A look goes through the requests of the last hours. Once an hour a pass goes through all older ones, a few seconds at a
time, for rows that were logged later than that and for what a judge that stood still has left: every request of the
sample is scored in the end, and no look reads the whole ramp.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.budget import Budget, slices
from release_pipeline.workspace.metric_sql import ANSWERED, badness
from release_pipeline.workspace.payload_sql import Rows
from release_pipeline.workspace.score_table import CLOCKS, Judged, ScoreTable, source_of
from release_pipeline.workspace.sql.warehouse import parse_timestamp, quoted
from release_pipeline.workspace.swept_source import FRESH, due_pass, end_of

#: Most rows come into the inference table within this; each look goes through the requests of so much time.
LAG: Final = timedelta(hours=3)
#: Time for a pass in one look, seconds.
PASS_SECONDS: Final = 5.0
#: Longer pairs of request and response, in characters, are not fetched, and cannot be judged.
LONGEST: Final = 2_000_000
# Looked at before anything else of a row, in an order that no optimiser changes: bodies are for the sample alone.
_HASH: Final = "CAST(conv(substr(md5(request_id), 1, 8), 16, 10) AS BIGINT)"
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

    def waiting(self, metric: Metric, since: datetime, now: datetime, at_most: int) -> list[Sampled]:
        """Requests of the sample that have no score yet, the oldest ones of those that this look comes to.

        Args:
            metric: A metric of kind `judge`.
            since: First event time.
            now: The time; a request's may lie a little ahead of it.
            at_most: So many at most.

        Raises:
            TableMissing: There is no inference table, or no score table.
            TableUnreadable: The inference table is in no shape that the gate can read.
        """
        late = self._late(metric, since, now, at_most)
        fresh = self._unscored(metric, max(since, now - LAG), now + CLOCKS, at_most)
        found = {each.request_id: each for each in (*fresh, *late)}
        return sorted(found.values(), key=lambda each: (each.request_time, each.request_id))[:at_most]

    def _late(self, metric: Metric, since: datetime, now: datetime, at_most: int) -> list[Sampled]:
        """What the pass that is due finds; it goes on from there once that is scored."""
        if since >= now - FRESH:
            return []
        due = due_pass(self._scores.newest_pass(metric, now + CLOCKS), since, now)
        if due is None:
            return []
        for start, end in slices(due.reached, end_of(due), Budget(PASS_SECONDS)):
            if found := self._unscored(metric, start, end, at_most):
                return found
            self._scores.note_pass(metric, due._replace(reached=end))
        return []

    def _unscored(self, metric: Metric, since: datetime, until: datetime, at_most: int) -> list[Sampled]:
        """The oldest requests of the sample between two event times that have no score yet."""
        rows, table = self._between(since, until), quoted(self._scores.name)
        found = self._scores.execute(
            f"Choosing requests for metric {metric.name}",
            f"""
            SELECT request_id, min(request_time) AS request_time FROM ({rows.query}) AS canonical
            WHERE CASE WHEN {_HASH} < :share * 4294967296 THEN CASE WHEN {ANSWERED} THEN {_ERROR} END END = 0
                AND NOT EXISTS (
                    SELECT 1 FROM {table} AS old
                    WHERE old.metric = :metric AND old.source = :source AND old.request_id = canonical.request_id
                        AND old.request_time >= :since AND old.request_time < :until
                )
            GROUP BY request_id ORDER BY 2, 1 LIMIT {int(at_most)}
            """,
            {
                **rows.values,
                **_ERROR_VALUES,
                "share": metric.sample,
                "since": since,
                "until": until,
                "metric": metric.name,
                "source": source_of(metric),
            },
        )
        return [Sampled(row["request_id"] or "", parse_timestamp(row["request_time"] or "")) for row in found]

    def bodies(self, sampled: Sequence[Sampled]) -> dict[str, Bodies]:
        """What was asked and answered, by request id."""
        found: dict[str, Bodies] = {}
        for near in _near(sampled):
            found |= self._bodies(near)
        return found

    def _bodies(self, sampled: Sequence[Sampled]) -> dict[str, Bodies]:
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
        scores, written = {each.request_id: each for each in judged}, 0
        for near in _near(sampled):
            values = [scores[each.request_id] for each in near if each.request_id in scores]
            last = near[-1].request_time + timedelta(milliseconds=1)
            written += self._scores.add(metric, values, near[0].request_time, last, own=True)
        return written

    def _between(self, since: datetime, until: datetime) -> Rows:
        payload = self._scores.payload
        where, values = payload.shape().between(since, until, "sampled")
        return Rows(payload.shape(), quoted(payload.name), where, values)


def _near(sampled: Sequence[Sampled]) -> Iterator[list[Sampled]]:
    """Requests, in order of time, in parts without long gaps: nothing that lies between is read."""
    part: list[Sampled] = []
    for each in sampled:
        if part and each.request_time - part[-1].request_time > LAG:
            yield part
            part = []
        part.append(each)
    if part:
        yield part
