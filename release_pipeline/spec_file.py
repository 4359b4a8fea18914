"""Reads a release's ``defs.yaml`` for commands that need the specification and nothing else of Dagster."""

from pathlib import Path
from typing import Any

from release_pipeline.errors import SpecError
from release_pipeline.spec import ReleaseSpec, parse_spec
from release_pipeline.spec_lines import Lines, lines_in, written_twice
from release_pipeline.spec_templates import resolved

_TYPE = "release_pipeline.ReleasePipelineComponent"


def read_spec(file: Path, *, with_model: bool = True) -> ReleaseSpec:
    """The validated specification in ``file``, or in the ``defs.yaml`` of the folder ``file``.

    Templates are resolved as Dagster does it, which is loaded only if there are any.

    Args:
        file: The YAML of a component, or nothing but its attributes.
        with_model: Whether the files of the model that the YAML names must be there.

    Raises:
        SpecError: The file cannot be read, is not YAML, holds no release, or not exactly one, or the release is wrong.
    """
    import yaml

    path = file / "defs.yaml" if file.is_dir() else file
    try:
        text = path.read_text(encoding="utf-8")
        documents = list(yaml.safe_load_all(text))
        check_keys(text, path)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({type(error).__name__}); name a release's defs.yaml.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise SpecError(
            f"{path}{where}: is not YAML ({getattr(error, 'problem', None) or 'not readable'}); mend it there."
        ) from None
    found = {
        index: each.get("attributes", each)
        for index, each in enumerate(documents)
        if isinstance(each, dict) and each.get("type", _TYPE) == _TYPE
    }
    if len(found) != 1 or not all(isinstance(each, dict) for each in found.values()):
        raise SpecError(f"{path}: has {len(found)} releases of type {_TYPE} with attributes; it must have one.")
    ((document, attributes),) = found.items()
    lines = lines_in(text, document)
    templates = any(mark in text for mark in ("{{", "{%", "{#"))
    now = _resolved(attributes, path, lines) if templates else attributes
    return parse_spec(now, file=path, with_model=with_model, lines=lines)


def check_keys(text: str, path: Path) -> None:
    """Refuse what YAML itself lets pass.

    Raises:
        SpecError: A mapping has a key twice.
        yaml.YAMLError: The text is not YAML.
    """
    if twice := written_twice(text):
        key, line = twice
        raise SpecError(
            f"{path}:{line}: `{key}` is written twice, and only this one would count; remove one of the two."
        )


def _resolved(attributes: dict[str, Any], path: Path, lines: Lines) -> dict[str, Any]:
    import dagster as dg

    return resolved(attributes, dg.ResolutionContext.default(), path, lines)
