"""The command ``preflight``: what a release would need and does not have, before anything is touched."""

import json
import sys
from pathlib import Path

import click

from release_pipeline.operate.session import model_argument, operator_command
from release_pipeline.waits import wait_of_command


@click.command()
@model_argument
@operator_command
def preflight(model: str, file: Path | None, as_json: bool) -> None:
    r"""Ask the workspace whether a release of MODEL could go through; nothing is changed.

    \b
        release-pipeline preflight my_agent

    Every failure is told at once, each with the grant or the call that mends it. What cannot be told is a warning. It
    asks as whoever runs it: run it with the credentials that the releases run with.

    Exit codes: 0 nothing failed; 1 something did; 2 the YAML or the credentials are wrong.
    """
    from release_pipeline.operate.find_spec import find_whole_spec
    from release_pipeline.rollout.parts import connect_parts
    from release_pipeline.rollout.preflight import Preflight
    from release_pipeline.rollout.preflight import preflight as look

    _, spec = find_whole_spec(model, file)
    found = look(connect_parts(spec, actor="preflight", progress=lambda line: None), spec) or Preflight(())
    wait_of_command().over()
    if as_json:
        rows = [
            {"check": check.name, "outcome": check.outcome.value, "sentence": check.sentence} for check in found.checks
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        from rich.console import Console

        from release_pipeline.report.preflight_table import preflight_text

        Console(width=None if sys.stdout.isatty() else 160).print(preflight_text(found))
    if found.failed:
        sys.exit(1)
