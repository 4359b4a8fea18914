"""What people say of requests, from traces and from the older logs, becomes counts by version."""

import math
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import mlflow
import pytest
from mlflow.entities import AssessmentError, AssessmentSource, Feedback
from mlflow.genai.judges import CategoricalRating

from release_pipeline.errors import StatementFailed, TableUnreadable
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.assessment_logs import LoggedFeedback
from release_pipeline.workspace.badness import badness_of
from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.counts import OTHER, Group, MetricPlan, Window
from release_pipeline.workspace.feedback import TraceFeedback
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.late_sources import late_sources
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import Judged, Pass, ScoreTable, score_table_name
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import Model, TurnedClock, eventually
from tests.pipeline.payload_tables import SHAPES, Logged, create, insert, moment, warehouse

HELPFUL = Metric(name="helpful", kind="feedback", assessment="helpful")
PERSON = AssessmentSource(source_type="HUMAN", source_id="reader@example.com")
RATINGS = "MAP<STRING, STRUCT<value: STRING, rationale: STRING>>"
LOGS = (
    "request_id STRING, step_id STRING, source STRUCT<id: STRING, type: STRING>, timestamp TIMESTAMP, "
    f"text_assessment STRUCT<ratings: {RATINGS}, free_text_comment: STRING>"
)


class StoppedClock:
    """Stands still until it is set."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now(self) -> datetime:
        return moment(self.seconds)


def score_table(payload: str) -> ScoreTable:
    """A new score table beside a payload table."""
    found = ScoreTable(warehouse(), f"{payload}_scores", InferenceTable(warehouse(), payload))
    found.create()
    return found


def stored(scores: ScoreTable, columns: str = "request_id, badness") -> list[tuple[str | None, ...]]:
    """What the score table says of requests, its notes about sweeps left out."""
    rows = scores.warehouse.execute(
        f"SELECT {columns} FROM {scores.name} WHERE request_id IS NOT NULL ORDER BY request_id, metric"
    )
    return [tuple(row.values()) for row in rows]


def said(request_id: str, badness: float | None) -> Judged:
    return Judged(request_id, badness, moment(5))


def counted(source: ScoreSource, plan: MetricPlan, *windows: Window, after: int = 0) -> tuple[Group, ...]:
    """The groups of everything that was written after a version."""
    latest = source.latest()
    assert latest is not None
    return source.changes(after, latest, windows=windows, plans=[plan]).groups


@pytest.fixture
def gateway(workspace: RunningWorkspace) -> str:
    """An empty payload table of today's shape."""
    return create(warehouse(), "gateway")


@pytest.mark.parametrize(
    ("value", "worst", "best", "badness"),
    [
        *((value, 0, 1, 0.0) for value in (True, 1, 1.0, "yes", " Pass ", "positive", "1", CategoricalRating.YES)),
        *((value, 0, 1, 1.0) for value in (False, 0, "no", "FAIL", "negative", "thumbs down", CategoricalRating.NO)),
        *((value, 1, 5, 0.25) for value in (4, 4.0, "4")),
        *((value, 1, 5, 0.0) for value in (True, "yes", "good")),
        # A statement on an inverted scale: it is toxic, it leaks.
        *((value, 1, 0, 1.0) for value in (True, "yes", "true", 1, "fail")),
        *((value, 1, 0, 0.0) for value in (False, "no", 0, "pass")),
        (0.1 + 0.2, 0.3, 1, 1.0),
        *((value, 0, 1, None) for value in (None, "", "perhaps", 1.01, -0.2, math.nan, math.inf, "nan", [1], {"a": 1})),
    ],
)
def test_values_become_badness(value: Any, worst: float, best: float, badness: float | None) -> None:
    found = badness_of(value, worst=worst, best=best)
    assert found == (badness if badness is None else pytest.approx(badness))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_value_joins_its_request_in_every_shape_and_is_written_once(workspace: RunningWorkspace, shape: str) -> None:
    payload = create(warehouse(), shape)
    rows = [Logged("a", 1, entity="m/1"), Logged("b", 2, entity="m/2", client="mine"), Logged("c", 3)]
    insert(warehouse(), payload, shape, [*rows, rows[0]])
    scores = score_table(payload)
    values = [said("a", 0.25), said("a", 1.0), said("mine", None), said("unknown", 0.0), said("it's\n'x'", 0.0)]
    assert [scores.add(HELPFUL, values, moment(0), moment(60)) for _ in range(2)] == [2, 0]
    scores.add(HELPFUL, [said("a", 0.5)], moment(0), moment(60))
    assert stored(scores, "request_id, served_entity_id, badness, unix_millis(request_time)") == [
        ("a", "m/1", "0.25", str(int(moment(1).timestamp() * 1000))),
        ("b", "m/2", None, str(int(moment(2).timestamp() * 1000))),
    ]
    # The row of a request may come after what is said of it.
    insert(warehouse(), payload, shape, [Logged("unknown", 4)])
    assert scores.add(HELPFUL, values, moment(0), moment(60)) == 1


def test_a_table_of_scores_holds_no_body(gateway: str) -> None:
    insert(warehouse(), gateway, "gateway", [Logged("a", 1, request="my secret question", response="an answer")])
    scores = score_table(gateway)
    scores.add(HELPFUL, [said("a", 0.0)], moment(0), moment(60))
    (row,) = scores.warehouse.execute(f"SELECT * FROM {scores.name}")
    assert set(row) == {
        *("metric", "request_id", "request_time", "served_entity_id", "segment", "badness", "at", "source"),
    }
    assert "secret" not in str(row)


def test_scores_are_counted_by_the_step_bucket_version_and_segment_of_their_request(gateway: str) -> None:
    metric = HELPFUL.model_copy(update={"segments": "split_part(requester, '@', 1)"})
    rows = [Logged(str(at), at, entity=f"m/{1 + at % 2}") for at in range(8)]
    insert(warehouse(), gateway, "gateway", rows)
    scores = score_table(gateway)
    before = scores.latest()
    badness = [0.0, 0.5, 1.0, None, 0.0, 0.02, 0.98, 0.0]
    scores.add(metric, [said(str(at), value) for at, value in enumerate(badness)], moment(0), moment(60))
    # Somebody wrote at the same moment: the first row counts.
    columns = "metric, request_id, request_time, served_entity_id, segment"
    scores.warehouse.execute(
        f"INSERT INTO {scores.name} SELECT {columns}, 1.0, at, source FROM {scores.name} WHERE request_id = '0'"
    )
    source, latest = ScoreSource("s", (metric,), scores), scores.latest()
    assert before is not None
    assert latest is not None
    windows = [Window(0, moment(0), moment(4)), Window(1, moment(6), None)]
    plan = MetricPlan(metric, 2, None, ("someone",))
    delta = source.changes(before.version, latest, windows=windows, plans=[plan])
    start = moment(0).timestamp()

    def group(step: int, at: float, entity: str, *bins: int, unjudged: int = 0, segment: str = "someone") -> Group:
        counts = tuple(bins.count(number) for number in range(21))
        return Group(step, start + at, entity, "helpful", segment, counts, unjudged)

    assert delta.groups == (
        group(0, 0, "m/1", 0),
        group(0, 0, "m/2", 10),
        group(0, 2, "m/1", 20),
        group(0, 2, "m/2", unjudged=1),
        group(1, 6, "m/1", 20),
        group(1, 6, "m/2", 0),
    )
    assert (delta.entities, delta.outside, delta.duplicates) == ({"m/1": 3, "m/2": 3}, 2, 1)
    rare = source.changes(before.version, latest, windows=windows, plans=[MetricPlan(metric, 2)])
    assert {each.segment for each in rare.groups} == {OTHER}
    # A read that begins between the two writes knows the first one.
    again = source.changes(latest.version - 1, latest, windows=windows, plans=[plan])
    assert (again.groups, again.duplicates) == ((), 1)
    # Another metric, and the same one after an edit, have no rows here.
    edited = MetricPlan(metric.model_copy(update={"best": 2.0}), 2, None, ("someone",))
    assert source.changes(0, latest, windows=windows, plans=[edited]).groups == ()
    # A value that was there before is known also where earlier versions of the table are gone.
    for statement in (f"OPTIMIZE {scores.name}", f"VACUUM {scores.name} RETAIN 0 HOURS"):
        scores.warehouse.execute(statement)
    scores.warehouse.execute(
        f"INSERT INTO {scores.name} SELECT {columns}, 1.0, at, source FROM {scores.name} WHERE request_id = '0' LIMIT 1"
    )
    vacuumed = scores.latest()
    assert vacuumed is not None
    late = source.changes(latest.version, vacuumed, windows=windows, plans=[plan])
    assert (late.groups, late.duplicates) == ((), 1)


def test_the_level_before_a_release_freezes_frequent_segments(gateway: str) -> None:
    metric = HELPFUL.model_copy(update={"segments": "client_request_id"})
    rows = [Logged(f"r{at}", at, entity="m/1" if at else "m/0", client="odd" if at == 7 else "b") for at in range(40)]
    insert(warehouse(), gateway, "gateway", rows)
    scores = score_table(gateway)
    source = ScoreSource("s", (metric, HELPFUL), scores)
    values = [said(f"r{at}", None if at == 9 else at % 2) for at in range(40)]
    for each in source.metrics:
        scores.add(each, values, moment(0), moment(60))
    labelled = source.level(moment(0), moment(40), rate_seconds=10, entities=["m/1"])
    assert [(level.metric, level.segment, level.rows, level.bad) for level in labelled] == [
        ("helpful", "b", 37, 18),
        ("helpful", OTHER, 1, 1),
        ("helpful", "", 38, 19),
    ]
    assert labelled[2].rows_per_second == pytest.approx(38 / 39)
    assert source.level(moment(0), moment(40), rate_seconds=10)[2].rows == 39
    assert source.level(moment(100), moment(140), rate_seconds=10)[0].rows == 0


def test_a_release_reads_from_before_its_first_step(gateway: str) -> None:
    scores = score_table(gateway)
    source, now = ScoreSource("s", (HELPFUL,), scores), datetime.now(UTC)
    scores.note_pass(HELPFUL, Pass(now, now, now))
    assert source.version_before(now) == 0
    assert source.version_before(now + timedelta(hours=1)) == 1
    missing = ScoreSource("s", (HELPFUL,), ScoreTable(warehouse(), "main.default.none", scores.payload))
    assert (missing.version_before(now), missing.latest()) == (0, None)
    assert [level.rows for level in missing.level(now, now, rate_seconds=1)] == [0]


@pytest.fixture
def logs(gateway: str) -> tuple[ScoreTable, str]:
    """A score table, and assessment logs of requests in its payload table."""
    name = f"{gateway}_assessment_logs"
    warehouse().execute(f"CREATE TABLE {name} ({LOGS})")
    insert(warehouse(), gateway, "gateway", [Logged(letter, 60.0 * at) for at, letter in enumerate("abcd")])
    return score_table(gateway), name


def rate(table: str, request_id: str, value: str, at: float, name: str = "helpful") -> None:
    warehouse().execute(
        f"INSERT INTO {table} SELECT :id, NULL, NULL, :at, named_struct('ratings', map(:name, "
        "named_struct('value', :value, 'rationale', CAST(NULL AS STRING))), 'free_text_comment', 'my secret')",
        {"id": request_id, "at": moment(at), "name": name, "value": value},
    )


def test_ratings_in_the_older_logs_are_read_once_a_request(logs: tuple[ScoreTable, str]) -> None:
    scores, table = logs
    metric, clock = HELPFUL.model_copy(update={"source": "assessment_logs"}), StoppedClock(600)
    source = LoggedFeedback(table, (metric,), scores, clock)
    rate(table, "b", "negative", 100)
    rate(table, "a", "positive", 120)
    rate(table, "b", "positive", 130)
    rate(table, "c", "perhaps", 140)
    rate(table, "d", "positive", 150, name="another")
    source.collect(moment(0), Budget(60))
    assert stored(scores) == [("a", "0.0"), ("b", "1.0"), ("c", None)]
    (group,) = counted(source, MetricPlan(metric, 3600), Window(0, moment(0), None))
    assert (group.counts[0], group.counts[20], group.unjudged) == (1, 1, 1)
    # When they are no longer fresh a pass goes through them, and the next one an hour later.
    clock.seconds = 4100
    source.collect(moment(0), Budget(60))
    rate(table, "d", "negative", 155)
    clock.seconds = 7600
    source.collect(moment(0), Budget(60))
    assert len(stored(scores)) == 3
    clock.seconds = 7700
    source.collect(moment(0), Budget(60))
    assert stored(scores)[3] == ("d", "1.0")


def test_missing_or_odd_logs_are_told_apart_from_silence(logs: tuple[ScoreTable, str]) -> None:
    scores, table = logs
    metric = HELPFUL.model_copy(update={"source": "assessment_logs"})
    missing = LoggedFeedback(f"{table}_gone", (metric,), scores, StoppedClock(600))
    missing.collect(moment(0), Budget(60))
    assert missing.latest() is None
    odd = LoggedFeedback(scores.payload.name, (metric,), scores, StoppedClock(600))
    with pytest.raises(TableUnreadable, match=r"needs request_id, timestamp and text_assessment"):
        odd.collect(moment(0), Budget(60))
    rate(table, "a", "positive", 120)
    broken = metric.model_copy(update={"segments": "no_such_column"})
    source = LoggedFeedback(table, (broken,), scores, StoppedClock(600))
    with pytest.raises(TableUnreadable, match=r"metric helpful cannot be joined .*UNRESOLVED_COLUMN.*segments"):
        source.collect(moment(0), Budget(60))


def trace(experiment: str, request_id: str | None) -> str:
    """A trace as the service leaves it, with the request's id; its own id."""
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_span("agent") as span:
        if request_id is not None:
            mlflow.update_current_trace(client_request_id=request_id)
    mlflow.flush_trace_async_logging()
    return str(span.trace_id)


@pytest.fixture
def experiment(workspace: RunningWorkspace) -> str:
    """The name of a new experiment."""
    name = f"/Shared/feedback-{uuid.uuid4().hex[:8]}"
    assert connect().mlflow.create_experiment(name)
    return name


def log(trace_id: str, value: Any, name: str = "helpful") -> Any:
    return mlflow.log_feedback(trace_id=trace_id, name=name, value=value, source=PERSON, rationale="my secret")


def test_assessments_of_traces_are_read_by_name_and_the_first_valid_one_counts(experiment: str, gateway: str) -> None:
    experiment_id = str(connect().mlflow.get_experiment_by_name(experiment).experiment_id)  # type: ignore[union-attr]
    now = (datetime.now(UTC) - moment(0)).total_seconds()
    letters = "abcdef"
    insert(warehouse(), gateway, "gateway", [Logged(letter, now) for letter in letters])
    ids = {letter: trace(experiment_id, letter) for letter in letters}
    nameless = trace(experiment_id, None)
    scores, clock = score_table(gateway), TurnedClock()
    source = TraceFeedback(connect(), experiment, (HELPFUL,), scores, clock)
    log(ids["a"], True)
    log(ids["a"], False)
    wrong = log(ids["b"], True)
    mlflow.override_feedback(trace_id=ids["b"], assessment_id=wrong.assessment_id, value=False)
    log(ids["c"], {"a": "mapping"})
    log(ids["d"], 0.75)
    log(ids["e"], True, name="another")
    failed = Feedback(name="helpful", error=AssessmentError(error_code="TIMEOUT"), source=PERSON)
    mlflow.log_assessment(trace_id=ids["f"], assessment=failed)
    log(nameless, True)
    since = moment(now - 60)
    source.collect(since, Budget(60))
    assert stored(scores) == [("a", "0.0"), ("b", "1.0"), ("c", None), ("d", "0.25"), ("f", None)]
    # What is said of an old request is found within the hour, without a look at everything in each tick.
    clock.advance(3300)
    source.collect(since, Budget(60))
    log(ids["e"], False)
    clock.advance(310)
    source.collect(since, Budget(60))
    assert stored(scores)[4] == ("e", "1.0")


def test_an_experiment_that_is_not_there_is_missing(gateway: str) -> None:
    source = TraceFeedback(connect(), "/Shared/no-such", (HELPFUL,), score_table(gateway), TurnedClock())
    source.collect(moment(0), Budget(60))
    assert source.latest() is None


def test_feedback_on_real_answers_is_joined_to_the_version_that_gave_them(make_model: Callable[..., Model]) -> None:
    metric = {"name": "helpful", "kind": "feedback", "assessment": "helpful", "bound": 0.3, "settle_minutes": 0}
    model = make_model(endpoint={"tracing": True}, gate={"metrics": [metric]}, ramp={"steps": [50]})
    model.champion()
    release = model.release()
    model.deploy(release, model.register("second"))
    model.step(release)
    parts, since = model.parts(), datetime.now(UTC) - timedelta(minutes=1)
    (source,) = late_sources(parts.workspace, model.spec, model.spec.gate.metrics, parts.payload, model.clock)
    assert (source.name, source.scores.name) == (model.spec.experiment, score_table_name(model.spec))
    model.ask(12)
    model.rows(12)
    rows = parts.workspace.warehouse.execute(
        f"SELECT databricks_request_id AS id, served_entity_id AS entity FROM {model.spec.payload_table} "
        "WHERE client_request_id IS NULL"
    )
    experiment_id = model.logged("first").experiment_id
    entities = {row["id"]: row["entity"] for row in rows}

    def found() -> dict[str, str]:
        traces = mlflow.search_traces(locations=[experiment_id], return_type="list", include_spans=False)
        ids = {str(each.info.client_request_id): str(each.info.trace_id) for each in traces}
        return ids if entities.keys() <= ids.keys() else {}

    traces = eventually(found)
    for request_id in entities:
        log(traces[str(request_id)], value=True)
    source.collect(since, Budget(60))
    joined = {row[0]: row[1] for row in stored(source.scores, "request_id, served_entity_id")}
    assert joined == entities
    assert len(set(joined.values())) == 2, "both versions answered"
    groups = counted(source, MetricPlan(source.metrics[0], 3600), Window(0, since, None))
    assert sum(group.counts[0] for group in groups) == 12


def test_a_warehouse_that_fails_is_no_missing_table(gateway: str) -> None:
    scores = score_table(gateway)
    with pytest.raises(StatementFailed):
        scores.add_query(HELPFUL, ("SELECT no_such_column FROM VALUES (1) AS t(a)", {}))
