"""A preflight as people see it in Dagster and in the terminal."""

from typing import TYPE_CHECKING, Any

from release_pipeline.rollout.preflight import Outcome, Preflight

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = {Outcome.PASSED: "green", Outcome.WARNING: "yellow", Outcome.FAILED: "red"}


def preflight_metadata(found: Preflight | None) -> dict[str, Any]:
    """The metadata ``preflight``: a row per check; nothing where a release that had begun was finished."""
    import dagster as dg

    if found is None:
        return {}
    rows = [
        dg.TableRecord({"check": check.name, "outcome": check.outcome.value, "what": check.sentence})
        for check in found.checks
    ]
    return {"preflight": dg.MetadataValue.table(rows)}


def preflight_text(found: Preflight, title: str = "Preflight") -> "Table":
    """A table for the terminal: what failed first."""
    from rich.markup import escape
    from rich.table import Table

    order = [Outcome.FAILED, Outcome.WARNING, Outcome.PASSED]
    table = Table(title=title)
    for column in ("check", "outcome", "what"):
        table.add_column(column, overflow="fold")
    for check in sorted(found.checks, key=lambda check: order.index(check.outcome)):
        colour = _COLOURS[check.outcome]
        table.add_row(escape(check.name), f"[{colour}]{check.outcome.value}[/]", escape(check.sentence))
    return table
