"""What the command line of a replay changes in a release's YAML."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from release_pipeline.errors import SpecError
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_sentences import sentences


def change_spec(
    spec: ReleaseSpec,
    gate: Mapping[str, Any],
    ramp: Mapping[str, Any],
    *,
    require: Collection[str],
    no_guard: Collection[str],
) -> ReleaseSpec:
    """The spec with other values, None meaning the spec's own.

    Args:
        spec: The spec as written.
        gate: Fields of its gate.
        ramp: Fields of its ramp.
        require: Metrics that must be shown; a muted one is muted no more, and still no guard.
        no_guard: Metrics that do not roll back.

    Raises:
        SpecError: A metric is not there, or a value is out of bounds.
    """
    known = [metric.name for metric in spec.gate.metrics]
    for name in (*require, *no_guard):
        if name not in known:
            raise SpecError(f"the gate has no metric {name}; it has {', '.join(known)}.")
    written = spec.model_dump(exclude_unset=True)
    metrics = []
    for metric in spec.gate.metrics:
        changed = metric.model_dump(exclude_unset=True)
        if metric.name in require:
            changed |= {"required": True, "muted": False, "guard": metric.guards}
        if metric.name in no_guard:
            changed |= {"guard": False}
        if not changed.get("guard", True):
            # A share of alpha is for guards; the others share what it leaves.
            changed.pop("alpha_share", None)
        metrics.append(changed)
    asked = {key: value for key, value in gate.items() if value is not None}
    written["gate"] = {**written.get("gate", {}), **asked, "metrics": metrics}
    written["ramp"] = {**written.get("ramp", {}), **{key: each for key, each in ramp.items() if each is not None}}
    try:
        return ReleaseSpec.model_validate(written)
    except ValidationError as error:
        raise SpecError("\n".join(told for _, told in sentences(error, written, ReleaseSpec))) from None
