"""The rule over what happened before: the same rows give, again, every state and every verdict, bit for bit.

:func:`replay` goes over stored evidence. Logs of requests are turned into observations on a virtual clock by
``release_pipeline.replay_log``; both ask :func:`verdict_at`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from release_pipeline.gate.decision import decide, decide_first_release
from release_pipeline.gate.evidence import EvidenceState
from release_pipeline.gate.observations import Baseline, Observation
from release_pipeline.gate.verdict import Signals, Verdict
from release_pipeline.spec import ReleaseSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a look takes place, and where the release stands then."""

    now: float
    """Time of the look, unix seconds."""
    step: int | None
    """Ramp step, 0 is the first; None for a first release, which has no champion and no steps."""
    step_started_at: float
    """When the step began, unix seconds."""
    ramp_started_at: float
    """When the first one did."""
    share: float | None = None
    """Challenger's share of the traffic as configured; None takes the step's in the spec."""
    lag_seconds: float | None = None
    """Delay of rows as last measured; None if it is not known."""


@dataclass(frozen=True, slots=True)
class ReplayedLook:
    """One ingest, replayed."""

    ingest: int
    state: EvidenceState
    verdict: Verdict


def verdict_at(state: EvidenceState, spec: ReleaseSpec, moment: Moment) -> Verdict:
    """The verdict of one look, with nothing wrong that evidence and lag do not tell."""
    steps, share = spec.ramp.steps, moment.share
    if share is None:
        share = 1.0 if moment.step is None else steps[min(moment.step, len(steps) - 1)] / 100
    signals = Signals(
        configured_share=share,
        now=moment.now,
        step_started_at=moment.step_started_at,
        ramp_started_at=moment.ramp_started_at,
        lag_seconds=moment.lag_seconds,
    )
    if moment.step is None:
        return decide_first_release(state, signals, spec)
    return decide(state, signals, spec, moment.step)


def replay(
    observations: Iterable[Observation],
    baselines: Iterable[Baseline],
    spec: ReleaseSpec,
    *,
    buckets: Mapping[str, float],
    step_starts: Sequence[float],
    looked_at: Mapping[int, float],
) -> list[ReplayedLook]:
    """Fold stored observations and decide after each ingest, as it was done live.

    Health is not evidence and is not stored with it: every look is replayed as healthy, so a verdict that was held for
    a fault of the data comes out as the evidence alone would have had it.

    Args:
        observations: All observations of one release, in any order.
        baselines: The levels frozen when it started.
        spec: The release's spec at that time.
        buckets: Length of the event-time buckets per metric, seconds.
        step_starts: When each step that was reached began, unix seconds, rising; empty for a first release, which has
            no champion and no steps.
        looked_at: Time of the look after each ingest, unix seconds.

    Raises:
        ValueError: An ingest has no time, or was before the first step; or the observations do not fold.
    """
    state = EvidenceState.start(baselines, spec.gate, buckets=buckets)
    by_ingest = attrgetter("ingest")
    looks = []
    first_look = min(looked_at.values(), default=0.0)
    for ingest, rows in groupby(sorted(observations, key=by_ingest), key=by_ingest):
        if ingest not in looked_at:
            raise ValueError(f"ingest {ingest} has no time in looked_at; give the time of every ingest")
        state, now = state.add(rows), looked_at[ingest]
        if step_starts:
            step = sum(start <= now for start in step_starts) - 1
            if step < 0:
                raise ValueError(f"ingest {ingest} was looked at before the first step; give the steps' true starts")
            moment = Moment(now=now, step=step, step_started_at=step_starts[step], ramp_started_at=step_starts[0])
        else:
            moment = Moment(now=now, step=None, step_started_at=first_look, ramp_started_at=first_look)
        looks.append(ReplayedLook(ingest, state, verdict_at(state, spec, moment)))
    return looks
