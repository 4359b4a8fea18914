"""A release survives every fault at every call that it makes.

Enumerated: each transition is run until a run passes in which no call was left that had not met the fault yet.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.faults import OF_READS, Fault
from tests.faults.release_walk import (
    AGAIN,
    BACK,
    BACK_FROM_PROMOTION,
    EVALUATE,
    FIRST,
    FORCE,
    FORWARD,
    LOG,
    MEETING,
    MEND,
    PREDICT,
    REGISTER,
    SAID,
    SENSOR,
    Transition,
    Walk,
)
from tests.faults.report import PROPERTY, as_json
from tests.faults.scene import Scene

pytestmark = pytest.mark.timeout(1800)
Record = Callable[[str, Any], None]


#: Faults of `make test-all`, at the calls that write; the others, and those of reads, go with `make test-faults`.
IN_TEST_ALL = (Fault.KILL_AFTER, Fault.UPDATE_FAILED)


def faults(*left_out: Fault, in_test_all: tuple[Fault, ...] = IN_TEST_ALL) -> list[Any]:
    """Every fault at the calls that write and at those that read, with the mark of the suite that it belongs to."""
    met = [(fault, True) for fault in Fault] + [(fault, False) for fault in sorted(OF_READS)]
    return [
        pytest.param(
            fault,
            writes,
            id=f"{fault.name.lower()}-{'writes' if writes else 'reads'}",
            marks=pytest.mark.slow if writes and fault in in_test_all else pytest.mark.exhaustive,
        )
        for fault, writes in met
        if fault not in left_out
    ]


def survives(walk: Walk, transitions: tuple[Transition, ...], record: Record) -> None:
    try:
        walk.over(*transitions)
    finally:
        record(PROPERTY, json.dumps([as_json(point) for point in walk.points]))
    lost = [
        f"{point.transition}, call {point.number} ({point.call}): {point.trouble}"
        for point in walk.points
        if point.trouble
    ]
    assert lost == []
    user = walk.scene.user
    assert user is None or user.answered >= len(walk.points), "users have not asked all the while"
    met = {point.transition for point in walk.points}
    assert met == {transition.name for transition in transitions}, "a transition met no fault at all"


@pytest.mark.parametrize(("fault", "writes"), faults())
def test_a_release_goes_on(fault: Fault, writes: bool, scene: Scene, record_property: Record) -> None:
    survives(Walk(scene, fault, writes), FORWARD, record_property)


@pytest.mark.parametrize(("fault", "writes"), faults(Fault.UPDATE_FAILED, in_test_all=()))
@pytest.mark.parametrize(
    "transitions", [(LOG, REGISTER), (FORCE,), (EVALUATE,)], ids=["log and register", "force", "evaluate"]
)
def test_what_comes_before_the_endpoint_is_done_again(
    fault: Fault, writes: bool, transitions: tuple[Transition, ...], scene: Scene, record_property: Record
) -> None:
    survives(Walk(scene, fault, writes), transitions, record_property)


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", sorted(OF_READS))
def test_the_prediction_writes_nothing_and_is_done_again(fault: Fault, scene: Scene, record_property: Record) -> None:
    survives(Walk(scene, fault, writes=False), (PREDICT,), record_property)


@pytest.mark.parametrize(("fault", "writes"), faults(in_test_all=()))
@pytest.mark.parametrize("transition", [*MEETING, AGAIN], ids=["replace", "end of a bake", "failed before"])
def test_a_release_begins_although_something_was_there(
    fault: Fault, writes: bool, transition: Transition, scene: Scene, record_property: Record
) -> None:
    survives(Walk(scene, fault, writes), (transition,), record_property)


@pytest.mark.parametrize(("fault", "writes"), faults())
@pytest.mark.parametrize("transition", [*BACK, MEND], ids=["back from ramp", "back from bake", "mend"])
def test_what_brings_a_release_back_comes_to_its_end(
    fault: Fault, writes: bool, transition: Transition, scene: Scene, record_property: Record
) -> None:
    survives(Walk(scene, fault, writes), (transition,), record_property)


@pytest.mark.parametrize(("fault", "writes"), faults(in_test_all=()))
@pytest.mark.parametrize(
    "transition", [*SENSOR, BACK_FROM_PROMOTION], ids=["step", "promotion", "end of bake", "harm", "open promotion"]
)
def test_what_the_sensor_decides_is_done(
    fault: Fault, writes: bool, transition: Transition, scene: Scene, record_property: Record
) -> None:
    survives(Walk(scene, fault, writes), (transition,), record_property)


@pytest.mark.parametrize(("fault", "writes"), faults(Fault.UPDATE_FAILED, in_test_all=()))
@pytest.mark.parametrize("transition", SAID, ids=["approve", "pause", "close"])
def test_what_is_only_written_down(
    fault: Fault, writes: bool, transition: Transition, scene: Scene, record_property: Record
) -> None:
    survives(Walk(scene, fault, writes), (transition,), record_property)


@pytest.mark.parametrize(("fault", "writes"), faults(Fault.UPDATE_FAILED))
def test_a_first_release_goes_on_and_back(
    fault: Fault, writes: bool, first_scene: Scene, record_property: Record
) -> None:
    survives(Walk(first_scene, fault, writes), FIRST, record_property)


@pytest.mark.slow
def test_a_first_release_whose_update_fails_leaves_nothing(first_scene: Scene, record_property: Record) -> None:
    survives(Walk(first_scene, Fault.UPDATE_FAILED, True), FIRST[:1], record_property)
