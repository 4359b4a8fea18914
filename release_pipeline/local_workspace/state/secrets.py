"""Secret scopes, their secrets and who may read them, in one file that only its owner can read."""

import json
import os
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from release_pipeline.local_workspace.errors import AlreadyExists, ApiError, NotFound, PermissionDenied

#: What an access control list may give, the weakest first; each includes those before it.
LEVELS = ("READ", "WRITE", "MANAGE")
MOST_BYTES = 128 * 1024
"""The service's limit for one secret, in bytes."""
MOST_SECRETS = 1000
"""The service's limit for one scope."""


@dataclass
class Secret:
    """One secret. ``value`` is base64, as the API answers it; ``updated_ms`` in milliseconds since the Unix epoch."""

    value: str = field(repr=False)
    updated_ms: int = 0


@dataclass
class Scope:
    """One scope: its secrets by key, and levels of `LEVELS` by principal."""

    secrets: dict[str, Secret] = field(default_factory=dict)
    acls: dict[str, str] = field(default_factory=dict)


class SecretStore:
    """``<data_dir>/secrets.json``, mode 600, in clear text: whoever can read the folder's owner's files can read it.

    Not in the workspace's database, whose deleted pages would keep what was deleted. The workspace's own user may do
    everything, others what the scope's list gives them. Methods that name a scope or a secret raise :class:`NotFound`
    when it does not exist, and :class:`PermissionDenied` when ``who`` may not.
    """

    def __init__(self, data_dir: Path, owner: str) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self._path = data_dir / "secrets.json"
        self._owner = owner
        self._lock = threading.Lock()
        stored = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        self._scopes = {
            name: Scope({key: Secret(**secret) for key, secret in scope["secrets"].items()}, dict(scope["acls"]))
            for name, scope in stored.items()
        }

    def create_scope(self, name: str, who: str, *, for_everybody: bool) -> None:
        """A new scope that its creator manages, or everybody."""
        with self._lock:
            if name in self._scopes:
                raise AlreadyExists(f"Scope {name} already exists!")
            self._scopes[name] = Scope(acls={"users" if for_everybody else who: "MANAGE"})
            self._save()

    def scopes(self) -> list[str]:
        """The names of all scopes, sorted."""
        with self._lock:
            return sorted(self._scopes)

    def delete_scope(self, name: str, who: str) -> None:
        """Remove a scope with all its secrets."""
        with self._lock:
            self._scope(name, who, "MANAGE")
            del self._scopes[name]
            self._save()

    def put(self, scope: str, key: str, value: str, who: str) -> None:
        """Set a secret to a base64 value."""
        with self._lock:
            found = self._scope(scope, who, "WRITE")
            if key not in found.secrets and len(found.secrets) >= MOST_SECRETS:
                raise ApiError(f"Scope {scope} has {MOST_SECRETS} secrets.", error_code="RESOURCE_LIMIT_EXCEEDED")
            found.secrets[key] = Secret(value, int(time.time() * 1000))
            self._save()

    def get(self, scope: str, key: str, who: str) -> str:
        """The base64 value of a secret."""
        with self._lock:
            found = self._scope(scope, who, "READ").secrets.get(key)
            if found is None:
                raise NotFound(f"Secret does not exist with scope: {scope} and key: {key}")
            return found.value

    def keys(self, scope: str, who: str) -> dict[str, int]:
        """When each secret of a scope was set, epoch milliseconds, by key."""
        with self._lock:
            found = self._scope(scope, who, "READ").secrets
            return {key: found[key].updated_ms for key in sorted(found)}

    def delete(self, scope: str, key: str, who: str) -> None:
        """Remove a secret."""
        with self._lock:
            if self._scope(scope, who, "WRITE").secrets.pop(key, None) is None:
                raise NotFound(f"Secret does not exist with scope: {scope} and key: {key}")
            self._save()

    def acls(self, scope: str, who: str) -> dict[str, str]:
        """The level of each principal that was given one."""
        with self._lock:
            return dict(self._scope(scope, who, "MANAGE").acls)

    def change_acl(self, scope: str, principal: str, level: str | None, who: str) -> None:
        """Give a principal a level, or take it away with None."""
        with self._lock:
            acls = self._scope(scope, who, "MANAGE").acls
            if level is None:
                if acls.pop(principal, None) is None:
                    raise NotFound(f"Scope {scope} has no access control list for {principal}.")
            else:
                acls[principal] = level
            self._save()

    def _scope(self, name: str, who: str, level: str) -> Scope:
        found = self._scopes.get(name)
        if found is None:
            raise NotFound(f"Scope {name} does not exist!")
        held = [found.acls[each] for each in (who, "users") if each in found.acls]
        if who != self._owner and not any(LEVELS.index(each) >= LEVELS.index(level) for each in held):
            raise PermissionDenied(f"User {who} does not have {level} permission on scope {name}.")
        return found

    def _save(self) -> None:
        temporary = self._path.with_suffix(".writing")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({name: asdict(scope) for name, scope in self._scopes.items()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
