"""One release through the gate as if live: ticks read what has arrived by then, fold it, and ask for a verdict.

The clock is virtual. A tick that would read nothing is not looked at unless time alone could change the answer, and
ticks at which no block of evidence can close are read together with the next
(:mod:`~release_pipeline.replay_log.arrivals`). Verdicts, their times and the e-values come out as with a look at every
tick.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from release_pipeline.gate.evidence import Bet, EvidenceState
from release_pipeline.gate.observations import Observation, Series
from release_pipeline.gate.replay import Moment, verdict_at
from release_pipeline.gate.verdict import Action, HoldReason, MetricVerdict, Verdict
from release_pipeline.replay_log.arrivals import Arrivals, Whole
from release_pipeline.replay_log.frozen import Frozen
from release_pipeline.replay_log.log_table import ReleaseRows
from release_pipeline.replay_log.results import Advance, ReleaseResult
from release_pipeline.replay_log.tracks import Track
from release_pipeline.spec import ReleaseSpec

#: Below a limit by this much the gate is asked already, for rounding.
_SLACK: Final = 1e-9


@dataclass(frozen=True)
class ClockOptions:
    """How the virtual clock ticks.

    Attributes:
        tick_seconds: Time between two ticks.
        watermark_lag: How far the watermark trails the newest row, seconds; None measures it as live.
        step: Judge everything as this ramp step, 0 is the first; None lets verdicts, or the log, move the release.
    """

    tick_seconds: float
    watermark_lag: float | None = None
    step: int | None = None


def run(rows: ReleaseRows, frozen: Frozen, spec: ReleaseSpec, options: ClockOptions) -> ReleaseResult:
    """Put one release through the gate."""
    return _Clock(rows, frozen, spec, options).run()


class _Clock:
    def __init__(self, rows: ReleaseRows, frozen: Frozen, spec: ReleaseSpec, options: ClockOptions) -> None:
        self._rows, self._frozen, self._spec, self._options = rows, frozen, spec, options
        self._arrivals = Arrivals.of(
            rows,
            frozen.started_at,
            options.tick_seconds,
            fixed_lag=options.watermark_lag,
            most_lag=60 * spec.gate.max_lag_minutes,
        )
        self._state = EvidenceState.start(frozen.baselines, spec.gate, buckets=frozen.buckets)
        self._given = rows.percent is not None and options.step is None and not frozen.first_release
        self._starts = self._given_starts() if self._given else {options.step or 0: frozen.started_at}
        self._step = min(self._starts)
        self._read, self._tick = -1, 0
        self._last_tick = self._arrivals.ticks[-1] if self._arrivals.ticks else 1
        self._advances: list[Advance] = []
        self._share_differs: set[int] = set()
        verdict = self._decide()
        self._tracks = [self._track(metric) for metric in verdict.metrics]
        self._restless = not any(track.required for track in self._tracks)
        self._plan: list[int] = []

    def run(self) -> ReleaseResult:
        """Tick until the release is promoted or rolled back, or the log ends."""
        self._lay_out()
        while True:
            self._tick = min(self._next_tick(), self._last_tick)
            self._follow_the_log()
            self._ingest(bisect_right(self._arrivals.ticks, self._tick) - 1)
            if self._tick == self._last_tick or self._worth_asking():
                verdict = self._decide()
                if self._act(verdict) or self._tick == self._last_tick:
                    return self._result(verdict)

    def _act(self, verdict: Verdict) -> bool:
        """Do what the verdict says; returns whether the release has ended."""
        required = [metric for metric in verdict.metrics if self._is_required(metric)]
        self._restless = all(metric.shown for metric in required)
        if verdict.action is Action.ADVANCE and self._options.step is None:
            if self._step not in self._advanced:
                self._advances.append(Advance(self._step, self._now, verdict.sentence, *self._requests()))
            if not self._given and self._tick < self._last_tick:
                self._step += 1
                self._starts[self._step] = self._now
                self._restless = not any(track.required for track in self._tracks)
                self._record()
                self._lay_out()
        elif verdict.action is not Action.HOLD:
            return True
        # Where the log says which step is on, nothing is to be waited for once a step is let go.
        self._restless &= self._step not in self._advanced
        return False

    @property
    def _advanced(self) -> set[int]:
        return {advance.step for advance in self._advances}

    @property
    def _now(self) -> float:
        return self._frozen.started_at + self._tick * self._options.tick_seconds

    def _next_tick(self) -> int:
        """The next tick at which anything can change."""
        arrivals = self._arrivals
        if not arrivals.ticks:
            return self._last_tick
        reads = [len(arrivals.ticks) - 1]
        place = bisect_right(self._plan, self._read)
        if place < len(self._plan):
            reads.append(self._plan[place])
        if self._restless and self._read + 1 < len(arrivals.ticks):
            reads.append(self._read + 1)
        ticks = [arrivals.ticks[min(reads)]]
        if self._restless:
            ticks.append(self._tick_at(self._starts[self._step] + self._spec.ramp.min_step_seconds))
        if self._given:
            ticks += [self._tick_at(start) for start in self._starts.values()]
        return min((tick for tick in ticks if tick > self._tick), default=self._tick + 1)

    def _tick_at(self, time: float) -> int:
        """The first tick at or after a time."""
        return math.ceil((time - self._frozen.started_at) / self._options.tick_seconds)

    def _given_starts(self) -> dict[int, float]:
        """When each step of the log began, by its own traffic_percent."""
        assert self._rows.percent is not None, "steps are given by the column"
        counted = self._rows.answered & self._rows.first
        found = {}
        for step, percent in enumerate(self._spec.ramp.steps):
            of_step = counted & (self._rows.percent == percent)
            if of_step.any():
                found[step] = float(self._rows.requested[of_step].min())
        return found or {0: self._frozen.started_at}

    def _follow_the_log(self) -> None:
        """Be at the step that the log is at."""
        if self._given:
            begun = [step for step, start in self._starts.items() if start <= self._now]
            if begun and max(begun) != self._step:
                self._step = max(begun)
                self._restless = not any(track.required for track in self._tracks)
                self._record()

    def _steps(self) -> Whole:
        """The step of each row, as far as it is known now; -1 for none."""
        if self._given and self._rows.percent is not None:
            steps = np.full(len(self._rows.requested), -1, dtype=np.int64)
            for step, percent in enumerate(self._spec.ramp.steps):
                steps[self._rows.percent == percent] = step
            return steps
        starts = [self._starts[step] for step in sorted(self._starts)]
        return np.asarray(np.searchsorted(starts, self._rows.requested, side="right") - 1 + min(self._starts))

    def _lay_out(self) -> None:
        """Count what is still to come under the steps as they are known now, and plan which reads matter."""
        steps, plan = self._steps(), set[int]()
        for track in self._tracks:
            metric = next(each for each in self._spec.gate.metrics if each.name == track.series.metric)
            length = self._frozen.buckets[metric.name]
            counts = self._arrivals.series_counts(
                self._frozen.bins[track.series], metric.bins, steps, length, self._read
            )
            track.lay_out(counts)
            paired = track.harm_bet is Bet.HARM
            evidence = self._state.metric(*track.series)
            if track.watched:
                harm, good = (
                    {place: each.arms.champion_n + each.arms.challenger_n for place, each in account.open.items()}
                    for account in map(evidence.account, (track.harm_bet, track.good_bet))
                )
                enough = self._spec.gate.min_block_rows
                plan |= self._arrivals.closing(counts, length, enough, harm=harm, good=good, paired=paired)
        self._plan = sorted(plan)

    def _ingest(self, read: int) -> None:
        """Fold everything up to a read as one ingest."""
        if read <= self._read:
            return
        watermark = self._arrivals.watermark[read]
        observations = list[Observation]()
        for track in self._tracks:
            observations += track.take(read, watermark, self._step)
        self._state = self._state.add(observations)
        self._read = read
        self._record()

    def _record(self) -> None:
        for track in self._tracks:
            track.follow(self._state, self._now, self._step)

    def _worth_asking(self) -> bool:
        """Whether the verdict could be another one than to wait."""
        if any(track.guard and track.harm_reached for track in self._tracks):
            return True
        return all(track.good_reached for track in self._tracks if track.required)

    def _decide(self) -> Verdict:
        lag = self._arrivals.lag[self._read] if self._read >= 0 else None
        moment = Moment(
            now=self._now,
            step=None if self._frozen.first_release else self._step,
            step_started_at=self._starts[self._step],
            ramp_started_at=self._frozen.started_at,
            lag_seconds=lag,
        )
        verdict = verdict_at(self._state, self._spec, moment)
        if verdict.reason == HoldReason.SHARE_MISMATCH and not self._given:
            # The log does not say what was configured, so its own share is nothing to object to.
            most = max(verdict.metrics, key=lambda metric: metric.champion_n + metric.challenger_n)
            share = most.challenger_n / (most.champion_n + most.challenger_n)
            self._share_differs.add(self._step)
            verdict = verdict_at(self._state, self._spec, replace(moment, share=share))
        return verdict

    def _is_required(self, metric: MetricVerdict) -> bool:
        return metric.required and not (self._frozen.first_release and metric.bound is None)

    def _track(self, metric: MetricVerdict) -> Track:
        paired = metric.margin is not None
        return Track(
            series=Series(metric.name, metric.segment),
            harm_bet=Bet.HARM if paired else Bet.ABOVE,
            good_bet=Bet.NONINFERIORITY if paired else Bet.BELOW,
            watched=paired or metric.bound is not None,
            harm_limit=math.log(metric.harm_limit) - _SLACK,
            good_limit=math.log(metric.noninferiority_limit) - _SLACK,
            guard=metric.guard,
            required=self._is_required(metric),
        )

    def _requests(self) -> tuple[int, int]:
        """Champion and challenger rows of any step that were read by now, whether a metric could judge them or not."""
        mine = self._arrivals.counted & (self._arrivals.read_of <= self._read)
        challenger = int((mine & self._rows.challenger).sum())
        return int(mine.sum()) - challenger, challenger

    def _result(self, verdict: Verdict) -> ReleaseResult:
        rows, counted = self._rows, self._arrivals.counted
        return ReleaseResult(
            release=rows.name,
            verdict=verdict,
            started_at=self._frozen.started_at,
            at=self._now,
            step=None if self._frozen.first_release else self._step,
            requests=self._requests(),
            advances=tuple(self._advances),
            frozen=self._frozen.baselines,
            buckets=self._frozen.buckets,
            paths={track.series: track.path() for track in self._tracks},
            rows={
                "read": len(rows.arrived),
                "duplicates": int((~rows.first).sum()),
                "not_answered": int((rows.first & ~rows.answered).sum()),
                "baseline": self._frozen.before,
                "outside": int((rows.first & rows.answered & ~counted).sum()) - self._frozen.before,
            },
            share_differs=tuple(sorted(self._share_differs)),
        )
