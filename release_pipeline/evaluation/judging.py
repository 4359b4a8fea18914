"""A judge: one MLflow scorer, run on logged requests, whose bodies stay in memory.

What the scorer says of a request becomes a badness. Nothing else leaves this module: no body, no rationale, and of an
error only its type, because its text may quote the body.
"""

import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from release_pipeline.errors import SpecError
from release_pipeline.evaluation.mlflow_scorers import built_in, check_model
from release_pipeline.evaluation.scorers import load_scorer
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.badness import badness_of
from release_pipeline.workspace.judge_sample import Bodies

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

#: What a logged row cannot give to a scorer.
_NOT_LOGGED: Final = frozenset({"trace", "session"})


@dataclass(frozen=True)
class Opinion:
    """What a judge says of one request.

    Attributes:
        badness: 0 to 1; None where there is nothing to judge, or the value cannot be read.
        error: Type of what the scorer raised, empty where it did not.
        asked: Whether the scorer was asked; without bodies it is not.
    """

    badness: float | None
    error: str = ""
    asked: bool = True


class Judge:
    """The scorer of one metric.

    Args:
        metric: A metric of kind `judge`.
        folder: Folder of the YAML, where the scorer's file lies.

    Raises:
        SpecError: There is no such scorer, or a logged request does not hold what it needs.
    """

    def __init__(self, metric: Metric, folder: Path) -> None:
        self.metric = metric
        self._scorer = _load(metric, folder)

    def opinion(self, bodies: Bodies) -> Opinion:
        """Judge one request by its logged bodies."""
        if bodies.request is None or bodies.response is None:
            return Opinion(None, asked=False)
        try:
            value: Any = self._scorer.run(inputs=_parsed(bodies.request), outputs=answer_of(bodies.response))  # type: ignore[no-untyped-call]
        except Exception as raised:  # user code runs here, and a model's answer is parsed
            return Opinion(None, _told(raised))
        if isinstance(value, list):
            value = value[0] if len(value) == 1 else None
        error = getattr(value, "error", None)
        if error is not None:
            return Opinion(None, str(getattr(error, "error_code", None) or type(error).__name__))
        value = getattr(value, "value", value)  # of a Feedback
        return Opinion(badness_of(value, worst=self.metric.worst, best=self.metric.best))


def answer_of(response: str) -> Any:
    """The answer in a logged response: JSON as it is, a stream as the answer that its events add up to."""
    parsed = _parsed(response)
    events = parsed if isinstance(parsed, list) else list(_events(response)) if isinstance(parsed, str) else None
    if not events or not all(isinstance(event, dict) for event in events):
        return parsed
    items = [event["item"] for event in events if event.get("type") == "response.output_item.done" and "item" in event]
    if items:
        return {"output": items}
    text = "".join(_delta_texts(events))
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return {"output": [message]} if text else parsed


def _load(metric: Metric, folder: Path) -> "Scorer":
    import mlflow.genai.scorers as scorers

    name = metric.scorer or ""
    whose = f"gate.metrics: {name}, the scorer of {metric.name},"
    found = built_in(name, whose, metric.name)
    if found is not None:
        scorer = found
    elif ":" in name:
        function = load_scorer(name, folder, field="gate.metrics")
        scorer = function if isinstance(function, scorers.Scorer) else scorers.scorer(function, name=metric.name)
    else:
        raise SpecError(
            f"{whose} is not a class in mlflow.genai.scorers; use one, such as Safety, or file.py:function beside the "
            "YAML."
        )
    needs = frozenset(getattr(scorer, "required_columns", ())) | {
        parameter.name
        for parameter in inspect.signature(scorer.__call__).parameters.values()
        if parameter.default is inspect.Parameter.empty
    }
    needs |= getattr(scorer, "template_variables", frozenset())  # of make_judge
    lacks = sorted(needs & (_NOT_LOGGED | {"expectations"}))
    if getattr(scorer, "is_session_level_scorer", False):
        lacks = ["session"]
    if lacks:
        raise SpecError(
            f"{whose} needs {lacks[0]}, which a logged request does not have; use one of inputs and outputs."
        )
    check_model(scorer, whose)
    return scorer


def _told(raised: Exception) -> str:
    """What may be told of an error: its type, and what no request can be quoted in."""
    more = getattr(raised, "error_code", None) or (raised.name if isinstance(raised, ImportError) else None)
    return f"{type(raised).__name__} {more}" if more else type(raised).__name__


def _events(text: str) -> Iterator[Any]:
    """The events of a stream that was logged as it was sent."""
    for line in text.splitlines():
        if line.startswith("data:") and (event := line.removeprefix("data:").strip()).startswith("{"):
            yield _parsed(event)


def _delta_texts(events: Iterable[dict[str, Any]]) -> Iterator[str]:
    for event in events:
        if isinstance(delta := event.get("delta"), str):
            yield delta
        for choice in event.get("choices") or ():
            if isinstance(content := choice.get("delta", {}).get("content"), str):
                yield content


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
