"""News of a wait on stderr, once it is longer than people like to look at nothing."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

#: A command that is done by then says nothing.
PATIENCE_SECONDS: Final = 2.0
#: And says again so often that it is still at work.
AGAIN_SECONDS: Final = 10.0


@contextmanager
def waiting(doing: str) -> Iterator[None]:
    """For ``with``, or as a decorator: says on stderr what takes so long, and for how many seconds by now.

    Args:
        doing: What is done meanwhile, such as ``reading the log``.
    """
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        pause = PATIENCE_SECONDS
        while not done.wait(pause):
            click.echo(f"… {doing} ({time.monotonic() - began:.0f} s)", err=True)
            pause = AGAIN_SECONDS

    teller = threading.Thread(target=tell, daemon=True, name="news of a wait")
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
