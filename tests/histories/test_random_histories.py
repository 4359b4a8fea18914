"""Random histories of releases: whatever happens in whatever order, nothing that must not be ever is."""

import os
import re

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.histories.ground import Ground
from tests.histories.machine import Histories
from tests.histories.play import Play
from tests.histories.wire import Wire
from tests.pipeline.killer import Killer

#: Histories over all parts, which can be played side by side.
HISTORIES = int(os.environ.get("HISTORIES", "504"))
SEED = int(os.environ.get("HISTORIES_SEED", "20261121"))
PARTS = 12
STEPS = 7
#: What must have happened, as it is told: a deed that took effect, or what came of one. A part may lack one by chance.
OFTEN = (": killed", "^by hand: weights", "is rolled back", "ran promote", "ran finish_")
#: What is rarer; a part may lack half of it.
SELDOM = (
    "^by hand: alias",
    "^clock: ",
    r"^approve \(.*\): \d+$",
    r"^pause \(.*\): [0-9a-f]{32}$",
    "^start and start ",
    "^rollback and rollback ",
    "from the queue: ",
)


def played(ground: Ground, wire: Wire, killer: Killer, histories: int, part: int) -> list[Play]:
    """So many histories of a part, drawn from one seed."""

    class OnThisGround(Histories):
        pass

    OnThisGround.ground, OnThisGround.wire, OnThisGround.killer = ground, wire, killer
    OnThisGround.played = []
    rules = settings(
        max_examples=histories,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a history costs seconds: what it tells is enough to shrink it by hand
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(SEED + 1 + part)(OnThisGround), settings=rules)
    return OnThisGround.played


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_histories(part: int, ground: Ground, wire: Wire, killer: Killer) -> None:
    plays = played(ground, wire, killer, HISTORIES // PARTS, part)
    assert len(plays) >= HISTORIES // PARTS
    told = "\n".join(line for play in plays for line in play.told)
    for kinds, most in ((OFTEN, 1), (SELDOM, len(SELDOM) // 2)):
        missing = [what for what in kinds if not re.search(what, told, re.MULTILINE)]
        assert len(missing) <= most, f"nothing of these kinds happened: {missing}"
