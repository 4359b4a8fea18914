"""What a model's YAML and people tell the gate sensor: how long to try, to freeze, to wait, and whom to ask."""

from collections.abc import Callable

import dagster as dg
import mlflow
import pytest
from dagster._core.test_utils import create_run_for_test

from release_pipeline.assets.canary_traffic import take_step
from release_pipeline.assets.promoted_alias import promote
from release_pipeline.automation.jobs import ACTION_TAG
from release_pipeline.errors import NotAllowed
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.rollout.parts import connect_parts
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_rollout import AutomationPart, PromotionPart, RampPart
from tests.pipeline.conftest import Model
from tests.pipeline.test_sensor import ask_until, promotion_at, request, sentence, tick

pytestmark = pytest.mark.slow


def changed(spec: ReleaseSpec, **parts: object) -> ReleaseSpec:
    return spec.model_copy(update=parts)


def waits(answer: dg.RunRequest | dg.SkipReason, reason: HoldReason) -> bool:
    """Whether the schedule asks for nothing, for this reason."""
    assert isinstance(answer, dg.SkipReason), answer
    return str(answer.skip_message).startswith(reason)


def test_a_step_that_fails_again_and_again_is_rolled_back_with_the_reason(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    spec = changed(model.spec, automation=AutomationPart(most_attempts=2))
    first = request(tick(spec, instance))
    tags = {"dagster/partition": release, **first.tags}
    runs = [create_run_for_test(instance, job_name=f"{spec.name}_canary_step", tags=tags) for _ in range(2)]
    instance.report_run_failed(runs[0])
    instance.report_run_canceled(runs[1])
    assert "next try in" in sentence(tick(spec, instance)), "one failure of two"
    run = create_run_for_test(instance, job_name=f"{spec.name}_canary_step", tags=tags)
    instance.report_run_failed(run)
    wanted = request(tick(spec, instance))
    assert wanted.job_name == f"{spec.name}_rollback"
    reason = wanted.run_config["ops"][f"{spec.name}_roll_back"]["config"]["reason"]
    assert reason.startswith(f"step_0 failed 2 times (automation.most_attempts), last in run {run.run_id[:8]}: ")


def test_a_pause_and_a_closed_window_hold_the_first_step_for_the_sensor_and_for_a_run(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    events = model.parts().events
    events.pause("incident 12")
    assert sentence(tick(model.spec, instance)).startswith(f"{HoldReason.PAUSED}: Hold: paused by test")
    events.unpause("over")
    assert request(tick(model.spec, instance)).tags[ACTION_TAG] == "step_0"
    never = changed(model.spec, promotion=PromotionPart(windows=("mon 00:00-00:01",), timezone="Pacific/Kiritimati"))
    assert HoldReason.OUTSIDE_WINDOW in sentence(tick(never, instance))
    parts = connect_parts(never, actor="run:1", progress=model.said.append)
    assert take_step(parts, never, release).verdict.reason == HoldReason.OUTSIDE_WINDOW
    assert model.parts().rollout.state(release).steps == ()  # type: ignore[union-attr]


@pytest.mark.slow
def test_harm_freezes_once_where_the_policy_says_so_and_a_person_may_still_roll_back(
    make_model: Callable[..., Model], instance: dg.DagsterInstance
) -> None:
    model = make_model(ramp={"on_harm": "freeze"}, gate={"alpha": 0.2})
    model.champion()
    model.deploy(release := model.release(), model.register("failing"))
    model.step(release)
    model.step(release, 1)
    ask_until(model, model.spec, instance, lambda text: text.startswith(HoldReason.FROZEN), "question")
    entries = model.parts().ledger.read()
    frozen = entries[-1]
    assert (frozen.action, frozen.release) == (Action.FREEZE, release)
    assert frozen.evidence_digest
    assert "errors" in frozen.reason
    assert sentence(tick(model.spec, instance)).startswith(f"{HoldReason.FROZEN}: Hold: frozen since")
    assert model.parts().ledger.read() == entries, "it is noted once"
    changed_mind = changed(model.spec, ramp=RampPart(steps=model.spec.ramp.steps, min_step_seconds=0))
    assert request(tick(changed_mind, instance)).job_name == f"{model.spec.name}_rollback", "the YAML says rollback now"
    state = model.parts().rollout.roll_back(release, reason="looked at it")
    assert state.stage == "rolled_back"


@pytest.mark.slow
def test_a_promotion_waits_for_the_tag_of_an_approval_and_the_schedule_waits_with_it(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    model.step(release)
    model.step(release, 1)
    spec = changed(model.spec, promotion=PromotionPart(automatic=True, approval="required", approval_tag="go_live"))
    ask_until(model, spec, instance, lambda text: text.startswith(HoldReason.AWAITING_APPROVAL))
    assert waits(promotion_at(spec, instance), HoldReason.AWAITING_APPROVAL)
    assert isinstance(promotion_at(model.spec, instance), dg.RunRequest), "without it the schedule goes on"
    closed = {"windows": ("mon 00:00-00:01",), "timezone": "Pacific/Kiritimati"}
    never = changed(model.spec, promotion=model.spec.promotion.model_copy(update=closed))
    assert waits(promotion_at(never, instance), HoldReason.OUTSIDE_WINDOW)
    with pytest.raises(NotAllowed, match=r"outside promotion\.windows"):
        promote(connect_parts(never, actor="run:1", progress=model.said.append), release)
    parts = model.parts("user:ada")
    parts.events.pause("incident 12")
    assert waits(promotion_at(model.spec, instance), HoldReason.PAUSED)
    parts.events.unpause("over")
    parts.registry.tag("2", {"go_live": "Approved"})
    assert request(tick(spec, instance)).tags[ACTION_TAG] == "promote"
    parts.registry.tag("2", {"go_live": "no"})
    assert HoldReason.AWAITING_APPROVAL in sentence(tick(spec, instance))
    parts.events.approve(release, "looked at the answers")
    assert request(tick(spec, instance)).tags[ACTION_TAG] == "promote"
    with pytest.raises(NotAllowed, match="only one on its ramp"):
        parts.events.approve("20200101-000000", "who?")


def test_guards_stay_on_while_an_approval_is_waited_for(
    make_model: Callable[..., Model], instance: dg.DagsterInstance
) -> None:
    model = make_model(promotion={"automatic": True, "approval": "required"}, gate={"alpha": 0.2})
    model.champion()
    model.deploy(release := model.release(), model.register("failing"))
    model.step(release)
    model.step(release, 1)
    ask_until(model, model.spec, instance, lambda text: text.startswith(HoldReason.AWAITING_APPROVAL))
    back = ask_until(model, model.spec, instance, lambda text: not text, "question")
    assert request(back).job_name == f"{model.spec.name}_rollback"
    state = model.parts().rollout.state(release)
    assert state is not None
    assert state.open_intent is not None
    assert state.open_intent.action is Action.ROLL_BACK, "it is written down before its run begins"


@pytest.mark.slow
def test_a_promotion_that_a_foreign_tag_approved_records_the_tag_and_that_nobody_tells_who_set_it(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    model.step(release)
    model.step(release, 1)
    spec = changed(model.spec, promotion=PromotionPart(approval="required", approval_tag="Approval_Check"))
    ask_until(model, spec, instance, lambda text: text.startswith(HoldReason.AWAITING_APPROVAL))
    mlflow.MlflowClient().set_model_version_tag(spec.model.registered_name, "2", "Approval_Check", "Approved")
    promote(connect_parts(spec, actor="run:1", progress=model.said.append), release)
    done = model.parts().ledger.read()[-1]
    assert (done.action, done.phase) == (Action.PROMOTE, Phase.DONE)
    assert done.after["approved_by"] == "tag Approval_Check=Approved, setter not told by the API"
