"""Scorers of the offline evaluation: two that need no model, and the user's own beside the YAML."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from release_pipeline.errors import SpecError

Score = Callable[..., Any]
FAILED = "release_pipeline_prediction_failed"


def answered(outputs: Any) -> float:
    """1.0 where the model answered without raising and the answer is not empty."""
    return float(not failed(outputs) and bool(text_of(outputs).strip()))


def contains_expected(outputs: Any, expectations: dict[str, Any]) -> float:
    """1.0 where every expected value stands in the answer, upper and lower case alike."""
    if failed(outputs):
        return 0.0
    answer = json.dumps(outputs, default=str, ensure_ascii=False).casefold()
    return float(all(str(value).casefold() in answer for value in expectations.values()))


BUILT_IN: dict[str, Score] = {"answered": answered, "contains_expected": contains_expected}


def failed(outputs: Any) -> bool:
    """Whether the model raised instead of answering."""
    return isinstance(outputs, dict) and FAILED in outputs


def text_of(outputs: Any) -> str:
    """The text of an agent's answer; for other models the answer as JSON."""
    if isinstance(outputs, dict) and "output" in outputs:
        parts = [part for item in outputs["output"] for part in item.get("content", []) or []]
        return "\n".join(str(part.get("text", "")) for part in parts)
    return json.dumps(outputs, default=str)


def load_scorer(name: str, folder: Path, *, field: str = "evaluation.scorers") -> Score:
    """A built-in scorer, or ``file.py:function`` beside the YAML; a function of outputs, expectations or inputs.

    Args:
        name: As it stands in the YAML.
        folder: The YAML's folder.
        field: The YAML's field, for messages.

    Raises:
        SpecError: There is no such scorer.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    file, _, function = name.partition(":")
    path = folder / file
    if not function or not path.is_file():
        raise SpecError(
            f"{field}: {name} is not known; use {', '.join(BUILT_IN)}, or file.py:function beside the YAML."
        )
    module_spec = importlib.util.spec_from_file_location(f"release_pipeline_scorers_{path.stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise SpecError(f"{field}: {path} has no function {function}.")
    return found  # type: ignore[no-any-return]
