"""Counting in the warehouse, where one metric's own SQL may fail and the others must count all the same."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from release_pipeline.errors import OutOfTime, StatementFailed, TableMissing
from release_pipeline.workspace import payload_sql
from release_pipeline.workspace.counts import OTHER, Cell, Group, Level, MetricPlan, Window
from release_pipeline.workspace.metric_sql import together, unjudged
from release_pipeline.workspace.payload_sql import Rows, Statement
from release_pipeline.workspace.sql.warehouse import Row, Warehouse

_CONDITION: Final = re.compile(r"\[([A-Z][A-Z0-9_.]+)\]")
# What the client itself says of a statement; it knows no row.
_OF_CLIENT: Final = re.compile(r"^SQL warehouse \S+ (refused|did not finish) a statement")


@dataclass(frozen=True)
class Sound:
    """Rows of a statement, the plans that it counted, and by metric why another could not be counted."""

    plans: Sequence[MetricPlan]
    rows: list[Row]
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Grouped:
    """Groups of all plans, rows by served entity, the longest lag in microseconds, and why metrics failed."""

    groups: tuple[Group, ...] = ()
    entities: Mapping[str, int] = field(default_factory=dict)
    lag_us: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)


def count_groups(
    warehouse: Warehouse, rows: Rows, seen: Rows | None, windows: Sequence[Window], plans: Sequence[MetricPlan]
) -> Grouped:
    """Count rows of the ramp's steps for all plans: one statement per segments, frozen labels and length of buckets.

    Args:
        warehouse: Runs the statements.
        rows: The new rows.
        seen: The table around the new rows; request ids that were in it before them do not count again.
        windows: The ramp's steps.
        plans: How the metrics are counted; without any only entities and lag are told.

    Raises:
        StatementFailed: A statement failed, and no metric's own SQL is to blame.
    """
    groups, failed, tally = list[Group](), dict[str, str](), list[Row]()
    for batch in together(plans) or [[]]:

        def statement(of: Sequence[MetricPlan]) -> Statement:
            return payload_sql.counts(rows, seen, windows, of)

        result = count_sound(warehouse, rows, windows, batch, statement)
        groups += [_group(row, number, plan) for row in result.rows for number, plan in enumerate(result.plans)]
        tally = tally or result.rows
        if result.failed:
            failed |= result.failed
            broken = [plan for plan in batch if plan.metric.name in result.failed]
            found = warehouse.execute(*statement([unjudged(plan) for plan in broken]))
            groups += [_unjudged_group(row, plan) for row in found for plan in broken]
            tally = tally or found
    entities = Counter[str]()
    for row in tally:
        entities[row["entity"] or ""] += integer(row, "n")
    lag_us = max((integer(row, "lag_us") for row in tally), default=0)
    return Grouped(tuple(groups), dict(entities), lag_us, failed)


def count_sound(
    warehouse: Warehouse,
    rows: Rows,
    windows: Sequence[Window] | None,
    plans: Sequence[MetricPlan],
    statement: Callable[[Sequence[MetricPlan]], Statement],
) -> Sound:
    """Run a statement; where it fails because of some metrics' own SQL, run it without those.

    Raises:
        StatementFailed: It failed, and no metric's own SQL is to blame.
    """
    try:
        return Sound(plans, warehouse.execute(*statement(plans)))
    except TableMissing:
        raise
    except StatementFailed as error:
        told = without_rows(error, f"Counting {' and '.join(plan.metric.name for plan in plans) or 'rows'}")
        if not _CONDITION.search(str(error)):
            raise told from None
        failed = {plan.metric.name: why for plan in plans if (why := _failure(warehouse, rows, windows, plan))}
        if not failed:
            raise told from None
    sound = [plan for plan in plans if plan.metric.name not in failed]
    return Sound(sound, warehouse.execute(*statement(sound)) if sound else [], failed)


def integer(row: Row, column: str) -> int:
    """A whole number of a result, 0 for NULL."""
    return int(row[column] or 0)


def level_of(row: Row, number: int, plan: MetricPlan, seconds: float) -> Level:
    """A level from a row of :func:`~release_pipeline.workspace.payload_sql.levels`; ``seconds`` are its rate's."""
    return Level(
        metric=plan.metric.name,
        segment=row["segment"] or "",
        rows=integer(row, f"n{number}"),
        bad=integer(row, f"bad{number}") / (plan.metric.bins - 1),
        threshold_ms=plan.threshold_ms,
        rows_per_second=integer(row, f"recent{number}") / seconds,
    )


def cell_of(row: Row) -> Cell:
    """A cell from a row with hour, step, entity and number of rows."""
    return Cell(integer(row, "hour"), integer(row, "step"), row["entity"] or "", integer(row, "n"))


def condition(error: StatementFailed) -> str:
    """The name of the condition that the warehouse reports; the rest may quote a request."""
    found = _CONDITION.search(str(error))
    return found.group(1) if found else "the statement failed"


def without_rows(error: StatementFailed, what: str) -> StatementFailed:
    """The error without the warehouse's words, which may quote a request: ``what`` failed, and the condition's name."""
    if _OF_CLIENT.match(str(error)):
        return error
    found = _CONDITION.search(str(error))
    return StatementFailed(f"{what} failed in the warehouse" + (f" with [{found.group(1)}]." if found else "."))


def _failure(warehouse: Warehouse, rows: Rows, windows: Sequence[Window] | None, plan: MetricPlan) -> str | None:
    """Why the warehouse fails the SQL of a metric: only the condition's name, because the rest may quote a request."""
    if plan.metric.badness is None and plan.metric.segments is None:
        return None
    try:
        warehouse.execute(*payload_sql.probe(rows, windows, plan))
    except OutOfTime:
        raise
    except StatementFailed as error:
        found = _CONDITION.search(str(error))
        return (
            f"The SQL of metric {plan.metric.name} failed in the warehouse"
            f"{f' with {found.group(1)}' if found else ''}; run its badness and segments over the table there, and "
            "mend them."
        )
    return None


def _group(row: Row, number: int, plan: MetricPlan) -> Group:
    return Group(
        step=integer(row, "step"),
        bucket_start=float(row["bucket"] or 0),
        served_entity_id=row["entity"] or "",
        metric=plan.metric.name,
        segment=row["segment"] or "",
        counts=tuple(integer(row, f"v{number}_{value}") for value in range(plan.metric.bins)),
        unjudged=integer(row, f"v{number}_x"),
    )


def _unjudged_group(row: Row, plan: MetricPlan) -> Group:
    return Group(
        step=integer(row, "step"),
        bucket_start=float(row["bucket"] or 0),
        served_entity_id=row["entity"] or "",
        metric=plan.metric.name,
        segment=OTHER if plan.metric.segments else "",
        counts=(0,) * plan.metric.bins,
        unjudged=integer(row, "n"),
    )
