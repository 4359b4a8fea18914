"""Which routes a restricted token opens: an API scope each on behalf of a user, a fixed list for a model version.

Everything else is refused before its handler is asked, so a new route is closed to such tokens until it is named here.
What the handlers refuse beyond that, by object, is in :mod:`access`.
"""

import re
from typing import Final

from release_pipeline.local_workspace.caller import Caller

_READ = frozenset({"GET", "HEAD"})
_ALL = frozenset({"GET", "HEAD", "POST"})
#: Who one is may always be asked, as on the service, which gives every token ``iam.current-user:read``.
_ALWAYS = "/api/2.0/preview/scim/v2/Me"

# (methods, beginning of the path, API scope)
_SCOPED = (
    (_ALL, "/api/2.0/sql/statements", "sql.statement-execution"),
    (_READ, "/api/2.0/sql/warehouses", "sql.warehouses"),
    (_ALL, "/serving-endpoints/", "serving.serving-endpoints"),
    (_READ, "/api/2.0/serving-endpoints", "serving.serving-endpoints"),
)

# What a model version's own token opens: its resources, and writing the traces of its requests. Nothing of a trace that
# is there: people's assessments are what a gate reads.
_OWN = (
    (_ALL, "/api/2.0/sql/statements"),
    (_ALL, "/serving-endpoints/"),
    (_READ, "/api/2.0/serving-endpoints/"),
    (_READ, "/api/2.0/mlflow/experiments/get"),
    (_READ, "/api/2.0/mlflow/logged-models/"),
)
_TRACES: Final = "/api/3.0/mlflow/traces"
_TRACE_FILE = re.compile(
    r"/api/2\.0/fs/files/WorkspaceInternal/Mlflow/Artifacts/([0-9]+)/Runs/traces/tr-[0-9a-f]+/artifacts/[\w.-]+"
)


def refusal(who: Caller, method: str, path: str) -> str | None:
    """Why a token does not open a route, in one sentence; None where it does."""
    if not who.restricted or (path == _ALWAYS and method in _READ):
        return None
    if who.scopes is None:
        if any(method in methods and path.startswith(beginning) for methods, beginning in _OWN):
            return None
        if (method, path) == ("POST", _TRACES) or (method in ("PUT", "POST") and _is_trace_file(who, path)):
            return None
        return f"The credentials of a served model do not open {method} {path.partition('?')[0]}."
    needed = next((scope for methods, start, scope in _SCOPED if method in methods and path.startswith(start)), None)
    if needed is None:
        return f"No API scope of a token on behalf of a user opens {method} {path.partition('?')[0]}."
    if not any(needed == scope or needed.startswith(f"{scope}.") for scope in who.scopes):
        return f"Provided OAuth token does not have required scopes: {needed}"
    return None


def _is_trace_file(who: Caller, path: str) -> bool:
    """Whether a path of the API is that of a trace's file in a model version's own experiment."""
    match = _TRACE_FILE.fullmatch(path)
    return match is not None and match[1] == who.experiment
