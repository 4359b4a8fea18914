"""Where ``ModelServingUserCredentials`` of databricks-sdk looks for the token of whoever asked the model.

The SDK reads ``invokers_token`` from the attributes of the main thread. There is one main thread and there are many
requests at a time, so what it finds there depends on who looks: each request sees its own user's token, and code
that runs outside of any request's context sees none.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

KEY: Final = "invokers_token"
_token: ContextVar[str] = ContextVar("invokers_token", default="")


class _PerRequest(dict[str, Any]):
    """The attributes of a thread, and the token of the request that is being answered where they are read."""

    def __contains__(self, key: object) -> bool:
        return bool(_token.get()) if key == KEY else super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        if key != KEY:
            return super().__getitem__(key)
        if not _token.get():
            raise KeyError(KEY)
        return _token.get()


def install() -> None:
    """Make the main thread's attributes tell each request its own user's token."""
    main = threading.main_thread()
    main.__dict__ = _PerRequest(main.__dict__)


@contextmanager
def acting_for(token: str) -> Iterator[None]:
    """Inside, in this thread and in contexts copied from it, the token is the invoker's; empty: there is none."""
    before = _token.set(token)
    try:
        yield
    finally:
        _token.reset(before)
