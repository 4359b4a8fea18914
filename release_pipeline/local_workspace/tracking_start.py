"""How the process with mlflow's tracking server is started: light enough to be what the workspace does first."""

import json
import secrets
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from release_pipeline.local_workspace.child_process import inherited

#: What each request must carry; the port is open to every local process.
KEY_HEADER: Final = "x-tracking-key"


@dataclass(frozen=True)
class TrackingOrder:
    """What the process is told to serve.

    Attributes:
        data_dir: The workspace's folder; the store is its ``mlflow.db``.
        key: What each request must carry.
    """

    data_dir: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class StartedServer:
    """A process that was told what to serve, and that says its port once it listens."""

    process: subprocess.Popen[bytes]
    key: str = field(repr=False)

    def address(self) -> str:
        """Wait until it listens, and return where.

        Raises:
            OSError: It ended before.
        """
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        if not told:
            raise ConnectionResetError(f"it ended with code {self.process.wait()} before it listened")
        return f"http://127.0.0.1:{json.loads(told)['port']}"

    def has_ended(self) -> bool:
        """Whether there is no such process any more."""
        return self.process.poll() is not None

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end for so long."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, seconds: float) -> None:
        """Ask it to end, and make it end after so many seconds; what it has answered is stored."""
        self.process.terminate()
        if not self.ends_within(seconds):
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def start_tracking_server(data_dir: Path) -> StartedServer:
    """Start the tracking server over the folder's store; its first seconds are mlflow's imports.

    Raises:
        OSError: The system has no room for another process.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "release_pipeline.local_workspace.tracking_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=inherited(),
        # Its own session: an interrupt typed at the server is the server's to handle.
        start_new_session=True,
    )
    order = TrackingOrder(str(data_dir), secrets.token_hex(24))
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
    return StartedServer(process, order.key)
