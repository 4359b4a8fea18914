"""The observer sees each thing that must not be."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from release_pipeline.rollout.ledger import Action, Entry, Phase
from release_pipeline.workspace.endpoint import EndpointState, ServedEntity
from tests.faults.observer import Rejected, Sight, violations

NAMES = {"champion": "one", "challenger": "two"}
DEPLOYED = [(Action.DEPLOY, Phase.INTENT), (Action.DEPLOY, Phase.DONE)]
STEP = [(Action.SET_TRAFFIC, Phase.INTENT), (Action.SET_TRAFFIC, Phase.DONE)]
PROMOTION = [(Action.PROMOTE, Phase.INTENT), (Action.PROMOTE, Phase.DONE)]
BACK = [(Action.ROLL_BACK, Phase.INTENT), (Action.ROLL_BACK, Phase.DONE)]
Rows = list[tuple[Action, Phase]]


def sight(routes: Mapping[str, int], alias: str | None, rows: Rows, config: int = 1) -> Sight:
    """Entities `one` and `two` serve versions 1 and 2, as far as they have a route."""
    version = {"one": "1", "two": "2"}
    endpoint = EndpointState(
        name="m",
        id="",
        ready=True,
        updating=False,
        update_failed=False,
        config_version=config,
        entities=tuple(ServedEntity(name, "main.default.m", version[name]) for name in routes),
        routes=routes,
    )
    after: dict[Action, dict[str, Any]] = {
        Action.DEPLOY: {"champion_version": "1", "challenger_version": "2", "entities": NAMES},
        Action.SET_TRAFFIC: {"step": 0, "traffic_percent": 40},
    }
    entries = [
        Entry("r", number, datetime.now(UTC), "test", action, phase, after=after.get(action, {}))
        for number, (action, phase) in enumerate(rows, 1)
    ]
    return Sight(endpoint, alias, tuple(entries))


@pytest.mark.parametrize(
    ("routes", "alias", "rows"),
    [
        ({"one": 100}, "1", []),
        ({"one": 100, "two": 0}, "1", DEPLOYED),
        ({"one": 60, "two": 40}, "1", [*DEPLOYED, *STEP]),
        ({"one": 60, "two": 40}, "1", [*DEPLOYED, *STEP[:1]]),
        ({"one": 0, "two": 100}, "1", [*DEPLOYED, *STEP, *PROMOTION[:1]]),
        ({"one": 0, "two": 100}, "2", [*DEPLOYED, *STEP, *PROMOTION[:1]]),
        ({"one": 0, "two": 100}, "2", [*DEPLOYED, *STEP, *PROMOTION]),
        ({"two": 100}, "2", [*DEPLOYED, *STEP, *PROMOTION, (Action.RETIRE, Phase.INTENT)]),
        ({"one": 100, "two": 0}, "2", [*DEPLOYED, *STEP, *PROMOTION, *BACK[:1]]),
        ({"one": 100}, "1", [*DEPLOYED, *STEP, *BACK]),
    ],
)
def test_a_sound_release_is_not_complained_of(routes: Mapping[str, int], alias: str, rows: Rows) -> None:
    assert violations(sight(routes, alias, rows)) == []


@pytest.mark.parametrize(
    ("routes", "alias", "rows", "words"),
    [
        ({"one": 60, "two": 30}, "1", [*DEPLOYED, *STEP[:1]], "routes sum to 90"),
        ({"two": 100}, "2", [*DEPLOYED, *STEP, *PROMOTION[:1]], "version 1 left the endpoint while it was the way"),
        ({"two": 100}, "2", [*DEPLOYED, *STEP, *PROMOTION], "version 1 left the endpoint while it was the way back"),
        ({"one": 60, "two": 40}, "2", [*DEPLOYED, *STEP], "the alias names 2 on the ramp"),
        ({"one": 60, "two": 40}, "2", [*DEPLOYED, *STEP, *PROMOTION[:1]], "the alias moved to 2 before the traffic"),
        ({"one": 30, "two": 70}, "1", [*DEPLOYED, *STEP], "the ledger says {'2': 40, '1': 60}"),
        ({"one": 0, "two": 100}, "1", [*DEPLOYED, *STEP, *PROMOTION], "the alias names 1, not 2"),
        ({"one": 60, "two": 40}, "1", [*DEPLOYED, *STEP, *BACK], "the ledger says {'1': 100}"),
        ({"one": 100}, "2", [*DEPLOYED, *STEP, *PROMOTION, *BACK], "the alias names 2, not 1"),
    ],
)
def test_what_must_not_be_is_seen(routes: Mapping[str, int], alias: str, rows: Rows, words: str) -> None:
    assert words in "; ".join(violations(sight(routes, alias, rows)))


def test_a_rejected_version_that_gets_traffic_again_is_seen_and_an_older_sight_is_not_taken_for_it() -> None:
    rejected, rows = Rejected(), [*DEPLOYED, *STEP, *BACK]
    assert rejected.traffic(sight({"one": 60, "two": 40}, "1", rows[:-1], config=2)) == [], "on its way back"
    assert rejected.traffic(sight({"one": 100, "two": 0}, "1", rows, config=3)) == []
    assert rejected.traffic(sight({"one": 60, "two": 40}, "1", rows, config=2)) == [], "seen before, judged after"
    again = sight({"one": 90, "two": 10}, "1", rows, config=4)
    assert rejected.traffic(again) == ["version 2 got traffic again after its rollback"]
    newer = Entry(
        "s",
        8,
        datetime.now(UTC),
        "test",
        Action.DEPLOY,
        Phase.INTENT,
        after={"champion_version": "1", "challenger_version": "3", "entities": NAMES},
    )
    later = replace(again, entries=(*again.entries, newer))
    assert rejected.traffic(later) == ["version 2 got traffic again after its rollback"], "whatever release came since"


def test_a_first_release_that_was_rolled_back_has_no_traffic_again() -> None:
    rejected = Rejected()
    first = sight({"two": 100}, None, [*DEPLOYED, *BACK], config=1)
    entries = tuple(
        replace(entry, after={**entry.after, "champion_version": None}) if entry.after else entry
        for entry in first.entries
    )
    assert rejected.traffic(replace(first, endpoint=None, entries=entries)) == []
    assert rejected.traffic(replace(first, entries=entries)) == ["version 2 got traffic again after its rollback"]
