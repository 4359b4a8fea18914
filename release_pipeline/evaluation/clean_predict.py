"""Run by the clean environment's own interpreter: loads a model and answers example requests.

Stands alone (mlflow and the standard library), because this package is not installed there.
Usage: ``python clean_predict.py MODEL_FOLDER REQUESTS.json RESULTS.json``.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")
"""Keys under which a request carries what a classical model takes; an agent takes the request as it is."""


def ask(model: Any, request: dict[str, Any]) -> Any:
    """What a model answers to a request's body, which is read as a scoring server reads it."""
    forms = [form for form in FORMS if form in request]
    if not forms:
        return model.predict(request)
    if getattr(model.metadata, "_is_signature_from_type_hint", bool)():
        data = request[forms[0]]  # MLflow makes of it what the hint says
    else:
        from mlflow.pyfunc import scoring_server

        body = {form: request[form] for form in forms}
        data = scoring_server.infer_and_parse_data(body, model.metadata.get_input_schema())
    return model.predict(data, params=request.get("params"))


def answer(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Predict once and, where the model streams, stream once; says what went wrong, if anything."""
    started = time.perf_counter()
    try:
        output = ask(model, request)
    except Exception as error:  # user code runs here
        return {"problem": f"predict raised {type(error).__name__}: {str(error)[:300]}"}
    result: dict[str, Any] = {"milliseconds": round(1000 * (time.perf_counter() - started), 1)}
    problem = _empty(output)
    if problem is None and getattr(model, "_model_impl", None) is not None and _streams(model):
        problem, result["stream_events"] = _stream_problem(model, request)
    if problem:
        result["problem"] = problem
    return result


def _empty(output: Any) -> str | None:
    """A model with a signature is checked by MLflow; what it cannot see is an answer without anything in it."""
    if output is None:
        return "predict answered nothing"
    if isinstance(output, dict) and "output" in output and not output["output"]:
        return "predict answered an empty `output`"
    return None


def _streams(model: Any) -> bool:
    task = (model.metadata.metadata or {}).get("task", "")
    return str(task).startswith("agent/")


def _stream_problem(model: Any, request: dict[str, Any]) -> tuple[str | None, int]:
    """A stream must end with a closed item, and the deltas must carry that item's id."""
    events = list[dict[str, Any]]()
    try:
        for event in model.predict_stream(request):
            events.append(event if isinstance(event, dict) else event.model_dump(exclude_none=True))
    except Exception as error:  # user code runs here
        if isinstance(error, NotImplementedError) and not events:
            return None, 0  # what MLflow raises for a model without a stream
        return f"predict_stream raised {type(error).__name__}: {str(error)[:300]}", len(events)
    if not events:
        return "predict_stream gave no events", 0
    if "type" not in events[0]:
        return None, len(events)  # a ChatAgent's chunks have no closing event
    closed = {event["item"].get("id") for event in events if event["type"] == "response.output_item.done"}
    if events[-1]["type"] not in ("response.output_item.done", "response.completed"):
        return f"the stream ended with {events[-1]['type']}, not with response.output_item.done", len(events)
    opened = {event.get("item_id") for event in events if event["type"] == "response.output_text.delta"}
    if not opened <= closed:
        return "the stream has text deltas whose item was never closed by response.output_item.done", len(events)
    return None, len(events)


def main(model_folder: str, requests_file: str, results_file: str) -> None:
    """Answer every request of ``requests_file`` and write one result each."""
    import mlflow

    mlflow.tracing.disable()
    started = time.perf_counter()
    try:
        model = mlflow.pyfunc.load_model(model_folder)
    except Exception as error:  # user code runs here
        message = f"the model does not load: {type(error).__name__}: {str(error)[:300]}"
        Path(results_file).write_text(json.dumps({"problem": message}))
        return
    loaded = round(time.perf_counter() - started, 2)
    requests = json.loads(Path(requests_file).read_text())
    results = [answer(model, request) for request in requests]
    Path(results_file).write_text(json.dumps({"load_seconds": loaded, "results": results}))


if __name__ == "__main__":
    main(*sys.argv[1:])
