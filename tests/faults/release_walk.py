"""A release on its way through one transition after the other, each of which meets a fault at one of its calls."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.workspace.registry import REJECTED, TAG_RELEASE, TAG_STATUS
from tests.faults.faults import Fault
from tests.faults.proxy import Plan, Spot
from tests.faults.runner_client import IMPATIENT, PATIENT
from tests.faults.scene import CHALLENGER, Scene, World

#: Ticks that act before a release must be where it was going.
MOST_TICKS = 4
#: How long the gate may hold in between, for rows that are on their way.
HOLD_SECONDS = 20.0


@dataclass(frozen=True)
class Transition:
    """One move of a release.

    Attributes:
        name: As the report shows it.
        run: The run that makes it.
        from_stage: Where the release is before.
        reached: Whether it has been made.
        needs_rows: Whether the gate must have seen rows of the step before.
        asked_again: A person, or the job that is materialised again, asks anew where nothing of it was written down.
    """

    name: str
    run: str
    from_stage: str
    reached: Callable[[ReleaseState], bool]
    needs_rows: bool = False
    asked_again: bool = False


def _ramping_at(step: int) -> Callable[[ReleaseState], bool]:
    return lambda state: state.stage is Stage.RAMPING and state.step == step


def _at(*stages: Stage) -> Callable[[ReleaseState], bool]:
    return lambda state: state.stage in stages


DEPLOY = Transition("deploy", "deploy", "registered", _at(Stage.DEPLOYED), asked_again=True)
FIRST_STEP = Transition("first step", "canary_step", "deployed", _ramping_at(0))
NEXT_STEP = Transition("next step", "canary_step", "step 1", _ramping_at(1), needs_rows=True)
PROMOTE = Transition("promote", "promote", "step 2", _at(Stage.PROMOTED), needs_rows=True)
RETIRE = Transition("retire", "retire", "promoted", _at(Stage.FINISHED))
BACK_FROM_RAMP = Transition("roll back on the ramp", "rollback", "step 1", _at(Stage.ROLLED_BACK), asked_again=True)
BACK_FROM_BAKE = Transition("roll back in the bake", "rollback", "promoted", _at(Stage.ROLLED_BACK), asked_again=True)
FORWARD = (DEPLOY, FIRST_STEP, NEXT_STEP, PROMOTE, RETIRE)

FIRST_DEPLOY = Transition("deploy, first release", "deploy", "", _ramping_at(0), asked_again=True)
FIRST_PROMOTE = Transition("promote, first release", "promote", "", _at(Stage.PROMOTED))
FIRST_BACK = Transition("roll back, first release", "rollback", "", _at(Stage.ROLLED_BACK), asked_again=True)
FIRST = (FIRST_DEPLOY, FIRST_PROMOTE, FIRST_BACK)


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

    def over(self, *transitions: Transition) -> None:
        """Take releases through these transitions until every call of each has met the fault."""
        while left := [index for index, each in enumerate(transitions) if each.name not in self._exhausted]:
            start = 0 if self.scene.first else left[0]  # a first release cannot be set back to a stage
            release = self._begin(transitions[start])
            for transition in transitions[start : left[-1] + 1]:
                if not self._through(transition, release):
                    break

    def _begin(self, transition: Transition) -> str:
        return self.scene.begin_anew() if self.scene.first else self.scene.set_back(transition.from_stage)

    def _through(self, transition: Transition, release: str) -> bool:
        """One transition; False where the release has come to another end."""
        if transition.needs_rows:
            self.scene.await_rows(release)
        before = self.scene.world()
        while True:
            plan = Plan(self.fault, self.writes, self._done[transition.name])
            faulty = transition.name not in self._exhausted
            trouble = self._run(transition, release, plan if faulty else None)
            after = self.scene.world()
            if faulty and plan.met is None:
                state = after.sight.state_of(release)
                if not trouble and state is not None and self._made(transition, state):
                    self._exhausted.add(transition.name)
                    return True
                faulty = False  # the gate held: nothing was tried
            if after == before and faulty and not trouble:
                self._note(transition, plan, 0, "nothing begun", "")
                continue  # as if the run had never been: the next one follows in the same release
            ticks, end, stuck = self._recover(transition, release, before, after)
            if faulty:
                self._note(transition, plan, ticks, end, trouble or stuck)
            elif trouble or stuck:
                raise AssertionError(f"{transition.name} without a fault: {trouble or stuck}")
            return end in ("as meant", "failed, started again") and not stuck

    def _run(self, transition: Transition, release: str, plan: Plan | None) -> str:
        """The run that meets the fault; what is wrong with how it ended."""
        scene, arguments = self.scene, [release]
        if transition.run == "deploy":
            arguments.append("1" if scene.first else CHALLENGER)
        late = plan is not None and plan.fault in (Fault.LOST, Fault.LATE)
        scene.proxy.begin(plan)
        outcome = scene.runner.run(transition.run, *arguments, answer_seconds=IMPATIENT if late else PATIENT)
        met = plan is not None and plan.met is not None
        scene.proxy.begin(None)
        killing = met and plan is not None and plan.fault in (Fault.KILL_BEFORE, Fault.KILL_AFTER)
        if outcome.killed != killing:
            return f"the run {'was' if outcome.killed else 'was not'} killed"
        return "" if outcome.expected else f"the run broke: {outcome.error}"

    def _recover(self, transition: Transition, release: str, before: World, now: World) -> tuple[int, str, str]:
        """Let the next ticks come: how many acted, how it ended, what was wrong."""
        ticks, again, said, deadline = 0, False, "", time.monotonic() + HOLD_SECONDS
        scene = self.scene
        while True:
            state = now.sight.state_of(release)
            if state is not None and self._made(transition, state):
                return ticks, "failed, started again" if again else "as meant", self._wrong_end(now, state)
            if state is not None and state.open_intent is None and state.stage is Stage.ROLLED_BACK:
                return ticks, "rolled back", self._wrong_end(now, state)
            if ticks > MOST_TICKS or time.monotonic() > deadline:
                opened = state.open_intent.action if state and state.open_intent else "nothing"
                where = f"at {state.stage if state else 'nothing'} with {opened} open"
                return ticks, "stuck", f"not there after {ticks} ticks: {where}; last: {said}"
            nothing = state is None or (state.open_intent is None and state.stage is Stage.FAILED)
            untouched = state is not None and state.open_intent is None and now == before
            if transition.asked_again and (nothing or untouched):
                again = again or (state is not None and state.stage is Stage.FAILED)
                arguments = [release] if transition.run != "deploy" else [release, "1" if scene.first else CHALLENGER]
                outcome = scene.runner.run(transition.run, *arguments)
            else:
                outcome = scene.runner.run("tick")
            said = outcome.error or str(outcome.value)
            if not outcome.expected:
                return ticks, "stuck", f"the next run broke: {outcome.error}"
            if str(outcome.value).startswith("holds"):
                time.sleep(0.1)
            else:
                ticks += 1
            now = scene.world()

    def _made(self, transition: Transition, state: ReleaseState) -> bool:
        return state.open_intent is None and transition.reached(state)

    def _wrong_end(self, world: World, state: ReleaseState) -> str:
        """What is not as it must be now that no intent is open."""
        wrong = list(self.scene.complaints)
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
