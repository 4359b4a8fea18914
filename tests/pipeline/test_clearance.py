"""What holds a move that the evidence allows: a pause, a window, a missing approval, a freeze; and never a rollback."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.gate.verdict import GoReason, HoldReason, Verdict
from release_pipeline.rollout.clearance import Clearance, approval_of, cleared, first_step
from release_pipeline.rollout.ledger import Action, Entry, Phase
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec import ReleaseSpec

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
HARM = Verdict(GateAction.ROLL_BACK, GoReason.GUARD, "Roll back at step 1 of 2: errors is 9 %.", ())
ADVANCE = Verdict(GateAction.ADVANCE, GoReason.SHOWN, "Advance from step 1.", ())
PROMOTE = Verdict(GateAction.PROMOTE, GoReason.SHOWN, "Promote from step 2.", ())
WAIT = Verdict(GateAction.HOLD, HoldReason.NOT_ENOUGH, "Hold: 20 more requests.", ())


def said(action: Action, reason: str = "because") -> Entry:
    return Entry("20260101-000000", 9, NOW, "user:ada", action, Phase.DONE, reason=reason)


@pytest.fixture
def state() -> ReleaseState:
    return ReleaseState("20260101-000000", Stage.RAMPING, "2", "1", {}, None, (), NOW, None, 3)


@pytest.mark.parametrize("verdict", [HARM, ADVANCE, PROMOTE, WAIT])
def test_with_nothing_in_the_way_the_verdict_stays(
    verdict: Verdict, state: ReleaseState, make_spec: Callable[..., ReleaseSpec]
) -> None:
    assert cleared(verdict, state, make_spec(), Clearance(NOW)) is verdict


def test_a_pause_holds_every_move_and_no_rollback(state: ReleaseState, make_spec: Callable[..., ReleaseSpec]) -> None:
    state, spec = replace(state, paused=said(Action.PAUSE, "incident 12")), make_spec()
    for verdict in (ADVANCE, PROMOTE, first_step(state, spec)):
        held = cleared(verdict, state, spec, Clearance(NOW))
        assert (held.action, held.reason) == (GateAction.HOLD, HoldReason.PAUSED)
        assert "user:ada" in held.sentence
        assert "incident 12" in held.sentence
        assert verdict.sentence in held.sentence
    assert cleared(HARM, state, spec, Clearance(NOW)) is HARM
    assert cleared(WAIT, state, spec, Clearance(NOW)) is WAIT, "what is missing first is told first"


def test_outside_its_windows_a_release_waits_for_the_next_one(
    state: ReleaseState, make_spec: Callable[..., ReleaseSpec]
) -> None:
    spec = make_spec(promotion={"windows": ["mon-thu 09:00-16:00"], "timezone": "America/New_York"})
    held = cleared(ADVANCE, state, spec, Clearance(NOW))
    assert held.reason == HoldReason.OUTSIDE_WINDOW
    assert "2026-11-23 09:00 America/New_York" in held.sentence
    assert cleared(ADVANCE, state, spec, Clearance(NOW.replace(hour=14))) is ADVANCE
    assert cleared(HARM, state, spec, Clearance(NOW)) is HARM


def test_a_promotion_waits_for_its_approval_and_a_step_does_not(
    state: ReleaseState, make_spec: Callable[..., ReleaseSpec]
) -> None:
    spec = make_spec(promotion={"approval": "required", "approval_tag": "go-live"})
    held = cleared(PROMOTE, state, spec, Clearance(NOW))
    assert held.reason == HoldReason.AWAITING_APPROVAL
    assert "go-live: approved" in held.sentence
    assert cleared(PROMOTE, state, spec, Clearance(NOW, "approval=rejected")).reason == HoldReason.AWAITING_APPROVAL
    assert cleared(ADVANCE, state, spec, Clearance(NOW)) is ADVANCE
    assert cleared(PROMOTE, state, spec, Clearance(NOW, "approval=Approved")) is PROMOTE, (
        "as MLflow deployment jobs write it"
    )
    by_hand = replace(state, approved=said(Action.APPROVE))
    assert cleared(PROMOTE, by_hand, spec, Clearance(NOW)) is PROMOTE
    assert approval_of(by_hand, Clearance(NOW)) == "user:ada"
    tagged = approval_of(state, Clearance(NOW, "approval=Approved"))
    assert tagged == "tag approval=Approved, setter not told by the API"
    assert approval_of(state, Clearance(NOW, "approval=no")) == ""


def test_an_approval_is_asked_for_before_the_window_opens(
    state: ReleaseState, make_spec: Callable[..., ReleaseSpec]
) -> None:
    windows = {"windows": ["mon-thu 09:00-16:00"], "timezone": "America/New_York"}
    spec = make_spec(promotion={"approval": "required", **windows})
    assert cleared(PROMOTE, state, spec, Clearance(NOW)).reason == HoldReason.AWAITING_APPROVAL
    assert cleared(PROMOTE, state, spec, Clearance(NOW, "approval=Approved")).reason == HoldReason.OUTSIDE_WINDOW


def test_with_the_policy_to_freeze_harm_holds_and_what_was_frozen_stays_so(
    state: ReleaseState, make_spec: Callable[..., ReleaseSpec]
) -> None:
    spec = make_spec(ramp={"on_harm": "freeze"})
    held = cleared(HARM, state, spec, Clearance(NOW))
    assert (held.action, held.reason) == (GateAction.HOLD, HoldReason.FROZEN)
    assert HARM.sentence in held.sentence
    frozen = replace(state, frozen=said(Action.FREEZE, held.sentence))
    for verdict in (ADVANCE, PROMOTE, WAIT):
        later = cleared(verdict, frozen, spec, Clearance(NOW))
        assert later.reason == HoldReason.FROZEN
        assert "2026-11-23 08:00" in later.sentence
