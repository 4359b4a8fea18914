"""The beginning of a rollback, which outranks everything and is never lost, and its repetition after a late write."""

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from release_pipeline.errors import NotAllowed, Superseded, UpdateFailed, WroteLate
from release_pipeline.rollout.deployment import planned_rollback
from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Phase
from release_pipeline.rollout.state import ReleaseState, Stage, current_release
from release_pipeline.workspace.registry import CHALLENGER_ALIAS, REJECTED, TAG_STATUS

if TYPE_CHECKING:
    from release_pipeline.rollout.transition import Rollout

#: A rollback that meets other writers looks again so often.
_ATTEMPTS: Final = 10
#: A run that wrote late leaves an open rollback to whoever carries it out, and looks so often whether it is done.
_LOOKS: Final = 30
#: How long after a rollback a write of a run that was killed may still arrive: clients try again for minutes.
_LATE: Final = timedelta(minutes=15)


def begin_roll_back(
    rollout: "Rollout", release: str, *, reason: str, evidence_digest: str, status: str
) -> ReleaseState:
    """Write down that a release is to be rolled back; whoever writes at the same time, it comes behind that.

    Raises:
        NotAllowed: The release has ended its bake, or is not in the ledger.
        Superseded: Somebody else wrote every time.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _begin(rollout, release, reason, evidence_digest, status)
        except Superseded:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _begin(rollout: "Rollout", release: str, reason: str, evidence_digest: str, status: str) -> ReleaseState:
    entries, state = rollout.known(release)
    opened = state.open_intent
    if opened is None and state.stage is Stage.FAILED:
        return state
    if opened is None and state.stage is Stage.ROLLED_BACK:
        if not _is_back(rollout, entries, state):
            return state
        status = _last_rollback(entries, release).after.get("status", REJECTED)
    if state.stage is Stage.FINISHED:
        raise NotAllowed(f"release {release} has ended its bake; start a release of the older version instead.")
    before = {"traffic_percent": state.traffic_percent, "gave_up": opened.action.value if opened else ""}
    if opened is not None and opened.action is Action.ROLL_BACK:
        # A version that was only to make way, and is then found to be bad, is rejected. The same reason is no new
        # finding, but the run that finishes what is open.
        milder = opened.after.get("status", REJECTED) != REJECTED
        if not (milder and status == REJECTED and reason != opened.reason):
            return state
        before = dict(opened.before)
    # One row takes the place of an open intent: between two rows a kill would leave neither. The endpoint is not read:
    # one that does not answer must not keep the intent out of the ledger, and it holds whatever serves now.
    entries.append(
        rollout.ledger.append(
            entries,
            release=release,
            actor=rollout.actor,
            action=Action.ROLL_BACK,
            phase=Phase.INTENT,
            before=before,
            after=planned_rollback(rollout.spec, state, status),
            evidence_digest=evidence_digest,
            reason=reason,
        )
    )
    begun = current_release(entries, release)
    assert begun is not None
    return begun


def came_back(rollout: "Rollout", last: ReleaseState) -> str:
    """What is wrong where the version of a release that was rolled back has traffic again, else nothing.

    Or where the alias names it a short while after: a run that was killed may have sent that off. Later it is a change
    by hand, which drift tells and a person mends.
    """
    if last.stage is not Stage.ROLLED_BACK:
        return ""
    now, version = rollout.endpoint.read(), last.challenger_version
    if now is not None and now.routes.get(last.entities.get("challenger", ""), 0) > 0:
        return f"version {version} has traffic again after its rollback"
    late = last.last_at is not None and rollout.clock.now() - last.last_at < _LATE
    alias = rollout.spec.promotion.alias
    if late and rollout.registry.version_of_alias(alias) == version:
        return f"alias {alias} names version {version} again after its rollback"
    return ""


def behind_another(rollout: "Rollout", intent: Entry, error: Superseded) -> ReleaseState:
    """What becomes of a run that finds another act behind its intent: nothing is lost where that did the same.

    Raises:
        Superseded: ``error``, with what became of what this run had written late.
        WorkspaceError: What it had written could not be taken back; that is open in the ledger, and will be.
    """
    done = _done_by_another(rollout, intent)
    if done is not None:
        return done
    if isinstance(error, WroteLate):
        raise Superseded(f"{error} {_take_back(rollout, intent)}") from error
    raise error


def _done_by_another(rollout: "Rollout", intent: Entry) -> ReleaseState | None:
    """The release, where ``intent`` is a rollback that another run has carried out meanwhile, and that holds.

    What this run has written of it is the same, so it is no late write that would have to be taken back.
    """
    entries, state = rollout.known(intent.release)
    since = [(row.action, row.phase) for row in entries if row.sequence > intent.sequence and row.action not in EVENTS]
    if intent.action is not Action.ROLL_BACK or since != [(Action.ROLL_BACK, Phase.DONE)]:
        return None
    with suppress(UpdateFailed):  # this run's own, which asked for what is there
        rollout.endpoint.wait(
            timeout_seconds=rollout.spec.endpoint.ready_timeout_seconds, progress=rollout.progress, leaving=frozenset()
        )
    return None if _is_back(rollout, entries, state) else state


def _take_back(rollout: "Rollout", intent: Entry) -> str:
    """After a write of ``intent`` that came behind a rollback: see that the rollback holds; a sentence about it.

    Raises:
        WorkspaceError: It could not be done; it is open in the ledger, and will be.
    """
    release = intent.release
    rollout.progress(f"release {release}: this run wrote late; looking whether the rollback holds")
    for _ in range(_LOOKS):
        entries, state = rollout.known(release)
        if state.open_intent is None or state.open_intent.action is not Action.ROLL_BACK:
            break
        time.sleep(1)
    else:
        return "What this run had written late is taken back by the rollback, which is still open."
    if state.stage is not Stage.ROLLED_BACK:
        return "This run had written by then: see `release-pipeline history`, and look for drift."
    if not _is_back(rollout, entries, state):
        return "What this run had written late was taken back by the rollback."
    last = _last_rollback(entries, release)
    rollout.roll_back(release, reason=last.reason, evidence_digest=last.evidence_digest)
    return "What this run had written late is taken back: the release was rolled back once more, and verified."


def _is_back(rollout: "Rollout", entries: Sequence[Entry], state: ReleaseState) -> bool:
    """Whether the challenger of a rolled-back release is on the endpoint again, behind an alias, or tagged anew.

    An update in progress may bring it there, and is waited out by one more rollback. Not where another release came
    after it, whose own the endpoint is now.
    """
    newest = current_release(entries)
    if newest is None or newest.release != state.release:
        return False
    now, name = rollout.endpoint.read(), state.entities.get("challenger")
    served = [(each.name, each.version) for each in now.entities] if now else []
    if now is not None and (now.updating or (name, state.challenger_version) in served):
        return True
    registry, version = rollout.registry, state.challenger_version
    if version in (
        registry.version_of_alias(rollout.spec.promotion.alias),
        registry.version_of_alias(CHALLENGER_ALIAS),
    ):
        return True
    tagged, status = registry.get(version), _last_rollback(entries, state.release).after.get("status", REJECTED)
    return tagged is not None and tagged.tags.get(TAG_STATUS) != status


def _last_rollback(entries: Sequence[Entry], release: str) -> Entry:
    return next(row for row in reversed(entries) if row.release == release and row.action is Action.ROLL_BACK)
