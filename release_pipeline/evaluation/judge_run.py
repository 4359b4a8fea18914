"""One run of a judge: score the requests that wait, write them in small batches, and say how far it is.

It may end at any moment and be repeated: a request that has a score is not scored again, and which requests are scored
does not depend on when.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from release_pipeline.errors import ReleaseError
from release_pipeline.evaluation.judging import Judge
from release_pipeline.workspace.judge_sample import NO_BODIES, JudgeSample
from release_pipeline.workspace.score_table import Judged

#: Requests that one run scores at most; the next run goes on.
MOST_ROWS: Final = 200
# Requests that are scored and written together: bodies in memory, and work that is lost when a run is killed. So many
# failures at once also say that the scorer is broken, or its model out of reach, and not the requests odd.
_BATCH: Final = 10


@dataclass(frozen=True)
class JudgeOutcome:
    """What one run did for one metric.

    Attributes:
        metric: Its name.
        scored: Requests that got a badness.
        unjudged: Requests that got none: no bodies were logged, or the scorer failed on them, or said nothing readable.
    """

    metric: str
    scored: int
    unjudged: int


def run_judge(
    judge: Judge, sample: JudgeSample, since: datetime, now: datetime, progress: Callable[[str], None]
) -> JudgeOutcome:
    """Score up to :data:`MOST_ROWS` waiting requests from ``since`` on, oldest first.

    Args:
        judge: The scorer and its metric.
        sample: The requests.
        since: First event time.
        now: The time.
        progress: Called with one line after every batch.

    Raises:
        ReleaseError: The scorer failed on every request of a batch. Those stay without a score, so that they are scored
            once it works again: an outage of a judge's model must not use up the sample.
        WorkspaceError: The workspace cannot be asked.
    """
    metric = judge.metric
    waiting = sample.waiting(metric, since, now, MOST_ROWS)
    scored = 0
    for start in range(0, len(waiting), _BATCH):
        batch = waiting[start : start + _BATCH]
        bodies = sample.bodies(batch)
        opinions = [judge.opinion(bodies.get(each.request_id, NO_BODIES)) for each in batch]
        errors = Counter(opinion.error for opinion in opinions if opinion.error)
        if errors and errors.total() == sum(opinion.asked for opinion in opinions):
            kind, count = errors.most_common(1)[0]
            raise ReleaseError(
                f"the scorer {metric.scorer} of metric {metric.name} failed on all {errors.total()} requests that it "
                f"was asked about one after another, {count} of them with {kind}; mend it, or its model's endpoint: "
                "they are scored afterwards."
            )
        at = datetime.now(UTC)
        judged = zip(batch, opinions, strict=True)
        sample.write(metric, batch, [Judged(each.request_id, opinion.badness, at) for each, opinion in judged])
        scored += sum(opinion.badness is not None for opinion in opinions)
        progress(f"{metric.name}: {start + len(batch)} of {len(waiting)} requests")
    return JudgeOutcome(metric.name, scored, len(waiting) - scored)
