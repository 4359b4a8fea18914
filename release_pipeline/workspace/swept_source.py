"""Going through requests for values that come late, a few seconds at a time.

Traces, and tables without a change feed, do not tell what is new, and a value may come at any time after its request.
So a look goes through the requests of the last hour, where most values fall; once an hour a pass goes through all older
ones. A pass works on slices of event time for as long as a look's budget lasts. Each finished slice is noted in the
score table, and the next look carries on there: nothing is skipped, whatever is killed.
"""

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import Final

from release_pipeline.clock import Clock
from release_pipeline.errors import TableMissing
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.budget import Budget, slices
from release_pipeline.workspace.counts import Cursor
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import CLOCKS, Pass, ScoreTable

#: A look goes through the requests of this time; their rows, and most values, come within it.
FRESH: Final = timedelta(hours=1)
#: A pass through all older requests begins this long after the one before.
PASS_EVERY: Final = timedelta(hours=1)


class SweptSource(ScoreSource, ABC):
    """Metrics whose values are looked for request by request, in a place that does not tell what is new.

    Args:
        name: What the values come from, as people know it; unique among the sources of a release.
        metrics: The metrics.
        scores: The score table.
        clock: Tells which requests are fresh.
    """

    def __init__(self, name: str, metrics: tuple[Metric, ...], scores: ScoreTable, clock: Clock) -> None:
        super().__init__(name, metrics, scores)
        self.clock = clock
        self._missing = False

    @abstractmethod
    def is_there(self) -> bool:
        """Whether what the values come from exists; what all look-ups need is read here.

        Raises:
            TableMissing: It does not.
            TableUnreadable: It cannot be read.
        """

    @abstractmethod
    def look_through(self, metric: Metric, since: datetime, until: datetime, *, fresh: Budget | None = None) -> None:
        """Write the values of requests between two event times that have none yet.

        Args:
            metric: The metric.
            since: First event time.
            until: Last event time, exclusive.
            fresh: Given for the newest requests, as the time for them: what is not read within it is left to a pass.

        Raises:
            TableMissing: What the values come from does not exist.
            TableUnreadable: It cannot be read, or a metric's SQL fails.
        """

    def collect(self, since: datetime, budget: Budget) -> None:
        """Write new values of requests from ``since`` on: fresh ones first, then a part of the pass that is due."""
        super().collect(since, budget)
        now = self.clock.now()
        try:
            self._missing = not self.is_there()
            if self._missing:
                return
            fresh = budget.share(2)
            for metric in self.metrics:
                self.look_through(metric, max(since, now - FRESH), now + CLOCKS, fresh=fresh)
                if not fresh.left():
                    break
            self._carry_on(since, now, budget)
        except TableMissing:
            self._missing = True

    def collect_before(self, since: datetime, until: datetime, budget: Budget) -> datetime:
        """Write values of requests before a release, the newest first, while the budget lasts."""
        super().collect_before(since, until, budget)
        reached = since
        try:
            if not self.is_there():
                return since
            for number, metric in enumerate(self.metrics):
                start = until
                for start, end in slices(since, until, budget.share(len(self.metrics) - number), newest_first=True):
                    self.look_through(metric, start, end)
                reached = max(reached, start)
        except TableMissing:
            return since
        return reached

    def latest(self) -> Cursor | None:
        """How far the score table reaches; None where it, or at the last collection the source, did not exist."""
        return None if self._missing else super().latest()

    def _carry_on(self, since: datetime, now: datetime, budget: Budget) -> None:
        """Work on the passes that are due, for at least one slice."""
        if since >= now - FRESH:
            return
        newest = {metric: self.scores.newest_pass(metric, now + CLOCKS) for metric in self.metrics}
        # Who has waited longest is first, so that each has its turn although there may never be time for all.
        for metric, last in sorted(newest.items(), key=lambda pair: pair[1].at.timestamp() if pair[1] else 0.0):
            due = due_pass(last, since, now)
            if due is None:
                continue
            for start, end in slices(due.reached, end_of(due), budget):
                self.look_through(metric, start, end)
                self.scores.note_pass(metric, due._replace(reached=end))
            if not budget.left():
                return


def due_pass(newest: Pass | None, since: datetime, now: datetime) -> Pass | None:
    """The pass to work on: the newest one if it is not done, else a new one if it is time; None for neither."""
    if newest is not None and newest.since <= since:
        reached = max(newest.reached, since)
        if reached < end_of(newest):
            return newest._replace(reached=reached)
        if now - newest.at < PASS_EVERY:
            return None
    # Times of a result are whole milliseconds: a pass is known again by its beginning.
    began = Pass(now.replace(microsecond=now.microsecond // 1000 * 1000), since, since)
    return began if since < end_of(began) else None


def end_of(found: Pass) -> datetime:
    """The event time at which a pass is done, exclusive: younger requests are fresh, and every look goes through them.

    When they are no longer fresh, the next pass has begun.
    """
    return found.at - FRESH
