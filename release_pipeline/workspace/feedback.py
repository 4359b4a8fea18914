"""Feedback on single requests: assessments of MLflow traces, and the older assessment logs.

Both are read as values by request id; a value that cannot be read has no badness and is counted as unjudged. Neither
tells what is new: traces are searched by the time of the request, and an assessment may come at any time after it. So
a tick looks through the requests of the last hour, where most feedback falls, and once an hour through all of them.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from release_pipeline.clock import Clock
from release_pipeline.errors import StatementFailed, TableMissing, TableUnreadable, first_sentence
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.badness import badness_of
from release_pipeline.workspace.client import Workspace
from release_pipeline.workspace.counting import condition
from release_pipeline.workspace.counts import Cursor
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import CLOCKS, Judged, ScoreTable
from release_pipeline.workspace.sql.warehouse import parse_timestamp, quoted

if TYPE_CHECKING:
    from mlflow.entities import Assessment, Trace

#: A tick looks through the requests of this time; its rows, and most feedback, come within it.
FRESH: Final = timedelta(hours=1)
#: All requests are looked through again after this.
SWEEP_EVERY: Final = timedelta(hours=1)
_PAGE: Final = 500


class TraceFeedback(ScoreSource):
    """Assessments of the traces in one experiment.

    Args:
        workspace: Its MLflow has the traces.
        experiment: The experiment's absolute name.
        metrics: Metrics of kind `feedback`.
        scores: The score table.
        clock: Tells which requests are fresh.
    """

    def __init__(
        self, workspace: Workspace, experiment: str, metrics: tuple[Metric, ...], scores: ScoreTable, clock: Clock
    ) -> None:
        super().__init__(experiment, metrics, scores)
        self._workspace = workspace
        self._clock = clock

    def collect(self, since: datetime) -> None:
        """Write the new assessments of requests from ``since`` on.

        Raises:
            TableUnreadable: The traces cannot be searched, or a metric's segments cannot be told.
        """
        super().collect(since)
        experiment = self._experiment_id()
        if experiment is None:
            return
        now = self._clock.now()
        for metric in self.metrics:
            start, whole = sweep_from(self.scores, metric, since, now)
            found = list(self._assessed(experiment, metric, start))
            add_values(self.scores, metric, found, start - CLOCKS, now + CLOCKS)
            if whole:
                self.scores.mark_swept(metric, since, now)

    def latest(self) -> Cursor | None:
        """How far the score table reaches; None where it, or the experiment, does not exist."""
        return None if self._experiment_id() is None else super().latest()

    def _experiment_id(self) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            found = self._workspace.mlflow.get_experiment_by_name(self.name)
        except MlflowException as error:
            raise TableUnreadable(_unsearchable(self.name, error)) from None
        return str(found.experiment_id) if found else None

    def _assessed(self, experiment: str, metric: Metric, since: datetime) -> Iterator[Judged]:
        """The first valid assessment of each trace, newest traces first."""
        from mlflow.exceptions import MlflowException

        wanted = f"feedback.`{metric.assessment}` IS NOT NULL AND trace.timestamp_ms >= {_milliseconds(since)}"
        token: str | None = None
        while True:
            try:
                page = self._workspace.mlflow.search_traces(
                    locations=[experiment],
                    filter_string=wanted,
                    max_results=_PAGE,
                    page_token=token,
                    include_spans=False,
                )
            except MlflowException as error:
                raise TableUnreadable(_unsearchable(self.name, error)) from None
            for trace in page:
                value = _first(trace, metric)
                if value is not None:
                    yield value
            token = page.token
            if not token:
                return


class LoggedFeedback(ScoreSource):
    """Ratings in the older table ``<model>_payload_assessment_logs``.

    Args:
        name: The table.
        metrics: Metrics of kind `feedback` with ``source: assessment_logs``.
        scores: The score table.
        clock: Tells which rows are fresh.
    """

    def __init__(self, name: str, metrics: tuple[Metric, ...], scores: ScoreTable, clock: Clock) -> None:
        super().__init__(name, metrics, scores)
        self._clock = clock
        self._missing = False

    def collect(self, since: datetime) -> None:
        """Write the new ratings of requests from ``since`` on.

        Raises:
            TableUnreadable: The table has other columns, or a metric's segments cannot be told.
        """
        super().collect(since)
        self._missing = False
        now = self._clock.now()
        for metric in self.metrics:
            start, whole = sweep_from(self.scores, metric, since, now)
            try:
                found = self._rated(metric, start)
            except TableMissing:
                self._missing = True
                return
            except StatementFailed as error:
                raise TableUnreadable(
                    f"{self.name} cannot be read for metric {metric.name}: {condition(error)}; it needs request_id, "
                    "timestamp and text_assessment with ratings by name, each with a value."
                ) from None
            # Its time may be the request's or the rating's: the request is looked for in the whole time.
            add_values(self.scores, metric, found, since - CLOCKS, now + CLOCKS)
            if whole:
                self.scores.mark_swept(metric, since, now)

    def latest(self) -> Cursor | None:
        """How far the score table reaches; None where it, or at the last collection the table, did not exist."""
        return None if self._missing else super().latest()

    def _rated(self, metric: Metric, since: datetime) -> list[Judged]:
        rows = self.scores.warehouse.execute(
            "SELECT request_id, timestamp, value FROM ("
            "SELECT request_id, timestamp, try_element_at(text_assessment.ratings, :name).value AS value "
            f"FROM {quoted(self.name)} WHERE timestamp >= :since AND request_id IS NOT NULL) AS rated "
            "WHERE value IS NOT NULL ORDER BY timestamp, request_id, value",
            {"name": metric.assessment, "since": since},
        )
        return [
            Judged(
                row["request_id"] or "",
                badness_of(row["value"], worst=metric.worst, best=metric.best),
                parse_timestamp(row["timestamp"] or ""),
            )
            for row in rows
        ]


def sweep_from(scores: ScoreTable, metric: Metric, since: datetime, now: datetime) -> tuple[datetime, bool]:
    """From which time on requests are looked through, and whether that is all of them."""
    swept = scores.swept(metric, since)
    if swept is None or now - swept >= SWEEP_EVERY or swept > now:
        return since, True
    return max(since, now - FRESH), False


def add_values(scores: ScoreTable, metric: Metric, found: Sequence[Judged], since: datetime, until: datetime) -> int:
    """Write values to the score table; the number of new rows.

    Raises:
        TableUnreadable: The metric's segments cannot be told.
    """
    try:
        return scores.add(metric, found, since, until)
    except TableMissing:
        raise
    except StatementFailed as error:
        raise TableUnreadable(
            f"values of metric {metric.name} cannot be joined to their requests: {condition(error)}; run its segments "
            f"over {scores.payload.name} in the warehouse, and mend them."
        ) from None


def _first(trace: "Trace", metric: Metric) -> Judged | None:
    """What counts of a trace: its first valid assessment of that name; None without one, or without a request id."""
    request_id = trace.info.client_request_id
    found = [each for each in trace.info.assessments if _counts(each, metric)]
    if not request_id or not found:
        return None
    first = min(found, key=lambda each: (each.create_time_ms or 0, str(each.assessment_id)))
    said = first.feedback
    value = None if said is None or said.error is not None else said.value
    return Judged(
        request_id,
        badness_of(value, worst=metric.worst, best=metric.best),
        datetime.fromtimestamp((first.create_time_ms or 0) / 1000, tz=UTC),
    )


def _counts(assessment: "Assessment", metric: Metric) -> bool:
    return assessment.name == metric.assessment and assessment.feedback is not None and assessment.valid is not False


def _unsearchable(experiment: str, error: Any) -> str:
    return (
        f"the traces of experiment {experiment} cannot be searched: {first_sentence(error)}; check the experiment and "
        "that you may read it."
    )


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
