"""Late truth: a user's table that says, per request, how it turned out.

A label is joined to its request by the request's id, or the client's. With a change feed on the label table a tick
reads what was written to it within the last hour, whichever requests it is about; without one it looks up the requests
of the last hour. Once an hour all requests are looked up, so labels of older requests, labels that came before their
request was logged, and rows that were updated are found, too.
"""

from datetime import datetime
from typing import Final

from release_pipeline.clock import Clock
from release_pipeline.errors import SpecError, StatementFailed, TableMissing, TableUnreadable
from release_pipeline.spec_gate import Metric
from release_pipeline.spec_sql import expression_problem
from release_pipeline.workspace.counting import condition
from release_pipeline.workspace.counts import Cursor
from release_pipeline.workspace.feedback import FRESH, sweep_from
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import CLOCKS, ScoreTable
from release_pipeline.workspace.sql.warehouse import parse_timestamp, quoted

# No more commits of an hour are read one by one.
_COMMITS: Final = 1000
# Rows that were written or changed, as they are now.
_WRITTEN: Final = "('insert', 'update_postimage')"


class LabelSource(ScoreSource):
    """Labels from one table.

    Args:
        name: The table.
        metrics: Metrics of kind `label` on it.
        scores: The score table.
        clock: Tells what is fresh.
    """

    def __init__(self, name: str, metrics: tuple[Metric, ...], scores: ScoreTable, clock: Clock) -> None:
        super().__init__(name, metrics, scores)
        self._clock = clock
        self._missing = False

    def collect(self, since: datetime) -> None:
        """Write the new labels of requests from ``since`` on.

        A badness of NULL means that the truth is not known yet: nothing is written, and the row is read again.

        Raises:
            SpecError: The SQL of a metric is not one expression.
            TableUnreadable: The table lacks the column of request ids, or a metric's SQL fails in the warehouse.
        """
        super().collect(since)
        self._missing = False
        now = self._clock.now()
        try:
            columns = self._columns()
            for metric in self.metrics:
                if metric.request_id_column.lower() not in (column.lower() for column in columns):
                    raise TableUnreadable(
                        f"{self.name}, the labels of metric {metric.name}, has no column {metric.request_id_column}; "
                        "name the column of request ids as request_id_column."
                    )
                start, whole = sweep_from(self.scores, metric, since, now)
                self._add(metric, columns, since, start, now, whole=whole)
                if whole:
                    self.scores.mark_swept(metric, since, now)
        except TableMissing:
            self._missing = True

    def latest(self) -> Cursor | None:
        """How far the score table reaches; None where it, or at the last collection the label table, did not exist."""
        return None if self._missing else super().latest()

    def _add(
        self, metric: Metric, columns: list[str], since: datetime, start: datetime, now: datetime, *, whole: bool
    ) -> None:
        until = now + CLOCKS
        try:
            if not whole:
                feed = self._feed(now)
                if feed is not None:
                    if feed:
                        self._insert(metric, columns, feed, "rp_truth._commit_version", since, until, now)
                    return
            self._insert(metric, columns, f"{quoted(self.name)} AS rp_truth", "0", start, until, now)
        except TableMissing:
            raise
        except StatementFailed as error:
            raise TableUnreadable(
                f"the labels of metric {metric.name} cannot be read: {condition(error)}; run its badness and segments "
                f"over {self.scores.payload.name} and {self.name} in the warehouse, and mend them."
            ) from None

    def _insert(
        self,
        metric: Metric,
        columns: list[str],
        relation: str,
        order: str,
        since: datetime,
        until: datetime,
        now: datetime,
    ) -> None:
        assert metric.badness is not None, "a label has its badness, as the YAML's check says"
        if problem := expression_problem(metric.badness):
            raise SpecError(f"badness of metric {metric.name} {problem}.")
        logged, values = self.scores.logged(metric, since, until)
        # One struct, so that columns of the payload and of the labels never stand for each other.
        fields = ", ".join(f"'{column}', rp_truth.{quoted(column)}" for column in columns if "'" not in column)
        truth = (
            f"SELECT CAST(rp_truth.{quoted(metric.request_id_column)} AS STRING) AS rp_given, {order} AS rp_order, "
            f"named_struct({fields}) AS label FROM {relation}"
        )
        joined = (
            "SELECT logged.*, truth.label, truth.rp_order "
            f"FROM ({logged}) AS logged JOIN ({truth}) AS truth ON logged.rp_key = truth.rp_given"
        )
        found = (
            "SELECT request_id, request_time, served_entity, rp_segment, rp_order, :now AS rp_at, "
            "CASE WHEN rp_raw >= 0 AND rp_raw <= 1 THEN rp_raw END AS rp_badness FROM ("
            f"SELECT request_id, request_time, served_entity, rp_segment, rp_order, "
            f"TRY_CAST(({metric.badness}) AS DOUBLE) AS rp_raw FROM ({joined}) AS joined) AS valued "
            "WHERE rp_raw IS NOT NULL"
        )
        self.scores.add_query(metric, (found, {**values, "now": now}))

    def _feed(self, now: datetime) -> str | None:
        """The relation of rows written within the last hour, empty where none was; None where there is no feed."""
        warehouse = self.scores.warehouse
        properties = warehouse.execute(f"SHOW TBLPROPERTIES {quoted(self.name)}")
        feed = {(row["key"] or "").lower(): (row["value"] or "").lower() for row in properties}
        if feed.get("delta.enablechangedatafeed") != "true":
            return None
        commits = [
            (int(row["version"] or 0), parse_timestamp(row["timestamp"] or ""))
            for row in warehouse.execute(f"DESCRIBE HISTORY {quoted(self.name)} LIMIT {_COMMITS}")
        ]
        fresh = [version for version, at in commits if at >= now - FRESH]
        if not fresh:
            return ""
        return (
            f"(SELECT * FROM table_changes('{self.name}', {min(fresh)}, {max(fresh)}) "
            f"WHERE _change_type IN {_WRITTEN}) AS rp_truth"
        )

    def _columns(self) -> list[str]:
        columns = []
        for row in self.scores.warehouse.execute(f"DESCRIBE TABLE {quoted(self.name)}"):
            # After the columns come sections about partitions and clustering.
            if not row["col_name"] or row["col_name"].startswith("#"):
                break
            columns.append(row["col_name"])
        return columns
