"""The command ``preflight``: what a release would need and does not have, before anything is touched."""

import json
import sys
from pathlib import Path

import click

from release_pipeline.exit_codes import mistakes_are_sentences
from release_pipeline.waits import waiting


@click.command()
@click.option("--spec", "defs_yaml", type=click.Path(path_type=Path), required=True, help="The release's defs.yaml.")
@click.option("--json", "as_json", is_flag=True, help="JSON: a list of check, outcome and sentence.")
def preflight(defs_yaml: Path, as_json: bool) -> None:
    r"""Ask the workspace whether a release of this YAML could go through; nothing is changed.

    \b
        release-pipeline preflight --spec defs.yaml

    Every failure is told at once, each with the grant or the call that mends it. What cannot be told is a warning. It
    asks as whoever runs it: run it with the credentials that the releases run with.

    Exit codes: 0 nothing failed; 1 something did; 2 the YAML or the credentials are wrong.
    """
    with mistakes_are_sentences(), waiting("asking the workspace what a release needs"):
        failed = _preflight(defs_yaml, as_json)
    if failed:
        sys.exit(1)


def _preflight(file: Path, as_json: bool) -> bool:
    from release_pipeline.rollout.parts import connect_parts
    from release_pipeline.rollout.preflight import Preflight
    from release_pipeline.rollout.preflight import preflight as look
    from release_pipeline.spec_file import read_spec

    spec = read_spec(file)
    found = look(connect_parts(spec, actor="preflight", progress=lambda line: None), spec) or Preflight(())
    if as_json:
        rows = [
            {"check": check.name, "outcome": check.outcome.value, "sentence": check.sentence} for check in found.checks
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        from rich.console import Console

        from release_pipeline.report.preflight_table import preflight_text

        Console(width=None if sys.stdout.isatty() else 160).print(preflight_text(found))
    return found.failed
