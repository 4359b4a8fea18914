"""Inference tables: every request becomes a row, also when the server is killed right after the answer.

A row is first one line in a write-ahead log, written before the end of the answer is sent. A flusher moves lines
into the table in batches, and each batch stores the position that it reached in the same transaction, so a kill at
any moment neither loses a row nor doubles one. Positions count bytes over the whole life of a log; a segment file is
named after the position of its first byte and is deleted once it is consumed. The tables derived from an inference
table are filled from the same log, later, with a position of their own.
"""

import asyncio
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from release_pipeline.local_workspace.serving.derived_rows import derived_rows
from release_pipeline.local_workspace.settings import Faults
from release_pipeline.local_workspace.sql.derived_tables import REQUEST_LOGS

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
SEGMENT_BYTES = 16 << 20
BATCH_BYTES = 8 << 20
TABLE_NAME = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+")


class InferenceTables(Protocol):
    """What the log needs of the SQL engine."""

    def append_inference_rows(self, full_name: str, rows: Sequence[Mapping[str, Any]], log_position: int) -> int:
        """Insert rows and store the position, in one transaction; the commit version."""

    def inference_log_position(self, full_name: str) -> int:
        """The position that was stored last, 0 if none."""

    def append_derived_rows(
        self, full_name: str, rows: Mapping[str, Sequence[Mapping[str, Any]]], log_position: int
    ) -> None:
        """Insert rows of the derived tables, by their suffixes, and store the position with them."""


class TableLog:
    """The write-ahead log of one inference table. `append` and `flush` may run in different threads."""

    def __init__(self, folder: Path, full_name: str, tables: InferenceTables, faults: Faults) -> None:
        self.full_name = full_name
        self._folder = folder
        self._tables = tables
        self._faults = faults
        self._repeat: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._segments = sorted(int(path.stem) for path in folder.glob("*.jsonl"))
        self._consumed = tables.inference_log_position(full_name)
        if self._segments:
            self._end = self._segments[-1] + self._drop_torn_line(self._segments[-1])
            # A table that was lost starts again at the oldest line that is left.
            self._consumed = max(self._consumed, self._segments[0])
        if not self._segments or self._end < self._consumed:
            self._end = self._consumed
            self._segments.append(self._end)
        # How far the derived tables are; None while there are none to be filled.
        self._derived: int | None = None
        if faults.derived_tables is not None:
            stored = tables.inference_log_position(full_name + REQUEST_LOGS)
            self._derived = max(stored, self._segments[0])
        self._file = os.open(self._path(self._segments[-1]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @property
    def pending(self) -> bool:
        """Whether rows wait for the table, or for those derived from it, which may have been switched on or off."""
        switched = (self._derived is None) != (self._faults.derived_tables is None)
        return switched or self._consumed < self._end or bool(self._repeat) or self._oldest_needed() < self._end

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; when this returns, a kill of the process no longer loses it."""
        line = memoryview(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        size = len(line)
        while line:
            line = line[os.write(self._file, line) :]
        self._end += size
        if self._end - self._segments[-1] >= SEGMENT_BYTES:
            with self._lock:
                os.close(self._file)
                self._segments.append(self._end)
                self._file = os.open(self._path(self._end), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def flush(self, now: float) -> int:
        """Move what is due at ``now`` (epoch seconds) into the table, one batch; the number of new rows."""
        if self._faults.freeze_inference_tables:
            return 0
        repeat, self._repeat = self._repeat, []
        if repeat:
            self._tables.append_inference_rows(self.full_name, repeat, self._consumed)
        rows, position = self._due(self._consumed, self._end, now - self._faults.inference_lag_seconds)
        if rows:
            self._tables.append_inference_rows(self.full_name, rows, position)
            self._repeat = [row for row in rows if self._is_repeated(row["databricks_request_id"])]
            self._consumed = position
        self._flush_derived(now)
        self._delete_consumed()
        return len(rows)

    def close(self) -> None:
        """Close the file; what was not flushed stays in it."""
        os.close(self._file)

    def _flush_derived(self, now: float) -> None:
        """Move what is due into the derived tables, which follow the inference table and never lead."""
        delay = self._faults.derived_tables
        if delay is None:
            self._derived = None
            return
        if self._derived is None:
            self._derived = self._consumed  # switched on a moment ago: what came before gets no rows
        before = now - self._faults.inference_lag_seconds - delay
        rows, position = self._due(self._derived, self._consumed, before)
        if rows:
            self._tables.append_derived_rows(self.full_name, derived_rows(rows), position)
            self._derived = position

    def _due(self, start: int, end: int, before: float) -> tuple[list[dict[str, Any]], int]:
        """Rows between two positions of requests that ended before a time, in order, and the position after them."""
        with self._lock:
            base = max(segment for segment in self._segments if segment <= start)
        rows: list[dict[str, Any]] = []
        position = start
        with self._path(base).open("rb") as segment:
            segment.seek(position - base)
            while position < end and position - start < BATCH_BYTES:
                line = segment.readline()
                if not line.endswith(b"\n"):
                    break  # the end of this segment, or a line that is being written
                row = json.loads(line)
                if row.pop("ended") > before:
                    break
                moment = datetime.fromtimestamp(row.pop("request_ms") / 1000, UTC)
                rows.append({**row, "request_time": moment})
                position += len(line)
        return rows, position

    def _oldest_needed(self) -> int:
        return self._consumed if self._derived is None else min(self._consumed, self._derived)

    def _delete_consumed(self) -> None:
        with self._lock:
            while len(self._segments) > 1 and self._segments[1] <= self._oldest_needed():
                self._path(self._segments.pop(0)).unlink(missing_ok=True)

    def _drop_torn_line(self, segment: int) -> int:
        """Cut off a line that a kill left half written: its answer was never sent. The remaining size."""
        path = self._path(segment)
        data = path.read_bytes()
        size = data.rfind(b"\n") + 1
        if size < len(data):
            os.truncate(path, size)
        return size

    def _is_repeated(self, request_id: str) -> bool:
        # By hash, so that the same rows are repeated after a restart.
        share = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:4]) / 2**32
        return share < self._faults.duplicate_fraction

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:020d}.jsonl"


class InferenceLog:
    """The logs of all inference tables of a workspace, and the flusher that empties them."""

    def __init__(self, folder: Path, tables: InferenceTables, faults: Faults) -> None:
        self._folder = folder
        self._tables = tables
        self._faults = faults
        self._logs: dict[str, TableLog] = {}
        self._task: asyncio.Task[None] | None = None
        self._warned = ""
        self._flushing = threading.Lock()

    def start(self) -> None:
        """Open the logs that exist, for rows that an earlier server left, and begin to flush."""
        for folder in sorted(self._folder.glob("*.*.*")):
            self.table(folder.name)
        self._task = asyncio.create_task(self._flush_for_ever())

    def table(self, full_name: str) -> TableLog:
        """The log of one table, opened on first use."""
        if full_name not in self._logs:
            self._logs[full_name] = TableLog(self._folder / full_name, full_name, self._tables, self._faults)
        return self._logs[full_name]

    async def stop(self) -> None:
        """Stop flushing after the batch under way; nothing is lost, the next start goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._flush_due)
        for log in self._logs.values():
            log.close()

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            if any(log.pending for log in self._logs.values()):
                # Shielded: a batch is one transaction, and stopping waits for it.
                await asyncio.shield(asyncio.to_thread(self._flush_due))

    def _flush_due(self) -> None:
        with self._flushing:
            for log in list(self._logs.values()):
                if not log.pending:
                    continue
                try:
                    log.flush(time.time())
                except Exception as error:
                    warning = f"rows for {log.full_name} wait: {type(error).__name__}"
                    if warning != self._warned:
                        logger.warning(warning)
                        self._warned = warning
