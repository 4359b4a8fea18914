"""The evaluation set: JSON lines, each with the inputs of one request and what is expected of the answer."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from release_pipeline.errors import EvaluationSetError


@dataclass(frozen=True)
class Example:
    """One request, ``inputs`` as the model takes it, and ``expectations`` by name."""

    inputs: dict[str, Any]
    expectations: dict[str, Any] = field(default_factory=dict)


def read_dataset(path: Path) -> list[Example]:
    """Read an evaluation set.

    Raises:
        EvaluationSetError: The file is missing or empty, or a line is not an object with an ``inputs`` object; the
            message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EvaluationSetError(f"{path}: cannot be read ({error.strerror}); check evaluation.dataset.") from None
    except UnicodeDecodeError:
        raise EvaluationSetError(f"{path}: is not UTF-8 text; save it as UTF-8 JSON lines.") from None
    examples = [_example(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not examples:
        raise EvaluationSetError(f"{path}: has no lines; give at least one {{inputs, expectations}} object.")
    return examples


def _example(path: Path, number: int, line: str) -> Example:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise EvaluationSetError(f"{where}: not JSON ({error.msg} at column {error.colno}); mend the line.") from None
    if not isinstance(row, dict) or not isinstance(row.get("inputs"), dict) or not row["inputs"]:
        raise EvaluationSetError(f"{where}: field `inputs` must be an object that holds one request of the model.")
    expectations = row.get("expectations", {})
    if not isinstance(expectations, dict):
        raise EvaluationSetError(
            f"{where}: field `expectations` must be an object, such as {{'expected_topic': 'if'}}."
        )
    unknown = sorted(row.keys() - {"inputs", "expectations", "tags"})
    if unknown:
        raise EvaluationSetError(f"{where}: field `{unknown[0]}` is not known; use inputs and expectations.")
    return Example(row["inputs"], expectations)
