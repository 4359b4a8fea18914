"""The commands ``rollback``, ``promote``, ``approve`` and ``withdraw``: what people do to one release.

They write to the workspace themselves, by the same verified writes as Dagster's runs, and need no Dagster running.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from release_pipeline.errors import EndpointError, NotAllowed, Superseded, UpdateInProgress, WorkspaceError
from release_pipeline.operate.session import (
    Session,
    Told,
    model_argument,
    open_session,
    operator_command,
    progress,
    release_option,
    tell,
)

if TYPE_CHECKING:
    from release_pipeline.rollout.observer import Observed

#: A rollback that meets other writers looks again so often.
_ATTEMPTS: Final = 10


@click.command()
@model_argument
@release_option
@click.option("--reason", required=True, help="Why; it is tagged on the version and recorded in the ledger.")
@operator_command
def rollback(model: str, release: str | None, reason: str, file: Path | None, as_json: bool) -> None:
    r"""Roll a release of MODEL back: the champion gets all traffic again, and the version is rejected.

    It outranks everything else and waits out an update in progress. What could not be finished stays in the ledger as
    an open intent, which the gate sensor, or the same command again, finishes.

    \b
        release-pipeline rollback my_agent --reason "wrong prices, ticket 4711"

    Exit codes: 0 it is rolled back, also if it was already; 1 there is nothing to roll back, or the endpoint did not do
    it yet; 2 a mistake in what was asked.
    """
    tell(roll_back(open_session(model, file), release, reason), as_json=as_json)


def roll_back(session: Session, release: str | None, reason: str) -> Told:
    """What the command ``rollback`` does.

    Raises:
        NotAllowed: There is nothing to roll back.
        EndpointError: The endpoint did not do it yet; the intent stays open.
    """
    from release_pipeline.rollout.rollback_time import last_rollback, seconds_to_zero_traffic
    from release_pipeline.rollout.state import Stage

    parts, name = session.parts, session.spec.name
    before = session.release(release, parts.ledger.read(release))
    key = before.release
    if before.open_intent is None and before.stage is Stage.FAILED:
        sentence = f"Release {key} of {name} failed before it had any traffic: {before.reason}"
        return Told("rollback", name, False, sentence, before)
    for attempt in range(_ATTEMPTS):
        try:
            # No look at the evidence before it is written down: from then on it will be done, whoever dies.
            after = parts.rollout.roll_back(key, reason=reason)
            break
        except Superseded as error:
            if attempt == _ATTEMPTS - 1:
                raise
            progress(f"{error} Looking again.")
        except EndpointError as error:
            raise EndpointError(
                f"{error} The rollback of release {key} is in the ledger and stays open: the gate sensor tries again, "
                "and so does the same command."
            ) from None
    if after.last_sequence == before.last_sequence:
        sentence = f"Release {key} of {name} was rolled back already: {before.reason}"
        return Told("rollback", name, False, sentence, before)
    entries = parts.ledger.read()
    state, seconds = session.release(key, entries), seconds_to_zero_traffic(entries, key)
    asked = last_rollback(entries, key)[0]
    if state.champion_version is None:
        what = f"it was the first release of {name}, so endpoint {session.spec.endpoint_name} is deleted"
    else:
        what = f"version {state.champion_version} has all traffic again"
    by = "" if asked.actor == session.actor else f" {asked.actor} had asked for it first: {asked.reason}"
    sentence = f"Release {key} of {name} is rolled back: {what}.{by}"
    if seconds is not None:
        sentence += f" From the request to zero traffic: {seconds:.1f} s."
    return Told("rollback", name, True, sentence, state, {"seconds_to_zero_traffic": seconds})


@click.command()
@model_argument
@release_option
@click.option(
    "--override",
    metavar="REASON",
    help="Promote against the gate, for this reason; it is recorded. It takes --release.",
)
@operator_command
def promote(model: str, release: str | None, override: str | None, file: Path | None, as_json: bool) -> None:
    r"""Promote a release of MODEL: all traffic, verified, then the alias.

    The gate is read again, with pause, windows and approval, and refuses with its sentence unless all allow it.
    --override goes past them, from any step of the ramp; it never goes over a rollback. It takes --release: another
    one may have begun since you looked.

    \b
        release-pipeline promote my_agent
        release-pipeline promote my_agent --release 20261121-140300 --override "law requires it, ticket 12"

    Exit codes: 0 it is promoted, also if it was already; 1 gate, pause, window or approval did not allow it, or the
    endpoint did not do it yet; 2 a mistake in what was asked.
    """
    if override is not None and not override.strip():
        raise click.BadParameter("say why the gate is overruled; it is recorded.", param_hint="--override")
    session = open_session(model, file)
    if override is not None:
        _need_named(session, release, "promote --override")
    tell(promote_release(session, release, override), as_json=as_json)


def promote_release(session: Session, release: str | None, override: str | None) -> Told:
    """What the command ``promote`` does.

    Raises:
        NotAllowed: The gate has not passed, or the release is not in its ramp.
    """
    from release_pipeline.assets.promoted_alias import promote as promote_by_gate
    from release_pipeline.rollout.state import Stage

    parts, name = session.parts, session.spec.name
    before = session.release(release, parts.ledger.read(release))
    key = before.release
    if before.stage is Stage.PROMOTED and before.open_intent is None:
        return Told("promote", name, False, f"Release {key} of {name} was promoted already: {before.reason}", before)
    if override is None:
        try:
            promote_by_gate(parts, key)
        except UpdateInProgress as error:
            raise UpdateInProgress(f"{error} The promotion stays open in the ledger: {_again()}") from None
    else:
        _promote_against_the_gate(session, key, override)
    state = session.release(key, parts.ledger.read())
    alias = session.spec.promotion.alias
    sentence = (
        f"Release {key} of {name} is promoted: version {state.challenger_version} has all traffic, and alias {alias} "
        f"names it. {state.reason}"
    )
    return Told("promote", name, True, sentence, state, {"override": override is not None})


def _promote_against_the_gate(session: Session, release: str, reason: str) -> None:
    parts = session.parts
    seen = _look(session, release)
    said = f"the gate said: {seen.verdict.sentence}" if seen else "the evidence could not be read"
    now = parts.endpoint.read()
    try:
        parts.rollout.promote(
            release,
            expected_config=now.config_version if now else 0,
            evidence_digest=seen.evidence_digest if seen else "",
            reason=f"By hand against the gate, {session.actor}: {reason} ({said})",
            approved_by=session.actor,
            by_hand=True,
        )
    except UpdateInProgress as error:
        raise UpdateInProgress(f"{error} The promotion stays open in the ledger: {_again()}") from None


def _need_named(session: Session, asked: str | None, command: str) -> None:
    """What a person says of what was looked at must not count for a release that came after it.

    Raises:
        NotAllowed: The person did not say which release.
    """
    if asked is None:
        newest = session.release(None, session.parts.ledger.read())
        raise NotAllowed(
            f"{command} takes --release, so that it counts for what you looked at; the newest of {session.spec.name} "
            f"is --release {newest.release}: version {newest.challenger_version}, {newest.stage.replace('_', ' ')} at "
            f"{newest.traffic_percent} %."
        )


def _again() -> str:
    return "the gate sensor finishes it, and so does the same command."


@click.command()
@model_argument
@click.option("--release", help="The release's key; without it the newest is named, and nothing done.")
@click.option("--reason", default="", help="Why; it is recorded in the ledger.")
@operator_command
def approve(model: str, release: str | None, reason: str, file: Path | None, as_json: bool) -> None:
    r"""Approve the promotion of a release of MODEL, in the ledger and by the version's tag.

    The guards stay on, and the promotion itself still waits for the gate, the windows and whoever promotes. It takes
    --release: another one may have begun since you looked.

    \b
        release-pipeline approve my_agent --release 20261121-140300 --reason "reviewed the answers"

    Exit codes: 0 it is approved, also if it was already; 1 it is not on its way to a promotion; 2 a mistake in what was
    asked.
    """
    session = open_session(model, file)
    _need_named(session, release, "approve")
    tell(approve_release(session, release, reason), as_json=as_json)


def approve_release(session: Session, release: str | None, reason: str) -> Told:
    """What the command ``approve`` does.

    Raises:
        NotAllowed: The release is not on its way to a promotion.
    """
    from release_pipeline.rollout.approval import approve as approve_promotion

    parts, name = session.parts, session.spec.name
    before = session.release(release, parts.ledger.read(release))
    found = approve_promotion(parts, session.spec, before.release, reason)
    changed = before.approved is None
    how = "is approved" if changed else "was approved already"
    sentence = (
        f"Release {before.release} of {name} {how} by {found.entry.actor}: version {found.version} may be promoted."
    )
    if session.spec.promotion.approval == "none":
        sentence += " Nobody waits for it: promotion.approval is none."
    if found.untagged:
        sentence += f" The tag is missing ({found.untagged}); the ledger's row counts without it."
    state = session.release(before.release, parts.ledger.read())
    more = {"approved_by": found.entry.actor, "tagged": not found.untagged}
    return Told("approve", name, changed, sentence, state, more)


@click.command()
@model_argument
@click.option("--release", required=True, help="The release that waits in the queue.")
@click.option("--reason", default="withdrawn by hand", show_default=True, help="Why; it is recorded in the ledger.")
@operator_command
def withdraw(model: str, release: str, reason: str, file: Path | None, as_json: bool) -> None:
    r"""Take a release of MODEL out of the queue, where it waits for the end of another.

    \b
        release-pipeline withdraw my_agent --release 20261121-140300

    Exit codes: 0 it waits no longer, also if it did not already; 1 it has begun, or never waited; 2 a mistake in what
    was asked.
    """
    tell(withdraw_release(open_session(model, file), release, reason), as_json=as_json)


def withdraw_release(session: Session, release: str, reason: str) -> Told:
    """What the command ``withdraw`` does.

    Raises:
        NotAllowed: The release has begun, or never waited.
    """
    from release_pipeline.rollout.ledger import Action, Phase
    from release_pipeline.rollout.state import current_release

    parts, name = session.parts, session.spec.name
    gone = parts.events.withdraw(release, reason)
    entries = parts.ledger.read()
    begun = current_release(entries, release)
    more = {"release": release}
    if begun is not None:
        raise NotAllowed(f"release {release} of {name} has begun and is {begun.stage}; roll it back instead.")
    if gone is not None:
        return Told("withdraw", name, True, f"Release {release} of {name} waits no longer.", None, more)
    said = [row for row in entries if row.release == release and row.action is Action.QUEUE]
    if not said or said[-1].phase is not Phase.FAILED:
        raise NotAllowed(
            f"release {release} of {name} does not wait in the queue; see release-pipeline history {name}."
        )
    was = f"Release {release} of {name} was withdrawn already, by {said[-1].actor}: {said[-1].reason}"
    return Told("withdraw", name, False, was, None, more)


def _look(session: Session, release: str) -> "Observed | None":
    """The evidence as stored; what cannot be read is never in the way of a person."""
    try:
        return session.parts.observer.look(release, ingest=False)
    except WorkspaceError as error:
        progress(f"going on without a look at the evidence: {error}")
        return None
