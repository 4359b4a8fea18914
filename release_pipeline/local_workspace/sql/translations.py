"""Statements that were translated before: to read and to write SQL takes longer than to run what a release asks for.

A translation depends on the statement's text, on the types of its parameters, and on the kinds of the tables it names.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from release_pipeline.local_workspace.sql.catalog import TableInfo
from release_pipeline.local_workspace.sql.change_feed import Changes
from release_pipeline.local_workspace.sql.dialect import Parameters, bound_value
from release_pipeline.local_workspace.sql.names import Session, TableName

MOST_KEPT = 500
#: Longer statements carry values in their text, and do not come again.
LONGEST_KEPT = 50_000

Key = tuple[str, Session, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Source:
    """A table or view as a translation takes it to be."""

    name: TableName
    kind: str
    has_change_feed: bool

    @classmethod
    def of(cls, info: TableInfo) -> "Source":
        """What a translation depends on."""
        return cls(info.name, info.kind, info.has_change_feed)


@dataclass(frozen=True)
class Translation:
    """What one statement is in DuckDB's SQL.

    Attributes:
        text: The statement, without the versions of the changes that it reads.
        parameters: The statement's parameters in the order of ``p0``, ``p1`` and so on in the text.
        sources: The tables and views that it reads.
        target: The table that it inserts into; None for a query.
        changes: Whose changes it reads.
    """

    text: str
    parameters: tuple[str, ...]
    sources: tuple[Source, ...]
    target: Source | None = None
    changes: tuple[Changes, ...] = ()

    def bound(self, values: Parameters) -> dict[str, str | None]:
        """The values by the names in the text.

        Raises:
            SqlFailure: One is missing.
        """
        return {f"p{number}": bound_value(name, values)[0] for number, name in enumerate(self.parameters)}


def key_of(statement: str, session: Session, parameters: Parameters) -> Key:
    """Text, what unqualified names mean, and the types of the parameters, whose values change nothing."""
    return statement, session, tuple(sorted((name, type_text) for name, (_, type_text) in parameters.items()))


class Translations:
    """The newest translations; for many threads.

    Attributes:
        generation: Another number after and while tables or views are dropped, replaced or altered.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, tuple[Translation, int]] = OrderedDict()
        self._changing = 0

    def find(self, key: Key) -> tuple[Translation, bool] | None:
        """The translation of this statement, and whether its tables are known to be what it takes them to be."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            found, generation = self._kept[key]
            return found, generation == self.generation and not self._changing

    def keep(self, key: Key, translation: Translation, generation: int) -> None:
        """Keep what was true of the tables of this generation."""
        if len(key[0]) > LONGEST_KEPT:
            return
        with self._lock:
            self._kept[key] = translation, -1 if self._changing else generation
            self._kept.move_to_end(key)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """While tables or views are dropped, replaced or altered."""
        with self._lock:
            self.generation += 1
            self._changing += 1
        try:
            yield
        finally:
            with self._lock:
                self._changing -= 1
                self.generation += 1
