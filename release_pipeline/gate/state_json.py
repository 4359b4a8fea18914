"""Evidence states as JSON-able dictionaries and back, without the loss of a bit (floats as hexadecimal text)."""

from collections.abc import Mapping
from typing import Any

from release_pipeline.gate.evidence import Account, Arms, Bet, EvidenceState, MetricEvidence
from release_pipeline.spec import GatePart


def state_to_dict(state: EvidenceState) -> dict[str, Any]:
    """The state without its gate, which is the release's own and is given again on reading."""
    return {
        "bucket_seconds": float(state.bucket_seconds).hex(),
        "last_ingest": state.last_ingest,
        "levels": {name: level.hex() for name, level in state.levels.items()},
        "metrics": {name: _metric(evidence) for name, evidence in state.metrics.items()},
    }


def state_from_dict(data: Mapping[str, Any], gate: GatePart) -> EvidenceState:
    """The state that :func:`state_to_dict` wrote, under the same gate.

    Raises:
        ValueError: The data is not such a state, or lacks the level of one of the gate's metrics.
    """
    try:
        state = EvidenceState(
            gate=gate,
            levels={name: float.fromhex(level) for name, level in data["levels"].items()},
            bucket_seconds=float.fromhex(data["bucket_seconds"]),
            last_ingest=int(data["last_ingest"]),
            metrics={name: _read_metric(evidence) for name, evidence in data["metrics"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the stored evidence state has no valid {error}; fold the observations anew") from error
    missing = [metric.name for metric in gate.metrics if metric.name not in state.levels]
    if missing:
        raise ValueError(f"the stored evidence state has no level of {', '.join(missing)}; fold the observations anew")
    return state


def _metric(evidence: MetricEvidence) -> dict[str, Any]:
    return {
        "watermark": float(evidence.watermark).hex(),
        "rows": _by_step(evidence.rows),
        "accounts": {
            bet.value: {
                "capitals": {str(step): [value.hex() for value in logs] for step, logs in account.capitals.items()},
                "folded": _by_step(account.folded),
                "open": [[step, float(start).hex(), *_arms(arms)] for (step, start), arms in account.open.items()],
            }
            for bet, account in evidence.accounts.items()
        },
    }


def _read_metric(data: Mapping[str, Any]) -> MetricEvidence:
    return MetricEvidence(
        watermark=float.fromhex(data["watermark"]),
        rows=_read_by_step(data["rows"]),
        accounts={
            Bet(bet): Account(
                capitals={int(step): tuple(map(float.fromhex, logs)) for step, logs in account["capitals"].items()},
                folded=_read_by_step(account["folded"]),
                open={
                    (int(step), float.fromhex(start)): Arms(tuple(champion), tuple(challenger))
                    for step, start, champion, challenger in account["open"]
                },
            )
            for bet, account in data["accounts"].items()
        },
    )


def _arms(arms: Arms) -> list[list[int]]:
    return [list(arms.champion), list(arms.challenger)]


def _by_step(rows: Mapping[int, Arms]) -> dict[str, list[list[int]]]:
    return {str(step): _arms(arms) for step, arms in rows.items()}


def _read_by_step(data: Mapping[str, Any]) -> dict[int, Arms]:
    return {int(step): Arms(tuple(champion), tuple(challenger)) for step, (champion, challenger) in data.items()}
