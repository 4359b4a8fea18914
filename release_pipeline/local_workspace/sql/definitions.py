"""CREATE, DROP and ALTER of schemas, tables and views, in the caller's transaction."""

from dataclasses import dataclass, replace
from typing import Any

from sqlglot import exp

from release_pipeline.local_workspace.sql import catalog
from release_pipeline.local_workspace.sql.catalog import CHANGE_FEED_PROPERTY, TableInfo
from release_pipeline.local_workspace.sql.dialect import to_duckdb
from release_pipeline.local_workspace.sql.failures import HIDDEN_COLUMN, bad_request, unsupported
from release_pipeline.local_workspace.sql.functions import rewrite_functions
from release_pipeline.local_workspace.sql.names import SchemaName, TableName
from release_pipeline.local_workspace.sql.rewrite import Rewriter

# Where a table's files are, in which format and order: meaningless here, and harmless to ignore.
_IGNORED = (exp.FileFormatProperty, exp.ClusterProperty, exp.PartitionedByProperty)
# Unity Catalog does not enforce keys, so DuckDB must not either.
_UNENFORCED = (exp.PrimaryKeyColumnConstraint, exp.Reference, exp.UniqueColumnConstraint, exp.CommentColumnConstraint)


@dataclass
class Definer:
    """Runs statements that create, remove or alter.

    Attributes:
        cursor: A DuckDB cursor with an open transaction, held by the only writer.
        rewriter: Rewrites statements in the same transaction.
        catalogs: The catalogs that exist, in lower case.
    """

    cursor: Any
    rewriter: Rewriter
    catalogs: tuple[str, ...]

    def run(self, tree: exp.Expr) -> None:
        """Run one statement.

        Raises:
            SqlFailure: It names what is not there or is there already, or is of a kind the workspace lacks.
        """
        kind = str(tree.args.get("kind") or "").upper()
        match tree, kind:
            case exp.Create(), "TABLE":
                self._create_table(tree)
            case exp.Create(), "VIEW":
                self._create_view(tree)
            case exp.Create(), "SCHEMA" | "DATABASE":
                self._create_schema(tree)
            case exp.Drop(), "TABLE" | "VIEW":
                self._drop_table(tree, kind)
            case exp.Drop(), "SCHEMA" | "DATABASE":
                self._drop_schema(tree)
            case exp.Alter(), "TABLE":
                self._alter(tree)
            case _:
                raise unsupported(f"{tree.key.upper()} {kind}")

    def _schema_name(self, node: exp.Table) -> SchemaName:
        name = self.rewriter.session.schema_of([part.name for part in node.parts])
        if name.catalog not in self.catalogs:
            raise bad_request("NO_SUCH_CATALOG_EXCEPTION", f"The catalog `{name.catalog}` was not found.", "42704")
        return name

    def _create_schema(self, tree: exp.Create) -> None:
        name = self._schema_name(tree.this)
        if catalog.schema_exists(self.cursor, name):
            if tree.args.get("exists"):
                return
            raise bad_request("SCHEMA_ALREADY_EXISTS", f"The schema {name.quoted} exists already.", "42P06")
        comment, _ = _properties(tree)
        catalog.create_schema(self.cursor, name, comment)

    def _drop_schema(self, tree: exp.Drop) -> None:
        name = self._schema_name(tree.args["tables"][0])
        if not catalog.schema_exists(self.cursor, name) and tree.args.get("exists"):
            return
        catalog.require_schema(self.cursor, name)
        if not tree.args.get("cascade") and catalog.tables_in(self.cursor, name):
            raise bad_request(
                "SCHEMA_NOT_EMPTY", f"The schema {name.quoted} has tables; drop it with CASCADE.", "2BP01"
            )
        catalog.drop_schema(self.cursor, name)

    def _start(self, tree: exp.Create) -> tuple[TableName, TableInfo | None] | None:
        """The name to create and what has it now; None if IF NOT EXISTS leaves nothing to do."""
        node = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
        name = catalog.require_changeable(self.rewriter.table_name(node))
        catalog.require_schema(self.cursor, name.parent)
        existing = catalog.find(self.cursor, name)
        if existing is not None and not tree.args.get("replace"):
            if tree.args.get("exists"):
                return None
            raise bad_request(
                "TABLE_OR_VIEW_ALREADY_EXISTS", f"The table or view {name.quoted} exists already.", "42P07"
            )
        return name, existing

    def _create_table(self, tree: exp.Create) -> None:
        comment, properties = _properties(tree)
        started = self._start(tree)
        if started is None:
            return
        name, existing = started
        version = existing.version + 1 if existing else 0
        feed = properties.get(CHANGE_FEED_PROPERTY, "").lower() == "true"
        if tree.expression is not None:
            if isinstance(tree.this, exp.Schema):
                raise unsupported("CREATE TABLE with both columns and a query")
            source = self.rewriter.rewrite(tree.expression)
            hidden = f", CAST({version} AS BIGINT) AS {HIDDEN_COLUMN}" if feed else ""
            body = f"AS SELECT q.*{hidden} FROM ({source}) AS q"
            operation = "CREATE TABLE AS SELECT"
        elif isinstance(tree.this, exp.Schema):
            body = self._column_list(tree.this, feed)
            operation = "CREATE TABLE"
        else:
            raise unsupported("a table without columns")
        now = catalog.utc_now()
        info = TableInfo(
            name, "MANAGED", now, now, version, version if feed else None, version if existing else -1,
            comment=comment, properties=properties,
        )  # fmt: skip
        # The new table is built beside the old one, because its query may read the old one.
        staging = exp.Table(
            this=exp.to_identifier(f"{name.name}/new", quoted=True),
            db=exp.to_identifier(name.parent.full, quoted=True),
        ).sql(dialect="duckdb")
        row = self.cursor.execute(f"CREATE TABLE {staging} {body}", self.rewriter.bound).fetchone()
        if existing is not None:
            self._drop_physical(existing)
            self.cursor.execute("DELETE FROM __workspace.tables WHERE full_name = ?", [name.full])
            operation = f"CREATE OR REPLACE {operation.removeprefix('CREATE ')}"
        self.cursor.execute(
            f"ALTER TABLE {staging} RENAME TO {exp.to_identifier(name.name, quoted=True).sql('duckdb')}"
        )
        catalog.add(self.cursor, info)
        catalog.log_commit(self.cursor, name, version, now, operation, int(row[0]) if row else 0)

    def _column_list(self, schema: exp.Schema, feed: bool) -> str:
        kept: list[exp.Expr] = []
        for item in schema.expressions:
            if isinstance(item, exp.ColumnDef):
                kept.append(_column_definition(item))
            elif not isinstance(item, exp.PrimaryKey | exp.ForeignKey) and not (
                isinstance(item, exp.Constraint) and isinstance(item.expressions[0], exp.PrimaryKey | exp.ForeignKey)
            ):
                kept.append(rewrite_functions(item))
        if feed:
            kept.append(exp.ColumnDef(this=exp.to_identifier(HIDDEN_COLUMN), kind=exp.DataType.build("BIGINT")))
        return "(" + ", ".join(to_duckdb(item) for item in kept) + ")"

    def _create_view(self, tree: exp.Create) -> None:
        if tree.find(exp.TemporaryProperty):
            raise unsupported("temporary views: every statement is its own session")
        comment, properties = _properties(tree)
        started = self._start(tree)
        if started is None:
            return
        name, existing = started
        text = tree.expression.sql(dialect="databricks")
        columns = ""
        if isinstance(tree.this, exp.Schema):
            names = [exp.to_identifier(item.name, quoted=True).sql(dialect="duckdb") for item in tree.this.expressions]
            columns = f"({', '.join(names)})"
        source = self.rewriter.rewrite(tree.expression)
        if self.rewriter.bound:
            raise unsupported("parameters in the definition of a view")
        if existing is not None and existing.kind != "VIEW":
            raise bad_request("EXPECT_VIEW_NOT_TABLE.NO_ALTERNATIVE", f"{name.quoted} is a table, not a view.", "42809")
        if existing is not None:
            catalog.forget(self.cursor, name)
        self.cursor.execute(f"CREATE OR REPLACE VIEW {name.physical} {columns} AS {source}")
        now = catalog.utc_now()
        catalog.add(
            self.cursor, TableInfo(name, "VIEW", now, now, comment=comment, properties=properties, view_text=text)
        )

    def _drop_physical(self, info: TableInfo) -> None:
        self.cursor.execute(f"DROP {'VIEW' if info.kind == 'VIEW' else 'TABLE'} {info.name.physical}")

    def _drop_table(self, tree: exp.Drop, kind: str) -> None:
        for node in tree.args["tables"]:
            name = catalog.require_changeable(self.rewriter.table_name(node))
            info = catalog.find(self.cursor, name)
            if info is None and tree.args.get("exists"):
                continue
            info = catalog.require(self.cursor, name)
            if (info.kind == "VIEW") != (kind == "VIEW"):
                raise bad_request("WRONG_COMMAND_FOR_OBJECT_TYPE", f"{name.quoted} is not a {kind.lower()}.", "42809")
            self._drop_physical(info)
            catalog.forget(self.cursor, name)

    def _alter(self, tree: exp.Alter) -> None:
        info = catalog.require(self.cursor, catalog.require_changeable(self.rewriter.table_name(tree.this)))
        if info.kind != "MANAGED":
            raise unsupported("ALTER TABLE of a view")
        for action in tree.args["actions"]:
            if isinstance(action, exp.AlterSet):
                info = self._set_properties(info, _properties(action)[1])
            elif isinstance(action, exp.ColumnDef | exp.Schema):
                for column in action.expressions if isinstance(action, exp.Schema) else [action]:
                    definition = to_duckdb(_column_definition(column))
                    self.cursor.execute(f"ALTER TABLE {info.name.physical} ADD COLUMN {definition}")
                catalog.commit(self.cursor, info, "ADD COLUMNS", 0)
                info = catalog.require(self.cursor, info.name)
            else:
                raise unsupported("this form of ALTER TABLE")

    def _set_properties(self, info: TableInfo, properties: dict[str, str]) -> TableInfo:
        wanted = properties.get(CHANGE_FEED_PROPERTY, "").lower()
        if wanted == "false" and info.has_change_feed:
            raise unsupported("switching a change data feed off")
        since = info.change_feed_since
        if wanted == "true" and since is None:
            self.cursor.execute(f"ALTER TABLE {info.name.physical} ADD COLUMN {HIDDEN_COLUMN} BIGINT")
            since = info.version + 1
        changed = replace(info, properties={**info.properties, **properties}, change_feed_since=since)
        self.cursor.execute("DELETE FROM __workspace.tables WHERE full_name = ?", [info.name.full])
        catalog.add(self.cursor, changed)
        catalog.commit(self.cursor, changed, "SET TBLPROPERTIES", 0)
        return catalog.require(self.cursor, info.name)


def _column_definition(column: exp.ColumnDef) -> exp.Expr:
    constraints = []
    for constraint in column.args.get("constraints") or []:
        if isinstance(constraint.kind, exp.GeneratedAsIdentityColumnConstraint | exp.ComputedColumnConstraint):
            raise unsupported("generated columns")
        if not isinstance(constraint.kind, _UNENFORCED):
            constraints.append(constraint)
    column.set("constraints", constraints)
    return rewrite_functions(column)


def _properties(node: exp.Expr) -> tuple[str | None, dict[str, str]]:
    """The comment and the table properties of a definition; others are refused unless they mean nothing here."""
    comment = None
    properties: dict[str, str] = {}
    holder = node.find(exp.Properties)
    for each in holder.expressions if holder else []:
        if isinstance(each, exp.SchemaCommentProperty):
            comment = each.this.name
        elif type(each) is exp.Property:
            key = each.this.sql(dialect="databricks") if isinstance(each.this, exp.Dot) else each.this.name
            value = each.args["value"]
            if key.lower() == CHANGE_FEED_PROPERTY.lower():
                key = CHANGE_FEED_PROPERTY  # Delta's own keys may be written in any case
            properties[key] = value.sql().lower() if isinstance(value, exp.Boolean) else value.name
        elif isinstance(each, exp.LocationProperty):
            raise unsupported("tables at a location of their own")
        elif not isinstance(each, _IGNORED):
            raise unsupported(f"{each.key.removesuffix('property').upper()} in a definition")
    return comment, properties
