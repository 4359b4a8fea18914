"""What the workspace says a principal may do: who it is, its privileges, its permissions on objects.

Every question has three answers: yes, no, and that it cannot be told, which is :class:`Unanswered`.
Routes and shapes are those of the Databricks REST API; a workspace that lacks one of them leaves the question open.
"""

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from release_pipeline.errors import Unanswered, first_sentence
from release_pipeline.workspace.client import Workspace
from release_pipeline.workspace.sql.warehouse import quoted

if TYPE_CHECKING:
    from databricks.sdk.service.iam import ComplexValue

_T = TypeVar("_T")
_APPLICATION_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: Groups that everybody is in, which no list of a principal's groups names.
_EVERYBODY: Final = frozenset({"account users", "users"})
#: Contains every other privilege but MANAGE.
_ALL: Final = "ALL_PRIVILEGES"


@dataclass(frozen=True)
class Principal:
    """Somebody who may be granted something.

    Attributes:
        name: A user's name, or a service principal's application id, as grants name it.
        groups: Names of its groups.
    """

    name: str
    groups: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Every name under which something may have been granted to it."""
        return self.groups | _EVERYBODY | {self.name}

    @property
    def field(self) -> str:
        """How permission calls name one of its kind."""
        return "service_principal_name" if _APPLICATION_ID.fullmatch(self.name) else "user_name"


@dataclass(frozen=True)
class Securable:
    """Something in Unity Catalog.

    Attributes:
        type: As the grants API names it: CATALOG, SCHEMA, TABLE, FUNCTION (models, too) or CONNECTION.
        name: Full name.
    """

    type: str
    name: str


class Permissions:
    """Asks one workspace. Nothing is kept: what was granted a moment ago counts."""

    def __init__(self, workspace: Workspace) -> None:
        self._client = workspace.client

    def me(self) -> Principal:
        """Who asks.

        Raises:
            Unanswered: The workspace does not say.
        """
        me = _ask("who is asking", self._client.current_user.me)
        if me is None or not me.user_name:
            raise Unanswered("the workspace does not say who is asking")
        return Principal(me.user_name, _groups(me.groups))

    def principal(self, name: str) -> Principal | None:
        """A user or service principal that is there and active, None where it is gone.

        Raises:
            Unanswered: Principals may not be listed.
        """
        what, quoted = f"whether {name} exists", name.replace('"', "")
        if _APPLICATION_ID.fullmatch(name):
            listed = _ask(
                what, lambda: list(self._client.service_principals_v2.list(filter=f'applicationId eq "{quoted}"'))
            )
            robots = [each for each in listed or () if each.application_id == name and each.active is not False]
            return Principal(name, _groups(robots[0].groups)) if robots else None
        users = _ask(what, lambda: list(self._client.users_v2.list(filter=f'userName eq "{quoted}"')))
        found = [
            each
            for each in users or ()
            if (each.user_name or "").casefold() == name.casefold() and each.active is not False
        ]
        return Principal(name, _groups(found[0].groups)) if found else None

    def holds(self, wanted: str, securable: Securable, principal: Principal) -> bool | None:
        """Whether ``principal`` holds a privilege there, by itself, through its groups, from above, or as the owner;
        None where there is nothing of that name.

        Raises:
            Unanswered: The privileges may not be read, and those that may do not have it.
        """
        refused: Unanswered | None = None
        # All of them may be for the owner to see only; then one's own and those of one's groups are asked one by one.
        for asked in ([None], sorted(principal.names)):
            for name in asked:
                try:
                    held = self._effective(securable, name, principal.names)
                except Unanswered as error:
                    refused = error
                    continue
                if held is None:
                    return None
                if wanted in held or (wanted != "MANAGE" and _ALL in held):
                    return True
                refused = refused if name else None
            if refused is None:
                break
        if self._owns(securable, principal):
            return True
        if refused is not None:
            raise refused
        return False

    def _effective(self, securable: Securable, of: str | None, names: frozenset[str]) -> set[str] | None:
        """Privileges on the securable of anybody in ``names``; None where there is no such thing."""
        found: set[str] = set()
        page: str | None = None
        while True:
            answer = _ask(
                f"who may use {securable.type.lower()} {securable.name}",
                functools.partial(
                    self._client.grants.get_effective,
                    *(securable.type, securable.name),
                    max_results=0,
                    page_token=page,
                    principal=of,
                ),
            )
            if answer is None:
                return None
            for assignment in answer.privilege_assignments or []:
                if assignment.principal in names:
                    found.update(each.privilege.value for each in assignment.privileges or [] if each.privilege)
            page = answer.next_page_token
            if not page:
                return found

    def _owns(self, securable: Securable, principal: Principal) -> bool:
        """Whether it owns the thing; an owner needs no grant.

        Raises:
            Unanswered: The owner is not told.
        """
        client, name = self._client, securable.name
        read: dict[str, tuple[Callable[[], str | None], ...]] = {
            "CATALOG": (lambda: client.catalogs.get(name).owner,),
            "SCHEMA": (lambda: client.schemas.get(name).owner,),
            "TABLE": (lambda: client.tables.get(name).owner,),
            # A model is a function to the grants API.
            "FUNCTION": (lambda: client.registered_models.get(name).owner, lambda: client.functions.get(name).owner),
            "CONNECTION": (lambda: client.connections.get(name).owner,),
        }
        for call in read[securable.type]:
            owner = _ask(f"the owner of {securable.name}", call)
            if owner:
                return owner in principal.groups | {principal.name}
        return False

    def exists(self, table: str) -> bool:
        """Whether a table is there.

        Raises:
            Unanswered: It may not be read.
        """
        answer = _ask(f"whether table {table} exists", lambda: self._client.tables.exists(table))
        return bool(answer and answer.table_exists)

    def endpoint(self, name: str) -> tuple[str, str] | None:
        """Id of a serving endpoint, and the permission level of who asks, empty where that is not told; None where
        there is none of that name.

        Raises:
            Unanswered: It may not be read.
        """
        found = _ask(f"serving endpoint {name}", lambda: self._client.serving_endpoints.get(name))
        if found is None:
            return None
        return str(found.id or name), found.permission_level.value if found.permission_level else ""

    def vector_index(self, name: str) -> bool:
        """Whether a vector search index is there.

        Raises:
            Unanswered: It may not be read.
        """
        return (
            _ask(f"vector search index {name}", lambda: self._client.vector_search_indexes.get_index(name)) is not None
        )

    def levels(self, object_type: str, object_id: str, principal: Principal) -> frozenset[str] | None:
        """Permission levels of ``principal`` on a workspace object, None where there is no such object.

        Args:
            object_type: As the permissions API names it: serving-endpoints, warehouses or genie.
            object_id: Its id, which for endpoints is not the name.
            principal: Who.

        Raises:
            Unanswered: The permissions may not be read.
        """
        what = f"who may use {object_type.removesuffix('s')} {object_id}"
        answer = _ask(what, lambda: self._client.permissions.get(object_type, object_id))
        if answer is None:
            return None
        return frozenset(
            permission.permission_level.value
            for entry in answer.access_control_list or []
            if {entry.user_name, entry.group_name, entry.service_principal_name} & principal.names
            for permission in entry.all_permissions or []
            if permission.permission_level
        )


def _groups(groups: "list[ComplexValue] | None") -> frozenset[str]:
    return frozenset(group.display for group in groups or [] if group.display)


def _ask(what: str, call: Callable[[], _T]) -> _T | None:
    """The answer, None where the thing that is asked about does not exist.

    Raises:
        Unanswered: The workspace has no such route, refuses, or does not answer in time.
    """
    from databricks.sdk.errors import NotFound
    from databricks.sdk.errors.base import DatabricksError

    try:
        return call()
    except NotFound as error:
        if getattr(error, "error_code", "") == "ENDPOINT_NOT_FOUND":
            raise Unanswered(f"{what} cannot be told: this workspace has no API for it") from None
        return None
    except (DatabricksError, TimeoutError) as error:
        raise Unanswered(f"{what} cannot be told: {first_sentence(error)}") from None


def lacking(missing: Sequence[tuple[str, Securable]], principal: Principal, why: str = "") -> str:
    """One sentence about privileges that are lacking, with the statements that grant them; empty where none is."""
    if not missing:
        return ""
    words = [f"{privilege.replace('_', ' ')} on {where.type.lower()} {where.name}" for privilege, where in missing]
    grants = [
        f"GRANT {privilege.replace('_', ' ')} ON {where.type} {quoted(where.name)} TO `{principal.name}`"
        for privilege, where in missing
    ]
    reason = f", {why}" if why else ""
    return f"{principal.name} lacks {' and '.join(words)}{reason}; {'; '.join(grants)}."


def permission_call(object_type: str, object_id: str, principal: Principal, level: str) -> str:
    """The call that gives ``principal`` a permission level on a workspace object."""
    given = {"access_control_list": [{principal.field: principal.name, "permission_level": level}]}
    return f"PATCH /api/2.0/permissions/{object_type}/{object_id} with {json.dumps(given)}."
