"""Evidence states as JSON-able dictionaries and back, without the loss of a bit (floats as hexadecimal text).

The evidence table keeps one now and then, so that a tick folds what is new and not the whole release.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from release_pipeline.gate.evidence import Account, Bet, EvidenceState, MetricEvidence, OpenBlock
from release_pipeline.gate.observations import Arms, Series
from release_pipeline.spec_gate import GatePart


def state_to_dict(state: EvidenceState) -> dict[str, Any]:
    """The state without its gate, which is the release's own and is given again on reading."""
    return {
        "buckets": {name: float(seconds).hex() for name, seconds in state.buckets.items()},
        "small": sorted(list(series) for series in state.small),
        "last_ingest": state.last_ingest,
        "levels": [[*series, level.hex()] for series, level in state.levels.items()],
        "level_rows": [[*series, n] for series, n in state.level_rows.items()],
        "metrics": [[*series, _metric(evidence)] for series, evidence in state.metrics.items()],
    }


def state_from_dict(data: Mapping[str, Any], gate: GatePart) -> EvidenceState:
    """The state that :func:`state_to_dict` wrote, under the same gate.

    Raises:
        ValueError: The data is not such a state, or lacks the level of one of the gate's metrics.
    """
    try:
        state = EvidenceState(
            gate=gate,
            levels={Series(name, segment): float.fromhex(level) for name, segment, level in data["levels"]},
            buckets={name: float.fromhex(seconds) for name, seconds in data["buckets"].items()},
            small=frozenset(Series(name, segment) for name, segment in data["small"]),
            last_ingest=int(data["last_ingest"]),
            metrics={Series(name, segment): _read_metric(each) for name, segment, each in data["metrics"]},
            # A state of an earlier version of this package lacks them.
            level_rows={Series(name, segment): int(n) for name, segment, n in data.get("level_rows", ())},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the stored evidence state has no valid {error}; fold the observations anew") from error
    missing = [metric.name for metric in gate.metrics if not state.segments(metric.name)]
    if missing:
        raise ValueError(f"the stored evidence state has no level of {', '.join(missing)}; fold the observations anew")
    return state


def _metric(evidence: MetricEvidence) -> dict[str, Any]:
    return {
        "watermark": float(evidence.watermark).hex(),
        "rows": _by_step(evidence.rows),
        "unjudged": {str(step): list(rows) for step, rows in evidence.unjudged.items()},
        "failed": {str(step): rows for step, rows in evidence.failed.items()},
        "accounts": {
            bet.value: {
                "capitals": {str(step): [value.hex() for value in logs] for step, logs in account.capitals.items()},
                "folded": _by_step(account.folded),
                "given_up": _by_step(account.given_up),
                "open": [
                    [step, float(start).hex(), *_arms(block.arms), float(block.opened).hex()]
                    for (step, start), block in account.open.items()
                ],
                "closed": [
                    [step, float(start).hex(), float(until).hex()] for (step, start), until in account.closed.items()
                ],
            }
            for bet, account in evidence.accounts.items()
        },
    }


def _read_metric(data: Mapping[str, Any]) -> MetricEvidence:
    return MetricEvidence(
        watermark=float.fromhex(data["watermark"]),
        rows=_read_by_step(data["rows"]),
        unjudged={int(step): (champion, challenger) for step, (champion, challenger) in data["unjudged"].items()},
        # A state of an earlier version of this package lacks them.
        failed={int(step): int(rows) for step, rows in data.get("failed", {}).items()},
        accounts={
            Bet(bet): Account(
                capitals={int(step): tuple(map(float.fromhex, logs)) for step, logs in account["capitals"].items()},
                folded=_read_by_step(account["folded"]),
                given_up=_read_by_step(account["given_up"]),
                open={
                    (int(step), float.fromhex(start)): OpenBlock(_read_arms(arms), float.fromhex(opened))
                    for step, start, *arms, opened in account["open"]
                },
                # A state of an earlier version of this package lacks them.
                closed={
                    (int(step), float.fromhex(start)): float.fromhex(until)
                    for step, start, until in account.get("closed", ())
                },
            )
            for bet, account in data["accounts"].items()
        },
    )


def _arms(arms: Arms) -> list[list[int]]:
    return [list(arms.champion), list(arms.challenger)]


def _read_arms(arms: Sequence[Sequence[int]]) -> Arms:
    champion, challenger = arms
    return Arms(tuple(champion), tuple(challenger))


def _by_step(rows: Mapping[int, Arms]) -> dict[str, list[list[int]]]:
    return {str(step): _arms(arms) for step, arms in rows.items()}


def _read_by_step(data: Mapping[str, Any]) -> dict[int, Arms]:
    return {int(step): _read_arms(arms) for step, arms in data.items()}
