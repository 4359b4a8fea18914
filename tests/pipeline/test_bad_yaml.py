"""A wrong field of the YAML is a sentence: the file, the field, the value, and what is allowed."""

import math
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import dagster as dg
import pytest
from dagster._utils.schedules import cron_string_iterator

from release_pipeline.errors import SpecError
from release_pipeline.rollout.verified_write import OWNER_TAG
from release_pipeline.spec import parse_spec
from release_pipeline.spec_cron import next_times
from tests.pipeline.conftest import MODELS, attributes

YAML = MODELS / "defs.yaml"


def metric(**fields: Any) -> dict[str, Any]:
    """A release whose gate has one metric, of errors unless the fields say otherwise."""
    return {"gate": {"metrics": [{"name": "a", "kind": "errors", **fields}]}}


def limit(**fields: Any) -> dict[str, Any]:
    """A release whose endpoint has one rate limit."""
    return {"endpoint": {"rate_limits": [{"calls": 10, **fields}]}}


def permission(**fields: Any) -> dict[str, Any]:
    """A release whose endpoint gives one permission."""
    return {"endpoint": {"permissions": [{"level": "CAN_QUERY", **fields}]}}


WRONG: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("name", {"name": "my model"}, ("`name`", "'my model'", "letters, digits and underscores")),
    ("name missing", {"name": None}, ("`name`", "text")),
    ("two levels", {"model": {"registered_name": "default.m"}}, ("registered_name", "default.m", "catalog.schema")),
    ("hyphen", {"model": {"registered_name": "main.default.my-m"}}, ("registered_name", "my-m", "underscores")),
    ("no file", {"model": {"source": "nowhere.py"}}, ("model.source", "nowhere.py", "does not exist", str(MODELS))),
    ("no config", {"model": {"config": "none.yaml"}}, ("model.config", "none.yaml", "does not exist")),
    ("no code", {"model": {"code_paths": ["lib"]}}, ("model.code_paths.0", "lib", "does not exist")),
    ("no dataset", {"evaluation": {"dataset": "e.jsonl"}}, ("evaluation.dataset", "e.jsonl", "does not exist")),
    ("scorers alike", {"evaluation": {"scorers": ["a.py:good", "b.py:good"]}}, ("evaluation.scorers", "named good")),
    (
        "threshold of none",
        {"evaluation": {"thresholds": {"answred": 0.9}}},
        ("evaluation", "answred", "none of scorers"),
    ),
    (
        "threshold",
        {"evaluation": {"thresholds": {"answered": 90}}},
        ("evaluation", "thresholds.answered is 90", "0 to 1"),
    ),
    ("resource", {"model": {"resources": [{"type": "disk", "name": "x"}]}}, ("resources.0.type", "'disk'", "table")),
    ("no calls", {"endpoint": {"rate_limits": [{"calls": 0}]}}, ("rate_limits.0.calls", "0", "greater than")),
    ("limit of whom", limit(key="user_group"), ("rate_limits.0", "user_group", "name it in `principal`")),
    ("limit of all", limit(principal="ada@example.com"), ("rate_limits.0", "for everybody", "`principal` out")),
    (
        "two limits",
        {"endpoint": {"rate_limits": [{"calls": 1, "key": "user"}, {"calls": 2, "key": "user"}]}},
        ("endpoint.rate_limits", "user has two limits"),
    ),
    ("nobody", permission(), ("endpoint.permissions.0", "exactly one of")),
    ("two in one", permission(user="ada@example.com", group="callers"), ("permissions.0", "exactly one of")),
    ("display name", permission(service_principal="robot"), ("permissions.0", "application id", "'robot'")),
    ("limit of a name", limit(key="service_principal", principal="robot"), ("rate_limits.0", "application id")),
    ("level", permission(group="callers", level="CAN_RUN"), ("permissions.0.level", "'CAN_RUN'", "'CAN_QUERY'")),
    (
        "two levels",
        {"endpoint": {"permissions": [{"group": "a", "level": level} for level in ("CAN_VIEW", "CAN_QUERY")]}},
        ("endpoint.permissions", "a is named twice", "higher level"),
    ),
    ("our tag", {"endpoint": {"tags": {OWNER_TAG: "x"}}}, ("endpoint.tags", OWNER_TAG, "take it out")),
    ("unknown field", {"ramps": {}}, ("`ramps`", "not known", "remove it")),
    ("unknown inner", {"ramp": {"step": [5]}}, ("`ramp.step`", "not known")),
    ("empty ramp", {"ramp": {"steps": []}}, ("ramp.steps", "at least one step")),
    ("ramp to 100", {"ramp": {"steps": [50, 100]}}, ("ramp.steps", "[50, 100]", "1 to 99")),
    ("ramp falls", {"ramp": {"steps": [50, 25]}}, ("ramp.steps", "[50, 25]", "rise")),
    ("ramp text", {"ramp": {"steps": ["half"]}}, ("ramp.steps.0", "'half'", "whole number")),
    ("short step", {"ramp": {"min_step_seconds": -1}}, ("ramp.min_step_seconds", "-1", "greater than or equal to 0")),
    ("deadline", {"ramp": {"deadline_hours": 0}}, ("ramp.deadline_hours", "0", "greater than 0")),
    ("alpha", {"gate": {"alpha": 0.7}}, ("gate.alpha", "0.7", "less than 0.5")),
    ("no metrics", {"gate": {"metrics": []}}, ("gate.metrics", "at least 1 item")),
    ("kind", {"gate": {"metrics": [{"name": "a", "kind": "cost"}]}}, ("metrics.0.kind", "'cost'", "'slow'")),
    (
        "margin",
        {"gate": {"metrics": [{"name": "a", "kind": "errors", "margin": 2}]}},
        ("metrics.0.margin", "2", "0.02"),
    ),
    ("no margin", metric(margin=[]), ("metrics.0.margin", "[]", "at least one number")),
    ("margin is no number", metric(margin=math.nan), ("metrics.0.margin", "nan")),
    ("margins are no numbers", metric(margin=[0.02, math.inf]), ("metrics.0.margin", "inf")),
    ("tolerance", metric(tolerance=math.nan), ("metrics.0.tolerance", "nan", "finite number")),
    ("bound", metric(bound=math.nan), ("metrics.0.bound", "nan", "finite number")),
    *(
        (f"{end} {number}", metric(kind="judge", scorer="Safety", **{end: number}), (f"metrics.0.{end}", "finite"))
        for end in ("worst", "best")
        for number in (math.nan, math.inf, -math.inf)
    ),
    ("alpha is no number", {"gate": {"alpha": math.nan}}, ("gate.alpha", "nan", "finite number")),
    ("endless", {"ramp": {"deadline_hours": math.inf}}, ("ramp.deadline_hours", "inf", "finite number")),
    ("threshold nan", {"evaluation": {"thresholds": {"answered": math.nan}}}, ("thresholds.answered", "finite number")),
    (
        "label that never settles",
        metric(kind="label", badness="0", table="a.b.c"),
        ("metrics.0", "needs settle_minutes", "such as 1440 for a day"),
    ),
    ("share of no guard", metric(alpha_share=0.5, guard=False), ("alpha_share is for guards", "remove one")),
    ("line after a metric", metric(name="a\n"), ("metrics.0.name", r"'a\n'", "digits and underscores")),
    (
        "line after a table",
        metric(kind="label", badness="0", table="a.b.c\n"),
        ("metrics.0.table", r"'a.b.c\n'", "catalog.schema.table"),
    ),
    (
        "line after a column",
        metric(kind="label", badness="0", table="a.b.c", request_id_column="id\n"),
        ("metrics.0.request_id_column", r"'id\n'", "name of a column"),
    ),
    ("line after a model", {"model": {"registered_name": "a.b.c\n"}}, ("registered_name", r"'a.b.c\n'")),
    ("line after an endpoint", {"endpoint": {"name": "a\n"}}, ("endpoint.name", r"'a\n'", "63")),
    ("line after an alias", {"promotion": {"alias": "live\n"}}, ("promotion.alias", r"'live\n'")),
    ("line after a name", {"name": "m\n"}, ("`name`", r"'m\n'", "digits and underscores")),
    *(
        (
            f"{field} {mark!r}",
            metric(kind=kind, **{field: f"thumbs{mark}up"}),
            (f"metrics.0.{field}", "without backticks, quotes and control characters"),
        )
        for kind, field in (("feedback", "assessment"), ("judge", "scorer"))
        for mark in ("`", "'", '"', "\n", "\0")
    ),
    (
        "two metrics",
        {"gate": {"metrics": [{"name": "a", "kind": "errors"}, {"name": "a", "kind": "slow"}]}},
        ("gate.metrics", "two metrics are called a", "unique"),
    ),
    (
        "threshold",
        {"gate": {"metrics": [{"name": "a", "kind": "errors", "threshold_ms": 5}]}},
        ("metrics.0", "threshold_ms", "`slow` only"),
    ),
    ("rows", {"gate": {"min_block_rows": 0}}, ("gate.min_block_rows", "0", "greater than or equal to 1")),
    (
        "environment",
        {"predeploy_predict": {"environment": "conda"}},
        ("predeploy_predict.environment", "conda", "'uv'"),
    ),
    ("endpoint", {"endpoint": {"name": "a b"}}, ("endpoint.name", "'a b'", "63")),
    ("size", {"endpoint": {"workload_size": "Huge"}}, ("endpoint.workload_size", "'Huge'", "'Large'")),
    ("patience", {"endpoint": {"ready_timeout_seconds": 1}}, ("ready_timeout_seconds", "1", "equal to 10")),
    ("alias", {"promotion": {"alias": "challenger"}}, ("promotion.alias", "'challenger'", "not `challenger`")),
    ("zone", {"promotion": {"timezone": "Berlin"}}, ("promotion.timezone", "'Berlin'", "Europe/Berlin")),
    ("cron", {"promotion": {"schedule": "at nine"}}, ("promotion.schedule", "'at nine'", "five fields")),
    ("cron value", {"promotion": {"schedule": "99 9 * * *"}}, ("promotion.schedule", "'99 9 * * *'", "cron")),
    *(
        (f"cron {text}", {"promotion": {"schedule": text}}, ("promotion.schedule", f"'{text}'", "cron"))
        for text in ("0 9 * *", "@daily", "*/0 9 * * *", "0 24 * * *", "0 9 0 * *", "0 9 30,31 2 *", "0 9 * * sunday")
    ),
    *(
        (
            f"{schedule} never within {windows}",
            {"promotion": {"schedule": schedule, "windows": windows, "timezone": "Europe/Berlin"}},
            (
                "`promotion`",
                f"schedule '{schedule}' never falls into windows {', '.join(windows)} (Europe/Berlin)",
                "its next tries are",
                f" {clock}, ",
                "move one of the two",
            ),
        )
        for schedule, windows, clock in (
            ("0 20 * * *", ["mon-fri 09:00-16:00"], "20:00"),
            ("0 9 * * 6,7", ["mon-fri 09:00-16:00", "sat 10:00-12:00"], "09:00"),
            ("0 16 * * 1-5", ["mon-fri 09:00-16:00"], "16:00"),
            ("30 4 * * mon", ["sat,sun 22:00-04:00"], "04:30"),
        )
    ),
    ("sensor", {"automation": {"gate_sensor": "maybe"}}, ("automation.gate_sensor", "'maybe'", "'off'")),
    ("tick", {"automation": {"tick_seconds": 0}}, ("automation.tick_seconds", "0", "equal to 1")),
]


@pytest.mark.parametrize(("parts", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_field_is_named_with_its_file_its_value_and_its_bound(
    parts: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(SpecError) as raised:
        parse_spec(_merged(parts), file=YAML)
    message = str(raised.value)
    assert message.startswith(f"{YAML}: release ")
    for word in words:
        assert word in message
    assert message.endswith(".")
    assert "pydantic" not in message
    assert "Traceback" not in message


def _merged(parts: dict[str, Any]) -> dict[str, Any]:
    others = {part: fields for part, fields in parts.items() if part != "name"}
    return {**attributes("m", **others), **{part: value for part, value in parts.items() if part == "name"}}


@pytest.mark.parametrize(
    "schedule",
    ["0 9 * * 1-5", "*/15 22-2 1,15 jan-mar 7", "59 23 31 12 SUN,wed", "5/10 0 29 2 fri-mon", "0-59/7 */2 * 1/3 0-7"],
)
def test_a_cron_expression_that_is_taken_loads_in_dagster(schedule: str) -> None:
    spec = parse_spec(attributes("m", promotion={"schedule": schedule}), file=YAML)
    assert dg.ScheduleDefinition(job_name="j", cron_schedule=schedule).cron_schedule == spec.promotion.schedule


@pytest.mark.parametrize(
    ("schedule", "window"),
    [
        ("59 15 * * 5", "mon-fri 09:00-16:00"),
        ("0 9 1 * *", "mon 09:00-09:01"),
        ("0 9 31 12 2", "mon 09:00-09:01"),
        ("0 3 * * mon", "sat,sun 22:00-04:00"),
        ("*/7 * * * *", "sun 09:06-09:08"),
        ("0 9 * * 0", "sun 09:00-10:00"),
    ],
)
def test_a_schedule_that_falls_into_a_window_some_day_is_taken(schedule: str, window: str) -> None:
    promotion = {"schedule": schedule, "windows": [window]}
    assert parse_spec(attributes("m", promotion=promotion), file=YAML).promotion.schedule == schedule


@pytest.mark.parametrize(
    "schedule",
    ["0 9 * * 1-5", "*/15 22-2 1,15 jan-mar 7", "59 23 31 12 SUN,wed", "5/10 0 29 2 fri-mon", "0 9 */2 * 1"],
)
def test_the_next_tries_of_a_schedule_are_those_of_dagster(schedule: str) -> None:
    start = datetime(2026, 2, 27, 8, 59, 30)
    times = cron_string_iterator(start.replace(tzinfo=UTC).timestamp(), schedule, "UTC")
    expected = [at.replace(tzinfo=None) for at in islice(times, 40)]
    assert list(islice(next_times(schedule, start), 40)) == expected


def test_every_wrong_field_is_told_at_once() -> None:
    with pytest.raises(SpecError) as raised:
        parse_spec(attributes("m", ramp={"steps": []}, gate={"alpha": 3}, typo=1), file=YAML)
    for field in ("ramp.steps", "gate.alpha", "typo"):
        assert f"`{field}`" in str(raised.value)


def test_a_missing_part_is_named() -> None:
    with pytest.raises(SpecError, match=r"field `model` is missing; add it"):
        parse_spec({"name": "m"}, file=YAML)


@pytest.mark.parametrize("name", ["API_TOKEN", "db_password", "OPENAI_API_KEY", "MY_SECRET", "AwsCredentials"])
def test_a_secret_in_clear_text_is_refused_and_never_repeated(name: str) -> None:
    value = "hunter2-in-the-clear"
    with pytest.raises(SpecError) as raised:
        parse_spec(attributes("m", endpoint={"environment": {name: value}}), file=YAML)
    assert name in str(raised.value)
    assert "{{secrets/scope/key}}" in str(raised.value)
    assert value not in str(raised.value)
    assert value not in repr(raised.value.__cause__)
    accepted = parse_spec(attributes("m", endpoint={"environment": {name: "{{secrets/a/b}}"}}), file=YAML)
    assert accepted.endpoint.environment == {name: "{{secrets/a/b}}"}
