"""A release on its way through one transition after the other, each of which meets a fault at one of its calls."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.workspace.registry import (
    REJECTED,
    SUPERSEDED,
    TAG_DIGEST,
    TAG_FORCED,
    TAG_RELEASE,
    TAG_STATUS,
)
from tests.faults.beginnings import (
    died_in_a_step_then_paused,
    died_in_the_promotion,
    drift_by_hand,
    failed_before,
    harmed,
    like_was_rejected,
)
from tests.faults.calls import Call
from tests.faults.faults import Fault
from tests.faults.proxy import Plan, Spot
from tests.faults.runner_client import IMPATIENT, PATIENT, Outcome
from tests.faults.runs import JOBS
from tests.faults.scene import LOGGED, NEXT, Scene
from tests.faults.world import World

#: Ticks that act before a release must be where it was going.
MOST_TICKS = 4
#: The asset that finds a model without one of its files, by the run that stored them; and how the release ends then.
NEXT_LINK = {"log": "predict", "register": "deploy"}
STOPPED = "stopped by the next asset"
#: What a run says of a model that is wrong, as none is here.
BLAMES_THE_MODEL = "run the file by itself"
#: How long the gate may hold in between, for rows that are on their way.
HOLD_SECONDS = 20.0


@dataclass(frozen=True)
class Transition:
    """One move of a release.

    Attributes:
        name: As the report shows it.
        run: The run that makes it.
        from_stage: Where the release is before; empty where nothing of it is there yet.
        reached: Whether it has been made, and nothing is open.
        needs_rows: Whether the gate must have seen rows of the step before.
        asked_again: A person, or the job that is materialised again, asks anew where nothing of it was written down.
        until_done: It is asked for until a run of it succeeds: no tick does so, and nothing else tells whether it must.
        begin: What else must be so before, by scene and release.
        meets: The stage of another release that is still under way; empty where there is none.
    """

    name: str
    run: str
    from_stage: str
    reached: Callable[[World], bool]
    needs_rows: bool = False
    asked_again: bool = False
    until_done: bool = False
    begin: Callable[[Scene, str], None] = lambda scene, release: None
    meets: str = ""


def _state(world: World, *stages: Stage, step: int | None = None) -> ReleaseState | None:
    """The release where it stands at one of these and nothing is open."""
    state = world.state
    if state is None or state.open_intent is not None or state.stage not in stages or step not in (None, state.step):
        return None
    return state


def _at(*stages: Stage, step: int | None = None) -> Callable[[World], bool]:
    return lambda world: _state(world, *stages, step=step) is not None


def _left_behind(world: World, meant: Stage) -> list[str]:
    """What is not as it was meant to be of the release that another one has met as it began."""
    wrong = list[str]()
    for release in {entry.release for entry in world.sight.entries} - {world.release, ""}:
        other = world.sight.state_of(release)
        if other is None:
            continue
        status = dict(world.other_tags).get(TAG_STATUS)
        if other.open_intent or (other.stage, status) != (meant, SUPERSEDED if meant is ROLLED_BACK else "promoted"):
            wrong.append(f"release {release} is {other.stage}, and its version is tagged {status}")
    return wrong


def _registered(world: World) -> bool:
    """One version, tagged as this release's, with the alias of a challenger; the run says which."""
    if world.run is None or len(world.registered) != 1:
        return False
    ((version, tags),) = world.registered
    tagged = {TAG_RELEASE: world.release, TAG_STATUS: "challenger", TAG_DIGEST: world.run.digest}
    return world.run.version == version == world.challenger_alias and tagged.items() <= dict(tags).items()


def _forced(world: World) -> bool:
    """A person knows of the rejected version, as run and version both say."""
    return world.run is not None and world.run.forced == NEXT and dict(world.tags).get(TAG_FORCED) == NEXT


def _logged(world: World) -> bool:
    return world.run is not None


LOG = Transition("log", "log", "", _logged, asked_again=True, until_done=True)
# What these two bring about is the outcome of their checks, which nothing but a run that succeeds tells.
EVALUATE = Transition("evaluate", "evaluate", LOGGED, _logged, asked_again=True, until_done=True)
PREDICT = Transition("predict", "predict", LOGGED, _logged, asked_again=True, until_done=True)
REGISTER = Transition("register", "register", "", _registered, asked_again=True, until_done=True)
FORCE = Transition("force", "force", "registered", _forced, asked_again=True, until_done=True, begin=like_was_rejected)

RAMPING, ROLLED_BACK = Stage.RAMPING, Stage.ROLLED_BACK
DEPLOY = Transition("deploy", "deploy", "registered", _at(Stage.DEPLOYED), asked_again=True)
AGAIN = Transition(
    "deploy, failed before", "deploy", "registered", _at(Stage.DEPLOYED), asked_again=True, begin=failed_before
)
FIRST_STEP = Transition("first step", "canary_step", "deployed", _at(RAMPING, step=0))
NEXT_STEP = Transition("next step", "canary_step", "step 1", _at(RAMPING, step=1), needs_rows=True)
PROMOTE = Transition("promote", "promote", "step 2", _at(Stage.PROMOTED), needs_rows=True)
RETIRE = Transition("retire", "retire", "promoted", _at(Stage.FINISHED))
BACK_FROM_RAMP = Transition("roll back on the ramp", "rollback", "step 1", _at(ROLLED_BACK), asked_again=True)
BACK_FROM_BAKE = Transition("roll back in the bake", "rollback", "promoted", _at(ROLLED_BACK), asked_again=True)
FORWARD = (DEPLOY, FIRST_STEP, NEXT_STEP, PROMOTE, RETIRE)
BACK = (BACK_FROM_RAMP, BACK_FROM_BAKE)

MEND = Transition(
    "mend",
    "mend",
    "step 1",
    lambda world: not world.drift and _state(world, RAMPING, step=0) is not None,
    asked_again=True,
    begin=drift_by_hand,
)
APPROVE = Transition(
    "approve",
    "approve",
    "step 2",
    lambda world: (state := _state(world, RAMPING)) is not None and state.approved is not None,
    asked_again=True,
)
PAUSE = Transition(
    "pause",
    "pause",
    "step 1",
    lambda world: (state := _state(world, RAMPING)) is not None and state.paused is not None,
    asked_again=True,
)
CLOSE = Transition("tick that closes a step", "tick", "step 1", _at(RAMPING, step=0), begin=died_in_a_step_then_paused)
SAID = (APPROVE, PAUSE, CLOSE)

TICK_STEP = Transition("tick and next step", "tick", "step 1", _at(RAMPING, step=1), needs_rows=True)
TICK_PROMOTE = Transition("tick and promotion", "tick", "step 2", _at(Stage.PROMOTED), needs_rows=True)
TICK_RETIRE = Transition("tick and end of the bake", "tick", "promoted", _at(Stage.FINISHED))
TICK_BACK = Transition(
    "tick that sees harm, and rollback", "tick", "step 1", _at(ROLLED_BACK), needs_rows=True, begin=harmed
)
BACK_FROM_PROMOTION = Transition(
    "roll back, a promotion being open",
    "rollback",
    "step 2",
    _at(ROLLED_BACK),
    asked_again=True,
    begin=died_in_the_promotion,
)
SENSOR = (TICK_STEP, TICK_PROMOTE, TICK_RETIRE, TICK_BACK)

REPLACE = Transition(
    "deploy, replacing one on the ramp", "deploy", "registered", _at(Stage.DEPLOYED), asked_again=True, meets="step 1"
)
END_BAKE = Transition(
    "deploy, ending a bake", "deploy", "registered", _at(Stage.DEPLOYED), asked_again=True, meets="promoted"
)
MEETING = (REPLACE, END_BAKE)

FIRST_DEPLOY = Transition("deploy, first release", "deploy", "", _at(RAMPING, step=0), asked_again=True)
FIRST_PROMOTE = Transition("promote, first release", "promote", "", _at(Stage.PROMOTED))
FIRST_BACK = Transition("roll back, first release", "rollback", "", _at(ROLLED_BACK), asked_again=True)
FIRST = (FIRST_DEPLOY, FIRST_PROMOTE, FIRST_BACK)
#: In the order of the report.
ALL = (
    *(LOG, FORCE, EVALUATE, PREDICT, REGISTER, *FORWARD, *BACK, BACK_FROM_PROMOTION),
    *(*SENSOR, *MEETING, AGAIN, MEND, *SAID, *FIRST),
)


@dataclass(frozen=True)
class FaultPoint:
    """One call that met one fault, and what came of it.

    Attributes:
        call: What it asked for.
        number: Which call of its run it was.
        ticks: Ticks that acted afterwards.
        end: ``as meant``, or how else the release came to a correct end.
        trouble: What was wrong; empty where the release survived.
    """

    transition: str
    fault: Fault
    call: str
    number: int
    ticks: int
    end: str
    trouble: str = ""


@dataclass
class Walk:
    """All releases that meet one kind of fault in one scene.

    Attributes:
        writes: Whether calls that write meet the fault, or calls that read.
        points: What was met so far.
    """

    scene: Scene
    fault: Fault
    writes: bool
    points: list[FaultPoint] = field(default_factory=list)
    _done: dict[str, set[Spot]] = field(default_factory=lambda: defaultdict(set))
    _exhausted: set[str] = field(default_factory=set)
    _succeeded: bool = False

    def over(self, *transitions: Transition) -> None:
        """Take releases through these transitions until every call of each has met the fault."""
        while left := [index for index, each in enumerate(transitions) if each.name not in self._exhausted]:
            start = left[0] if transitions[left[0]].from_stage else 0  # what begins with nothing begins at the start
            release = self._begin(transitions[start])
            for transition in transitions[start : left[-1] + 1]:
                if not self._through(transition, release):
                    break

    def _begin(self, transition: Transition) -> str:
        if self.scene.first:
            return self.scene.begin_anew()
        if transition.meets:
            return self.scene.release_that_meets(transition.meets)
        if not transition.from_stage:
            return self.scene.begin_to_prepare()
        if transition.from_stage == LOGGED:
            return self.scene.logged_release()
        return self.scene.set_back(transition.from_stage)

    def _through(self, transition: Transition, release: str) -> bool:
        """One transition; False where the release has come to another end."""
        if transition.needs_rows:
            self.scene.await_rows(release)
        transition.begin(self.scene, release)
        before = self.scene.world(release)
        while True:
            plan = Plan(self.fault, self.writes, self._done[transition.name])
            faulty = transition.name not in self._exhausted
            trouble = self._run(transition, release, plan if faulty else None)
            after = self.scene.world(release)
            if not trouble and self._lied(transition, after):
                trouble = "the run succeeded, and what it was for is not so"
            if faulty and plan.met is None:
                if not trouble and self._made(transition, after):
                    self._exhausted.add(transition.name)
                    return True
                faulty = False  # the gate held: nothing was tried
            if after == before and faulty and not trouble:
                self._note(transition, plan, 0, "nothing begun", "")
                continue  # as if the run had never been: the next one follows in the same release
            ticks, end, stuck = self._recover(transition, release, before, after)
            if faulty and end == "as meant" and plan.met is not None and self._may_be_hollow(plan.met):
                end, stuck = self._next_link(transition, release, stuck)
            if faulty:
                self._note(transition, plan, ticks, end, trouble or stuck)
            elif trouble or stuck:
                raise AssertionError(f"{transition.name} without a fault: {trouble or stuck}")
            if faulty and plan.met is not None and self._may_be_hollow(plan.met):
                return False  # it has gone too far for what would come next here
            return end in ("as meant", "failed, started again") and not stuck

    def _may_be_hollow(self, met: Call) -> bool:
        """Whether a file of the model was not stored, although the workspace said so."""
        return self.fault is Fault.NOTHING and "/fs/files/" in met.path

    def _next_link(self, transition: Transition, release: str, stuck: str) -> tuple[str, str]:
        """What becomes of a model that may lack a file: it loads without, or the next link of the chain stops it."""
        outcome = self.scene.runner.run("job", NEXT_LINK[transition.run], release)
        state = self.scene.world(release).state
        if not outcome.expected:
            return STOPPED, f"the next link broke: {outcome.error}"
        if outcome.error and state is not None and state.stage not in (Stage.FAILED, Stage.ROLLED_BACK):
            return STOPPED, f"the next link failed, and the release is {state.stage}"
        return (STOPPED if outcome.error else "as meant"), stuck

    def _made(self, transition: Transition, world: World) -> bool:
        return transition.reached(world) and (self._succeeded or not transition.until_done)

    def _lied(self, transition: Transition, world: World) -> bool:
        """Whether a run that nobody would ask for again, because it succeeded, has not done what it was for."""
        return transition.asked_again and self._succeeded and not transition.reached(world)

    def _run(self, transition: Transition, release: str, plan: Plan | None) -> str:
        """The run that meets the fault; what is wrong with how it ended."""
        scene = self.scene
        late = plan is not None and plan.fault in (Fault.LOST, Fault.LATE)
        scene.proxy.begin(plan)
        outcome = self._order(transition, release, IMPATIENT if late else PATIENT)
        self._succeeded = not outcome.killed and not outcome.error
        met = plan is not None and plan.met is not None
        scene.proxy.begin(None)
        killing = met and plan is not None and plan.fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER)
        if outcome.killed != killing:
            return f"the run {'was' if outcome.killed else 'was not'} killed"
        if BLAMES_THE_MODEL in outcome.error:
            return f"the run blames the model: {outcome.error}"
        return "" if outcome.expected else f"the run broke: {outcome.error}"

    def _order(self, transition: Transition, release: str, answer_seconds: float = PATIENT) -> Outcome:
        if transition.run in JOBS:
            return self.scene.runner.run("job", transition.run, release, answer_seconds=answer_seconds)
        return self.scene.runner.run(transition.run, answer_seconds=answer_seconds)

    def _recover(self, transition: Transition, release: str, before: World, now: World) -> tuple[int, str, str]:
        """Let the next ticks come: how many acted, how it ended, what was wrong."""
        ticks, again, said, deadline = 0, False, "", time.monotonic() + HOLD_SECONDS
        scene = self.scene
        while True:
            state = now.state
            if self._made(transition, now):
                return ticks, "failed, started again" if again else "as meant", self._wrong_end(now, transition)
            if _state(now, ROLLED_BACK) is not None:
                return ticks, "rolled back", self._wrong_end(now, transition)
            if ticks > MOST_TICKS or time.monotonic() > deadline:
                opened = state.open_intent.action if state and state.open_intent else "nothing"
                where = f"at {state.stage if state else 'nothing'} with {opened} open"
                return ticks, "stuck", f"not there after {ticks} ticks: {where}; last: {said}"
            nothing = state is None or (state.open_intent is None and state.stage is Stage.FAILED)
            untouched = state is not None and state.open_intent is None and now == before
            # A mend that failed is over: whoever looks for drift finds it again.
            drifted = state is not None and state.open_intent is None and bool(now.drift)
            if transition.asked_again and (nothing or untouched or drifted):
                again = again or (state is not None and state.stage is Stage.FAILED)
                outcome = self._order(transition, release)
                self._succeeded = not outcome.error
            else:
                outcome = scene.runner.run("tick")
            said = outcome.error or str(outcome.value)
            if not outcome.expected:
                return ticks, "stuck", f"the next run broke: {outcome.error}"
            if str(outcome.value).startswith("holds"):
                time.sleep(0.1)
            else:
                ticks += 1
            now = scene.world(release)

    def _wrong_end(self, world: World, transition: Transition) -> str:
        """What is not as it must be now that no intent is open."""
        wrong, state = list(self.scene.complaints), world.state
        if state is None:
            return "; ".join(wrong)
        tags, version = dict(world.tags), state.challenger_version
        numbers = [entry.sequence for entry in world.sight.entries]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            wrong.append("the ledger has gaps")
        rolled_back, over = state.stage is Stage.ROLLED_BACK, state.stage in (Stage.PROMOTED, Stage.FINISHED)
        if rolled_back and tags.get(TAG_STATUS) != REJECTED:
            wrong.append(f"version {version} was rolled back, and is tagged {tags.get(TAG_STATUS)}")
        if over and (tags.get(TAG_STATUS), tags.get(TAG_RELEASE)) != ("promoted", state.release):
            wrong.append(f"version {version} was promoted, and is tagged {tags}")
        if (rolled_back or over) and world.challenger_alias is not None:
            wrong.append(f"the alias challenger still names {world.challenger_alias}")
        if rolled_back and version in world.sight.versions:
            wrong.append(f"version {version} was rolled back, and is still on the endpoint")
        if world.lacking:
            wrong.append(f"the endpoint was to have {world.lacking}")
        if state.stage is Stage.DEPLOYED and world.sight.versions != {version, state.champion_version}:
            wrong.append(f"beside the champion the endpoint has {world.sight.versions}")
        if state.stage is Stage.DEPLOYED and (world.challenger_alias, tags.get(TAG_STATUS)) != (version, "challenger"):
            wrong.append(f"the alias challenger names {world.challenger_alias}, and version {version} is tagged {tags}")
        wrong += _left_behind(world, ROLLED_BACK if transition.meets == "step 1" else Stage.FINISHED)
        if state.stage is Stage.FINISHED and world.sight.versions != {version}:
            wrong.append(f"after the bake the endpoint has {world.sight.versions}")
        return "; ".join(wrong)

    def _note(self, transition: Transition, plan: Plan, ticks: int, end: str, trouble: str) -> None:
        assert plan.met is not None
        words = plan.met.words(self.scene.name)
        complaints = "; ".join(self.scene.complaints)
        if self.scene.observer is not None:
            self.scene.observer.violations.clear()
        if self.scene.user is not None:
            self.scene.user.failures.clear()
        wrong = "; ".join(dict.fromkeys(filter(None, (trouble, complaints))))
        self.points.append(FaultPoint(transition.name, self.fault, words, plan.number, ticks, end, wrong))
