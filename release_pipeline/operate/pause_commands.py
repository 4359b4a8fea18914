"""The commands ``pause`` and ``unpause``: one model, or all of the project, stops moving by itself."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release_pipeline.errors import NotConfigured, ReleasePipelineError, WorkspaceUnreachable
from release_pipeline.operate.completion import complete_model
from release_pipeline.operate.session import Session, Told, open_session, operator_command, session_of, tell
from release_pipeline.waits import wait_of_command

if TYPE_CHECKING:
    from collections.abc import Callable

_all_option = click.option("--all", "everything", is_flag=True, help="All models of the project.")


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@_all_option
@click.option("--reason", required=True, help="Why; it is recorded in the ledger and told wherever a release waits.")
@operator_command
def pause(model: str | None, everything: bool, reason: str, file: Path | None, as_json: bool) -> None:
    r"""Stop everything of MODEL that moves by itself, except rollbacks: steps, promotions, the queue.

    A release that is paused keeps its traffic, and its guards stay on.

    \b
        release-pipeline pause my_agent --reason "incident 12"
        release-pipeline pause --all --reason "incident 12"

    Exit codes: 0 it is paused, also if it was already; 1 the workspace did not do it, with --all for one
    model or more; 2 a mistake in what was asked.
    """
    _each(model, everything, file, as_json, lambda session: pause_model(session, reason))


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@_all_option
@click.option("--reason", default="", help="Why; it is recorded in the ledger.")
@operator_command
def unpause(model: str | None, everything: bool, reason: str, file: Path | None, as_json: bool) -> None:
    r"""Let the releases of MODEL move by themselves again.

    \b
        release-pipeline unpause my_agent
        release-pipeline unpause --all

    Exit codes: 0 it is not paused, also if it was not already; 1 the workspace did not do it, with --all for one
    model or more; 2 a mistake in what was asked.
    """
    _each(model, everything, file, as_json, lambda session: unpause_model(session, reason))


def pause_model(session: Session, reason: str) -> Told:
    """What the command ``pause`` does to one model."""
    from release_pipeline.rollout.state import current_release

    parts, name = session.parts, session.spec.name
    known = {entry.entry_id for entry in parts.ledger.read()}
    entry = parts.events.pause(reason)
    changed = entry.entry_id not in known
    if changed:
        sentence = (
            f"{name} is paused: nothing moves by itself, except rollbacks, until release-pipeline unpause {name}."
        )
    else:
        sentence = f"{name} was paused already, by {entry.actor} at {entry.at:%Y-%m-%d %H:%M} UTC: {entry.reason}"
    return Told("pause", name, changed, sentence, current_release(parts.ledger.read()))


def unpause_model(session: Session, reason: str) -> Told:
    """What the command ``unpause`` does to one model."""
    from release_pipeline.rollout.state import current_release

    parts, name = session.parts, session.spec.name
    changed = parts.events.unpause(reason) is not None
    sentence = f"{name} moves by itself again." if changed else f"{name} was not paused."
    return Told("unpause", name, changed, sentence, current_release(parts.ledger.read()))


def _each(
    model: str | None, everything: bool, file: Path | None, as_json: bool, act: "Callable[[Session], Told]"
) -> None:
    """Do it to one model or to all; what fails for one of them keeps it from none of the others."""
    if (model is None) != everything:
        raise click.UsageError("name either one MODEL or --all.")
    if model is not None:
        tell(act(open_session(model, file)), as_json=as_json)
        return
    if file is not None:
        raise click.UsageError("--spec names one model; --all means those of the project.")
    from release_pipeline.operate.find_spec import find_specs, need_one

    found = find_specs()
    need_one(found)
    wrong, told = list(found.broken), list[Told]()
    for spec in wait_of_command().each(tuple(found.specs.values())):
        try:
            told.append(act(session_of(spec)))
        except (NotConfigured, WorkspaceUnreachable):
            raise  # it would be the same for every model
        except ReleasePipelineError as error:
            wrong.append(f"{spec.name}: {error}")
    tell(told, as_json=as_json)
    for line in wrong:
        click.echo(f"release-pipeline: {line}", err=True)
    if wrong:
        sys.exit(1)
