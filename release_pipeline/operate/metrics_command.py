"""The command ``metrics``: what the endpoint of a model measures of each version."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from release_pipeline.operate.session import model_argument, operator_command
from release_pipeline.waits import wait_of_command

if TYPE_CHECKING:
    from rich.table import Table

    from release_pipeline.workspace.endpoint_metrics import EntityMetrics

#: Columns of the table and the families behind them, as the service names them; one that nobody has is left out.
_COLUMNS = {
    "requests": "request_count_total",
    "4xx": "request_4xx_count_total",
    "5xx": "request_5xx_count_total",
    "CPU %": "cpu_usage_percentage",
    "memory %": "mem_usage_percentage",
}
_QUANTILES = {"p50 ms": 0.5, "p95 ms": 0.95}


@click.command()
@model_argument
@operator_command
def metrics(model: str, file: Path | None, as_json: bool) -> None:
    r"""Show what the endpoint of MODEL measures of each version: requests, errors, latency, load.

    On Databricks these are numbers of the last full minute, on the local workspace since its start.

    \b
        release-pipeline metrics my_agent
        release-pipeline metrics my_agent --json

    Exit codes: 0 they are shown; 1 the workspace could not be read; 2 a mistake in what was asked.
    """
    from release_pipeline.operate.find_spec import find_spec
    from release_pipeline.workspace.client import connect
    from release_pipeline.workspace.endpoint_logs import served_versions
    from release_pipeline.workspace.endpoint_metrics import read_metrics

    spec, workspace = find_spec(model, file), connect()
    served = served_versions(workspace, spec.endpoint_name, spec.model.registered_name)
    versions = {each.name: each.version for each in served}
    found = read_metrics(workspace, spec.endpoint_name)
    wait_of_command().over()
    if as_json:
        click.echo(json.dumps([_row(each, versions) for each in found], indent=2))
    elif not found:
        click.echo(f"Endpoint {spec.endpoint_name} has measured nothing yet.")
    else:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 160).print(_table(spec.endpoint_name, found, versions))


def _row(each: "EntityMetrics", versions: dict[str, str]) -> dict[str, Any]:
    return {
        "version": versions.get(each.entity),
        "entity": each.entity,
        "minute_end": datetime.fromtimestamp(each.at, tz=UTC).isoformat() if each.at else None,
        "latency_ms": {f"p{share * 100:g}": each.quantile(share) for share in _QUANTILES.values()},
        "values": dict(each.values),
    }


def _table(endpoint: str, found: "tuple[EntityMetrics, ...]", versions: dict[str, str]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    end = next((each.at for each in found if each.at), None)
    since = f"the minute until {datetime.fromtimestamp(end, tz=UTC):%Y-%m-%d %H:%M} UTC" if end else "since its start"
    table = Table(title=f"{endpoint}, {since}")
    columns = {name: family for name, family in _COLUMNS.items() if any(family in each.values for each in found)}
    for name in ("version", "entity"):
        table.add_column(name)
    for name in (*columns, *_QUANTILES):
        table.add_column(name, justify="right")
    for each in found:
        numbers = [each.values.get(family) for family in columns.values()]
        numbers += [each.quantile(share) for share in _QUANTILES.values()]
        table.add_row(escape(versions.get(each.entity, "")), escape(each.entity), *map(_number, numbers))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
