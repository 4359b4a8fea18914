"""Who is called champion is a name: with the names changed, what was harm is the proof of being better, and back."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from release_pipeline.gate.evidence import Bet, MetricEvidence, fold
from release_pipeline.gate.observations import Baseline, Observation, slice_seconds
from release_pipeline.spec_gate import GatePart, Metric
from tests.gate.conftest import every

#: Buckets of one slice: both bets take the same blocks.
BUCKET = 60.0
#: Harm tolerates nothing, and so must its mirror image, although the YAML takes no margin of 0.
BETTER = Metric(name="errors", kind="errors", margin=0.01).model_copy(update={"margin": 0.0})

unhurried = settings(deadline=None, max_examples=100)


@st.composite
def even_releases(draw: st.DrawFn, bins: int = 2) -> list[Observation]:
    """Observations of several ingests, steps and buckets, late ones among them, with as many rows of both arms."""
    rows, watermark = [], 0.0
    for ingest in range(draw(st.integers(1, 8))):
        watermark += draw(st.sampled_from([0.0, 60.0, 300.0, 7000.0]))
        places = draw(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=10))
        for step, bucket in sorted(places):
            n = draw(st.integers(0, 60))
            arms = []
            for _ in range(2):
                cuts = sorted(draw(st.lists(st.integers(0, n), min_size=bins - 1, max_size=bins - 1)))
                edges = [0, *cuts, n]
                arms.append(tuple(high - low for low, high in itertools.pairwise(edges)))
            rows.append(
                Observation(
                    ingest=ingest,
                    step=step,
                    bucket_start=BUCKET * bucket,
                    metric="errors",
                    champion=arms[0],
                    challenger=arms[1],
                    from_version=ingest,
                    to_version=ingest,
                    watermark=watermark,
                )
            )
    return rows


def relabelled(rows: list[Observation]) -> list[Observation]:
    return [
        replace(
            row,
            champion=row.challenger,
            challenger=row.champion,
            champion_unjudged=row.challenger_unjudged,
            challenger_unjudged=row.champion_unjudged,
        )
        for row in rows
    ]


def evidence(rows: list[Observation], level_rows: tuple[int, int] = (999, 9)) -> MetricEvidence:
    gate = GatePart(metrics=(BETTER,), min_block_rows=10)
    return fold(rows, [Baseline.freeze(BETTER, *level_rows)], gate, buckets=every(gate, BUCKET)).metric("errors")


def test_a_bucket_of_the_tests_is_one_slice() -> None:
    assert slice_seconds(BUCKET) == BUCKET


@pytest.mark.parametrize("bins", [2, 5])
@unhurried
@given(st.data(), st.integers(0, 1000))
def test_relabelling_turns_harm_into_noninferiority_over_a_whole_release(
    bins: int, data: st.DataObject, bad: int
) -> None:
    rows = data.draw(even_releases(bins))
    one, other = evidence(rows, (1000, bad)), evidence(relabelled(rows), (1000, bad))
    for here, there in ((Bet.HARM, Bet.NONINFERIORITY), (Bet.NONINFERIORITY, Bet.HARM)):
        before, after = one.account(here), other.account(there)
        assert before.capitals.keys() == after.capitals.keys()
        for step in before.capitals:
            assert before.at(step) == pytest.approx(after.at(step), abs=1e-6)
        assert before.carried() == pytest.approx(after.carried(), abs=1e-6)
        assert {step: arms.champion for step, arms in before.folded.items()} == {
            step: arms.challenger for step, arms in after.folded.items()
        }, "the same blocks were bet"
        assert before.open.keys() == after.open.keys()
        assert before.given_up.keys() == after.given_up.keys()


@unhurried
@given(even_releases(), st.integers(0, 3))
def test_relabelling_twice_is_nothing(rows: list[Observation], step: int) -> None:
    assert evidence(relabelled(relabelled(rows))) == evidence(rows)
    seen, turned = evidence(rows).seen(step), evidence(relabelled(rows)).seen(step)
    assert (seen.champion, seen.challenger) == (turned.challenger, turned.champion)
