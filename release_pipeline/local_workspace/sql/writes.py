"""INSERT, UPDATE, DELETE, MERGE and TRUNCATE: each one commit of its table, in the caller's transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from release_pipeline.local_workspace.sql import catalog
from release_pipeline.local_workspace.sql.catalog import TableInfo
from release_pipeline.local_workspace.sql.change_feed import with_ranges
from release_pipeline.local_workspace.sql.dialect import Parameters
from release_pipeline.local_workspace.sql.failures import HIDDEN_COLUMN, bad_request, unsupported
from release_pipeline.local_workspace.sql.result_values import ResultColumn, ResultSet
from release_pipeline.local_workspace.sql.rewrite import Rewriter
from release_pipeline.local_workspace.sql.translations import Source, Translation


@dataclass
class Writer:
    """Runs statements that change rows.

    Attributes:
        cursor: A DuckDB cursor with an open transaction, held by the only writer.
        rewriter: Rewrites statements in the same transaction.
        plain_insert: An insertion that can be run again; None for any other statement.
    """

    cursor: Any
    rewriter: Rewriter
    plain_insert: Translation | None = None

    def run(self, tree: exp.Expr) -> ResultSet:
        """Run one statement and record its commit.

        Raises:
            SqlFailure: It names what is not there, writes to a view, or uses a clause that the workspace lacks.
        """
        match tree:
            case exp.Insert():
                return self._insert(tree)
            case exp.Update():
                return self._change(tree, "UPDATE")
            case exp.Delete():
                return self._change(tree, "DELETE")
            case exp.Merge():
                return self._merge(tree)
            case exp.TruncateTable():
                return self._truncate(tree)
            case _:
                raise unsupported(f"{tree.key.upper()} statements")

    def _target(self, node: exp.Expr | None) -> tuple[exp.Table, TableInfo]:
        if isinstance(node, exp.Schema):
            node = node.this
        if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
            raise unsupported("writing to anything but a table")
        info = catalog.require(self.cursor, catalog.require_changeable(self.rewriter.table_name(node)))
        if info.kind != "MANAGED":
            raise bad_request(
                "EXPECT_TABLE_NOT_VIEW.NO_ALTERNATIVE", f"{info.name.quoted} is a view, and a table is needed.", "42809"
            )
        return node, info

    def _execute(self, tree: exp.Expr, target: exp.Table) -> int:
        """Run a rewritten write and say how many rows it touched."""
        return _touched(self.cursor, self.rewriter.rewrite(tree, target), self.rewriter.bound)

    def _insert(self, tree: exp.Insert) -> ResultSet:
        for clause in ("where", "partition", "conflict", "returning", "settings"):
            if tree.args.get(clause):
                raise unsupported(f"INSERT with {clause.upper()}")
        target, info = self._target(tree.this)
        if tree.expression is None:
            raise unsupported("INSERT without rows")
        overwrite = bool(tree.args.get("overwrite"))
        if info.has_change_feed:
            self._stamp_insert(tree, target, info)
        if overwrite:
            # The old rows go only after the new ones are read: they may come from the same table.
            self.cursor.execute(f"CREATE OR REPLACE TEMP TABLE kept AS SELECT rowid AS id FROM {info.name.physical}")
            tree.set("overwrite", False)
        rows = _touched(self.cursor, self.rewriter.rewrite(tree, target), self.rewriter.bound)
        if not overwrite and not info.has_change_feed:  # rows of a change feed carry the number of their commit
            self.plain_insert = self.rewriter.translation(Source.of(info))
        if overwrite:
            self.cursor.execute(f"DELETE FROM {info.name.physical} WHERE rowid IN (SELECT id FROM kept)")
            self.cursor.execute("DROP TABLE kept")
        catalog.commit(self.cursor, info, "WRITE", rows, rewrite=overwrite)
        return _counts(num_affected_rows=rows, num_inserted_rows=rows)

    def _stamp_insert(self, tree: exp.Insert, target: exp.Table, info: TableInfo) -> None:
        """Make the inserted rows carry the version that this statement will commit."""
        source = tree.expression
        alias = exp.TableAlias(this=exp.to_identifier("q", quoted=True))
        if isinstance(source, exp.Values):
            rows: exp.Expr = exp.Values(expressions=source.expressions, alias=alias)
        else:
            rows = exp.Subquery(this=source, alias=alias)
        version = exp.alias_(exp.Literal.number(info.version + 1), HIDDEN_COLUMN, quoted=True)
        star = exp.Column(this=exp.Star(), table=exp.to_identifier("q", quoted=True))
        tree.set("expression", exp.Select(expressions=[star, version]).from_(rows, copy=False))
        if tree.args.get("by_name"):
            return
        if isinstance(tree.this, exp.Schema):
            columns = list(tree.this.expressions)
        else:
            found = catalog.with_columns(self.cursor, info).columns
            columns = [exp.to_identifier(column.name, quoted=True) for column in found]
        columns.append(exp.to_identifier(HIDDEN_COLUMN, quoted=True))
        tree.set("this", exp.Schema(this=target, expressions=columns))

    def _change(self, tree: exp.Expr, operation: str) -> ResultSet:
        target, info = self._target(tree.this)
        if isinstance(tree, exp.Update):
            _shorten_assignments(tree, target)
        rows = self._execute(tree, target)
        if rows:
            catalog.commit(self.cursor, info, operation, rows, rewrite=True)
        return _counts(num_affected_rows=rows)

    def _merge(self, tree: exp.Merge) -> ResultSet:
        target, info = self._target(tree.this)
        columns = [column.name for column in catalog.with_columns(self.cursor, info).columns]
        source = tree.args["using"].alias_or_name
        rewrites = False
        for when in tree.args["whens"].expressions:
            action = when.args["then"]
            if isinstance(action, exp.Insert):
                self._expand_insert(action, columns, source, info)
                continue
            rewrites = True
            _shorten_assignments(action, target)
            if isinstance(action, exp.Update) and isinstance(action.expressions[0], exp.Star):
                action.set(
                    "expressions",
                    [exp.EQ(this=exp.column(name, quoted=True), expression=exp.column(name, source, quoted=True))
                     for name in columns],
                )  # fmt: skip
        rows = self._execute(tree, target)
        if rows:
            catalog.commit(self.cursor, info, "MERGE", rows, rewrite=rewrites)
        return _counts(num_affected_rows=rows)

    @staticmethod
    def _expand_insert(action: exp.Insert, columns: list[str], source: str, info: TableInfo) -> None:
        """Write ``INSERT *`` out, and add the version to rows of a table with a change feed."""
        if isinstance(action.this, exp.Star):
            action.set("this", exp.Tuple(expressions=[exp.column(name, quoted=True) for name in columns]))
            action.set("expression", exp.Tuple(expressions=[exp.column(name, source, quoted=True) for name in columns]))
        if info.has_change_feed:
            action.this.append("expressions", exp.column(HIDDEN_COLUMN, quoted=True))
            action.expression.append("expressions", exp.Literal.number(info.version + 1))

    def _truncate(self, tree: exp.TruncateTable) -> ResultSet:
        if len(tree.expressions) != 1:
            raise unsupported("TRUNCATE of more than one table")
        _, info = self._target(tree.expressions[0])
        row = self.cursor.execute(f"DELETE FROM {info.name.physical}").fetchone()
        catalog.commit(self.cursor, info, "TRUNCATE", int(row[0]) if row else 0, rewrite=True)
        return ResultSet()


def insert_again(cursor: Any, known: Translation, parameters: Parameters) -> ResultSet | None:
    """Run an insertion that was translated before, and record its commit; None where its table is another one now."""
    assert known.target is not None
    info = catalog.require(cursor, known.target.name)
    if Source.of(info) != known.target:
        return None
    text = with_ranges(known.text, [each.range(cursor, parameters) for each in known.changes])
    rows = _touched(cursor, text, known.bound(parameters))
    catalog.commit(cursor, info, "WRITE", rows)
    return _counts(num_affected_rows=rows, num_inserted_rows=rows)


def _touched(cursor: Any, text: str, bound: Mapping[str, str | None]) -> int:
    row = cursor.execute(text, bound).fetchone()
    return int(row[0]) if row else 0


def _shorten_assignments(update: exp.Expr, target: exp.Table) -> None:
    """Turn ``SET target.column = ...`` into ``SET column = ...``, the only form that DuckDB has."""
    for assignment in update.expressions:
        column = assignment.this
        if isinstance(column, exp.Column) and column.table.lower() == target.alias_or_name.lower():
            assignment.set("this", exp.Column(this=column.this))


def _counts(**counts: int) -> ResultSet:
    columns = tuple(ResultColumn(name, "BIGINT", "LONG") for name in counts)
    return ResultSet(columns, [[str(count) for count in counts.values()]])
