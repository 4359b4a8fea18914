"""SQL that turns the cells of a log into what the gate counts, and tells which cells cannot be what they should be.

A cell that says nothing (empty, NULL, NaN) or something absurd (a negative duration, a status that is none, a badness
outside [0, 1]) is *unjudged*: NaN here, counted and never good. A cell that is not of its column's kind at all is an
error. All SQL is DuckDB's.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from release_pipeline.replay_log.columns import Columns
from release_pipeline.spec_gate import GatePart

#: A request of a tracer, which is never evidence, begins its client_request_id with this.
TRACER: Final = "release-pipeline-tracer/"

#: The last event of a stream, and an error in a body of any other form, as the gate looks for them live.
LAST_EVENT: Final = r"(?s)(?:.*\n|^)data: ?(\{[^\n]*)"
LOOSE_ERROR: Final = r'(?s)(?:^|[^\\])"databricks_output"\s*:\s*\{.*"error"\s*:\s*\{'
#: The code of an answer that was too long to be logged.
TOO_LONG: Final = "MAX_RESPONSE_SIZE_EXCEEDED"
#: A body that is an error of a stream, and nothing else.
STREAM_ERROR: Final = '{"databricks_output": {"error": {}}}'

#: Arms of a row.
CHAMPION, CHALLENGER, NOBODY = 0, 1, 2

#: Unix seconds beyond this (the year 2286) are milliseconds.
_LATEST: Final = 1e10
_NOTHING: Final = "('', 'null', 'none', 'nan')"


class Cell(NamedTuple):
    """One column of a log."""

    column: str
    """Its name in the log."""
    wrong: str
    """SQL: whether a cell cannot be read."""
    expected: str
    """What a cell should be, in words."""


class Cells(NamedTuple):
    """A row of a log, as SQL."""

    values: Mapping[str, str]
    """SQL by what it gives: release, arrived, requested, id, arm, answered, percent, and per metric ``value_<i>`` and
    ``segment_<i>``."""
    checks: tuple[Cell, ...]


def cells(
    columns: Columns, types: Mapping[str, str], gate: GatePart, arms: Mapping[str, int], steps: tuple[int, ...]
) -> Cells:
    """The SQL of one row.

    Args:
        columns: Which column tells what.
        types: DuckDB's type by column.
        gate: The metrics, in their order.
        arms: Arm by served entity id, where the log has those.
        steps: Percentages of the ramp, which traffic_percent has to be among.
    """
    checks = []
    values: dict[str, str] = {}
    values["release"] = f"coalesce(CAST({quoted(columns.release)} AS VARCHAR), '')" if columns.release else "''"
    for name, column in (("arrived", columns.arrived_at), ("requested", columns.request_time)):
        values[name] = _time(column, types[column])
        wrong = f"coalesce(NOT isfinite({values[name]}) OR abs({values[name]}) > {_LATEST}, true)"
        checks.append(Cell(column, wrong, "a time: ISO text, a timestamp, or unix seconds"))
    values["id"] = f"CAST({quoted(columns.request_id)} AS VARCHAR)"
    checks.append(Cell(columns.request_id, f"coalesce(trim({values['id']}), '') = ''", "an id"))
    values["arm"], arm = _arm(columns, arms)
    checks.append(arm)
    numbers = {}
    for key, number, expected in (
        ("status", columns.status_code, "an HTTP status such as 200, or nothing"),
        ("duration", columns.execution_duration_ms, "a number of milliseconds, or nothing"),
    ):
        if number is not None:
            numbers[key], wrong = _number(number)
            checks.append(Cell(number, wrong, expected))
    status = numbers.get("status", "CAST(NULL AS DOUBLE)")
    traced = "false"
    if columns.client_request_id is not None:
        traced = f"coalesce(starts_with(CAST({quoted(columns.client_request_id)} AS VARCHAR), '{TRACER}'), false)"
    values["answered"] = f"{values['arm']} <> {NOBODY} AND NOT {traced}"
    if columns.traffic_percent is not None:
        values["percent"], wrong = _number(columns.traffic_percent)
        listed = ", ".join(str(step) for step in (0, *steps, 100))
        wrong = f"{wrong} OR coalesce({values['percent']} NOT IN ({listed}), true)"
        expected = f"0 before the ramp, one of the spec's ramp.steps {list(steps)}, or 100 after it"
        checks.append(Cell(columns.traffic_percent, wrong, expected))
    for index, metric in enumerate(gate.metrics):
        if metric.name in columns.badness:
            value, wrong = _number(columns.badness[metric.name])
            checks.append(Cell(columns.badness[metric.name], wrong, "a badness from 0 to 1, or nothing"))
            values[f"value_{index}"] = _judged(f"{value} BETWEEN 0 AND 1", value)
        elif metric.kind == "errors" and "status" in numbers:
            known = f"{status} BETWEEN 100 AND 599 AND {status} = floor({status})"
            failed = f"{status} >= 400"
            if columns.response is not None:
                failed = f"({failed} OR {stream_error(columns.response, types[columns.response])})"
            if columns.logging_error_codes is not None:  # nobody knows how the answer ended
                codes = f"coalesce(CAST({quoted(columns.logging_error_codes)} AS VARCHAR), '')"
                known = f"{known} AND ({failed} OR NOT contains({codes}, '{TOO_LONG}'))"
            values[f"value_{index}"] = _judged(known, f"CAST({failed} AS DOUBLE)")
        elif metric.kind == "slow" and "duration" in numbers:
            duration = numbers["duration"]
            values[f"value_{index}"] = _judged(f"{duration} >= 0 AND isfinite({duration})", duration)
        else:
            values[f"value_{index}"] = "CAST('nan' AS DOUBLE)"
        if metric.name in columns.segment:
            values[f"segment_{index}"] = f"coalesce(CAST({quoted(columns.segment[metric.name])} AS VARCHAR), '')"
    return Cells(values, tuple(checks))


def chance(metric: str) -> str:
    """SQL of where a metric's badness of the request ``id`` is rounded, in (0, 1), as the gate's own SQL has it.

    A badness goes to the upper one of its two neighbouring bins where its distance from the lower, in bins, and this
    number make more than 1.
    """
    hashed = f"substr(md5({literal(metric + '/')} || id), 1, 8)"
    return f"(CAST(CAST('0x' || {hashed} AS UBIGINT) AS DOUBLE) + 0.5) / 4294967296"


def stream_error(column: str, kind: str) -> str:
    """SQL of whether a body is a stream, or an answer, that ends with ``databricks_output.error``.

    Args:
        column: The column.
        kind: Its type in DuckDB; one that is put together of others is looked at as the JSON that it is.
    """
    together = kind.startswith(("STRUCT", "MAP")) or kind.endswith("]")
    body = f"CAST({f'to_json({quoted(column)})' if together else quoted(column)} AS VARCHAR)"
    event = (
        f"CASE WHEN ltrim({body}) LIKE '{{%' THEN {body} "
        f"ELSE nullif(regexp_extract({body}, {literal(LAST_EVENT)}, 1), '') END"
    )
    found = f"TRY(json_extract_string({event}, '$.databricks_output.error'))"
    return (
        f"coalesce(contains({body}, 'databricks_output') AND CASE WHEN {event} IS NULL "
        f"THEN regexp_matches({body}, {literal(LOOSE_ERROR)}) ELSE {found} IS NOT NULL END, false)"
    )


def quoted(column: str) -> str:
    """A column's name in SQL."""
    return '"' + column.replace('"', '""') + '"'


def _judged(condition: str, value: str) -> str:
    return f"CASE WHEN {condition} THEN {value} ELSE CAST('nan' AS DOUBLE) END"


def _text(column: str) -> str:
    """The cell as text; NULL where it says nothing."""
    text = f"trim(CAST({quoted(column)} AS VARCHAR))"
    return f"CASE WHEN lower({text}) NOT IN {_NOTHING} THEN {text} END"


def _number(column: str) -> tuple[str, str]:
    """The cell as a number, NULL for nothing; and whether it is neither."""
    number = f"TRY_CAST({_text(column)} AS DOUBLE)"
    return number, f"({_text(column)} IS NOT NULL AND {number} IS NULL)"


def _time(column: str, kind: str) -> str:
    """The cell as unix seconds; times without a zone are UTC, which is the session's."""
    name = quoted(column)
    if kind.startswith(("TIMESTAMP", "DATE")):
        return f"epoch(CAST({name} AS TIMESTAMPTZ))"
    if kind == "VARCHAR":
        return f"coalesce(TRY_CAST({name} AS DOUBLE), epoch(TRY_CAST({name} AS TIMESTAMPTZ)))"
    return f"TRY_CAST({name} AS DOUBLE)"


def _arm(columns: Columns, arms: Mapping[str, int]) -> tuple[str, Cell]:
    if columns.arm is not None:
        arm = f"lower(trim(CAST({quoted(columns.arm)} AS VARCHAR)))"
        sql = f"CASE {arm} WHEN 'champion' THEN {CHAMPION} WHEN 'challenger' THEN {CHALLENGER} END"
        return sql, Cell(columns.arm, f"({sql}) IS NULL", "champion or challenger")
    assert columns.entity is not None, "a log without either was refused before"
    entity = f"coalesce(trim(CAST({quoted(columns.entity)} AS VARCHAR)), '')"
    cases = " ".join(f"WHEN {literal(name)} THEN {arm}" for name, arm in arms.items())
    sql = f"CASE {entity} WHEN '' THEN {NOBODY} {cases} END"
    expected = "one of the ids that --champion-entity and --challenger-entity name, or nothing"
    return sql, Cell(columns.entity, f"({sql}) IS NULL", expected)


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"
