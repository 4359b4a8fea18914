"""What a model version says of itself that it needs: its resources, and the API scopes that it wants of its users."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Declared:
    """What was declared when the model was logged, by ``resources=`` or ``auth_policy=``.

    Attributes:
        resources: Type, as mlflow names it (``table``, ``serving_endpoint``, ...), and name of what the model uses as
            itself. What it uses with its user's rights (``on_behalf_of_user``) is not among them.
        api_scopes: What it may do on behalf of whoever asks it; empty for a model that does nothing on behalf.
    """

    resources: tuple[tuple[str, str], ...] = ()
    api_scopes: frozenset[str] = frozenset()


def read_declared(model_path: Path) -> Declared:
    """What the MLmodel file in a folder declares; nothing where there is no file."""
    import yaml

    file = model_path / "MLmodel"
    if not file.exists():
        return Declared()
    document = _mapping(yaml.safe_load(file.read_text(encoding="utf-8")))
    policy = _mapping(document.get("auth_policy"))
    system, user = _mapping(policy.get("system_auth_policy")), _mapping(policy.get("user_auth_policy"))
    found = [*_resources(document.get("resources")), *_resources(system.get("resources"))]
    return Declared(tuple(dict.fromkeys(found)), frozenset(map(str, user.get("api_scopes") or ())))


def _resources(document: Any) -> Iterator[tuple[str, str]]:
    for kind, entries in _mapping(_mapping(document).get("databricks")).items():
        for entry in entries or ():
            if entry.get("name") and not entry.get("on_behalf_of_user"):
                yield str(kind), str(entry["name"])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
