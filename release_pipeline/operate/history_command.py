"""The command ``history``: what served when, who or what did it, and on what evidence."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release_pipeline.operate.session import model_argument, operator_command
from release_pipeline.waits import wait_of_command

if TYPE_CHECKING:
    from release_pipeline.operate.history import History


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[datetime, bool] | None:
    from release_pipeline.operate.moment import parse_moment

    if value is None:
        return None
    try:
        return parse_moment(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@model_argument
@click.option("--at", "at", metavar="TIME", callback=_moment,
              help="What served at this time, ISO 8601; without a zone it is UTC.")  # fmt: skip
@operator_command
def history(model: str, at: tuple[datetime, bool] | None, file: Path | None, as_json: bool) -> None:
    r"""Say from the ledger what served of MODEL when, who or what did it, and on what evidence.

    \b
        release-pipeline history my_agent
        release-pipeline history my_agent --at 2026-11-21T03:00+01:00

    Exit codes: 0 it is told; 1 the workspace could not be read, or with --at the ledger begins later; 2 a mistake in
    what was asked.
    """
    from release_pipeline.clock import SystemClock
    from release_pipeline.operate import history_text
    from release_pipeline.operate.find_spec import find_spec
    from release_pipeline.operate.history import history as history_of
    from release_pipeline.rollout.ledger import Ledger
    from release_pipeline.workspace.client import connect

    clock = SystemClock()
    if at is not None and at[0] > clock.now():
        raise click.BadParameter(f"{at[0].isoformat()} is still to come; the ledger knows what was.", param_hint="--at")
    spec = find_spec(model, file)
    found = history_of(Ledger(connect().warehouse, spec.ledger_table, clock).read_all())
    wait_of_command().over()
    if at is None:
        _show(found, model, spec.ledger_table, as_json)
        return
    answer = found.at(at[0])
    if as_json:
        click.echo(json.dumps(history_text.answer_dict(answer, model), indent=2))
    else:
        click.echo("No zone was given: the time is taken as UTC.\n" * at[1] + history_text.answer_text(answer))
    if answer.served.since is None:
        sys.exit(1)


def _show(found: "History", model: str, table: str, as_json: bool) -> None:
    from rich.console import Console

    from release_pipeline.operate import history_text

    if as_json:
        click.echo(json.dumps(history_text.history_dict(found, model), indent=2))
    elif len(found.served) == 1 and not found.events and not found.changes:
        click.echo(f"No release of {model} yet: {table} has no rows.")
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(history_text.history_table(found, model))
