"""What people see of a release: one look, folded from rows of the evidence table by the real observer's fold."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import unquote
from xml.etree import ElementTree

import dagster as dg
import pytest

from release_pipeline.gate.decision import decide
from release_pipeline.gate.verdict import Signals
from release_pipeline.report.metadata import TIMES_LIMIT_PLOTTED, canary_metadata, promotion_metadata, trend_picture
from release_pipeline.report.sparkline import Line, sparkline
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.ingest import baseline_rows
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.reconciliation import Reconciliation
from release_pipeline.rollout.state import ReleaseState, Stage, StepWindow
from release_pipeline.spec import ModelPart, RampPart, ReleaseSpec
from release_pipeline.spec_gate import GatePart, Metric
from release_pipeline.workspace.counts import Level
from release_pipeline.workspace.evidence_table import EvidenceRow

# Dagster hides markdown of this many characters behind a link.
HIDDEN_AT = 1000
AT = datetime(2026, 11, 21, 14, 3, 1, tzinfo=UTC)
URL = "https://example.cloud.databricks.com/ml/endpoints/answers"
SPEC = ReleaseSpec(
    name="answers",
    model=ModelPart(registered_name="ml.agents.answers", source="agent.py"),
    ramp=RampPart(steps=(25, 50), min_step_seconds=5),
    gate=GatePart(
        bucket_seconds=5,
        metrics=(Metric(name="a_metric_with_a_name_that_is_rather_long", kind="errors", margin=0.05),),
    ),
)
METRIC = SPEC.gate.metrics[0].name
STATE = ReleaseState(
    release="20261121-140301",
    stage=Stage.RAMPING,
    challenger_version="8",
    champion_version="7",
    entities={},
    open_intent=None,
    steps=(StepWindow(0, 25, AT, None),),
    started_at=AT,
    promoted_at=None,
    last_sequence=4,
)


def look(*, challenger_bad: int, ingests: int) -> Observed:
    """A release at its first step after ``ingests`` reads of 120 champion and 40 challenger rows."""
    level = Level(METRIC, "", 1000, 10, None, 1.0)
    rows = baseline_rows(
        STATE, SPEC, [level], requests_per_second=1.0, cursors={"table": 0}, counters=Reconciliation(), at=AT
    )
    for number in range(1, ingests + 1):
        block = EvidenceRow(
            *(STATE.release, number, "block", AT, 0, AT.timestamp() + 10 * number, METRIC),
            champion=(119, 1),
            challenger=(40 - challenger_bad, challenger_bad),
            watermark=AT.timestamp() + 10 * number + 5,
        )
        rows += [block, EvidenceRow(STATE.release, number, "ingest", AT)]
    found = so_far(rows, SPEC.gate)
    began = AT.timestamp()
    signals = Signals(
        configured_share=0.25, now=began + 10 * ingests + 60, step_started_at=began, ramp_started_at=began
    )
    verdict = decide(found.state, signals, SPEC, 0)
    return Observed(
        release=STATE,
        endpoint=None,
        evidence=found.state,
        verdict=verdict,
        judged=verdict,
        evidence_digest="413030732ef20af5",
        thresholds={},
        ingests=ingests,
        lag_seconds=0.6123,
        signals=signals,
        path=found.path,
    )


@pytest.mark.parametrize(
    ("challenger_bad", "verdict", "shown"), [(0, "ADVANCE", "blue: good"), (30, "ROLL_BACK", "red: harm")]
)
def test_a_decided_look_says_so_in_words_table_and_picture(challenger_bad: int, verdict: str, shown: str) -> None:
    observed = look(challenger_bad=challenger_bad, ingests=20)
    metadata = canary_metadata(observed, endpoint_url=URL)
    assert metadata["verdict"] == verdict
    assert f"evidence on {METRIC}; " in metadata["trend"].md_str
    (row,) = metadata["metrics"].records
    assert f"{shown} {row.data['good' if verdict == 'ADVANCE' else 'harm'][:-2]};" in metadata["trend"].md_str
    assert row.data["challenger"] == f"{'0' if verdict == 'ADVANCE' else '75'} % of 800, at most 5.83 %"
    assert row.data["champion"] == "0.833 % of 2400"
    assert (row.data["good"][-1] == "✓", row.data["harm"][-1] == "✗") == (verdict == "ADVANCE", verdict == "ROLL_BACK")
    assert next(iter(metadata)) == "sentence", "people read the first row"


def test_markdown_is_short_enough_to_be_shown_inline() -> None:
    metadata = canary_metadata(look(challenger_bad=30, ingests=200), endpoint_url=URL)
    assert len(metadata["trend"].md_str) < HIDDEN_AT
    assert len(metadata["report"].md_str) < HIDDEN_AT


def test_only_the_most_urgent_segments_are_in_the_report_where_all_would_be_too_long() -> None:
    observed = look(challenger_bad=0, ingests=20)
    (metric,) = observed.verdict.metrics
    fine = [replace(metric, segment=f"s{number}", segments=20) for number in range(19)]
    bad = replace(metric, segment="![x](http://bad/x.png)", segments=20, harm_e=metric.harm_limit)
    observed = replace(observed, verdict=replace(observed.verdict, metrics=(*fine, bad)))
    text = canary_metadata(observed, endpoint_url=URL)["report"].md_str
    assert HIDDEN_AT / 2 < len(text) < HIDDEN_AT
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert r"of !\[x\]\(http://bad/x.png\)**" in lines[0], "what rolls back comes first, and is no picture"
    assert lines[-1] == f"- and {20 - (len(lines) - 1)} more, in the table `metrics`"


def lines_of(markdown: str) -> list[list[tuple[int, int]]]:
    """The points of every line of a picture, as they are drawn."""
    svg = ElementTree.fromstring(unquote(markdown.partition("svg+xml,")[2].partition(")")[0]))
    found = []
    for line in svg.iter("{http://www.w3.org/2000/svg}polyline"):
        numbers = [int(number) for number in line.attrib["points"].split(",")]
        found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def test_the_trend_has_a_point_per_read_after_its_start_up_to_a_limit_of_points() -> None:
    for ingests, points in ((1, 2), (5, 6), (200, 20)):
        good, harm = lines_of(trend_picture(look(challenger_bad=0, ingests=ingests)))
        assert (len(good), len(harm)) == (points, points)
    assert good[0][1] > good[-1][1], "evidence rises on the page"


def test_the_limit_is_at_the_same_height_whatever_it_is() -> None:
    for limit in (20.0, 1e4):
        picture = sparkline([Line([math.log(limit)], limit, "blue")])
        (line,) = lines_of(picture)
        assert f"d='M0%20{line[-1][1]}H220'" in picture


def test_numbers_are_plotted_up_to_a_multiple_of_their_limit() -> None:
    observed = look(challenger_bad=0, ingests=200)
    metric = observed.verdict.metrics[0]
    assert metric.noninferiority_e > TIMES_LIMIT_PLOTTED * metric.noninferiority_limit
    metadata = canary_metadata(observed, endpoint_url=URL)
    assert metadata[f"{METRIC}_good_e"] == TIMES_LIMIT_PLOTTED * metric.noninferiority_limit


def test_what_a_run_did_is_shown_beside_the_evidence_it_acted_on() -> None:
    observed = look(challenger_bad=0, ingests=20)
    after = replace(observed.release, steps=(*observed.release.steps, StepWindow(1, 50, AT, None)))
    metadata = canary_metadata(observed, endpoint_url=URL, now=after)
    assert (metadata["traffic_percent"], metadata["step"]) == (50, 2)
    assert metadata[f"{METRIC}_requests"] == 800


def test_a_look_before_the_first_read_has_no_numbers_that_do_not_exist() -> None:
    observed = replace(look(challenger_bad=0, ingests=0), ingests=0)
    metadata = canary_metadata(observed, endpoint_url=URL)
    assert metadata["verdict"] == "HOLD"
    assert f"{METRIC}_challenger" not in metadata
    assert "trend" not in metadata
    assert "0 reads of new rows" in metadata["report"].md_str


def test_a_promotion_names_the_version_that_was_read_back_from_the_alias() -> None:
    observed = look(challenger_bad=0, ingests=20)
    now = replace(observed.release, stage=Stage.PROMOTED)
    metadata = promotion_metadata(
        observed,
        endpoint_url=URL,
        now=now,
        live_version="9",
        live_url=f"{URL}/9",
        alias="champion",
        routes={"answers-8": 0, "answers-9": 100},
    )
    assert next(iter(metadata.items())) == ("live_version", "9")
    assert metadata["routes"] == "answers-8 0 %, answers-9 100 %"
    assert (metadata["stage"], metadata["traffic_percent"]) == ("promoted", 100)


def test_dagster_takes_every_value() -> None:
    metadata = canary_metadata(look(challenger_bad=0, ingests=3), endpoint_url=URL)
    assert set(dg.AssetObservation("canary", metadata=metadata).metadata) == set(metadata)


def test_a_line_without_finite_values_is_no_picture() -> None:
    assert sparkline([]) == ""
    assert sparkline([Line([float("nan")], 20.0, "blue")]) == ""
