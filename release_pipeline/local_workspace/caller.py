"""Who sent the request that is being answered: the name that the workspace keeps as its creator."""

from contextvars import ContextVar
from typing import Final

#: Set per request by the check of its token; threads and tasks that a request starts see it, too.
_CALLER: Final[ContextVar[str]] = ContextVar("caller", default="")


def set_caller(name: str) -> None:
    """Note who sent the request of this task: a user's name, or a service principal's application id."""
    _CALLER.set(name)


def caller(default: str) -> str:
    """Who sent the request of this task; ``default``, the workspace's own user, outside any request."""
    return _CALLER.get() or default
