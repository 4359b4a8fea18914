"""Late truth: a user's table that says, per request, how it turned out.

A label is joined to its request by the request's id, or the client's. Each look looks up the requests of the last hour
and a pass, once an hour, all older ones; so labels of older requests, labels that came before their request was logged,
and rows that were updated are found, too. With a change feed on the label table the requests of the last hour are
looked up among the labels that were written within that hour, and not in the whole table.
"""

from datetime import datetime
from typing import Final

from release_pipeline.clock import Clock
from release_pipeline.errors import SpecError, StatementFailed, TableMissing, TableUnreadable
from release_pipeline.spec_gate import Metric
from release_pipeline.spec_sql import expression_problem
from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.counting import condition
from release_pipeline.workspace.score_table import ScoreTable
from release_pipeline.workspace.sql.warehouse import parse_timestamp, quoted
from release_pipeline.workspace.swept_source import FRESH, SweptSource

# No more commits of an hour are read one by one.
_COMMITS: Final = 1000
# Rows that were written or changed, as they are now.
_WRITTEN: Final = "('insert', 'update_postimage')"


class LabelSource(SweptSource):
    """Labels from one table.

    Args:
        name: The table.
        metrics: Metrics of kind `label` on it.
        scores: The score table.
        clock: Tells what is fresh.
    """

    def __init__(self, name: str, metrics: tuple[Metric, ...], scores: ScoreTable, clock: Clock) -> None:
        super().__init__(name, metrics, scores, clock)
        self._columns: list[str] = []

    def is_there(self) -> bool:
        """Whether there is such a table.

        Raises:
            TableUnreadable: It lacks the column of request ids of a metric.
        """
        self._columns = []
        for row in self.scores.warehouse.execute(f"DESCRIBE TABLE {quoted(self.name)}"):
            # After the columns come sections about partitions and clustering.
            if not row["col_name"] or row["col_name"].startswith("#"):
                break
            self._columns.append(row["col_name"])
        for metric in self.metrics:
            if metric.request_id_column.lower() not in (column.lower() for column in self._columns):
                raise TableUnreadable(
                    f"{self.name}, the labels of metric {metric.name}, has no column {metric.request_id_column}; "
                    "name the column of request ids as request_id_column."
                )
        return True

    def look_through(self, metric: Metric, since: datetime, until: datetime, *, fresh: Budget | None = None) -> None:
        """Write the labels of requests between two event times.

        A badness of NULL means that the truth is not known yet: nothing is written, and the row is read again.

        Raises:
            SpecError: The SQL of a metric is not one expression.
            TableMissing: There is no such table, or no inference table.
            TableUnreadable: A metric's SQL fails in the warehouse.
        """
        now = self.clock.now()
        relation, order = f"{quoted(self.name)} AS rp_truth", "0"
        try:
            feed = None if fresh is None else self._feed(now)
            if feed == "":
                return
            if feed is not None:
                relation, order = feed, "rp_truth._commit_version"
            self._insert(metric, self._columns, relation, order, since, until, now)
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
            "SELECT request_id, request_time, served_entity, rp_segment, rp_order, rp_key, rp_inside, :now AS rp_at, "
            "CASE WHEN rp_raw >= 0 AND rp_raw <= 1 THEN rp_raw END AS rp_badness FROM ("
            "SELECT request_id, request_time, served_entity, rp_segment, rp_order, rp_key, rp_inside, "
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
