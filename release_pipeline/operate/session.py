"""What all commands of operators share: their options, who types them, and how they end."""

import getpass
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from release_pipeline.errors import NotAllowed
from release_pipeline.exit_codes import mistakes_are_sentences
from release_pipeline.operate.completion import complete_model
from release_pipeline.waits import wait_of_command, waiting

if TYPE_CHECKING:
    from release_pipeline.rollout.ledger import Entry
    from release_pipeline.rollout.parts import Parts
    from release_pipeline.rollout.state import ReleaseState
    from release_pipeline.spec import ReleaseSpec
    from release_pipeline.workspace.client import Workspace


@dataclass(frozen=True)
class Session:
    """One model's releases, as one person speaks to them."""

    spec: "ReleaseSpec"
    parts: "Parts"
    actor: str

    def release(self, asked: str | None, entries: "Sequence[Entry]") -> "ReleaseState":
        """The release that was asked for, or the newest one that has begun.

        Raises:
            NotAllowed: It is not in the ledger, or it only waits in the queue.
        """
        from release_pipeline.rollout.state import current_release, queued

        state, name = current_release(entries, asked), self.spec.name
        if state is not None:
            return state
        if asked is None:
            raise NotAllowed(f"no release of {name} has begun; {self.parts.ledger.table} has none.")
        if asked in queued(entries):
            raise NotAllowed(
                f"release {asked} of {name} waits in the queue and has not begun; take it out with: release-pipeline "
                f"withdraw {name} --release {asked}"
            )
        raise NotAllowed(
            f"release {asked} of {name} is not in {self.parts.ledger.table}; see release-pipeline history."
        )


@dataclass(frozen=True)
class Told:
    """What a command has done.

    Attributes:
        action: Name of the command.
        model: ``name`` of the YAML.
        changed: Whether anything is different now.
        sentence: What was done, for people.
        state: Where the release stands now, None where the model has none yet.
        more: Figures of the command's own, for machines.
    """

    action: str
    model: str
    changed: bool
    sentence: str
    state: "ReleaseState | None" = None
    more: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same for machines; times in ISO 8601, UTC."""
        return {
            "action": self.action,
            "model": self.model,
            "changed": self.changed,
            "sentence": self.sentence,
            **self.more,
            "state": state_dict(self.state) if self.state else None,
        }


def state_dict(state: "ReleaseState") -> dict[str, Any]:
    """Where a release stands, for machines."""
    return {
        "release": state.release,
        "stage": state.stage.value,
        "traffic_percent": state.traffic_percent,
        "challenger_version": state.challenger_version,
        "champion_version": state.champion_version,
        "open_intent": state.open_intent.action.value if state.open_intent else None,
        "approved_by": state.approved.actor if state.approved else None,
        "frozen_since": state.frozen.at.isoformat() if state.frozen else None,
        "paused_by": state.paused.actor if state.paused else None,
    }


def state_line(state: "ReleaseState") -> str:
    """Where a release stands, for people."""
    said = [f"release {state.release} is {state.stage.replace('_', ' ')}: version {state.challenger_version} has "
            f"{state.traffic_percent} % of the traffic"]  # fmt: skip
    said += [f"{state.open_intent.action} is not finished"] if state.open_intent else []
    said += [f"approved by {state.approved.actor}"] if state.approved else []
    said += [f"frozen since {state.frozen.at:%Y-%m-%d %H:%M} UTC"] if state.frozen else []
    said += [f"paused by {state.paused.actor}"] if state.paused else []
    return "; ".join(said)


def tell(told: Told | list[Told], *, as_json: bool) -> None:
    """Print what was done; a list where a command was asked of all models."""
    wait_of_command().over()
    if as_json:
        click.echo(
            json.dumps([each.to_dict() for each in told] if isinstance(told, list) else told.to_dict(), indent=2)
        )
        return
    for each in told if isinstance(told, list) else [told]:
        click.echo(each.sentence)
        if each.state is not None:
            click.echo(f"Now {state_line(each.state)}.")


def progress(line: str) -> None:
    """A line of news during a wait; on stderr, so that what is printed at the end can be read by machines."""
    click.echo(f"… {line}", err=True)


def open_session(model: str, file: Path | None) -> Session:
    """Find the model's YAML and connect to the workspace.

    Raises:
        SpecError: The model has no YAML, or a wrong one.
        WorkspaceError: There is no workspace to connect to.
    """
    from release_pipeline.operate.find_spec import find_spec

    return session_of(find_spec(model, file))


def session_of(spec: "ReleaseSpec") -> Session:
    """Connect to the workspace for one release's YAML."""
    from release_pipeline.rollout.parts import connect_parts
    from release_pipeline.workspace.client import connect

    actor = actor_of(connect())
    return Session(spec, connect_parts(spec, actor=actor, progress=progress), actor)


def actor_of(workspace: "Workspace") -> str:
    """``user:<name>``: who the workspace says it is, else who is signed in to this machine."""
    from databricks.sdk.errors.base import DatabricksError

    name: str | None = None
    # A token may lack the scope to say whose it is; that must not keep anybody from rolling back.
    with suppress(DatabricksError, OSError):
        name = workspace.client.current_user.me().user_name
    if not name:
        try:
            name = getpass.getuser()
        except (OSError, KeyError, ImportError):  # no such user in the container
            name = "unknown"
    return f"user:{name}"


def operator_command(command: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--spec`` and ``--json``; a mistake is a sentence and exit code 2, what is not to be is exit code 1.

    A wait is told on stderr.
    """
    with_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout; news of waits goes to stderr.")
    with_spec = click.option(
        "--spec",
        "file",
        type=click.Path(path_type=Path),
        help="The release's defs.yaml; else the one of the project with this name.",
    )
    return with_spec(with_json(mistakes_are_sentences()(waiting("at work with the workspace")(command))))


model_argument = click.argument("model", shell_complete=complete_model)
models_argument = click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=complete_model)
release_option = click.option("--release", help="The release's key; else the newest one that has begun.")
