"""The one SQLite file that holds what the local workspace knows, besides tables and mlflow's own store."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Database:
    """``<data_dir>/workspace.db``; each part creates its own tables with ``CREATE TABLE IF NOT EXISTS``.

    A committed transaction survives the end of the process, however it ends (write-ahead log).
    """

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(data_dir / "workspace.db", check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("PRAGMA foreign_keys=ON")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end of the block, undone when the block raises.

        Only one runs at a time, whichever thread asks; keep the block short. Not re-entrant.
        """
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Closes the file; the database cannot be used afterwards."""
        with self._lock:
            self._connection.close()
