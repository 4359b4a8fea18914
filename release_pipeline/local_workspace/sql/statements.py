"""Statements that run in the background and whose results can be fetched for a while, in chunks."""

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum

from release_pipeline.local_workspace.sql.cancellation import Cancellation
from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.failures import SqlFailure
from release_pipeline.local_workspace.sql.guard import Guard
from release_pipeline.local_workspace.sql.names import Session
from release_pipeline.local_workspace.sql.result_values import ResultSet

CHUNK_ROWS = 5000
CHUNK_BYTES = 1024 * 1024
KEPT_STATEMENTS = 200
KEPT_BYTES = 128 * 1024 * 1024
KEPT_SECONDS = 3600.0

_THREADS = 8

logger = logging.getLogger(__name__)


class State(StrEnum):
    """Where a statement is in its life; the last three are final."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


@dataclass(frozen=True)
class Chunk:
    """A part of a result: rows ``first_row`` up to ``end_row``, without the latter, and their size in bytes."""

    first_row: int
    end_row: int
    size: int


@dataclass
class Statement:
    """One submitted statement.

    Attributes:
        id: What clients call it.
        sender: Who may fetch and cancel it, beside the workspace's own user; None: nobody else.
        done: Completes, with None, when the state is final.
        state: Where it is in its life.
        failure: Why it failed, in state FAILED.
        result: What it answered, in state SUCCEEDED.
        chunks: How the result is cut; empty for a result without rows.
        finished_at: Monotonic seconds of its end.
    """

    id: str
    sender: object = None
    cancellation: Cancellation = field(default_factory=Cancellation)
    done: "Future[None]" = field(default_factory=Future)
    state: State = State.PENDING
    failure: SqlFailure | None = None
    result: ResultSet = field(default_factory=ResultSet)
    chunks: list[Chunk] = field(default_factory=list)
    finished_at: float = 0.0

    @property
    def size(self) -> int:
        """The size of the result in bytes."""
        return sum(chunk.size for chunk in self.chunks)


class StatementStore:
    """Runs statements on threads of its own and keeps the newest results, bounded in number, size and age."""

    def __init__(self, engine: SqlEngine) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="statement")
        self._lock = threading.Lock()
        self._statements: dict[str, Statement] = {}
        # Those that have ended, oldest first, and the size of their results.
        self._finished: deque[Statement] = deque()
        self._finished_bytes = 0

    def submit(
        self,
        text: str,
        parameters: Mapping[str, tuple[str | None, str]],
        session: Session,
        row_limit: int | None,
        byte_limit: int | None,
        guard: Guard | None = None,
        sender: object = None,
    ) -> Statement:
        """Queue a statement; arguments as for SqlEngine.execute, and as Statement has them."""
        statement = Statement(str(uuid.uuid4()), sender)

        def run() -> None:
            statement.state = State.RUNNING
            final = State.FAILED
            try:
                statement.result = self._engine.execute(
                    text,
                    parameters,
                    session=session,
                    cancellation=statement.cancellation,
                    row_limit=row_limit,
                    byte_limit=byte_limit,
                    guard=guard,
                )
                statement.chunks = cut(statement.result.rows)
                final = State.SUCCEEDED
            except SqlFailure as failure:
                statement.failure = failure
                if statement.cancellation.requested and failure.error_code == "CANCELLED":
                    final = State.CANCELED
            except Exception as error:
                # Only its type is logged: its text may hold data.
                logger.error("a statement failed inside the workspace: %s", type(error).__name__)
                statement.failure = SqlFailure("INTERNAL_ERROR", f"The workspace failed ({type(error).__name__}).")
                statement.result = ResultSet()
            statement.finished_at = time.monotonic()
            with self._lock:
                self._finished.append(statement)
                self._finished_bytes += statement.size
            statement.state = final
            statement.done.set_result(None)

        with self._lock:
            self._forget_old()
            self._statements[statement.id] = statement
        self._pool.submit(run)
        return statement

    def get(self, statement_id: str) -> Statement | None:
        """The statement of that id, if it is still kept."""
        with self._lock:
            self._forget_old()
            return self._statements.get(statement_id)

    def _forget_old(self) -> None:
        oldest_kept = time.monotonic() - KEPT_SECONDS
        # The newest stays whatever its size: its client has yet to fetch it.
        while len(self._finished) > 1 and (
            len(self._finished) > KEPT_STATEMENTS
            or self._finished_bytes > KEPT_BYTES
            or self._finished[0].finished_at < oldest_kept
        ):
            oldest = self._finished.popleft()
            self._finished_bytes -= oldest.size
            del self._statements[oldest.id]


def cut(rows: list[list[str | None]]) -> list[Chunk]:
    """Cut rows into chunks of at most CHUNK_ROWS rows and about CHUNK_BYTES bytes, each with at least one row."""
    chunks: list[Chunk] = []
    first = size = 0
    for index, row in enumerate(rows):
        row_size = sum(len(value.encode()) for value in row if value is not None) + 3 * len(row)
        if index > first and (index - first >= CHUNK_ROWS or size + row_size > CHUNK_BYTES):
            chunks.append(Chunk(first, index, size))
            first, size = index, 0
        size += row_size
    if rows:
        chunks.append(Chunk(first, len(rows), size))
    return chunks
