"""The spec of a replay: a release's YAML, with what the command line changes in it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from release_pipeline.errors import SpecError, first_sentence
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_sentences import sentence


def read_spec(file: Path) -> ReleaseSpec:
    """The spec in a ``defs.yaml``; the model's files that it names need not be there.

    Args:
        file: YAML with the component's ``attributes``, or with nothing but them.

    Raises:
        SpecError: There is no such file, or it is no release's.
    """
    import yaml

    try:
        found = [part for part in yaml.safe_load_all(file.read_text(encoding="utf-8")) if part is not None]
    except OSError as error:
        raise SpecError(f"{file} cannot be read: {error.strerror}; give a release's defs.yaml.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{file} is no YAML: {first_sentence(error)}.") from None
    parts = [part.get("attributes", part) for part in found if isinstance(part, dict)]
    if len(parts) != 1 or not isinstance(parts[0], dict):
        raise SpecError(f"{file} does not have the attributes of one release; give a defs.yaml that has.")
    return _validated(parts[0], f"{file}: ")


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
        metrics.append(changed)
    asked = {key: value for key, value in gate.items() if value is not None}
    written["gate"] = {**written.get("gate", {}), **asked, "metrics": metrics}
    written["ramp"] = {**written.get("ramp", {}), **{key: each for key, each in ramp.items() if each is not None}}
    return _validated(written, "")


def _validated(attributes: Mapping[str, Any], where: str) -> ReleaseSpec:
    from pydantic import ValidationError

    try:
        return ReleaseSpec.model_validate(dict(attributes))
    except ValidationError as error:
        raise SpecError(where + "\n".join(sentence(dict(problem)) for problem in error.errors())) from None
