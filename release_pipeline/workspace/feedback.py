"""Feedback on single requests: assessments of MLflow traces, which are searched by the time of the request.

Values are read by request id; one that cannot be read has no badness and is counted as unjudged.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from release_pipeline.clock import Clock
from release_pipeline.errors import StatementFailed, TableMissing, TableUnreadable, first_sentence
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.badness import badness_of
from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.client import Workspace
from release_pipeline.workspace.counting import condition
from release_pipeline.workspace.score_table import CLOCKS, Judged, ScoreTable
from release_pipeline.workspace.swept_source import SweptSource

if TYPE_CHECKING:
    from mlflow.entities import Assessment, Trace

_PAGE: Final = 500


class TraceFeedback(SweptSource):
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
        super().__init__(experiment, metrics, scores, clock)
        self._workspace = workspace
        self._id = ""

    def is_there(self) -> bool:
        """Whether there is such an experiment."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._workspace.mlflow.get_experiment_by_name(self.name)
        except MlflowException as error:
            raise TableUnreadable(_unsearchable(self.name, error)) from None
        self._id = str(found.experiment_id) if found else ""
        return found is not None

    def look_through(self, metric: Metric, since: datetime, until: datetime, *, fresh: Budget | None = None) -> None:
        """Write the assessments of traces between two times."""
        found = list(self._assessed(metric, since, until, fresh))
        add_values(self.scores, metric, found, since - CLOCKS, until + CLOCKS)

    def _assessed(self, metric: Metric, since: datetime, until: datetime, fresh: Budget | None) -> Iterator[Judged]:
        """The first valid assessment of each trace, newest traces first."""
        from mlflow.exceptions import MlflowException

        wanted = (
            f"feedback.`{metric.assessment}` IS NOT NULL AND trace.timestamp_ms >= {_milliseconds(since)} "
            f"AND trace.timestamp_ms < {_milliseconds(until) + 1}"
        )
        token: str | None = None
        while True:
            try:
                page = self._workspace.mlflow.search_traces(
                    locations=[self._id],
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
            if not token or (fresh is not None and not fresh.left()):
                return


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
