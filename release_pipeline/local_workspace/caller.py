"""Who sent the request that is being answered, and what of the sender's rights the token carries."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True)
class Caller:
    """Whoever a token stands for.

    Attributes:
        name: What the workspace keeps as a creator: a user's name, or a service principal's application id.
        scopes: API scopes that a token on behalf of the user is limited to; None for a token without limits.
        resources: Type and name of what a model version's own token may use, and nothing else; None for the token of
            a user or service principal.
        experiment: The id of the experiment that a model version writes its traces into.
        hide: Takes a model version's secrets out of a value as JSON knows them.
    """

    name: str
    scopes: frozenset[str] | None = None
    resources: frozenset[tuple[str, str]] | None = None
    experiment: str = ""
    hide: Callable[[Any], Any] = field(default=lambda value: value, compare=False, repr=False)

    @property
    def restricted(self) -> bool:
        """Whether the token opens less than its owner may do."""
        return self.scopes is not None or self.resources is not None


#: Set per request by the check of its token; threads and tasks that a request starts see it, too. None: the
#: workspace's own user, and the workspace itself.
_CALLER: Final[ContextVar[Caller | None]] = ContextVar("caller", default=None)


def set_caller(who: Caller) -> None:
    """Note who sent the request of this task."""
    _CALLER.set(who)


def current_caller() -> Caller | None:
    """Who sent the request of this task; None for the workspace's own user, and outside any request."""
    return _CALLER.get()


def caller(default: str) -> str:
    """The name of who sent the request of this task; ``default``, the workspace's own user, outside any request."""
    who = _CALLER.get()
    return who.name if who is not None else default
