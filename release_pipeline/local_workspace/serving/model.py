"""A model in a scoring process: loaded with mlflow, asked with the bodies of requests.

Bodies are read as mlflow's scoring server reads them (``dataframe_records``, ``dataframe_split``, ``inputs``,
``instances``, and the unwrapped ``input`` / ``messages`` of agents), so a model that scores there scores here.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.pyfunc.context import Context, set_prediction_context
from mlflow.tracing.config import get_config
from mlflow.utils.mlflow_tags import MLFLOW_DATABRICKS_MODEL_SERVING_ENDPOINT_NAME

from release_pipeline.local_workspace.serving.invoker import acting_for
from release_pipeline.local_workspace.serving.redaction import describe, redact, redact_json
from release_pipeline.local_workspace.serving.scoring_error import ScoringError
from release_pipeline.local_workspace.serving.worker_protocol import WorkerOrder

# Fields that the platform reads and a model's schema does not know.
PLATFORM_FIELDS = ("client_request_id", "databricks_options", "usage_context")

_asked: ContextVar["_Asked | None"] = ContextVar("asked", default=None)


class _Asked:
    """One request while it is answered: its id, and mlflow's own records of the traces that ended during it."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.traces: list[Any] = []

    def output(self, *, trace: bool) -> dict[str, Any]:
        """What the platform adds to the answer."""
        added: dict[str, Any] = {"databricks_request_id": self.request_id}
        if trace and self.traces:
            # What an agent traces of its own comes first; the trace of the whole request ends last.
            added["trace"] = redact_json(json.loads(self.traces[-1].to_mlflow_trace().to_json()))
        return added


class ServedModel:
    """A loaded model and how requests to it are traced."""

    def __init__(self, model: PyFuncModel, order: WorkerOrder) -> None:
        self._model = model
        self._order = order
        self._input_schema = model.metadata.get_input_schema()  # type: ignore[no-untyped-call]
        parameters = model.metadata.get_params_schema()  # type: ignore[no-untyped-call]
        self._parameters = {parameter.name for parameter in parameters.params} if parameters else set()
        self._returns_request_id = os.environ.get("RETURN_REQUEST_ID_IN_RESPONSE", "").lower() == "true"

    def predict(self, body: dict[str, Any] | bytes, content_type: str, request_id: str, invoker: str = "") -> bytes:
        """Answer one request; JSON. A body that is not JSON (CSV, Parquet) is given as bytes.

        ``invoker`` is the token with which the model acts on behalf of whoever asked, empty where it may not.

        Raises:
            ScoringError: The body does not fit the model, or the model raised.
        """
        data = {k: v for k, v in body.items() if k not in PLATFORM_FIELDS} if isinstance(body, dict) else body
        try:
            with self._request(request_id, invoker) as asked:
                answer = scoring_server.invocations(data, content_type, self._model, self._input_schema)  # type: ignore[no-untyped-call]
        except BaseException as error:  # also SystemExit, and CancelledError of a loop of the model's own
            raise _scoring_error(error) from error
        if answer.status != 200:
            raise ScoringError(answer.status, "BAD_REQUEST", answer.response)
        text: str = answer.response
        wants_trace = _asks_for_trace(body)
        if (self._returns_request_id or wants_trace) and text.startswith("{"):
            document = json.loads(text)
            document.setdefault("databricks_output", {}).update(asked.output(trace=wants_trace))
            text = json.dumps(document)
        return text.encode()

    def predict_stream(self, body: dict[str, Any], request_id: str, invoker: str = "") -> Iterator[bytes]:
        """Events of one streamed answer, JSON each. Iterate in one thread: the trace is bound to it.

        Where the request asks for its trace, that is in an event of its own, the last.

        Raises:
            ScoringError: As `predict`, and after any number of events.
        """
        data = {k: v for k, v in body.items() if k not in PLATFORM_FIELDS and k not in self._parameters}
        parameters = {k: v for k, v in body.items() if k in self._parameters} or None
        begun = False
        try:
            with self._request(request_id, invoker) as asked:
                for event in self._model.predict_stream(data, params=parameters):
                    begun = True
                    yield json.dumps(event).encode()
            if _asks_for_trace(body):
                yield json.dumps({"databricks_output": asked.output(trace=True)}).encode()
        except GeneratorExit:
            raise
        except BaseException as error:
            if not begun and _has_no_stream(error):
                raise ScoringError(400, "BAD_REQUEST", "The model does not support streaming.") from error
            raise _scoring_error(error) from error

    def close(self) -> None:
        """Send the traces that wait for a batch."""
        if self._order.traced:
            mlflow.flush_trace_async_logging()

    @contextmanager
    def _request(self, request_id: str, invoker: str) -> Iterator[_Asked]:
        asked = _Asked(request_id)
        with ExitStack() as contexts:
            contexts.enter_context(acting_for(invoker))
            if self._order.traced:
                contexts.enter_context(_traced(self._order, asked))
            yield asked


class _traced:
    """Marks every trace that starts inside with what serves it and with the id of the request.

    The service gives a trace the request's id as its client request id and, in its metadata, the endpoint's name and
    ``mlflow.modelId``, which mlflow itself adds here. The names of the entity, the model and the version are this
    workspace's own.
    """

    def __init__(self, order: WorkerOrder, asked: _Asked) -> None:
        self._asked = asked
        self._labels = mlflow.tracing.context(
            metadata={
                MLFLOW_DATABRICKS_MODEL_SERVING_ENDPOINT_NAME: order.endpoint,
                "endpoint_name": order.endpoint,
                "served_entity_name": order.entity,
                "model_name": order.model_name,
                "model_version": order.model_version,
            }
        )
        self._prediction = set_prediction_context(Context(request_id=asked.request_id, endpoint_name=order.endpoint))

    def __enter__(self) -> None:
        self._token = _asked.set(self._asked)
        self._labels.__enter__()
        self._prediction.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._prediction.__exit__(*error)
        self._labels.__exit__(*error)
        _asked.reset(self._token)


def load_served_model(order: WorkerOrder) -> ServedModel:
    """Load the model in this process and turn tracing on or off for it."""
    if order.traced:
        # Set once: otherwise mlflow asks the server for the experiment before every single trace.
        mlflow.set_experiment(experiment_id=os.environ["MLFLOW_EXPERIMENT_ID"])
    else:
        # Spans that nobody reads cost an agent about half of its throughput.
        mlflow.tracing.disable()
    model = mlflow.pyfunc.load_model(order.model_path)
    if order.traced:
        # After the model's own code, which may have configured processors of its own: they come first.
        mlflow.tracing.configure(span_processors=[*get_config().span_processors, _note_trace])
    return ServedModel(model, order)


def _asks_for_trace(body: dict[str, Any] | bytes) -> bool:
    options = body.get("databricks_options") if isinstance(body, dict) else None
    return isinstance(options, dict) and options.get("return_trace") is True


def _note_trace(span: Any) -> None:
    """At the end of a trace's root: give the trace the request's id, and keep it until the request is answered."""
    from mlflow.tracing.trace_manager import InMemoryTraceManager

    asked = _asked.get()
    if asked is None or span.parent_id is not None:
        return
    with InMemoryTraceManager.get_instance().get_trace(span.trace_id) as trace:  # type: ignore[no-untyped-call]
        if trace is not None:
            trace.info.client_request_id = asked.request_id
            asked.traces.append(trace)


def _has_no_stream(error: BaseException) -> bool:
    """Whether this is what mlflow raises for a model that cannot stream: of Python's, or of another flavour's."""
    told = isinstance(error, MlflowException) and "does not support predict_stream" in error.message
    return told or isinstance(error, NotImplementedError)


def _scoring_error(error: BaseException) -> ScoringError:
    if not isinstance(error, MlflowException):
        return ScoringError(400, "BAD_REQUEST", describe(error))
    cause = error.__context__
    if error.error_code == "BAD_REQUEST" and cause is not None and not isinstance(cause, MlflowException):
        return ScoringError(
            400, "BAD_REQUEST", f"Encountered an unexpected error while evaluating the model. {describe(cause)}"
        )
    return ScoringError(error.get_http_status_code(), error.error_code, redact(error.message))  # type: ignore[no-untyped-call]
