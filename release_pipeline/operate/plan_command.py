"""The command ``plan``: what a release would change, before there is one."""

import json
import sys
from pathlib import Path

import click

from release_pipeline.exit_codes import mistakes_are_sentences
from release_pipeline.waits import waiting


@click.command()
@click.option("--spec", "defs_yaml", type=click.Path(path_type=Path), required=True, help="The release's defs.yaml.")
@click.option("--json", "as_json", is_flag=True, help="JSON: a list of asset, sentence and refused.")
def plan(defs_yaml: Path, as_json: bool) -> None:
    r"""Say what a release of this YAML would change, asset by asset; nothing is changed.

    \b
        release-pipeline plan --spec defs.yaml

    Whether it may do so is what `release-pipeline preflight` asks.

    Exit codes: 0 a release could start; 1 it would be refused, or the workspace could not be read; 2 the YAML or the
    credentials are wrong.
    """
    with mistakes_are_sentences(), waiting("asking the workspace what is there"):
        refused = _plan(defs_yaml, as_json)
    if refused:
        sys.exit(1)


def _plan(file: Path, as_json: bool) -> bool:
    from release_pipeline.operate.plan import plan as plan_of
    from release_pipeline.rollout.parts import connect_parts
    from release_pipeline.spec_file import read_spec

    folder = file if file.is_dir() else file.parent
    spec = read_spec(file)
    found = plan_of(connect_parts(spec, actor="plan", progress=lambda line: None), spec, folder.resolve())
    if as_json:
        click.echo(json.dumps([each.to_dict() for each in found], indent=2))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("asset", "what it would do", title=f"a release of {spec.name}, if it were started now")
        for each in found:
            table.add_row(each.asset, each.sentence, style="red" if each.refused else "")
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    return any(each.refused for each in found)
