"""A scoring process: one model version, loaded once, answering the router over loopback.

Started by the supervisor as ``python -m release_pipeline.local_workspace.serving.worker``. One line of JSON on
standard input says what to serve; the pipe then stays open for as long as the server lives, and its end ends this
process, so that no scoring process outlives a server that was killed. The outcome of loading, and the port, go to
a report file.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from release_pipeline.local_workspace.serving.worker_protocol import WorkerOrder, WorkerReport

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Load the model that standard input names, then answer requests until told to stop."""
    control = _take_standard_input()
    _die_with_parent()
    order = WorkerOrder(**json.loads(control.readline()))
    threading.Thread(target=_exit_at_end_of, args=(control,), daemon=True).start()
    report_path = Path(order.report_path)
    try:
        from release_pipeline.local_workspace.serving.model import load_served_model
        from release_pipeline.local_workspace.serving.scoring import ScoringApp

        app = ScoringApp(load_served_model(order), order.key)
    except BaseException as error:
        # A model's own code may raise anything, SystemExit included.
        from release_pipeline.local_workspace.serving.redaction import describe, traceback_text

        sys.stderr.write(traceback_text(error))
        _report(report_path, WorkerReport(0, describe(error)))
        raise SystemExit(1) from None
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    _report(report_path, WorkerReport(listener.getsockname()[1]))
    # Only the router calls, and it closes idle connections first: a long keep-alive leaves no race between them.
    config = uvicorn.Config(app, lifespan="off", access_log=False, log_level="warning", timeout_keep_alive=3600)
    # uvicorn repeats the signal that ended it; that one is to leave time for what follows.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    uvicorn.Server(config).run(sockets=[listener])
    app.close()


def _take_standard_input() -> BinaryIO:
    """Keep the pipe and give the model's own code an empty standard input."""
    control = os.fdopen(os.dup(0), "rb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return control


def _die_with_parent() -> None:
    # The end of the pipe does the same everywhere; this also works while a model holds the interpreter lock.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_at_end_of(control: BinaryIO) -> None:
    control.read()
    os._exit(0)


def _report(path: Path, report: WorkerReport) -> None:
    temporary = path.with_suffix(".writing")
    temporary.write_text(json.dumps(asdict(report)), encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
