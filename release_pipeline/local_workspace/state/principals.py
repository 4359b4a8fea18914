"""Users and service principals, and the tokens of those who are not the workspace's own user."""

import secrets
import threading
import uuid
from dataclasses import dataclass

from release_pipeline.local_workspace.errors import AlreadyExists, InvalidParameter, NotFound
from release_pipeline.local_workspace.short_tokens import token_digest
from release_pipeline.local_workspace.state.database import Database

USER, SERVICE_PRINCIPAL = "user", "service_principal"
OWNER_ID = "1"

_TABLES = """
CREATE TABLE IF NOT EXISTS principals (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL UNIQUE, display_name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS principal_tokens (
    digest TEXT PRIMARY KEY, principal TEXT NOT NULL REFERENCES principals (id) ON DELETE CASCADE);
"""


@dataclass(frozen=True)
class Principal:
    """Somebody who may be granted something.

    Attributes:
        kind: `USER` or `SERVICE_PRINCIPAL`.
        name: What grants and creators name: a user's name, or a service principal's application id.
    """

    id: str
    kind: str
    name: str
    display_name: str


class Principals:
    """The principals of a workspace. The token that it was started with is its owner's; others' are kept as digests."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._lock = threading.Lock()
        with database.transaction() as connection:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute("INSERT OR REPLACE INTO principals VALUES (?, ?, ?, ?)", (OWNER_ID, USER, owner, owner))
            rows = connection.execute("SELECT digest, principal FROM principal_tokens").fetchall()
        self._tokens = {row["digest"]: row["principal"] for row in rows}
        self._by_id = {principal.id: principal for kind in (USER, SERVICE_PRINCIPAL) for principal in self.all(kind)}

    def all(self, kind: str) -> list[Principal]:
        """Everybody of one kind, by name."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT * FROM principals WHERE kind = ? ORDER BY name", (kind,)).fetchall()
        return [Principal(**dict(row)) for row in rows]

    def get(self, kind: str, principal_id: str) -> Principal:
        """One of them, by id.

        Raises:
            NotFound: There is none.
        """
        found = self._by_id.get(principal_id)
        if found is None or found.kind != kind:
            raise NotFound(f"There is no {kind.replace('_', ' ')} with id {principal_id}.")
        return found

    def named(self, name: str) -> Principal | None:
        """The one of that name, or None."""
        return next((principal for principal in list(self._by_id.values()) if principal.name == name), None)

    def add(self, kind: str, name: str, display_name: str) -> Principal:
        """A new principal; a service principal without a name gets an application id.

        Raises:
            AlreadyExists: The name is taken.
        """
        name = name or (str(uuid.uuid4()) if kind == SERVICE_PRINCIPAL else "")
        if not name:
            raise InvalidParameter("A user needs a userName.")
        with self._lock:
            if self.named(name) is not None:
                raise AlreadyExists(f"There is a principal named {name} already.", status=409)
            principal = Principal(str(uuid.uuid4().int)[:16], kind, name, display_name or name)
            with self._database.transaction() as connection:
                values = (principal.id, kind, name, principal.display_name)
                connection.execute("INSERT INTO principals VALUES (?, ?, ?, ?)", values)
            self._by_id[principal.id] = principal
        return principal

    def delete(self, kind: str, principal_id: str) -> None:
        """Remove a principal and its tokens.

        Raises:
            InvalidParameter: It is the workspace's own user.
        """
        if self.get(kind, principal_id).id == OWNER_ID:
            raise InvalidParameter("The workspace's own user cannot be deleted.")
        with self._lock:
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM principals WHERE id = ?", (principal_id,))
            self._by_id.pop(principal_id, None)
            self._tokens = {digest: owner for digest, owner in self._tokens.items() if owner != principal_id}

    def new_token(self, principal: Principal) -> str:
        """A token with which requests are the principal's; only its digest is kept."""
        token = f"dapi{secrets.token_hex(16)}"
        digest = token_digest(token.encode())
        with self._lock:
            with self._database.transaction() as connection:
                connection.execute("INSERT INTO principal_tokens VALUES (?, ?)", (digest, principal.id))
            self._tokens[digest] = principal.id
        return token

    def of_token(self, token: bytes) -> Principal | None:
        """Whose token it is, None where it is nobody's; the owner's is not kept here."""
        return self._by_id.get(self._tokens.get(token_digest(token), ""))
