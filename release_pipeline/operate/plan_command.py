"""The command ``plan``: what a release would change, before there is one."""

import json
import sys
from pathlib import Path

import click

from release_pipeline.operate.session import model_argument, operator_command
from release_pipeline.waits import wait_of_command


@click.command()
@model_argument
@operator_command
def plan(model: str, file: Path | None, as_json: bool) -> None:
    r"""Say what a release of MODEL would change, asset by asset; nothing is changed.

    \b
        release-pipeline plan my_agent

    Whether it may do so is what `release-pipeline preflight` asks.

    Exit codes: 0 a release could start; 1 it would be refused, or the workspace could not be read; 2 the YAML or the
    credentials are wrong.
    """
    from release_pipeline.operate.find_spec import find_whole_spec
    from release_pipeline.operate.plan import plan as plan_of
    from release_pipeline.rollout.parts import connect_parts

    folder, spec = find_whole_spec(model, file)
    found = plan_of(connect_parts(spec, actor="plan", progress=lambda line: None), spec, folder)
    wait_of_command().over()
    if as_json:
        click.echo(json.dumps([each.to_dict() for each in found], indent=2))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("asset", "what it would do", title=f"a release of {spec.name}, if it were started now")
        for each in found:
            table.add_row(each.asset, each.sentence, style="red" if each.refused else "")
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    if any(each.refused for each in found):
        sys.exit(1)
