"""Who may do what: permissions of objects, Unity Catalog privileges, and what a restricted token leaves of them.

The workspace's own user may do everything. A model version's own token may read and query what the version declared.
A token on behalf of a user may do what its scopes open (:mod:`scopes`), as far as the user may do it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from release_pipeline.local_workspace.caller import Caller, current_caller
from release_pipeline.local_workspace.errors import PermissionDenied
from release_pipeline.local_workspace.sql.guard import Guard, insufficient
from release_pipeline.local_workspace.sql.names import TableName

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace
    from release_pipeline.local_workspace.serving.endpoint import Endpoint

#: Groups that everybody is in.
EVERYBODY: Final = ("account users", "users")
ENDPOINT_LEVELS: Final = ("CAN_VIEW", "CAN_QUERY", "CAN_MANAGE")
WAREHOUSE_LEVELS: Final = ("CAN_VIEW", "CAN_USE", "CAN_MONITOR", "CAN_MANAGE")
#: Of what is only known by name: its type for the permissions API, and its levels, rising from the one that it takes.
NAMED_LEVELS: Final = {
    "genie_space": ("genie", ("CAN_RUN", "CAN_EDIT", "CAN_MANAGE")),
    "app": ("apps", ("CAN_USE", "CAN_MANAGE")),
    "lakebase": ("database-instances", ("CAN_USE", "CAN_MANAGE")),
}
_DOING: Final = {"CAN_VIEW": "view", "CAN_QUERY": "query", "CAN_MANAGE": "manage"}
# What a model version's token may do with what the version declared.
_READS: Final = ("table", "vector_search_index")


class Access:
    """Answers for one workspace. Methods that read grants block for as long as sqlite takes."""

    def __init__(self, workspace: "LocalWorkspace") -> None:
        self._workspace = workspace
        self._owner = workspace.settings.user_name

    def sees(self, endpoint: "Endpoint") -> bool:
        """Whether the sender of this request may see an endpoint."""
        return self._may(endpoint, "CAN_VIEW")

    def require_endpoint(self, endpoint: "Endpoint", level: str) -> None:
        """Raises PermissionDenied where the sender of this request does not have a level on an endpoint."""
        if not self._may(endpoint, level):
            raise PermissionDenied(
                f"You do not have permission to {_DOING[level]} the endpoint '{endpoint.record.name}' ({level})."
            )

    def _may(self, endpoint: "Endpoint", level: str) -> bool:
        who = current_caller()
        if level == "CAN_MANAGE" and not endpoint.manageable:
            return False
        if who is None:
            return True
        if who.resources is not None:
            return level != "CAN_MANAGE" and ("serving_endpoint", endpoint.record.name) in who.resources
        return self.has_endpoint(who.name, endpoint, level)

    def has_endpoint(self, name: str, endpoint: "Endpoint", level: str) -> bool:
        """Whether somebody has a level on an endpoint, or a higher one."""
        held = "CAN_MANAGE" if name == self._owner else endpoint.level_of(name)
        return held is not None and ENDPOINT_LEVELS.index(held) >= ENDPOINT_LEVELS.index(level)

    def require_warehouse(self, warehouse_id: str) -> None:
        """Raises PermissionDenied where the sender of this request may not run statements on a SQL warehouse."""
        who = current_caller()
        if who is None or not self._checked(who):
            return
        if who.resources is not None:
            allowed = ("sql_warehouse", warehouse_id) in who.resources
        else:
            allowed = self.has_warehouse(who.name, warehouse_id)
        if not allowed:
            raise PermissionDenied(f"You do not have permission to use the SQL warehouse {warehouse_id}.")

    def has_warehouse(self, name: str, warehouse_id: str) -> bool:
        """Whether somebody may run statements on a SQL warehouse."""
        return name == self._owner or self._has_level(name, "warehouses", warehouse_id, WAREHOUSE_LEVELS, "CAN_USE")

    def has_named(self, name: str, kind: str, object_id: str) -> bool:
        """Whether somebody may use an object of a kind that is only known by name."""
        object_type, levels = NAMED_LEVELS[kind]
        return name == self._owner or self._has_level(name, object_type, object_id, levels, levels[0])

    def _has_level(self, name: str, kind: str, object_id: str, levels: tuple[str, ...], level: str) -> bool:
        given = self._workspace.object_permissions.get(kind, object_id)
        held = [each["permission_level"] for each in given if {name, *EVERYBODY} & set(each.values())]
        return any(levels.index(each) >= levels.index(level) for each in held)

    def missing_privileges(self, name: str, privilege: str, kind: str, full_name: str) -> list[str]:
        """What somebody lacks to use a securable: its privilege, USE SCHEMA and USE CATALOG; a phrase each."""
        if name == self._owner:
            return []
        wanted = [(privilege, kind, full_name)]
        if full_name.count(".") == 2:
            catalog, schema, _ = full_name.split(".")
            wanted[:0] = [("USE_CATALOG", "CATALOG", catalog), ("USE_SCHEMA", "SCHEMA", f"{catalog}.{schema}")]
        return [
            f"{each.replace('_', ' ')} on {of.capitalize()} '{at}'"
            for each, of, at in wanted
            if not self._holds(name, each, of, at)
        ]

    def require_manage(self, kind: str, full_name: str) -> None:
        """Raises PermissionDenied where the sender of this request may not grant privileges on a securable."""
        who = current_caller()
        if who is not None and not self._holds(who.name, "MANAGE", kind, full_name, all_count=False):
            raise PermissionDenied(f"User does not have MANAGE on {kind.capitalize()} '{full_name}'.")

    def _holds(self, name: str, privilege: str, kind: str, full_name: str, *, all_count: bool = True) -> bool:
        effective = self._workspace.grants.effective(kind, full_name)
        held = {each.privilege for who in (name, *EVERYBODY) for each in effective.get(who, ())}
        return bool(held & ({privilege, "ALL_PRIVILEGES"} if all_count else {privilege}))

    def _checked(self, who: Caller) -> bool:
        """Whether grants count for a token: always for what acts for somebody else, else where it was asked for."""
        return who.restricted or self._workspace.settings.faults.enforce_grants

    def guard(self) -> Guard | None:
        """What the statements of this request's sender are checked against; None: nothing."""
        who = current_caller()
        return _CallersGuard(self, who) if who is not None and self._checked(who) else None


def require_owner(doing: str) -> None:
    """Raises PermissionDenied where the sender of this request is not the workspace's own user, who may do it."""
    if current_caller() is not None:
        raise PermissionDenied(f"Only the workspace's own user may {doing}.")


@dataclass(frozen=True)
class _CallersGuard:
    access: Access
    who: Caller

    def read(self, name: TableName) -> None:
        self._check("SELECT", name)

    def write(self, name: TableName) -> None:
        if self.who.resources is not None:
            raise insufficient("a served model's own credentials may only read.")
        self._check("MODIFY", name)

    def other(self) -> None:
        if self.who.restricted:
            raise insufficient("an agent's credentials may only query tables and change their rows.")

    def _check(self, privilege: str, name: TableName) -> None:
        if self.who.resources is not None:
            declared = {each.lower() for kind, each in self.who.resources if kind in _READS}
            if name.full not in declared:
                raise insufficient(f"The served model did not declare {name.quoted} among its resources.")
        elif lacking := self.access.missing_privileges(self.who.name, privilege, "TABLE", name.full):
            raise insufficient(f"User does not have {' and '.join(lacking)}.")
