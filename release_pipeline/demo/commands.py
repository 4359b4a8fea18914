"""The commands ``dev`` and ``demo``: a local workspace and Dagster on this machine."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from release_pipeline.exit_codes import mistakes_are_sentences
from release_pipeline.waits import waiting

#: Where everything is written that belongs to this machine.
DATA: Final = ".data"
_PORT = click.IntRange(1, 65535)
_ports = [
    click.option("--ui-port", type=_PORT, default=3000, show_default=True, help="Port of Dagster's UI."),
    click.option("--workspace-port", type=_PORT, default=5005, show_default=True, help="Port of the local workspace."),
]


def _with_ports(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_ports):
        command = option(command)
    return command


@click.command()
@_with_ports
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), default=Path(DATA, "dev"), show_default=True,
              help="Folder for everything that is written; .data/demo shows what the demo did.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Say in JSON where both are, once they answer.")
@mistakes_are_sentences()
def dev(ui_port: int, workspace_port: int, data: Path, as_json: bool) -> None:
    r"""Start the local workspace and Dagster, and stay until Ctrl-C.

    In a folder with a workspace.yaml, or in a project of Dagster's `create-dagster`. The log of Dagster goes to stderr.

    \b
        release-pipeline dev
        release-pipeline dev --ui-port 3001 --data .data/demo

    Exit codes: 0 it was stopped; 1 one of the two ended, or did not answer; 2 a mistake in what was asked, or a port
    that is taken.
    """
    from release_pipeline.demo.code_location import workspace_file
    from release_pipeline.demo.stack import Stack
    from release_pipeline.operate.doctor import SETTINGS

    stop_on_signals()
    folder, own = Path.cwd(), Path("dagster.yaml").resolve()
    locations = workspace_file(folder, data.resolve())
    settings = own if own.exists() else SETTINGS
    stack = Stack(folder, data.resolve(), ui_port, workspace_port, locations, settings, echo=True)
    try:
        with waiting("until both answer", bar=False):
            stack.start(lambda line: click.echo(line, err=as_json))
        where = {"dagster": stack.ui_url, "host": stack.host, "token_file": str(stack.token_file)}
        sentences = (
            f"\nDagster's UI: {stack.ui_url}\nlocal workspace: DATABRICKS_HOST={stack.host} "
            f"DATABRICKS_TOKEN=$(cat {stack.token_file})\n"
            "start a release: release-pipeline start MODEL, or Materialize in the UI; Ctrl-C stops both\n"
        )
        click.echo(json.dumps(where) if as_json else sentences)
        while True:
            stack.check()
            time.sleep(1)
    except KeyboardInterrupt:
        click.echo("stopping", err=as_json)
    finally:
        stack.stop()


@click.command()
@_with_ports
@click.option("--keep", is_flag=True, help="Keep Dagster and the local workspace running at the end, until Ctrl-C.")
@click.option("--settings", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Another dagster.yaml than the package's, such as one that names a database.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout at the end; the story goes to stderr.")
@mistakes_are_sentences()
def demo(ui_port: int, workspace_port: int, keep: bool, settings: Path | None, as_json: bool) -> None:
    r"""Tell the whole story on this machine: a good release is promoted, a bad one is rolled back.

    In any folder; what is written goes to .data/demo below it.

    \b
        release-pipeline demo
        release-pipeline demo --keep
        release-pipeline demo --json > demo.json

    Exit codes: 0 it went as told; 1 it did not, or was stopped; 2 a mistake in what was asked, or a port that is taken.
    """
    import shutil

    from rich.console import Console

    from release_pipeline.demo import summary
    from release_pipeline.demo.code_location import FILE, write_workspace_file
    from release_pipeline.demo.stack import Stack, need_free_ports
    from release_pipeline.demo.story import Story
    from release_pipeline.operate.doctor import SETTINGS

    stream = sys.stderr if as_json else sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else 160)
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[cyan]{time.monotonic() - began:6.1f} s[/]  {line}", highlight=False)

    data = Path(DATA, "demo").resolve()
    need_free_ports(ui_port, workspace_port)  # before the data of a demo that still runs would go
    shutil.rmtree(data, ignore_errors=True)
    stop_on_signals()
    locations = write_workspace_file(data / FILE, "release_pipeline.definitions", "release_pipeline")
    # Both run in its own folder: Dagster would put a `.env` of this one above the workspace that is started here.
    stack = Stack(data, data, ui_port, workspace_port, locations, settings or SETTINGS)
    wrong = ["stopped before its end"]
    try:
        with waiting("until both answer", bar=False):
            stack.start(say)
        story = Story(stack, say)
        ended = story.run()
        answers, entries = story.answers(), story.parts.ledger.read()
        console.print(summary.release_table(ended, answers, entries), summary.ledger_table(entries))
        wrong = summary.problems(ended, answers, story.parts, story.spec)
        say(f"{len(answers)} questions were asked; the demo took {time.monotonic() - began:.0f} s")
        for line in wrong:
            say(f"[red]{line}[/]")
        if as_json:
            click.echo(json.dumps(summary.story_dict(ended, answers, entries, wrong), indent=2))
        if keep:
            say(f"Dagster's UI stays on {stack.ui_url}; Ctrl-C stops it")
            while True:
                stack.check()
                time.sleep(1)
        again = f"{sys.argv[0]} dev --data {DATA}/demo"
        say("failed" if wrong else f"[green]alias, endpoint and ledger agree[/]; see it in the UI with: {again}")
    except KeyboardInterrupt:
        say("stopped")
    finally:
        stack.stop()
    if wrong:
        sys.exit(1)


def stop_on_signals() -> None:
    """SIGTERM stops as Ctrl-C does, and both do in the background of a script, where SIGINT is ignored."""
    import signal

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
