"""The command: what it reads, what its options do, what it says, and how it refuses."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release_pipeline.cli import main
from tests.replay.conftest import make_log, spec_of

SPEC = spec_of({"name": "errors", "kind": "errors", "margin": 0.03}, ramp={"steps": [40], "min_step_seconds": 60})
GOOD, BAD = make_log(share=0.4, seed=3), make_log(share=0.4, seed=4, challenger=0.08)
SMALL = make_log(rows=1500, before=300, share=0.4, seed=5, challenger=0.1, rate=1.0)


@pytest.fixture(scope="module")
def both() -> pd.DataFrame:
    """Two releases whose rows lie in each other's way."""
    log = pd.concat([GOOD.assign(release="good"), BAD.assign(release="bad")])
    return log.sample(frac=1, random_state=0).reset_index(drop=True)


def test_releases_are_told_apart_and_end_as_alone(replay, both):
    together = {release["release"]: release for release in replay(both, SPEC).releases}
    assert together["good"]["verdict"] == "PROMOTE"
    assert together["bad"]["verdict"] == "ROLL_BACK"
    for name, log in (("good", GOOD), ("bad", BAD)):
        (alone,) = replay(log, SPEC).releases
        assert {**alone, "release": name} == together[name]


def test_a_result_says_when_after_how_many_and_why(replay):
    (found,) = replay(BAD, SPEC).releases
    (metric,) = found["metrics"]
    assert found["reason"] == "GUARD"
    assert found["step"] == 1
    assert found["sentence"].startswith("Roll back at step 1 of 1 (40 %): errors is ")
    assert found["seconds"] == found["at"] - found["ramp_started_at"]
    assert found["seconds"] % SPEC.automation.tick_seconds == 0
    path = metric["path"]
    assert len({len(values) for values in path.values()}) == 1
    assert path["at"] == sorted(path["at"])
    assert path["harm_e"][-1] == pytest.approx(metric["harm_e"], rel=1e-12)
    assert metric["harm_e"] >= metric["harm_limit"] > max([1.0, *path["harm_e"][:-1]])
    # What had been read by then, counted anew.
    ids = BAD.sort_values("arrived_at").drop_duplicates("request_id")
    seen = ids[(ids["request_time"] >= found["ramp_started_at"]) & (ids["arrived_at"] <= found["at"])]
    arms = seen["arm"].value_counts()
    assert found["requests"] == {"champion": arms["champion"], "challenger": arms["challenger"]}
    assert found["rows"]["read"] == len(BAD)
    assert found["rows"]["duplicates"] == len(BAD) - len(ids)
    before = ids[ids["request_time"] < found["ramp_started_at"]]
    assert metric["baseline_rows"] == found["rows"]["baseline"] <= len(before)


def _iso(log, zone="UTC", text="%Y-%m-%dT%H:%M:%S.%f%z"):
    times = {name: pd.to_datetime(log[name], unit="s", utc=True) for name in ("arrived_at", "request_time")}
    return log.assign(**{name: each.dt.tz_convert(zone).dt.strftime(text) for name, each in times.items()})


def _timestamps(log, naive):
    times = {name: pd.to_datetime(log[name], unit="s", utc=True) for name in ("arrived_at", "request_time")}
    return log.assign(**{name: each.dt.tz_localize(None) if naive else each for name, each in times.items()})


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("csv", lambda log: log),
        ("csv.gz", lambda log: log),
        ("csv", _iso),
        ("csv", lambda log: _iso(log, "Asia/Kolkata")),
        ("csv", lambda log: _iso(log, text="%Y-%m-%d %H:%M:%S.%f")),
        ("parquet", _iso),
        ("parquet", lambda log: _timestamps(log, naive=True)),
        ("parquet", lambda log: _timestamps(log, naive=False)),
        ("parquet", lambda log: log.assign(status_code=log["status_code"].astype(int).astype(str))),
        ("parquet", lambda log: log.rename(columns=str.upper)),
        ("parquet", lambda log: log.assign(arm=log["arm"].str.title())),
    ],
)
def test_the_same_log_in_another_dress_ends_the_same(kind, change, replay):
    # Timestamps hold microseconds, floats a little less.
    (plain,), (dressed,) = replay(SMALL, SPEC).releases, replay(change(SMALL), SPEC, kind=kind).releases
    for key in ("verdict", "reason", "sentence", "requests", "rows", "step"):
        assert dressed[key] == plain[key], key
    assert dressed["at"] == pytest.approx(plain["at"], abs=1e-3)
    assert dressed["metrics"][0]["path"]["harm_e"] == pytest.approx(plain["metrics"][0]["path"]["harm_e"], rel=1e-9)


def test_served_entities_in_place_of_arms(replay):
    log = SMALL.assign(served_entity_id=SMALL["arm"].map({"champion": "a1", "challenger": "b2"})).drop(columns="arm")
    (plain,) = replay(SMALL, SPEC).releases
    (found,) = replay(log, SPEC, "--champion-entity", "a1", "--challenger-entity", "b2").releases
    assert found == plain
    refused = replay(log, SPEC, "--champion-entity", "a1")
    assert refused.exit_code == 2
    assert "column served_entity_id has 'b2'" in refused.stderr
    assert replay(log, SPEC, "--champion-entity", "a1", "--challenger-entity", "a1").exit_code == 2


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), copies=st.integers(0, 200))
def test_neither_the_order_of_rows_nor_copies_of_them_matter(seed, copies, replay):
    (plain,) = replay(SMALL, SPEC).releases
    again = SMALL.sample(copies, random_state=seed)
    again = again.assign(arrived_at=again["arrived_at"] + 1e-3)
    log = pd.concat([SMALL, again]).sample(frac=1, random_state=seed)
    # A copy must not come first; a row that shares its time with another may be read in either order.
    (found,) = replay(log, SPEC).releases
    assert found["rows"]["duplicates"] == plain["rows"]["duplicates"] + copies
    assert {**found, "rows": 0} == {**plain, "rows": 0}


@pytest.mark.parametrize("cell", ["", "NaN", "null", "-7", "42", "200.5", "99999"])
def test_statuses_that_say_nothing_are_counted_and_never_good(cell, replay):
    (plain,) = replay(GOOD, SPEC, kind="csv").releases
    log = GOOD.assign(status_code=GOOD["status_code"].astype(int).astype(str))
    ramp = np.flatnonzero((log["arm"] == "challenger") & (log["status_code"] == "200"))[:400]
    log.loc[ramp, "status_code"] = cell
    (found,) = replay(log, SPEC, kind="csv").releases
    assert plain["verdict"] == "PROMOTE"
    assert found["verdict"] != "PROMOTE"
    (metric,) = found["metrics"]
    assert metric["challenger_unjudged"] > 300


def test_durations_that_say_nothing_are_counted(replay):
    spec = spec_of({"name": "slow", "kind": "slow", "threshold_ms": 300}, ramp={"steps": [40]})
    odd = np.where(np.arange(len(SMALL)) % 3 == 0, -5.0, SMALL["execution_duration_ms"])
    odd = np.where(np.arange(len(SMALL)) % 3 == 1, np.nan, odd)
    (found,) = replay(SMALL.assign(execution_duration_ms=odd), spec).releases
    (metric,) = found["metrics"]
    judged, unjudged = metric["champion_n"], metric["champion_unjudged"]
    assert unjudged == pytest.approx(2 * judged, rel=0.2)


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_whatever_a_version_answers_is_its_own_and_the_gateways_refusals_are_nobodys(status, replay):
    log = SMALL.assign(served_entity_id=SMALL["arm"].map({"champion": "a1", "challenger": "b2"})).drop(columns="arm")
    extra = log[log["served_entity_id"] == "b2"].tail(200)
    extra = extra.assign(status_code=float(status), request_id=[f"refused-{n}" for n in range(200)])
    options = ("--champion-entity", "a1", "--challenger-entity", "b2", "--no-guard", "errors")
    (plain,) = replay(log, SPEC, *options).releases
    (answered,) = replay(pd.concat([log, extra]), SPEC, *options).releases
    (refused,) = replay(pd.concat([log, extra.assign(served_entity_id=None)]), SPEC, *options).releases
    assert answered["rows"]["not_answered"] == 0
    assert answered["metrics"][0]["challenger_bad"] == plain["metrics"][0]["challenger_bad"] + 200
    assert refused["rows"]["not_answered"] == 200
    assert refused["metrics"] == plain["metrics"]


class TestOptions:
    def test_a_metric_can_be_required_without_being_a_guard(self, replay):
        (guarded,) = replay(BAD, SPEC).releases
        (found,) = replay(BAD, SPEC, "--require", "errors", "--no-guard", "errors").releases
        assert guarded["verdict"] == "ROLL_BACK"
        assert found["verdict"] == "HOLD"
        (metric,) = found["metrics"]
        assert (metric["guard"], metric["required"]) == (False, True)
        assert metric["harm_e"] > metric["harm_limit"]

    def test_a_muted_metric_that_is_required_becomes_no_guard(self, replay):
        spec = spec_of({"name": "errors", "kind": "errors", "muted": True}, ramp={"steps": [40]})
        (metric,) = replay(BAD, spec, "--require", "errors").releases[0]["metrics"]
        assert (metric["guard"], metric["required"]) == (False, True)

    def test_a_metric_that_is_no_guard_any_more_keeps_no_share_of_alpha(self, replay):
        metrics = [{"name": name, "kind": "errors", "alpha_share": share} for name, share in (("a", 0.75), ("b", 0.25))]
        spec = spec_of(*metrics, ramp={"steps": [40]})
        limits = {each["name"]: each["harm_limit"] for each in replay(GOOD, spec).releases[0]["metrics"]}
        assert limits == pytest.approx({"a": 20 / 0.75, "b": 80})
        a, b = replay(GOOD, spec, "--no-guard", "a").releases[0]["metrics"]
        assert (a["guard"], b["guard"], b["harm_limit"]) == (False, True, 80)

    def test_the_level_can_be_given(self, replay):
        (found,) = replay(GOOD, SPEC, "--champion-level", "errors=0.25").releases
        assert found["metrics"][0]["champion_level"] == 0.25

    def test_the_step_can_be_given(self, replay):
        spec = spec_of({"name": "errors", "kind": "errors", "margin": [0.03, 0.02]}, ramp={"steps": [10, 40, 50]})
        (found,) = replay(GOOD, spec, "--step", "2").releases
        assert (found["verdict"], found["step"], found["metrics"][0]["margin"]) == ("ADVANCE", 2, 0.02)
        assert found["advances"] == []

    def test_steps_follow_from_the_verdicts(self, replay):
        spec = spec_of(
            {"name": "errors", "kind": "errors", "margin": 0.05}, ramp={"steps": [5, 40], "min_step_seconds": 60}
        )
        (found,) = replay(GOOD, spec).releases
        (first,) = found["advances"]
        assert found["step"] == 2
        assert found["at"] > first["at"]
        assert found["share_differs_at_steps"] == [1]
        assert "step 1 of 2" in first["sentence"]

    @pytest.mark.parametrize(
        ("option", "field", "value"),
        [("--bucket-seconds", "bucket_seconds", 77), ("--alpha", "noninferiority_limit", 50.0)],
    )
    def test_fields_of_the_gate_can_be_changed(self, option, field, value, replay):
        given = str(value) if option != "--alpha" else "0.02"
        (found,) = replay(GOOD, SPEC, option, given).releases
        assert found["metrics"][0][field] == value

    def test_ticks_steps_and_blocks_can_be_changed(self, replay):
        (plain,) = replay(GOOD, SPEC).releases
        (slow,) = replay(GOOD, SPEC, "--tick-seconds", "250").releases
        assert slow["seconds"] % 250 == 0
        quick = "--watermark-lag", "60", "--bucket-seconds", "60"
        (short,) = replay(GOOD, SPEC, *quick).releases
        (long,) = replay(GOOD, SPEC, *quick, "--min-step-seconds", "900").releases
        assert short["seconds"] < 600
        assert 900 <= long["seconds"] < 930
        (trailing,) = replay(GOOD, SPEC, "--watermark-lag", "5000").releases
        assert (plain["verdict"], trailing["verdict"]) == ("PROMOTE", "HOLD")
        (large,) = replay(GOOD, SPEC, "--min-block-rows", "9000").releases
        assert large["metrics"][0]["path"] == {"at": [], "step": [], "harm_e": [], "noninferiority_e": []}


def _cell(column, row, value):
    def change(log):
        changed = log.astype({column: object}).reset_index(drop=True)
        changed.loc[row - 1, column] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_cell("status_code", 17, "teapot"), ["column status_code has 'teapot' in row 17", "HTTP status"]),
        (_cell("arrived_at", 2, "yesterday"), ["column arrived_at has 'yesterday' in row 2", "ISO text"]),
        (_cell("request_time", 3, ""), ["column request_time has nothing in row 3"]),
        (
            _cell("request_time", 3, "1700000000000"),
            ["column request_time has '1700000000000' in row 3", "unix seconds"],
        ),
        (_cell("request_id", 5, None), ["column request_id has nothing in row 5"]),
        (_cell("arm", 1, "winner"), ["column arm has 'winner' in row 1", "champion or challenger"]),
        (_cell("execution_duration_ms", 9, "fast"), ["column execution_duration_ms has 'fast' in row 9"]),
        (lambda log: log.assign(traffic_percent=33), ["column traffic_percent has '33' in row 1", "[40]"]),
        (lambda log: log.drop(columns="arm"), ["has no column arm", "served_entity_id"]),
        (lambda log: log.drop(columns="arrived_at"), ["has no column arrived_at"]),
        (lambda log: log.drop(columns="status_code"), ["has no column status_code", "metric errors"]),
        (lambda log: log.head(0), ["has no rows"]),
    ],
)
def test_a_bad_log_is_one_sentence_and_nothing_is_printed(change, words, replay):
    ended = replay(change(SMALL), SPEC, kind="csv")
    assert ended.exit_code == 2
    assert ended.stdout == ""
    for word in words:
        assert word in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_metric_of_the_gate_needs_its_column(replay):
    judge = {"name": "helpful", "kind": "judge", "scorer": "Helpful"}
    ended = replay(SMALL, spec_of(judge, ramp={"steps": [40]}))
    assert ended.exit_code == 2
    assert "has no column helpful" in ended.stderr
    assert replay(SMALL, spec_of({**judge, "muted": True}, {"name": "errors", "kind": "errors"})).exit_code == 0
    wrong = replay(SMALL.assign(helpful="very"), spec_of(judge))
    assert "column helpful has 'very' in row 1; expected a badness from 0 to 1, or nothing" in wrong.stderr
    segments = {"name": "errors", "kind": "errors", "segments": "country"}
    assert "has no column errors_segment" in replay(SMALL, spec_of(segments)).stderr


def test_slow_without_a_threshold_needs_rows_from_before(replay):
    spec = spec_of({"name": "slow", "kind": "slow"}, ramp={"steps": [40]})
    (found,) = replay(SMALL, spec).releases
    assert 200 < found["metrics"][0]["threshold_ms"] < 500
    ended = replay(make_log(rows=500, before=0, share=0.4), spec)
    assert ended.exit_code == 2
    assert "set threshold_ms" in ended.stderr


@pytest.mark.parametrize(
    ("log", "options", "words"),
    [
        ("nowhere.csv", [], "no file nowhere.csv"),
        ("nowhere", [], "is no log"),
        (SMALL, ["--step", "2"], "the ramp has 1 steps"),
        (SMALL, ["--require", "speed"], "no metric speed"),
        (SMALL, ["--champion-level", "speed=0.1"], "names speed"),
        (SMALL, ["--champion-level", "errors=2"], "METRIC=SHARE"),
        (SMALL, ["--alpha", "0.9"], "gate.alpha"),
    ],
)
def test_mistakes_in_what_was_asked_are_sentences(log, options, words, replay):
    ended = replay(log, SPEC, *options)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert words in ended.stderr


def test_a_file_that_is_not_what_its_name_says(replay, tmp_path):
    file = tmp_path / "broken.parquet"
    file.write_text("a,b\n1,2\n")
    ended = replay(file, SPEC)
    assert ended.exit_code == 2
    assert "broken.parquet cannot be read" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_rows_of_another_length_or_behind_a_hash_are_never_skipped(replay, tmp_path):
    lines = SMALL.to_csv(index=False).splitlines()
    for number, line in ((1, "1,2,3"), (900, "1,2,3"), (2, ",".join([lines[1], "more"]))):
        file = tmp_path / "ragged.csv"
        file.write_text("\n".join([*lines[:number], line, *lines[number:]]) + "\n")
        ended = replay(file, SPEC)
        assert (ended.exit_code, ended.stdout) == (2, "")
        cells = line.count(",") + 1
        assert f"cannot be read: line {number + 1} has {cells} cells where the header has 6." in ended.stderr
    hashed = SMALL.assign(arrived_at="#" + SMALL["arrived_at"].astype(str))
    assert "expected a time" in replay(hashed[SMALL.columns], SPEC, kind="csv").stderr


def test_people_get_tables(replay, both, tmp_path):
    both.to_parquet(tmp_path / "both.parquet")
    assert replay(SMALL, SPEC).exit_code == 0  # writes the spec
    spec = str(tmp_path / "defs.yaml")
    ended = CliRunner().invoke(main, ["replay", "--spec", spec, "--log", str(tmp_path / "both.parquet")])
    for word in ("good", "PROMOTE", "bad", "ROLL_BACK", "1 of 2 releases"):
        assert word in ended.stdout
    ended = CliRunner().invoke(main, ["replay", "--spec", spec, "--log", str(tmp_path / "log.parquet")])
    assert "Roll back at step 1 of 1" in ended.stdout
    assert "harm e" in ended.stdout


def test_json_is_one_object(replay, both):
    found = json.loads(replay(both, SPEC).stdout)
    assert set(found) == {"releases", "totals"}
    assert found["totals"]["ROLL_BACK"]["releases"] == 1
