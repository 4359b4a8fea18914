"""The SQL engine of the local workspace: Databricks SQL in, results in the statement API's form out."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlglot import exp

from release_pipeline.local_workspace.sql import catalog, commands, inference_tables, maintenance
from release_pipeline.local_workspace.sql.cancellation import INTERRUPT_SECONDS, Cancellation
from release_pipeline.local_workspace.sql.catalog import TableInfo
from release_pipeline.local_workspace.sql.change_feed import lift_versions, with_ranges
from release_pipeline.local_workspace.sql.definitions import Definer
from release_pipeline.local_workspace.sql.dialect import Parameters, expand_identifier_clauses, parse
from release_pipeline.local_workspace.sql.failures import SqlFailure, from_duckdb, syntax_error
from release_pipeline.local_workspace.sql.guard import Guard
from release_pipeline.local_workspace.sql.names import SchemaName, Session, TableName, split_name
from release_pipeline.local_workspace.sql.result_values import ResultColumn, ResultSet, converter, databricks_type
from release_pipeline.local_workspace.sql.rewrite import Rewriter
from release_pipeline.local_workspace.sql.translations import Key, Source, Translation, Translations, key_of
from release_pipeline.local_workspace.sql.writes import Writer, insert_again

INLINE_BYTE_LIMIT = 25 * 1024 * 1024
"""The service's limit for a result that is answered inline, in bytes."""

_FETCH_ROWS = 2048
# No statement can reach outside the file: no other file, no network, no extension, and no way to change that.
_CONFINED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "ieee_floating_point_ops": "false",
    # The scoring processes share the machine; a larger statement spills beside the file.
    "memory_limit": "1GB",
}
_Answer = TypeVar("_Answer")


class SqlEngine:
    """Schemas, tables and statements of one workspace, in ``<data_dir>/tables.duckdb``.

    Safe to use from many threads: every call has a cursor of its own, reads run side by side, writes one at a time.

    Args:
        data_dir: The workspace's folder, created if missing.
        catalogs: The catalogs that exist, each with a schema ``default``.
    """

    def __init__(self, data_dir: Path, catalogs: tuple[str, ...]) -> None:
        import duckdb

        data_dir.mkdir(parents=True, exist_ok=True)
        self.catalogs = tuple(name.lower() for name in catalogs)
        self._write_lock = threading.Lock()
        self._translations = Translations()
        self._duckdb_error: type[Exception] = duckdb.Error
        self._root: Any = duckdb.connect(str(data_dir / "tables.duckdb"), config=_CONFINED)
        self._root.execute("SET GLOBAL TimeZone = 'UTC'")
        self._root.execute("SET GLOBAL lock_configuration = true")
        self._running: set[Any] = set()
        self._running_lock = threading.Lock()
        with self._transaction(write=True) as cursor:
            catalog.initialise(cursor, self.catalogs)

    def execute(
        self,
        statement: str,
        parameters: Mapping[str, tuple[str | None, str]] = {},
        *,
        session: Session | None = None,
        cancellation: Cancellation | None = None,
        row_limit: int | None = None,
        byte_limit: int | None = None,
        guard: Guard | None = None,
    ) -> ResultSet:
        """Run one statement of Databricks SQL; blocks until it is done.

        Args:
            statement: The text.
            parameters: Value and Databricks type by name, for ``:name`` in the text. Unused ones are ignored, as
                Spark does.
            session: What unqualified names mean; ``main.default`` unless given.
            cancellation: A handle with which another thread may stop it.
            row_limit: Cut the result after this many rows.
            byte_limit: Cut the result after this many bytes; without it, a larger result than the service answers
                inline is a failure.
            guard: What the sender may do; None: everything.

        Raises:
            SqlFailure: The statement failed; nothing of it is kept.
        """
        session = session or Session()
        written = expand_identifier_clauses(statement, dict(parameters))
        text, bound = lift_versions(written, dict(parameters))
        if guard is not None and (commands.is_command(text) or maintenance.is_maintenance(text)):
            guard.other()
        if commands.is_command(text):
            with self._transaction(cancellation=cancellation) as cursor:
                return commands.run(cursor, text, session, self.catalogs)
        if maintenance.is_maintenance(text):
            with self._transaction(write=True, cancellation=cancellation) as cursor:
                return maintenance.run(cursor, text, session)
        key, generation = key_of(text, session, bound), self._translations.generation
        known = self._translations.find(key)
        if known is not None:
            asked = _Asked(key, generation, bound, cancellation, row_limit, byte_limit, guard)
            run = self._query_again if known[0].target is None else self._insert_again
            if (result := run(asked, *known)) is not None:
                return result
            generation = self._translations.generation
        tree = parse(text)
        if isinstance(tree, exp.Query):
            with self._transaction(cancellation=cancellation) as cursor:
                rewriter = Rewriter(cursor, session, bound, self.catalogs, guard=guard)
                rewritten = rewriter.rewrite(tree)
                if (translation := rewriter.translation()) is not None:
                    self._translations.keep(key, translation, generation)
                return _fetch(cursor.execute(rewritten, rewriter.bound), row_limit, byte_limit)
        if isinstance(tree, exp.Create | exp.Drop | exp.Alter):
            if guard is not None:
                guard.other()
            tree = tree if text == written else parse(written)  # a view's text is kept as it was written
            # What did not exist before is in no translation.
            new = isinstance(tree, exp.Create) and not tree.args.get("replace")
            with (
                nullcontext() if new else self._translations.changing(),
                self._transaction(write=True, cancellation=cancellation) as cursor,
            ):
                Definer(cursor, Rewriter(cursor, session, bound, self.catalogs, guard=guard), self.catalogs).run(tree)
                return ResultSet()
        with self._transaction(write=True, cancellation=cancellation) as cursor:
            writer = Writer(cursor, Rewriter(cursor, session, bound, self.catalogs, guard=guard))
            result = writer.run(tree)
            if writer.plain_insert is not None:
                self._translations.keep(key, writer.plain_insert, generation)
            return result

    def _query_again(self, asked: "_Asked", known: Translation, is_true: bool) -> ResultSet | None:
        """Run a query that was translated before; None where it has to be translated anew.

        Args:
            asked: The statement.
            known: Its translation.
            is_true: Whether it holds for the tables of its generation; else they are looked at.
        """
        try:
            with self._transaction(cancellation=asked.cancellation) as cursor:
                if asked.guard is not None:
                    for source in known.sources:
                        asked.guard.read(source.name)
                if not is_true:
                    if not _unchanged(cursor, known.sources):
                        return None
                    self._translations.keep(asked.key, known, asked.generation)
                text = with_ranges(known.text, [each.range(cursor, asked.parameters) for each in known.changes])
                found = cursor.execute(text, known.bound(asked.parameters))
                result = _fetch(found, asked.row_limit, asked.byte_limit)
        except SqlFailure:
            if asked.generation == self._translations.generation:
                raise
            return None
        return result if asked.generation == self._translations.generation else None

    def _insert_again(self, asked: "_Asked", known: Translation, is_true: bool) -> ResultSet | None:
        """The same of rows for a table; definitions wait for it, and it for them."""
        assert known.target is not None
        with self._transaction(write=True, cancellation=asked.cancellation) as cursor:
            if asked.guard is not None:
                asked.guard.write(known.target.name)
                for source in known.sources:
                    asked.guard.read(source.name)
            still_true = is_true and asked.generation == self._translations.generation
            if not still_true and not _unchanged(cursor, known.sources):
                return None
            return insert_again(cursor, known, asked.parameters)

    def create_inference_table(
        self, full_name: str, shape: str = "ai_gateway", *, change_feed: bool = True, derived: bool = False
    ) -> None:
        """Create an inference table; nothing if it is there.

        Args:
            full_name: Its name.
            shape: Its columns, one of payload_shapes.SHAPES.
            change_feed: Whether it has a change feed.
            derived: Whether to create the tables that are derived from it, too.

        Raises:
            SqlFailure: Its schema is missing, or another kind of table has the name.
        """
        name = _full(full_name)
        with self._transaction(write=True) as cursor:
            inference_tables.create(cursor, name, shape, change_feed=change_feed)
            if derived:
                inference_tables.create_derived(cursor, name)

    def append_inference_rows(self, full_name: str, rows: Sequence[Mapping[str, Any]], log_position: int) -> int:
        """Append rows and store the log position with them, all or nothing.

        Args:
            full_name: The inference table.
            rows: Logged requests, as inference_tables.append takes them.
            log_position: Byte offset in the write-ahead log up to which rows are now stored.

        Returns:
            The commit version.
        """
        name = _full(full_name)
        with self._transaction(write=True) as cursor:
            return inference_tables.append(cursor, name, rows, log_position)

    def append_derived_rows(
        self, full_name: str, rows: Mapping[str, Sequence[Mapping[str, Any]]], log_position: int
    ) -> None:
        """Append rows to the tables derived from an inference table, by suffix, and the position, all or nothing."""
        name = _full(full_name)
        with self._transaction(write=True) as cursor:
            inference_tables.append_derived(cursor, name, rows, log_position)

    def inference_log_position(self, full_name: str) -> int:
        """The log position stored with the last append, in bytes; 0 if there is none."""
        info = self._read(lambda cursor: catalog.find(cursor, _full(full_name)))
        return info.log_position if info else 0

    def table(self, full_name: str) -> TableInfo | None:
        """A table or view with its columns; None if there is none of that name."""

        def find(cursor: Any) -> TableInfo | None:
            info = catalog.find(cursor, _full(full_name))
            return catalog.with_columns(cursor, info) if info else None

        return self._read(find)

    def tables(self, catalog_name: str, schema: str) -> list[TableInfo]:
        """The tables and views of a schema by name, with their columns."""
        name = SchemaName(catalog_name.lower(), schema.lower())
        return self._read(
            lambda cursor: [catalog.with_columns(cursor, info) for info in catalog.tables_in(cursor, name)]
        )

    def schemas(self, catalog_name: str) -> list[str]:
        """The names of a catalog's schemas, sorted."""
        return self._read(lambda cursor: catalog.schemas(cursor, catalog_name))

    def schema_exists(self, catalog_name: str, schema: str) -> bool:
        """Whether a catalog has a schema of that name."""
        name = SchemaName(catalog_name.lower(), schema.lower())
        return self._read(lambda cursor: catalog.schema_exists(cursor, name))

    def close(self) -> None:
        """Stop what runs and close the file."""
        while True:
            with self._running_lock:
                for cursor in self._running:
                    cursor.interrupt()
                if not self._running:
                    break
            time.sleep(INTERRUPT_SECONDS)
        with self._write_lock:
            self._root.close()

    def write(self, work: Callable[[Any], _Answer]) -> _Answer:
        """Do work of the workspace's own with a cursor, in one transaction that is undone on any error."""
        with self._transaction(write=True) as cursor:
            return work(cursor)

    def _read(self, work: Callable[[Any], _Answer]) -> _Answer:
        with self._transaction() as cursor:
            return work(cursor)

    @contextmanager
    def _transaction(self, *, write: bool = False, cancellation: Cancellation | None = None) -> Iterator[Any]:
        """A cursor in a transaction: committed at the end, rolled back on any error."""
        if write:
            self._write_lock.acquire()
        try:
            cursor = self._root.cursor()
            try:
                with self._running_lock:
                    self._running.add(cursor)
                if cancellation:
                    cancellation.attach(cursor)
                cursor.execute("BEGIN")
                yield cursor
                cursor.execute("COMMIT")
            finally:
                if cancellation:
                    cancellation.attach(None)
                with self._running_lock:
                    self._running.discard(cursor)
                cursor.close()  # an open transaction is rolled back
        except self._duckdb_error as error:
            raise from_duckdb(error) from None
        except RecursionError:
            raise syntax_error("The statement is nested too deeply.") from None
        finally:
            if write:
                self._write_lock.release()


@dataclass(frozen=True)
class _Asked:
    """A statement that was translated before: its key, the generation from before that was found, and how it is run."""

    key: Key
    generation: int
    parameters: Parameters
    cancellation: Cancellation | None
    row_limit: int | None
    byte_limit: int | None
    guard: Guard | None


def _unchanged(cursor: Any, sources: Sequence[Source]) -> bool:
    found = [catalog.find(cursor, source.name) for source in sources]
    return [info and Source.of(info) for info in found] == list(sources)


def _full(full_name: str) -> TableName:
    return Session().table(split_name(full_name))


def _fetch(cursor: Any, row_limit: int | None, byte_limit: int | None) -> ResultSet:
    """Read a result into strings, within the limits."""
    columns = tuple(ResultColumn(each[0], *databricks_type(each[1])) for each in cursor.description)
    converters = [converter(column.type_name) for column in columns]
    rows: list[list[str | None]] = []
    size = 0
    while batch := cursor.fetchmany(_FETCH_ROWS):
        for raw in batch:
            if row_limit is not None and len(rows) >= row_limit:
                return ResultSet(columns, rows, truncated=True)
            row = [convert(value) for convert, value in zip(converters, raw, strict=True)]
            size += sum(len(value) for value in row if value is not None) + 3 * len(row)
            if byte_limit is not None and size > byte_limit:
                return ResultSet(columns, rows, truncated=True)
            if size > INLINE_BYTE_LIMIT:
                raise SqlFailure(
                    "BAD_REQUEST",
                    f"Inline byte limit exceeded: the result is larger than {INLINE_BYTE_LIMIT} bytes. "
                    "Aggregate in the statement, or limit its rows.",
                )
            rows.append(row)
    return ResultSet(columns, rows)
