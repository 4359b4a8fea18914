"""Whatever rows a table holds, in whatever order and however often: each is counted once, and the absurd never as good.

Through the real SQL of the local workspace, against a few lines of Python that say what a row is worth.
"""

import itertools
import json
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.counts import Delta
from release_pipeline.workspace.inference_table import InferenceTable, MetricPlan, Window
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import Logged, create, insert, moment, warehouse

THRESHOLD = 250
PLANS = (
    MetricPlan(Metric(name="errors", kind="errors"), 60),
    MetricPlan(Metric(name="slow", kind="slow"), 60, THRESHOLD),
    MetricPlan(Metric(name="score", kind="expression", badness="get_json_object(response, '$.score')"), 60),
)
SCORES = (0, 1, 0.5, 0.05, -0.001, 1.001, -7, 1e308, "NaN", "Infinity", "-Infinity", "good", "", None, True)
_NUMBERS = itertools.count()

rows_strategy = st.lists(
    st.builds(
        Logged,
        id=st.just(""),
        at=st.sampled_from([0.0, 59.999, 60.0, 119.0]),
        status=st.one_of(
            st.none(),
            st.sampled_from([200, 99, 100, 399, 400, 599, 600, 0, -1, -(2**31), 2**31 - 1]),
            st.integers(-10, 700),
        ),
        ms=st.one_of(st.none(), st.integers(-5, 500), st.sampled_from([-(2**63), -1, 0, THRESHOLD, 2**63 - 1])),
        entity=st.sampled_from(["m/1", "m/2"]),
        response=st.sampled_from([json.dumps({"score": score}) for score in SCORES] + ["no JSON", "", None]),
    ),
    min_size=1,
    max_size=25,
)


@pytest.fixture(scope="module")
def table(workspace: RunningWorkspace) -> InferenceTable:
    return InferenceTable(warehouse(), create(warehouse(), "gateway"))


def worth(row: Logged, metric: str) -> float | None:
    """Badness of a row; None where it cannot be judged."""
    if metric == "errors":
        return None if row.status is None or not 100 <= row.status <= 599 else float(row.status >= 400)
    if metric == "slow":
        return None if row.ms is None or row.ms < 0 else float(row.ms > THRESHOLD)
    try:
        score = json.loads(row.response or "").get("score")
    except ValueError:
        return None
    if score is True:
        return None  # its text is "true", which is no number
    try:
        value = float(score)
    except (TypeError, ValueError):
        return None
    return value if 0 <= value <= 1 else None


def counted(delta: Delta) -> dict[tuple[str, str, float], tuple[int, int, int, int]]:
    """Judged, wholly good, wholly bad and unjudged rows by (metric, entity, bucket)."""
    found = {}
    for group in delta.groups:
        key = (group.metric, group.served_entity_id, group.bucket_start - moment(0).timestamp())
        found[key] = (sum(group.counts), group.counts[0], group.counts[-1], group.unjudged)
    return found


def expected(rows: list[Logged]) -> dict[tuple[str, str, float], tuple[int, int, int, int]]:
    tally: dict[tuple[str, str, float], Counter[str]] = {}
    for row in rows:
        for plan in PLANS:
            name, at = plan.metric.name, row.at or 0.0
            cell = tally.setdefault((name, row.entity or "", 60.0 * (at // 60)), Counter())
            value = worth(row, name)
            cell["unjudged" if value is None else "judged"] += 1
            cell["good"] += value == 0
            cell["bad"] += value == 1
    return {key: (cell["judged"], cell["good"], cell["bad"], cell["unjudged"]) for key, cell in tally.items()}


def read(table: InferenceTable, after: int, first: int) -> tuple[Delta, int]:
    latest = table.latest()
    assert latest is not None
    window = [Window(0, moment(0), None)]
    return table.changes(after, latest, first_version=first, windows=window, plans=PLANS), latest.version


# Shrinking would take minutes, a statement at a time.
few, many = (
    settings(
        deadline=None,
        max_examples=examples,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    for examples in (3, 25)
)


@few
@given(rows_strategy, st.integers(0, 2**32))
def test_every_row_counts_once_and_nothing_absurd_is_good(table: InferenceTable, rows: list[Logged], seed: int) -> None:
    counts_once(table, rows, seed)


@pytest.mark.slow
@many
@given(rows_strategy, st.integers(0, 2**32))
def test_the_same_of_many_tables(table: InferenceTable, rows: list[Logged], seed: int) -> None:
    counts_once(table, rows, seed)


def counts_once(table: InferenceTable, rows: list[Logged], seed: int) -> None:
    """Rows, shuffled and delivered again and again, count as they would one by one."""
    rows = [replace(row, id=f"r{next(_NUMBERS)}") for row in rows]
    draw = random.Random(seed)
    copies = draw.choices(rows, k=len(rows))
    shuffled = [*rows, *copies]
    draw.shuffle(shuffled)
    begin = (table.latest() or (0,))[0]
    insert(warehouse(), table.name, "gateway", shuffled)
    delta, reached = read(table, begin, begin + 1)
    assert counted(delta) == expected(rows)
    assert delta.duplicates == len(copies)
    assert dict(delta.failed) == {}
    # Delivered again in later commits, beside a row that is new: only that counts.
    new = Logged(f"r{next(_NUMBERS)}", 60.0)
    insert(warehouse(), table.name, "gateway", draw.sample(shuffled, len(shuffled)))
    insert(warehouse(), table.name, "gateway", [*copies, new])
    again, _ = read(table, reached, begin + 1)
    assert {key: cell for key, cell in counted(again).items() if any(cell)} == expected([new])
    assert again.duplicates == len(shuffled) + len(copies)
