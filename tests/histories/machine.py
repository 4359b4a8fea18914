"""The state machine that draws histories. What it draws does not depend on the workspace, so a seed is a history."""

from datetime import timedelta
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.histories.ground import Ground
from tests.histories.play import DEEDS, HANDS, Deed, Hand, Play
from tests.histories.wire import Wire
from tests.pipeline.killer import Killer, Kills

KILLS = st.one_of(
    st.tuples(st.integers(1, 8), st.sampled_from([Kills("writes", "before"), Kills("writes", "after")])),
    st.tuples(st.integers(1, 60), st.sampled_from([Kills("calls", "before"), Kills("calls", "after")])),
)
JUMPS = st.sampled_from([timedelta(minutes=-5), timedelta(minutes=30), timedelta(hours=2), timedelta(hours=11)])


class Histories(RuleBasedStateMachine):
    """Everything that may happen to the releases of one model, in any order."""

    ground: ClassVar[Ground]
    wire: ClassVar[Wire]
    killer: ClassVar[Killer]
    played: ClassVar[list[Play]]

    def __init__(self) -> None:
        super().__init__()
        self.play: Play | None = None
        self.onward = True

    @initialize(
        served=st.sampled_from([True, True, True, False]),
        second_release=st.sampled_from(["refuse", "queue", "replace"]),
        on_harm=st.sampled_from(["rollback", "rollback", "freeze"]),
        approval=st.sampled_from(["none", "none", "required"]),
        windows=st.sampled_from([(), (), ("daily 08:00-18:00",)]),
        steps=st.sampled_from([(50,), (50,), (40, 70)]),
        onward=st.booleans(),
    )
    def begin(self, onward: bool, **drawn: Any) -> None:
        self.onward = onward
        self.play = Play.begin(self.ground, self.wire, self.killer, **drawn)
        self.played.append(self.play)
        self.play.do("start")

    @rule(text=st.sampled_from(["hello", "hello", "question"]), times=st.integers(1, 2))
    def tick(self, text: str, times: int) -> None:
        for _ in range(times):
            self._play.ask(text, 2 if text == "hello" else 8)
            self._play.do("tick")

    @rule(deed=st.sampled_from(["tick", "tick", "tick", "start", "rollback", "mend", "override"]), kill=KILLS)
    def killed(self, deed: Deed, kill: tuple[int, Kills]) -> None:
        if deed == "tick":
            self._play.ask("hello", 1)
        self._play.do(deed, kill)

    @rule(how=st.sampled_from(["one", "two at once", "again"]))
    def start(self, how: str) -> None:
        if how == "again":
            self._play.again()
        elif how == "one":
            self._play.do("start")
        else:
            self._play.at_once("start", "start")

    @rule(deed=st.sampled_from(["approve", "override", "mend", "rollback", "pause", "unpause"]))
    def person(self, deed: Deed) -> None:
        self._play.do(deed)

    @rule(one=st.sampled_from(DEEDS), other=st.sampled_from(DEEDS))
    def at_once(self, one: Deed, other: Deed) -> None:
        self._play.at_once(one, other)

    @rule(hand=st.sampled_from(HANDS), share=st.sampled_from([0, 10, 50, 100]))
    def by_hand(self, hand: Hand, share: int) -> None:
        self._play.change(hand, share)

    @rule(by=JUMPS)
    def clock(self, by: timedelta) -> None:
        self._play.jump(by)

    def teardown(self) -> None:
        if self.play is not None and not self.play.over:
            self.play.rest(onward=self.onward)

    @property
    def _play(self) -> Play:
        assert self.play is not None
        return self.play
