"""A scoring process: one model version, loaded once, answering the router over loopback.

Started as ``python -m release_pipeline.local_workspace.serving.worker``, or forked by `fork_server`. One line of
JSON on standard input says what to serve; the pipe then stays open for as long as the server lives, and its end ends
this process, so that no scoring process outlives a server that was killed. The outcome of loading, and the port, go
to a report file.
"""

import json
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from release_pipeline.local_workspace.child_process import die_with_parent, exit_at_end_of, take_standard_input
from release_pipeline.local_workspace.serving import invoker, redaction
from release_pipeline.local_workspace.serving.worker_protocol import WorkerOrder, WorkerReport

if TYPE_CHECKING:
    from release_pipeline.local_workspace.serving.scoring import Model


def main() -> None:
    """Load the model that standard input names, then answer requests until told to stop."""
    control = take_standard_input()
    die_with_parent()
    if not (line := control.readline()):
        return  # nobody wants it any more
    order = WorkerOrder(**json.loads(line))
    threading.Thread(target=exit_at_end_of, args=(control,), daemon=True).start()
    report_path = Path(order.report_path)
    invoker.install()
    redaction.hide(os.environ.get(name, "") for name in (*order.secret_variables, "DATABRICKS_TOKEN"))
    try:
        from release_pipeline.local_workspace.serving.scoring import ScoringApp

        app = ScoringApp(_load(order), order.key, order.threads)
    except BaseException as error:
        # A model's own code may raise anything, SystemExit included.
        sys.stderr.write(redaction.traceback_text(error))
        _report(report_path, WorkerReport(0, redaction.describe(error)))
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


def _load(order: WorkerOrder) -> "Model":
    if not order.model_path:
        from release_pipeline.local_workspace.serving.stand_in import StandIn

        return StandIn(order.endpoint)
    from release_pipeline.local_workspace.serving.model import load_served_model

    return load_served_model(order)


def _report(path: Path, report: WorkerReport) -> None:
    temporary = path.with_suffix(".writing")
    temporary.write_text(json.dumps(asdict(report)), encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
