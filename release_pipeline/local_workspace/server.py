"""Runs a local workspace: checks what it was asked for, takes the port and the data folder, serves until stopped."""

import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from release_pipeline.local_workspace.settings import Settings
from release_pipeline.local_workspace.tracking_start import start_tracking_server

try:
    import fcntl
except ImportError:  # Windows; DuckDB still refuses to open its file twice there.
    fcntl = None  # type: ignore[assignment]

# How long running requests may take after a stop was asked for, in seconds.
_GRACE_SECONDS = 10


class CannotServe(Exception):
    """The workspace cannot be started as asked; the message says why in one sentence."""


def serve(settings: Settings, *, allow_remote: bool = False, listening: Callable[[], None] | None = None) -> None:
    """Serves the workspace until SIGTERM or SIGINT; running requests end first, then the scoring processes.

    Args:
        settings: The workspace to serve.
        allow_remote: Allows an address that other machines can reach. The traffic is not encrypted, the token
            included, so this is for networks that are trusted.
        listening: Called once the port and the folder are taken; whoever connects from then on is answered.

    Raises:
        CannotServe: The address is not a loopback address and ``allow_remote`` is false, the port is taken, another
            server uses the data folder, or a part of the workspace fails to start.
    """
    if not allow_remote and not _is_loopback(settings.host):
        raise CannotServe(
            f"The address {settings.host} can be reached from other machines; allow that with --allow-remote-clients, "
            "or use 127.0.0.1."
        )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    listener = _listen(settings.host, settings.port)
    with listener, _exclusive(settings.data_dir):
        # It takes seconds, and needs nothing of what this process is about to import.
        try:
            tracking = start_tracking_server(settings.data_dir)
        except OSError as error:
            raise CannotServe(f"The tracking server cannot be started: {error}; end what is not needed.") from None
        if listening is not None:
            listening()
        # Imported here: the parts are heavy, and a refused start should not wait for them.
        from release_pipeline.local_workspace.app import build_app

        config = uvicorn.Config(
            build_app(settings, tracking),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            server_header=False,
            lifespan="on",
        )
        server = uvicorn.Server(config)
        server.run(sockets=[listener])
        if not server.started:
            raise CannotServe(f"The local workspace in {settings.data_dir} could not start; the log above says why.")


def ensure_token(path: Path) -> str:
    """Reads the token from a file; makes a random one, in a file that only its owner can read, when there is none.

    Raises:
        CannotServe: The file is empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        token = path.read_text().strip()
        if not token:
            raise CannotServe(f"The token file {path} is empty; delete it to have a new token made.") from None
        return token
    with os.fdopen(descriptor, "w") as file:
        token = secrets.token_hex(24)
        file.write(token + "\n")
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotServe(
            f"Cannot listen on {host}:{port} ({reason}); stop what uses the port or choose another."
        ) from None


@contextmanager
def _exclusive(data_dir: Path) -> Iterator[None]:
    """Holds the data folder; the system lets go of it when the process ends, however it ends."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "workspace.lock").open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CannotServe(f"Another local workspace uses the data folder {data_dir}; stop it first.") from None
        yield
