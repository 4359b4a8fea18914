"""SQL over canonical columns: a row's badness per kind of metric, its value bin, segment, step and bucket.

Badness is from 0, good, to 1, bad. Bin ``i`` of ``k`` stands for ``i / (k - 1)``; of scores a badness between two bins
goes to either, by a hash of its request's id, so that it is right on average. A row without a usable value has the bin
NULL: it is counted as unjudged, never as good. Values are bound; only what the YAML holds as SQL becomes text of a
statement, after :func:`check`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from release_pipeline.errors import SpecError
from release_pipeline.spec_gate import Metric
from release_pipeline.spec_sql import expression_problem, names_in
from release_pipeline.workspace.counts import OTHER, MetricPlan, Window
from release_pipeline.workspace.sql.warehouse import Value
from release_pipeline.workspace.tracer import PREFIX

#: Kinds that the payload table itself tells; the others have tables of their own.
KINDS: Final = ("errors", "slow", "expression")

#: The badness of a row that cannot be judged.
UNJUDGED: Final = "CAST(NULL AS INT)"
#: A row that calls itself a tracer's. Where the ids that were sent are known, only those are: :data:`SENT`.
TRACER: Final = f"coalesce(client_request_id LIKE '{PREFIX}%', false)"
#: A row of a tracer that this pipeline has sent; ``:tracers`` holds their ids, with spaces between them.
SENT: Final = f"({TRACER} AND coalesce(array_contains(split(:tracers, ' '), client_request_id), false))"


def answered(tracer: str = TRACER) -> str:
    """SQL of whether a version answered a row, tracers excepted.

    What is refused before it reaches a version (401, 403, 404, 429 of the gateway) has no served entity; the same
    statuses from a version are its failures.
    """
    return f"request_id IS NOT NULL AND served_entity IS NOT NULL AND NOT {tracer}"


#: The same where every row that calls itself a tracer's is taken for one.
ANSWERED: Final = answered()

# A stream that fails is HTTP 200, and its last event carries databricks_output.error. Line breaks inside an event are
# escaped, so a line that begins with "data:" is an event and no text of a user; [DONE] does not begin with a brace.
#: What :data:`STREAM_FAILED` binds.
PATTERNS: Final[Mapping[str, Value]] = {
    "last_event": r"(?s)(?:.*\n|^)data: ?(\{[^\n]*)",
    # For a log in any other form than events or one object.
    "loose_error": r'(?s)(?:^|[^\\])"databricks_output"\s*:\s*\{.*"error"\s*:\s*\{',
}
_EVENT: Final = (
    "CASE WHEN ltrim(response) LIKE '{%' THEN response ELSE nullif(regexp_extract(response, :last_event, 1), '') END"
)
#: Whether a body is a stream, or an answer, that ends with an error.
STREAM_FAILED: Final = (
    f"coalesce(contains(response, 'databricks_output') AND CASE WHEN {_EVENT} IS NULL THEN response RLIKE :loose_error "
    f"ELSE get_json_object({_EVENT}, '$.databricks_output.error') IS NOT NULL END, false)"
)
#: A body that was too long is NULL, and what is made of NULL is not what would be made of the body.
BODIES: Final[Mapping[str, str]] = {"request": "MAX_REQUEST_SIZE_EXCEEDED", "response": "MAX_RESPONSE_SIZE_EXCEEDED"}
# The last event of an answer that was too long may be an error: nobody knows.
_ERRORS: Final = (
    "CASE WHEN status_code IS NULL OR status_code < 100 OR status_code > 599 THEN NULL "
    f"WHEN status_code >= 400 OR {STREAM_FAILED} THEN 1 "
    f"WHEN array_contains(logging_error_codes, '{BODIES['response']}') THEN NULL ELSE 0 END"
)


def check(metric: Metric) -> None:
    """Refuse a metric whose SQL is not one expression each, or that the payload table does not tell.

    Raises:
        SpecError: One sentence that names the metric and the field.
        ValueError: The kind is not one of :data:`KINDS`.
    """
    if metric.kind not in KINDS:
        raise ValueError(f"metric {metric.name} is of kind {metric.kind}; the payload table tells {', '.join(KINDS)}")
    for field, text in (("badness", metric.badness), ("segments", metric.segments)):
        if text is not None and (problem := expression_problem(text)):
            raise SpecError(f"{field} of metric {metric.name} {problem}.")


def badness(metric: Metric, threshold_ms: int | None, number: int) -> tuple[str, dict[str, Value]]:
    """The SQL of a row's badness, NULL where it cannot be judged, and the values that it binds.

    Args:
        metric: The metric.
        threshold_ms: What `slow` means; None judges no row.
        number: Makes the bound names unique in a statement.

    Raises:
        SpecError: As :func:`check`.
    """
    check(metric)
    if metric.kind == "errors":
        return _ERRORS, dict(PATTERNS)
    if metric.kind == "slow":
        if threshold_ms is None:
            return UNJUDGED, {}
        slow = f"CASE WHEN duration_ms >= 0 THEN CASE WHEN duration_ms > :threshold_{number} THEN 1 ELSE 0 END END"
        return slow, {f"threshold_{number}": threshold_ms}
    assert metric.badness is not None, "an expression has its badness, as the YAML's check says"
    value = f"TRY_CAST(({metric.badness}) AS DOUBLE)"
    for body, code in BODIES.items():
        if body in names_in(metric.badness):
            value = f"CASE WHEN array_contains(logging_error_codes, '{code}') THEN NULL ELSE {value} END"
    return value, {}


def value_bin(value: str, bins: int, metric: str) -> str:
    """The SQL of the bin of a badness: NULL for NULL, NaN (it is above every number) and values outside [0, 1].

    With two bins it is the nearer one. With more, a badness between two goes to the upper one with a probability of
    how far it is on its way there, so the mean of the bins is the mean of the badness. What decides is a hash of the
    metric and the row's ``request_id``: the same on every look, every warehouse and every copy of the row, and blind
    to version and outcome. Without a request id the bin is NULL.

    Args:
        value: SQL of the badness.
        bins: Number of bins.
        metric: SQL of the metric's name.
    """
    # Of 32 bits, exact, and never 0 or 1: further from both than what arithmetic adds to a badness that is a bin's own.
    hashed = f"conv(substr(md5(concat({metric}, '/', request_id)), 1, 8), 16, 10)"
    rounding = "0.5" if bins == 2 else f"(CAST({hashed} AS DOUBLE) + 0.5) / 4294967296"
    return f"CASE WHEN {value} >= 0 AND {value} <= 1 THEN CAST(floor({value} * {bins - 1} + {rounding}) AS INT) END"


def segment(plan: MetricPlan) -> tuple[str, dict[str, Value]]:
    """The SQL of a row's segment among the plan's frozen labels, and the values that it binds."""
    if plan.metric.segments is None:
        return "''", {}
    found = label(plan.metric)
    if not plan.segments:
        # Named all the same: an expression over columns that are not there must not go unnoticed.
        return f"CASE WHEN {found} IS NULL THEN '{OTHER}' ELSE '{OTHER}' END", {}
    labels: dict[str, Value] = {f"segment_{index}": label for index, label in enumerate(plan.segments)}
    names = ", ".join(f":{name}" for name in labels)
    return f"CASE WHEN {found} IN ({names}) THEN {found} ELSE '{OTHER}' END", labels


def label(metric: Metric) -> str:
    """The SQL of a row's own label, whatever it is."""
    check(metric)
    return f"CAST(({metric.segments}) AS STRING)"


def step(windows: Sequence[Window], tracer: str = TRACER) -> tuple[str, dict[str, Value]]:
    """The SQL of a row's ramp step by its event time, NULL for none, and the values that it binds.

    Args:
        windows: The ramp's steps.
        tracer: SQL of whether a row is a tracer's, which is in no step.
    """
    cases, values = [], dict[str, Value]()
    for index, window in enumerate(windows):
        condition = f"request_time >= :start_{index}"
        values[f"start_{index}"] = window.start
        if window.end is not None:
            condition += f" AND request_time < :end_{index}"
            values[f"end_{index}"] = window.end
        cases.append(f"WHEN {answered(tracer)} AND {condition} THEN {int(window.step)}")
    return (f"CASE {' '.join(cases)} END" if cases else "CAST(NULL AS INT)"), values


def bucket(seconds: int) -> str:
    """The SQL of the start of a row's event-time bucket, unix seconds."""
    return f"CAST(floor(unix_micros(request_time) / {1_000_000 * seconds}) * {seconds} AS BIGINT)"


def together(plans: Sequence[MetricPlan]) -> list[list[MetricPlan]]:
    """The plans that one statement can count: the same segments, frozen labels and length of buckets."""
    batches: dict[tuple[str | None, tuple[str, ...], int], list[MetricPlan]] = {}
    for plan in plans:
        batches.setdefault((plan.metric.segments, plan.segments, plan.bucket_seconds), []).append(plan)
    return list(batches.values())


def unjudged(plan: MetricPlan) -> MetricPlan:
    """The plan that counts the same rows without the metric's own SQL: every row is unjudged."""
    blank = {"kind": "slow", "threshold_ms": None, "badness": None, "segments": None}
    return MetricPlan(plan.metric.model_copy(update=blank), plan.bucket_seconds)
