"""Three-level names: what users write, and where DuckDB keeps it.

DuckDB reserves the catalog name ``main``, which is the one that users have. So ``catalog.schema`` is one DuckDB
schema whose name is literally that text, and everything of the workspace's own is in the schema ``__workspace``,
which has no dot and so is out of reach of every user's name.
"""

import re
from dataclasses import dataclass

from sqlglot import exp

from release_pipeline.local_workspace.sql.failures import bad_request, syntax_error

SYSTEM = "system"
"""The catalog of the service's own tables, which are only read."""

_FORBIDDEN = re.compile(r"[./\s\x00-\x1f\x7f]")
_PART = re.compile(r"\s*(?:`((?:[^`]|``)+)`|([\w-]+))\s*(\.|$)")


@dataclass(frozen=True, order=True)
class SchemaName:
    """A schema in a catalog, lower case as Unity Catalog keeps it."""

    catalog: str
    schema: str

    @property
    def full(self) -> str:
        """``catalog.schema``, which is also the name of the DuckDB schema."""
        return f"{self.catalog}.{self.schema}"

    @property
    def quoted(self) -> str:
        """The name as error messages show it."""
        return f"`{self.catalog}`.`{self.schema}`"


@dataclass(frozen=True, order=True)
class TableName:
    """A table or view, lower case as Unity Catalog keeps it."""

    catalog: str
    schema: str
    name: str

    @property
    def parent(self) -> SchemaName:
        """The schema that holds it."""
        return SchemaName(self.catalog, self.schema)

    @property
    def full(self) -> str:
        """``catalog.schema.name``."""
        return f"{self.catalog}.{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """The name as error messages show it."""
        return f"`{self.catalog}`.`{self.schema}`.`{self.name}`"

    @property
    def physical(self) -> str:
        """The name in DuckDB's own SQL, quoted."""
        return self.node().sql(dialect="duckdb")

    def node(self) -> exp.Table:
        """The name in DuckDB as a syntax node."""
        return exp.Table(
            this=exp.to_identifier(self.name, quoted=True), db=exp.to_identifier(self.parent.full, quoted=True)
        )


def split_name(text: str) -> list[str]:
    """The parts of a dotted name, with or without backticks.

    Raises:
        SqlFailure: The text is not a name.
    """
    parts: list[str] = []
    position = 0
    while True:
        match = _PART.match(text, position)
        if not match:
            raise syntax_error(f"'{text}' is not a name of the form catalog.schema.table.")
        parts.append((match.group(1) or match.group(2)).replace("``", "`"))
        position = match.end()
        if not match.group(3):
            return parts


def check_part(part: str) -> str:
    """One part of a name in lower case, refused if Unity Catalog would not allow it."""
    if not part or _FORBIDDEN.search(part) or len(part) > 255:
        raise bad_request("INVALID_IDENTIFIER", f"The name `{part}` has characters that a name cannot have.", "42602")
    return part.lower()


@dataclass(frozen=True)
class Session:
    """What unqualified names mean in one statement."""

    catalog: str = "main"
    schema: str = "default"

    def table(self, parts: list[str]) -> TableName:
        """The table that one to three name parts stand for."""
        if not 1 <= len(parts) <= 3:
            raise bad_request("REQUIRES_SINGLE_PART_NAMESPACE", f"'{'.'.join(parts)}' has too many parts.", "42K05")
        full = [self.catalog, self.schema][: 3 - len(parts)] + parts
        return TableName(*(check_part(part) for part in full))

    def schema_of(self, parts: list[str]) -> SchemaName:
        """The schema that one or two name parts stand for."""
        if not 1 <= len(parts) <= 2:
            raise bad_request("REQUIRES_SINGLE_PART_NAMESPACE", f"'{'.'.join(parts)}' has too many parts.", "42K05")
        full = [self.catalog][: 2 - len(parts)] + parts
        return SchemaName(*(check_part(part) for part in full))
