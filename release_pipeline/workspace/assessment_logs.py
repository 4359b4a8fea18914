"""Feedback in the older table ``<model>_payload_assessment_logs``, which the service no longer fills for anybody.

Its rows are read by request id. That nobody writes it any more shows in its own times: while requests went on, no
rating came for longer than chance explains.
"""

import math
from datetime import datetime, timedelta
from typing import Final

from release_pipeline.errors import StatementFailed, TableMissing, TableUnreadable
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.badness import badness_of
from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.counting import condition
from release_pipeline.workspace.feedback import add_values
from release_pipeline.workspace.metric_sql import ANSWERED
from release_pipeline.workspace.score_source import Silence
from release_pipeline.workspace.score_table import CLOCKS, Judged
from release_pipeline.workspace.sql.warehouse import Row, Value, parse_timestamp, quoted
from release_pipeline.workspace.swept_source import SweptSource

#: A silence is no chance where one as long has a probability below ``exp(-20)``: where 20 ratings were to be expected.
EXPECTED: Final = 20.0
#: Commits that bring rows; others, such as those of maintenance, tell nothing.
_WRITES: Final = ("WRITE", "MERGE", "STREAMING UPDATE", "COPY INTO")
# Commits that are looked at for one of them.
_COMMITS: Final = 100


class LoggedFeedback(SweptSource):
    """Ratings in the table; ``name`` is the table's, ``metrics`` are of kind `feedback`, source `assessment_logs`."""

    def is_there(self) -> bool:
        """Whether there is such a table."""
        self.scores.warehouse.execute(f"DESCRIBE TABLE {quoted(self.name)}")
        return True

    def look_through(self, metric: Metric, since: datetime, until: datetime, *, fresh: Budget | None = None) -> None:
        """Write the ratings of requests between two event times."""
        add_values(self.scores, metric, self._rated(metric, since, until), since, until)

    def silence(self, since: datetime, lag: timedelta) -> Silence | None:
        """Proof that the table is no longer written.

        Ratings of any name count. With ``b`` of them on the requests from the first one on, a share ``s`` of these
        requests without any at the end has the probability ``(1 - s) ** b`` if they come as before. A table that never
        had a row proves nothing. One whose rows are all older than ``since`` is silent if it had any request.
        """
        until = self.clock.now() - lag
        (found,) = self._run(
            "SELECT max(timestamp) AS newest, min(CASE WHEN timestamp >= :since THEN timestamp END) AS first, "
            f"count_if(timestamp >= :since) AS ratings FROM {quoted(self.name)}",
            {"since": since},
        )
        if found["newest"] is None:
            return None
        newest, ratings = parse_timestamp(found["newest"]), int(found["ratings"] or 0)
        if not ratings:
            requests, _ = self._requests(since, since, until)
            return Silence(newest, requests, 0) if requests else None
        first = parse_timestamp(found["first"] or "")
        # The requests are counted only where time alone, and then the table's commits, speak for it.
        if not _telling(ratings, (until - newest) / max(until - first, timedelta(microseconds=1))):
            return None
        silent = max(newest, self._written() or newest)
        requests, after = self._requests(first, silent, until)
        if not requests or not _telling(ratings, after / requests):
            return None
        return Silence(newest, after, round(ratings * after / max(1, requests - after)))

    def _rated(self, metric: Metric, since: datetime, until: datetime) -> list[Judged]:
        # The time of a rating is the request's, or later.
        logged, values = self.scores.logged(metric.model_copy(update={"segments": None}), since, until)
        try:
            rows = self._run(
                "SELECT request_id, timestamp, value FROM ("
                "SELECT request_id, timestamp, try_element_at(text_assessment.ratings, :name).value AS value "
                f"FROM {quoted(self.name)} WHERE timestamp >= :rated_since) AS rated "
                f"WHERE value IS NOT NULL AND request_id IN (SELECT rp_key FROM ({logged}) AS logged) "
                "ORDER BY timestamp, request_id, value",
                {**values, "name": metric.assessment, "rated_since": since - CLOCKS},
            )
        except TableMissing:
            raise
        except StatementFailed as error:
            raise TableUnreadable(
                f"{self.name} cannot be read for metric {metric.name}: {condition(error)}; it needs request_id, "
                "timestamp and text_assessment with ratings by name, each with a value."
            ) from None
        return [
            Judged(
                row["request_id"] or "",
                badness_of(row["value"], worst=metric.worst, best=metric.best),
                parse_timestamp(row["timestamp"] or ""),
            )
            for row in rows
        ]

    def _written(self) -> datetime | None:
        """Time of the newest commit that brought rows: ratings may carry the times of old requests."""
        commits = self._run(f"DESCRIBE HISTORY {quoted(self.name)} LIMIT {_COMMITS}", {})
        return max(
            (parse_timestamp(row["timestamp"] or "") for row in commits if row.get("operation") in _WRITES),
            default=None,
        )

    def _requests(self, since: datetime, after: datetime, until: datetime) -> tuple[int, int]:
        """Requests that a version answered between two event times, and those of them later than ``after``."""
        payload = self.scores.payload
        where, values = payload.shape().between(since, until, "asked")
        rows = f"SELECT {payload.shape().select_list()} FROM {quoted(payload.name)} AS payload WHERE {where}"
        (found,) = self._run(
            "SELECT count(*) AS requests, count_if(request_time > :after) AS after "
            f"FROM ({rows}) AS canonical WHERE {ANSWERED}",
            {**values, "after": after},
        )
        return int(found["requests"] or 0), int(found["after"] or 0)

    def _run(self, statement: str, values: dict[str, Value]) -> list[Row]:
        return self.scores.warehouse.execute(statement, values)


def _telling(ratings: int, silent: float) -> bool:
    """Whether a silence over this share of the whole is no chance."""
    if silent <= 0:
        return False
    return silent >= 1 or -ratings * math.log1p(-silent) >= EXPECTED
