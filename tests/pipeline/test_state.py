"""Where a release stands, for every history that the rollout can write."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from release_pipeline.automation.next_run import next_run, resume_run
from release_pipeline.rollout.clearance import first_step
from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Phase
from release_pipeline.rollout.state import ReleaseState, Stage, current_release, paused, queued
from release_pipeline.spec import ModelPart, ReleaseSpec

START = datetime(2026, 1, 1, tzinfo=UTC)
RELEASE = "20260101-000000"
STEPS = (5, 25, 50)
SPEC = ReleaseSpec(name="m", model=ModelPart(registered_name="main.default.m", source="agent.py"))

#: What may be asked for at each stage; FAILED deployments may be tried again.
ALLOWED = {
    None: (Action.DEPLOY,),
    Stage.DEPLOYED: (Action.SET_TRAFFIC, Action.ROLL_BACK),
    Stage.RAMPING: (Action.SET_TRAFFIC, Action.PROMOTE, Action.ROLL_BACK),
    Stage.PROMOTED: (Action.RETIRE, Action.ROLL_BACK),
    Stage.FAILED: (Action.DEPLOY,),
    Stage.FINISHED: (),
    Stage.ROLLED_BACK: (),
}
AFTER = {
    Action.DEPLOY: Stage.DEPLOYED,
    Action.SET_TRAFFIC: Stage.RAMPING,
    Action.PROMOTE: Stage.PROMOTED,
    Action.RETIRE: Stage.FINISHED,
    Action.ROLL_BACK: Stage.ROLLED_BACK,
}


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Entry, Stage | None, int]]:
    """Rows of one release among rows of others, each with the stage and the traffic that hold after it."""
    first = draw(st.booleans())
    rows: list[tuple[Entry, Stage | None, int]] = []
    stage: Stage | None = None
    step, traffic, sequence, champion = -1, 0, 0, None if first else "1"

    def row(action: Action, phase: Phase, after: dict[str, object], stage: Stage | None, traffic: int) -> None:
        nonlocal sequence
        sequence += 1
        at = START + timedelta(minutes=sequence)
        entry = Entry(RELEASE, sequence, at, "test", action, phase, after=after, reason=f"row {sequence}")
        rows.append((entry, stage, traffic))

    for _ in range(draw(st.integers(1, 8))):
        choices = [
            action
            for action in ALLOWED[stage]
            if action is not Action.SET_TRAFFIC or (not first and step + 1 < len(STEPS))
        ]
        if not choices:
            break
        action = draw(st.sampled_from(choices))
        if action is Action.DEPLOY and stage is Stage.FAILED and not first:
            champion = draw(st.sampled_from(["1", "7"]))
        after: dict[str, object] = {
            Action.DEPLOY: {
                "challenger_version": "2",
                "champion_version": champion,
                "entities": {"challenger": "e2"} if first else {"challenger": "e2", "champion": f"e{champion}"},
                "table_version": sequence,
            },
            Action.SET_TRAFFIC: {"step": step + 1, "traffic_percent": STEPS[min(step + 1, 2)]},
        }.get(action, {})  # type: ignore[assignment]
        row(action, Phase.INTENT, after, stage, traffic)
        if draw(st.booleans()) and action is not Action.ROLL_BACK and draw(st.booleans()):
            # A rollback takes the place of what is open.
            action, after = Action.ROLL_BACK, {}
            row(action, Phase.INTENT, after, stage, traffic)
        if action is Action.ROLL_BACK or draw(st.booleans()):
            stage = AFTER[action]
            if action is Action.SET_TRAFFIC:
                step += 1
                traffic = STEPS[step]
            elif action is Action.DEPLOY and first:
                stage, step, traffic = Stage.RAMPING, 0, 100
            elif action in (Action.PROMOTE, Action.RETIRE):
                traffic = 100
            elif action is Action.ROLL_BACK:
                traffic = 0
            row(action, Phase.DONE, after, stage, traffic)
        else:
            stage = Stage.FAILED if action is Action.DEPLOY else stage
            row(action, Phase.FAILED, after, stage, traffic)
    return rows


def of_another(sequence: int) -> Entry:
    return Entry("20250101-000000", sequence, START, "test", Action.RETIRE, Phase.DONE)


@given(histories(), st.data())
def test_every_prefix_of_a_legal_history_is_a_legal_state(
    history: list[tuple[Entry, Stage | None, int]], data: st.DataObject
) -> None:
    length = data.draw(st.integers(1, len(history)))
    rows = [entry for entry, _, _ in history[:length]]
    newest, stage, traffic = history[length - 1]
    state = current_release([of_another(0), *rows])
    assert state is not None
    assert state == current_release([*rows, of_another(99)], RELEASE), "rows of other releases do not matter"
    assert state.stage is (stage or Stage.STARTING)
    assert state.traffic_percent == traffic
    assert state.last_sequence == newest.sequence
    assert state.open_intent is (newest if newest.phase is Phase.INTENT else None)
    is_legal(state)
    asks_for_one_run(state)


def is_legal(state: ReleaseState) -> None:
    assert state.challenger_version == "2"
    assert "challenger" in state.entities
    assert (state.champion_version is not None) == ("champion" in state.entities)
    if state.champion_version is not None:
        assert state.entities["champion"] == f"e{state.champion_version}", "the champion of the latest deployment"
    numbers = [window.step for window in state.steps]
    assert numbers == list(range(len(numbers)))
    for earlier, later in zip(state.steps, state.steps[1:], strict=False):
        assert earlier.ended_at is not None
        assert earlier.started_at < earlier.ended_at < later.started_at, "windows of steps do not overlap"
    if state.stage is Stage.RAMPING and state.open_intent is None:
        assert state.steps[-1].ended_at is None
    if state.open_intent is not None and state.steps:
        assert state.steps[-1].ended_at is not None, "rows that come while traffic is moved belong to no step"
    assert (state.promoted_at is None) or state.stage in (Stage.PROMOTED, Stage.FINISHED, Stage.ROLLED_BACK)
    assert state.active or state.stage in (Stage.FINISHED, Stage.ROLLED_BACK, Stage.FAILED)


def asks_for_one_run(state: ReleaseState) -> None:
    """Whatever a kill leaves, the sensor knows what to do."""
    if state.open_intent is not None:
        assert resume_run(state.open_intent).action == f"finish_{state.open_intent.action.value}"
        return
    verdict = first_step(state, SPEC) if state.stage is Stage.DEPLOYED else None
    run, sentence = next_run(state, verdict, SPEC, START + timedelta(days=30))
    assert sentence
    expected = {Stage.DEPLOYED: "canary_step", Stage.PROMOTED: "retire"}
    assert (run.job if run else None) == expected.get(state.stage)


def event(action: Action, sequence: int, release: str = RELEASE, phase: Phase = Phase.DONE) -> Entry:
    return Entry(release, sequence, START, "person", action, phase)


@given(histories(), st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.integers(0, 40)), max_size=4))
def test_events_between_the_rows_change_no_stage_no_step_and_no_traffic(
    history: list[tuple[Entry, Stage | None, int]], events: list[tuple[Action, int]]
) -> None:
    rows = [entry for entry, _, _ in history]
    said = list(rows)
    for action, place in events:
        said.insert(place % (len(said) + 1), event(action, 0, "" if "pause" in action else RELEASE))
    alone, among = current_release(rows), current_release(said)
    assert alone is not None
    assert among is not None
    people = {"approved": among.approved, "frozen": among.frozen, "paused": among.paused}
    assert among == replace(alone, **people)
    assert (among.approved is not None) == any(action is Action.APPROVE for action, _ in events)


def test_a_freeze_ends_with_the_promotion_of_a_person_who_looked_at_it() -> None:
    begun = Entry(RELEASE, 1, START, "run", Action.DEPLOY, Phase.DONE, after={"champion_version": "1"})
    freeze = event(Action.FREEZE, 2)
    promoted = Entry(RELEASE, 3, START, "person", Action.PROMOTE, Phase.DONE)
    again = event(Action.FREEZE, 4)
    for rows, expected in (([begun, freeze], freeze), ([begun, freeze, promoted], None)):
        state = current_release(rows, RELEASE)
        assert state is not None
        assert state.frozen == expected
    state = current_release([begun, freeze, promoted, again], RELEASE)
    assert state is not None
    assert state.frozen == again


def test_a_pause_holds_until_it_is_lifted_whichever_release_is_under_way() -> None:
    pause, lift = event(Action.PAUSE, 1, ""), event(Action.UNPAUSE, 2, "")
    assert paused([]) is None
    assert paused([pause]) == paused([lift, pause, of_another(3)]) == pause
    assert paused([pause, lift]) is None
    state = current_release([pause, of_another(3)])
    assert state is not None
    assert state.paused == pause


def test_the_queue_is_first_come_first_served_and_ends_with_the_deployment_or_a_withdrawal() -> None:
    first, second = (event(Action.QUEUE, number, release) for number, release in ((1, "a"), (2, "b")))
    assert queued([first, second, event(Action.QUEUE, 3, "a")]) == ["a", "b"]
    assert queued([first, second, Entry("a", 3, START, "x", Action.DEPLOY, Phase.INTENT)]) == ["b"]
    assert queued([first, second, event(Action.QUEUE, 3, "b", Phase.FAILED)]) == ["a"]
    assert current_release([of_another(1), first]) == current_release([of_another(1)]), "who waits has not begun"


def test_an_empty_ledger_has_no_release() -> None:
    assert current_release([]) is None
    assert current_release([of_another(1)], RELEASE) is None
