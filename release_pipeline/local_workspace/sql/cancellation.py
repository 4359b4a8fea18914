"""Stopping a statement that runs in another thread."""

import threading
import time
from typing import Any

from release_pipeline.local_workspace.sql.failures import SqlFailure

INTERRUPT_SECONDS = 0.02


class Cancellation:
    """A handle with which another thread stops a running statement."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cursor: Any = None
        self.requested = False

    def cancel(self) -> None:
        """Stop the statement if it runs, and keep it from starting if it does not."""
        with self._lock:
            self.requested = True
            if self._cursor is None:
                return
        threading.Thread(target=self._interrupt_until_over, daemon=True).start()

    def _interrupt_until_over(self) -> None:
        # An interrupt that comes between two calls of a cursor is lost, so one is not enough.
        while True:
            with self._lock:
                if self._cursor is None:
                    return
                self._cursor.interrupt()
            time.sleep(INTERRUPT_SECONDS)

    def attach(self, cursor: Any) -> None:
        """Say which cursor runs the statement; None when it is over.

        Raises:
            SqlFailure: CANCELLED, when cancel was called before.
        """
        with self._lock:
            self._cursor = cursor
            if cursor is not None and self.requested:
                raise SqlFailure("CANCELLED", "The statement was cancelled.")
