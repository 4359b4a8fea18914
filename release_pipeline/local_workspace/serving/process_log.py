"""What a scoring process prints, on its way to the log of its entity: without the secrets it was given."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

LONGEST_LINE = 1 << 16
"""Bytes of a line without an end after which it is written as it is."""
LAST_WORDS_SECONDS = 2.0
"""How long what a process left unread is waited for; a child of the model's may hold the pipe open."""


class ProcessLog:
    """A pipe that a process writes to, and a task that redacts each line of it into a file.

    Args:
        path: The file, to which is appended.
        redact: Takes secrets out of a text.
    """

    def __init__(self, path: Path, redact: Callable[[str], str]) -> None:
        self._path = path
        self._redact = redact
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.ReadTransport | None = None
        self._source: BinaryIO | None = None

    async def open(self) -> int:
        """Begin; the descriptor to give the process, which the caller closes once the process has it."""
        reading, writing = os.pipe()
        self._source = os.fdopen(reading, "rb", 0)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._source)
        self._task = asyncio.create_task(self._copy(reader))
        return writing

    async def close(self) -> None:
        """Write what is left, once the process has ended."""
        if self._task is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._task, LAST_WORDS_SECONDS)
            self._task = None
        if self._transport is not None:
            self._transport.close()

    async def _copy(self, reader: asyncio.StreamReader) -> None:
        kept = b""
        # Unbuffered, and one write per read: the log shows a line as soon as it is whole.
        with self._path.open("ab", 0) as log:
            while data := await reader.read(LONGEST_LINE):
                kept += data
                whole, end, rest = kept.rpartition(b"\n")
                if not end and len(kept) < LONGEST_LINE:
                    continue
                kept = rest if end else b""
                log.write(self._clean(whole + end if end else rest))
            log.write(self._clean(kept))

    def _clean(self, raw: bytes) -> bytes:
        return self._redact(raw.decode(errors="replace")).encode()
