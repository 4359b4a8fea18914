"""News of a wait on stderr, once it is longer than people like to look at nothing: a bar on a terminal, else lines."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: A command that is done by then says nothing.
PATIENCE_SECONDS: Final = 2.0
#: And says again so often that it is still at work, where there is no terminal.
AGAIN_SECONDS: Final = 10.0
_META: Final = __name__

T = TypeVar("T")


class Wait:
    """A wait that goes on.

    Args:
        doing: What is done meanwhile, such as ``reading the log``.
        bar: On a terminal, a bar; where something else writes to the terminal meanwhile, lines are the better news.
    """

    def __init__(self, doing: str, *, bar: bool = True) -> None:
        self._doing = doing
        self._bar = bar
        self._began = time.monotonic()
        self._part = self._parts = 0
        self._over = threading.Event()
        self._shown: tuple[Progress, TaskID] | None = None
        self._lock = threading.Lock()
        self._teller = threading.Thread(target=self._tell, daemon=True, name="news of a wait")
        self._teller.start()

    def each(self, items: Sequence[T], doing: str = "") -> Iterator[T]:
        """The items, one by one; the news say at which of them the work is, and what is done with them."""
        self._doing = doing or self._doing
        self._parts = len(items) if len(items) > 1 else 0  # nobody knows how far one of them is
        for self._part, item in enumerate(items):
            self._update()
            yield item
        self._part += 1
        self._update()

    def over(self) -> None:
        """No more news: what is written from here on is the answer."""
        self._over.set()
        self._teller.join()
        with self._lock:
            if self._shown is not None:
                self._shown[0].stop()
                self._shown = None

    def _tell(self) -> None:
        pause = PATIENCE_SECONDS
        while not self._over.wait(pause):
            if self._bar and sys.stderr.isatty() and self._shows():
                return
            click.echo(f"… {self._now()} ({time.monotonic() - self._began:.0f} s)", err=True)
            pause = AGAIN_SECONDS

    def _now(self) -> str:
        return self._doing + (f", {self._part + 1} of {self._parts}" if self._part < self._parts else "")

    def _shows(self) -> bool:
        """Begin to show a bar; not on a terminal that cannot."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        if not console.is_interactive:
            return False
        # What else comes on stderr stands above the bar; nothing comes on stdout before the bar is gone.
        progress = Progress(
            *(TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()),
            console=console,
            transient=True,
            redirect_stdout=False,
        )
        task = progress.add_task(self._doing, total=None)
        progress.tasks[0].start_time = self._began
        with self._lock:
            self._shown = (progress, task)
        self._update()
        progress.start()
        return True

    def _update(self) -> None:
        with self._lock:
            if self._shown is not None:
                progress, task = self._shown
                progress.update(task, description=self._now(), completed=self._part, total=self._parts or None)


@contextmanager
def waiting(doing: str, *, bar: bool = True) -> Iterator[Wait]:
    """For ``with``, or as a decorator of a command: says on stderr what takes so long, and for how long by now.

    Args:
        doing: What is done meanwhile, such as ``reading the log``.
        bar: Whether nothing else writes to the terminal meanwhile.
    """
    context, wait = click.get_current_context(silent=True), Wait(doing, bar=bar)
    if context is not None:
        context.meta[_META] = wait
    try:
        yield wait
    finally:
        wait.over()


def wait_of_command() -> Wait:
    """The wait around the command that runs."""
    wait = click.get_current_context().meta[_META]
    assert isinstance(wait, Wait)
    return wait
