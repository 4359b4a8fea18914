"""The rule over stored evidence: what was seen gives, again, every state and every verdict, bit for bit."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from release_pipeline.gate.decision import decide, decide_first_release
from release_pipeline.gate.evidence import Baseline, EvidenceState, Observation
from release_pipeline.gate.verdict import Signals, Verdict
from release_pipeline.spec import ReleaseSpec


@dataclass(frozen=True, slots=True)
class ReplayedLook:
    """One ingest, replayed."""

    ingest: int
    state: EvidenceState
    verdict: Verdict


def replay(
    observations: Iterable[Observation],
    baselines: Iterable[Baseline],
    spec: ReleaseSpec,
    *,
    bucket_seconds: float,
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
        bucket_seconds: Length of the event-time buckets, seconds.
        step_starts: When each step that was reached began, unix seconds, rising; empty for a first release, which has
            no champion and no steps.
        looked_at: Time of the look after each ingest, unix seconds.

    Raises:
        ValueError: An ingest has no time, or was before the first step; or the observations do not fold.
    """
    state = EvidenceState.start(baselines, spec.gate, bucket_seconds=bucket_seconds)
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
            signals = Signals(
                configured_share=spec.ramp.steps[min(step, len(spec.ramp.steps) - 1)] / 100,
                now=now,
                step_started_at=step_starts[step],
                ramp_started_at=step_starts[0],
            )
            verdict = decide(state, signals, spec, step)
        else:
            signals = Signals(configured_share=1.0, now=now, step_started_at=first_look, ramp_started_at=first_look)
            verdict = decide_first_release(state, signals, spec)
        looks.append(ReplayedLook(ingest, state, verdict))
    return looks
