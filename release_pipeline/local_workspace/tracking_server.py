"""mlflow's tracking server over the workspace's own store, in a process of its own.

Started as ``python -m release_pipeline.local_workspace.tracking_server``. One line of JSON on standard input says what
to serve; the pipe then stays open for as long as the workspace lives, and its end ends this process. Standard output
gets one line with the port.
"""

import json
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from threading import Thread
from typing import Any, Final, cast

import uvicorn
from a2wsgi import WSGIMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from release_pipeline.local_workspace.child_process import die_with_parent, exit_at_end_of, take_standard_input
from release_pipeline.local_workspace.tracking_start import KEY_HEADER, TrackingOrder

# The service's own root: clients map it to the Files API.
_ARTIFACT_ROOT: Final = "dbfs:/databricks/mlflow-tracking"
_STOP_SECONDS: Final = 5


def main() -> None:
    """Serve the store that standard input names until told to stop."""
    control, answers = take_standard_input(), os.dup(1)
    os.dup2(2, 1)  # what an import prints is no answer
    die_with_parent()
    if not (line := control.readline()):
        return
    order = TrackingOrder(**json.loads(line))
    Thread(target=exit_at_end_of, args=(control,), daemon=True).start()
    app = _Keyed(_load(Path(order.data_dir)), order.key)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        # Only the workspace calls, and it closes idle connections first.
        timeout_keep_alive=3600,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    server = uvicorn.Server(config)

    def stop(number: int, frame: object) -> None:
        server.should_exit = True

    # Before anybody knows the port: also a stop before uvicorn has its own handler is one.
    signal.signal(signal.SIGTERM, stop)
    with os.fdopen(answers, "w", encoding="utf-8") as told:
        told.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    server.run(sockets=[listener])
    sys.stdout.flush()
    os._exit(0)  # no waiting for threads: what was answered is stored


class _Keyed:
    """An application for those who know the key."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = next((value for name, value in scope["headers"] if name == KEY_HEADER.encode()), b"")
        if secrets.compare_digest(given, self._key):
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def _load(data_dir: Path) -> ASGIApp:
    """Imports mlflow's server over the workspace's own store, and creates the store's tables on a fresh folder."""
    store = (data_dir / "mlflow.db").resolve()
    # mlflow's server reads its configuration from these when it is imported; this is how `mlflow server` passes it.
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{store.as_posix()}"
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = _ARTIFACT_ROOT
    os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "false"
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    # Its checks of Host and Origin guard servers without a login; here every request carries the key.
    os.environ["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] = "true"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
    from mlflow.server import app
    from mlflow.server.handlers import _get_tracking_store

    if not store.exists():
        _make_store(store)
    _get_tracking_store()
    for kind in (OSError, MemoryError):  # what another try may mend
        app.register_error_handler(kind, _try_again)
    return cast(ASGIApp, WSGIMiddleware(cast(Any, app)))


def _make_store(store: Path) -> None:
    """Make an empty store, whole or not at all.

    Of a migration that was killed SQLite keeps half, which no next start could finish.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = store.with_suffix(".new")
    for left in new.parent.glob(f"{new.name}*"):
        left.unlink()
    made = SqlAlchemyStore(f"sqlite:///{new.as_posix()}", _ARTIFACT_ROOT)  # type: ignore[no-untyped-call]
    made.engine.dispose()
    new.replace(store)


def _try_again(error: Exception) -> tuple[dict[str, str], int]:
    message = f"The tracking server could not do it now ({type(error).__name__}); try again."
    return {"error_code": "TEMPORARILY_UNAVAILABLE", "message": message}, 503


if __name__ == "__main__":
    main()
