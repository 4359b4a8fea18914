"""What a served model's own token may write: the traces of its requests, once each, without what it must not tell.

It is taken from them here, and not where they are made: the model's code shares that process, and can put anything into
a trace in many ways.
"""

import json
import re
from pathlib import Path
from typing import Any

from release_pipeline.local_workspace.caller import Caller
from release_pipeline.local_workspace.errors import ApiError, InvalidParameter, PermissionDenied
from release_pipeline.local_workspace.json_text import at
from release_pipeline.local_workspace.state.files import FileStore

_TRACES = "/WorkspaceInternal/Mlflow/Artifacts"
_TRACE_ID = re.compile(r"tr-[0-9a-f]+")


def trace_of_model(who: Caller, body: Any, files: FileStore) -> bytes:
    """The request that begins a trace, as it may go on to mlflow.

    Without assessments: they are what people say of an answer, and what a gate reads.

    Raises:
        InvalidParameter: It is no such request.
        PermissionDenied: The trace belongs to another experiment, or is there already.
    """
    trace = body.get("trace") if isinstance(body, dict) else None
    info = trace.get("trace_info") if isinstance(trace, dict) else None
    if not isinstance(info, dict) or not _TRACE_ID.fullmatch(str(info.get("trace_id"))):
        raise InvalidParameter("A trace needs its trace_info with a trace_id of the form tr-<hexadecimal>.")
    experiment = at(info, "trace_location", "mlflow_experiment", "experiment_id")
    if experiment != who.experiment:
        raise PermissionDenied(
            f"A served model writes its traces into the experiment of its MLFLOW_EXPERIMENT_ID, not {experiment!r}."
        )
    if any(files.local_path(_TRACES).glob(f"*/Runs/traces/{info['trace_id']}")):
        raise PermissionDenied("A served model begins a trace once, and changes none that is there.")
    info.pop("assessments", None)
    return json.dumps(who.hide(body)).encode()


def hide_in_trace_file(who: Caller, file: Path) -> None:
    """Take a served model's secrets out of the file of a trace that has come in; what is no JSON, as text."""
    raw = file.read_bytes()
    try:
        text = json.dumps(who.hide(json.loads(raw)))
    except (ValueError, RecursionError):
        text = who.hide(raw.decode(errors="replace"))
    file.write_bytes(text.encode(errors="replace"))


def require_new(path: str, file: Path) -> None:
    """Raises ApiError, 409, where a served model would replace a file of a trace."""
    if file.exists():
        raise ApiError(f"The file {path} exists already.", status=409, error_code="ALREADY_EXISTS")
