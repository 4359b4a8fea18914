"""How a command ends that could not do what was asked: with a sentence, never with a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from release_pipeline.errors import NotConfigured, ReleasePipelineError, SpecError

#: A path that was named cannot be used; other errors of the system are not the user's.
_PATHS: Final = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


@contextmanager
def mistakes_are_sentences() -> Iterator[None]:
    """For ``with``, or as a decorator: exit code 2 after a mistake in what was asked, else 1."""
    try:
        yield
    except ReleasePipelineError as error:
        click.echo(f"release-pipeline: {error}", err=True)
        sys.exit(2 if isinstance(error, (SpecError, NotConfigured)) or _refused_credentials(error) else 1)
    except _PATHS as error:
        if error.filename is None:
            raise
        click.echo(
            f"release-pipeline: {error.filename} cannot be used ({error.strerror}); name another path, or mend it.",
            err=True,
        )
        sys.exit(2)


def _refused_credentials(error: BaseException) -> bool:
    """Whether the workspace does not know the token; by the name of the Databricks SDK's error, not imported here."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ == "Unauthenticated":
            return True
        cause = cause.__cause__ or cause.__context__
    return False
