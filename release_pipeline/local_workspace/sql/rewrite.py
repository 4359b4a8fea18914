"""From a parsed statement to DuckDB's SQL: names, parameters, functions, and the names of result columns."""

from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from release_pipeline.local_workspace.sql import catalog, information_schema
from release_pipeline.local_workspace.sql.change_feed import (
    Changes,
    as_written,
    changes_query,
    check_range,
    is_lifted,
    public_query,
    version_query,
    with_ranges,
)
from release_pipeline.local_workspace.sql.dialect import Parameters, bound_value, to_duckdb
from release_pipeline.local_workspace.sql.failures import CTE_PREFIX, SqlFailure, bad_request, syntax_error
from release_pipeline.local_workspace.sql.functions import instant, rewrite_functions
from release_pipeline.local_workspace.sql.guard import Guard
from release_pipeline.local_workspace.sql.names import Session, TableName, split_name
from release_pipeline.local_workspace.sql.translations import Source, Translation

_PARAMETER_TYPES = {
    "STRING": "VARCHAR",
    "INT": "INTEGER",
    "INTEGER": "INTEGER",
    "SHORT": "SMALLINT",
    "SMALLINT": "SMALLINT",
    "BYTE": "TINYINT",
    "TINYINT": "TINYINT",
    "LONG": "BIGINT",
    "BIGINT": "BIGINT",
    "FLOAT": "FLOAT",
    "DOUBLE": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "DATE": "DATE",
    "VOID": "VARCHAR",
}
_TIMESTAMPS = ("TIMESTAMP", "TIMESTAMP_NTZ", "TIMESTAMP_LTZ")


@dataclass
class Rewriter:
    """Rewrites one statement.

    Attributes:
        cursor: A DuckDB cursor in the statement's transaction, for looking names up.
        session: What unqualified names mean.
        parameters: Value and type by parameter name.
        catalogs: The catalogs that exist, in lower case.
        bound: Filled while rewriting: the values by the names that the rewritten statement uses.
        guard: Asked for every table of the statement; None: all are allowed.
    """

    cursor: Any
    session: Session
    parameters: Parameters
    catalogs: tuple[str, ...]
    bound: dict[str, str | None] = field(default_factory=dict)
    guard: Guard | None = None
    _used: list[str] = field(default_factory=list)
    _sources: list[Source] = field(default_factory=list)
    _changes: list[Changes] = field(default_factory=list)
    _ranges: list[tuple[int, int]] = field(default_factory=list)
    _text: str = ""
    _once: bool = False

    def rewrite(self, tree: exp.Expr, target: exp.Table | None = None) -> str:
        """Write a statement for DuckDB.

        Args:
            tree: The parsed statement; changed in place.
            target: The table that it writes to, which keeps its hidden column.
        """
        self._text = to_duckdb(self._rewritten(tree, target))
        return with_ranges(self._text, self._ranges)

    def translation(self, target: Source | None = None) -> Translation | None:
        """What was rewritten last, as it can be used again; None where it depends on values."""
        if self._once:
            return None
        return Translation(self._text, tuple(self._used), tuple(self._sources), target, tuple(self._changes))

    def _rewritten(self, tree: exp.Expr, target: exp.Table | None) -> exp.Expr:
        if isinstance(tree, exp.Query):
            self._once |= _name_projections(tree, self.parameters)
        tables = list(tree.find_all(exp.Table))
        queries = [node for node in tables if node is not target and _is_cte(node)]
        sources = [node for node in tables if not any(node is query for query in queries)]
        _rename_ctes(tree, queries)
        names = {id(node): self.table_name(node) for node in sources if isinstance(node.this, exp.Identifier)}
        _shorten_columns(tree, list(names.values()))
        for node in sources:
            if isinstance(node.this, exp.Identifier):
                self._replace_table(node, names[id(node)], node is target)
            elif isinstance(node.this, exp.Anonymous) and node.this.name.lower() == "table_changes":
                self._replace_changes(node)
        for placeholder in list(tree.find_all(exp.Placeholder)):
            if not is_lifted(placeholder):
                placeholder.replace(self._parameter(placeholder.name))
        return rewrite_functions(tree)

    def table_name(self, node: exp.Table) -> TableName:
        """The workspace's name of a table that a statement names."""
        parts = [part.name for part in node.parts]
        return self.session.table(parts)

    def _replace_table(self, node: exp.Table, name: TableName, is_target: bool) -> None:
        alias = node.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name.name, quoted=True))
        if self.guard is not None:
            self._check(name, is_target)
        if name.schema == information_schema.NAME and not is_target:
            self._once = True
            query = information_schema.query(self.cursor, name, self.catalogs)
            _replace_keeping_joins(node, query, alias)
            return
        info, version = catalog.require(self.cursor, name), node.args.get("version")
        if not is_target:
            self._sources.append(Source.of(info))
        if version is not None:
            self._once = True
            if is_target or info.kind != "MANAGED":
                raise bad_request("UNSUPPORTED_FEATURE.TIME_TRAVEL", f"{name.quoted} has no versions here.", "0A000")
            _replace_keeping_joins(node, version_query(info, int(version.expression.name)), alias)
            return
        if info.has_change_feed and not is_target:
            _replace_keeping_joins(node, public_query(info), alias)
            return
        physical = name.node()
        for part in ("this", "db", "catalog"):
            node.set(part, physical.args.get(part))
        if not is_target or node.args.get("alias"):
            node.set("alias", alias)

    def _check(self, name: TableName, is_target: bool) -> None:
        assert self.guard is not None
        if is_target:
            self.guard.write(name)
        elif name.schema == information_schema.NAME:
            self.guard.other()
        else:
            self.guard.read(name)

    def _replace_changes(self, node: exp.Table) -> None:
        arguments = node.this.expressions
        if not 2 <= len(arguments) <= 3:
            raise bad_request(
                "WRONG_NUM_ARGS", "table_changes needs a table, a first version and, at most, a last.", "42605"
            )
        first = arguments[0]
        if isinstance(first, exp.Column):
            parts = [part.name for part in first.parts]
        else:
            parts = split_name(self._constant(first) or "")
        name = self.session.table(parts)
        if self.guard is not None:
            self.guard.read(name)
        info = catalog.require(self.cursor, name)
        self._once |= isinstance(first, exp.Placeholder) or not all(is_lifted(each) for each in arguments[1:])
        start, end = self._version(arguments[1]), self._version(arguments[2]) if len(arguments) == 3 else None
        query = changes_query(info, len(self._ranges))
        self._ranges.append(check_range(info, start, end))
        self._sources.append(Source.of(info))
        self._changes.append(Changes(info.name, tuple(each.name for each in arguments[1:])))
        alias = node.args.get("alias") or exp.TableAlias(this=exp.to_identifier("table_changes"))
        _replace_keeping_joins(node, query, alias)

    def _constant(self, node: exp.Expr) -> str | None:
        if isinstance(node, exp.Placeholder):
            return bound_value(node.name, self.parameters)[0]
        if isinstance(node, exp.Literal):
            return str(node.this)
        if isinstance(node, exp.Cast):
            return self._constant(node.this)
        raise bad_request("NON_FOLDABLE_ARGUMENT", "table_changes needs constants or parameters as arguments.", "42K08")

    def _version(self, node: exp.Expr) -> int:
        value = self._constant(node)
        if value is None or not value.strip().isdigit():
            raise bad_request(
                "DELTA_INVALID_CDC_RANGE",
                f"'{value}' is not a commit version: table_changes here takes whole numbers.",
                "22003",
            )
        return int(value)

    def _parameter(self, name: str) -> exp.Expr:
        value, type_text = bound_value(name, self.parameters)
        type_name = (type_text or "STRING").strip().upper()
        key = f"p{len(self.bound)}"
        self.bound[key] = value
        self._used.append(name)
        node = exp.Placeholder(this=key)
        if type_name in _TIMESTAMPS:
            return instant(node)
        if type_name.startswith("DECIMAL"):
            try:
                return exp.cast(node, exp.DataType.build(type_name, dialect="databricks"))
            except ValueError:
                pass
        if type_name not in _PARAMETER_TYPES:
            raise SqlFailure("BAD_REQUEST", f"The parameter '{name}' has the unknown type '{type_text}'.")
        return exp.cast(node, exp.DataType.build(_PARAMETER_TYPES[type_name], dialect="duckdb"))


def _replace_keeping_joins(node: exp.Table, query: exp.Expr, alias: exp.Expr) -> None:
    carried = {part: node.args[part] for part in ("joins", "laterals", "pivots", "sample") if node.args.get(part)}
    node.replace(exp.Subquery(this=query, alias=alias, **carried))


def _is_cte(table: exp.Table) -> bool:
    """Whether an unqualified table name is that of a common table expression it can see."""
    if table.args.get("db") or not isinstance(table.this, exp.Identifier):
        return False
    name = table.name.lower()
    below: exp.Expr = table
    above = table.parent
    while above is not None:
        with_ = above.args.get("with_")
        if isinstance(with_, exp.With):
            recursive = bool(with_.args.get("recursive"))
            for cte in with_.expressions:
                named = cte.alias.lower() == name
                if with_ is below and _contains(cte, table):
                    # Without RECURSIVE a name inside its own definition means the table outside, and so do the names
                    # of those that come after it.
                    if named and recursive:
                        return True
                    break
                if named:
                    return True
        below, above = above, above.parent
    return False


def _rename_ctes(tree: exp.Expr, references: list[exp.Table]) -> None:
    """Give common table expressions names that nothing of the engine's own has.

    Should DuckDB not see one where `_is_cte` does, it then finds nothing, and not a view of the engine.
    """
    for node in references:
        if not node.args.get("alias"):
            node.set("alias", exp.TableAlias(this=exp.to_identifier(node.name, quoted=True)))
        node.set("this", _cte_identifier(node.name))
    for cte in tree.find_all(exp.CTE):
        cte.args["alias"].set("this", _cte_identifier(cte.alias))


def _cte_identifier(name: str) -> exp.Identifier:
    return exp.to_identifier(CTE_PREFIX + name.lower(), quoted=True)


def _contains(ancestor: exp.Expr, node: exp.Expr) -> bool:
    at: exp.Expr | None = node
    while at is not None and at is not ancestor:
        at = at.parent
    return at is ancestor


def _shorten_columns(tree: exp.Expr, names: list[TableName]) -> None:
    """Turn ``catalog.schema.table.column`` into ``table.column``, where it means a table of the statement."""
    for column in tree.find_all(exp.Column):
        qualifier = [part.name.lower() for part in column.parts[:-1]]
        if len(qualifier) < 2:
            continue
        for name in names:
            if [name.catalog, name.schema, name.name][-len(qualifier) :] == qualifier:
                column.set("db", None)
                column.set("catalog", None)
                break


def _name_projections(tree: exp.Query, parameters: Parameters) -> bool:
    """Give every unnamed expression of the outermost select the name that Databricks would give it.

    Returns:
        Whether a name holds a number that was lifted out of the statement.
    """
    lifted = False
    first: exp.Expr = tree
    while isinstance(first, exp.SetOperation | exp.Subquery):
        first = first.this
    if not isinstance(first, exp.Select):
        return False
    if not first.expressions:
        raise syntax_error("Syntax error at or near end of input: SELECT needs at least one column.")
    named: list[exp.Expr] = []
    for projection in first.expressions:
        if isinstance(projection, exp.Alias | exp.Aliases | exp.Star | exp.Column | exp.Explode | exp.Posexplode):
            named.append(projection)
            continue
        shown = projection.sql(dialect="databricks", normalize_functions="lower")
        text = as_written(shown, parameters)
        lifted |= text != shown
        text = "count(1)" if text == "count(*)" else text
        named.append(exp.alias_(projection, text, quoted=True, copy=False))
    first.set("expressions", named)
    return lifted
