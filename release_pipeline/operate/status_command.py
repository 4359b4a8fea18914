"""The command ``status``: which versions are deployed where, with what traffic, and what their last release does."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release_pipeline.errors import NotConfigured, ReleasePipelineError, WorkspaceUnreachable
from release_pipeline.operate.session import models_argument, operator_command
from release_pipeline.waits import wait_of_command

if TYPE_CHECKING:
    from release_pipeline.operate.status import ModelStatus


@click.command()
@models_argument
@operator_command
def status(models: tuple[str, ...], file: Path | None, as_json: bool) -> None:
    r"""Show which versions of MODELs are deployed where: traffic, state, alias, creator, last release, links.

    Without MODEL all models of the project are shown.

    \b
        release-pipeline status
        release-pipeline status my_agent --json

    Exit codes: 0 everything is shown, whatever state it is in; 1 the workspace, or a part of one model, could not be
    read; 2 a mistake in what was asked.
    """
    from release_pipeline.operate.find_spec import chosen_specs
    from release_pipeline.operate.status import served_models
    from release_pipeline.operate.status import status as status_of
    from release_pipeline.workspace.client import connect

    specs, wrong = chosen_specs(models, file)
    wait, workspace = wait_of_command(), connect()
    everywhere = served_models(workspace)
    found: list[ModelStatus] = []
    for spec in wait.each(specs, "looking at the endpoints"):
        try:
            found.append(status_of(workspace, spec, everywhere.get(spec.model.registered_name, ())))
        except (NotConfigured, WorkspaceUnreachable):
            raise  # it would be the same for every model
        except ReleasePipelineError as error:
            wrong.append(f"{spec.name}: {error}")
    wait.over()
    _show(found, as_json)
    for line in wrong:
        click.echo(f"release-pipeline: {line}", err=True)
    if wrong:
        sys.exit(1)


def _show(found: "list[ModelStatus]", as_json: bool) -> None:
    from rich.console import Console

    from release_pipeline.operate import status_text

    if as_json:
        click.echo(json.dumps([status_text.status_dict(each) for each in found], indent=2))
        return
    if not found:
        return
    Console(width=None if sys.stdout.isatty() else 200).print(status_text.status_table(found))
    for each in found:
        click.echo("\n".join(status_text.status_lines(each)))
