"""The command line. Exit codes: 0 done, 1 the release or the demo did not end well, 2 a mistake in what was asked."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import click

from release_pipeline.errors import NotConfigured, ReleasePipelineError, SpecError
from release_pipeline.operate.history_command import history
from release_pipeline.operate.pause_commands import pause, unpause
from release_pipeline.operate.release_commands import approve, promote, rollback, withdraw
from release_pipeline.power_command import power
from release_pipeline.preflight_command import preflight
from release_pipeline.replay_log.command import replay

DATA = ".data"


def _stop_on_signals() -> None:
    """SIGTERM stops as Ctrl-C does, and both do in the background of a script, where SIGINT is ignored."""
    import signal

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def _sentences(command: Callable[..., None]) -> Callable[..., None]:
    """A user's mistake is a sentence, never a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except ReleasePipelineError as error:
            click.echo(f"release-pipeline: {error}", err=True)
            sys.exit(2 if isinstance(error, (SpecError, NotConfigured)) else 1)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="release-pipeline")
def main() -> None:
    """Releases of models and agents to Databricks Model Serving, decided by evidence."""


@main.command()
@click.option("--port", default=5005, show_default=True, help="Port to listen on.")
@click.option("--data", type=click.Path(path_type=Path), default=Path(DATA, "workspace"), show_default=True,
              help="Folder for everything that survives a restart.")  # fmt: skip
@click.option("--token-file", type=click.Path(path_type=Path), default=Path(DATA, "token"), show_default=True,
              help="File with the token; made, readable by you alone, where it does not exist.")  # fmt: skip
@click.option("--lag", default=0.0, show_default=True, help="Seconds until a request's row is in the inference table.")
@click.option("--update-seconds", default=0.0, show_default=True, help="Shortest time an endpoint's update takes.")
@click.option("--duplicate-fraction", default=0.0, show_default=True, help="Share of rows that are delivered twice.")
@click.option("--unlogged-status", type=int, multiple=True, help="HTTP status whose rows never arrive; repeatable.")
@click.option("--sampling-fraction", default=1.0, show_default=True, help="Share of requests that get a row.")
@click.option("--body-limit", default=1 << 20, show_default=True, help="Bytes above which a body is null in its row.")
@click.option("--payload-shape", type=click.Choice(["ai_gateway", "legacy", "unity_ai_gateway"]), default="ai_gateway",
              show_default=True, help="Columns of new inference tables.")  # fmt: skip
@click.option("--no-change-data-feed", is_flag=True, help="New inference tables have no change data feed.")
@click.option("--derived-tables", type=float, metavar="SECONDS",
              help="Derive request and assessment logs, this much later, and take feedback.")  # fmt: skip
@click.option("--freeze-inference-tables", is_flag=True, help="No inference table gets any row.")
@click.option("--minute-metrics", is_flag=True, help="Metrics count the last full minute, as the service's do.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--allow-remote-clients", is_flag=True, help="Allow a --host that is not loopback.")
def workspace(port: int, data: Path, token_file: Path, host: str, allow_remote_clients: bool, **behaviour: Any) -> None:
    r"""Serve a local Databricks workspace on loopback.

    It answers the unpatched clients (mlflow, databricks-sdk, the OpenAI client) with only DATABRICKS_HOST and
    DATABRICKS_TOKEN set:

    \b
        release-pipeline workspace --port 5005 --token-file token &
        export DATABRICKS_HOST=http://127.0.0.1:5005 DATABRICKS_TOKEN=$(cat token)
        python -c "from databricks.sdk import WorkspaceClient; print(WorkspaceClient().current_user.me())"
    """
    from release_pipeline.local_workspace.server import CannotServe, ensure_token, serve
    from release_pipeline.local_workspace.settings import Faults, Settings

    behaviour["inference_lag_seconds"] = behaviour.pop("lag")
    behaviour["unlogged_statuses"] = behaviour.pop("unlogged_status")
    behaviour["body_limit_bytes"] = behaviour.pop("body_limit")
    behaviour["change_data_feed"] = not behaviour.pop("no_change_data_feed")
    try:
        faults = Faults(**behaviour)
    except ValueError as error:
        click.echo(f"release-pipeline workspace: {error}", err=True)
        sys.exit(2)
    try:
        token = ensure_token(token_file)
        settings = Settings(data_dir=data.resolve(), token=token, host=host, port=port, faults=faults)
        click.echo(f"local workspace on {settings.url}, token in {token_file}; stop it with Ctrl-C")
        serve(settings, allow_remote=allow_remote_clients)
    except CannotServe as error:
        click.echo(f"release-pipeline workspace: {error}", err=True)
        sys.exit(2)


_ports = [
    click.option("--ui-port", default=3000, show_default=True, help="Port of Dagster's UI."),
    click.option("--workspace-port", default=5005, show_default=True, help="Port of the local workspace."),
]


def _with_ports(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_ports):
        command = option(command)
    return command


@main.command()
@_with_ports
@_sentences
def dev(ui_port: int, workspace_port: int) -> None:
    """Start the local workspace and Dagster, and stay until Ctrl-C."""
    from release_pipeline.demo.stack import Stack

    _stop_on_signals()
    stack = Stack(Path.cwd(), Path(DATA, "dev").resolve(), ui_port, workspace_port, echo=True)
    try:
        stack.start(click.echo)
        click.echo(
            f"\nDagster's UI: {stack.ui_url}\nlocal workspace: DATABRICKS_HOST={stack.host} "
            f"DATABRICKS_TOKEN=$(cat {stack.token_file})\n"
            "start a release: release-pipeline start python_docs_agent, or Materialize in the UI; Ctrl-C stops both\n"
        )
        while True:
            stack.check()
            time.sleep(1)
    except KeyboardInterrupt:
        click.echo("stopping")
    finally:
        stack.stop()


@main.command()
@_with_ports
@click.option("--keep", is_flag=True, help="Keep Dagster and the local workspace running at the end, until Ctrl-C.")
@_sentences
def demo(ui_port: int, workspace_port: int, keep: bool) -> None:
    """Tell the whole story on this machine: a good release is promoted, a bad one is rolled back."""
    import shutil

    from rich.console import Console

    from release_pipeline.demo import summary
    from release_pipeline.demo.stack import Stack
    from release_pipeline.demo.story import Story

    console = Console(width=None if sys.stdout.isatty() else 160)
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(f"[cyan]{time.monotonic() - began:6.1f} s[/]  {line}", highlight=False)

    data = Path(DATA, "demo").resolve()
    shutil.rmtree(data, ignore_errors=True)
    _stop_on_signals()
    stack = Stack(Path.cwd(), data, ui_port, workspace_port)
    wrong = ["stopped before its end"]
    try:
        stack.start(say)
        story = Story(stack, say)
        ended = story.run()
        answers, entries = story.answers(), story.parts.ledger.read()
        console.print(summary.release_table(ended, answers, entries), summary.ledger_table(entries))
        wrong = summary.problems(ended, answers, story.parts, story.spec)
        say(f"{len(answers)} questions were asked; the demo took {time.monotonic() - began:.0f} s")
        for line in wrong:
            say(f"[red]{line}[/]")
        if keep:
            say(f"Dagster's UI stays on {stack.ui_url}; Ctrl-C stops it")
            while True:
                stack.check()
                time.sleep(1)
        say("[green]alias, endpoint and ledger agree[/]; see it in the UI with: make dev" if not wrong else "failed")
    except KeyboardInterrupt:
        say("stopped")
    finally:
        stack.stop()
    if wrong:
        sys.exit(1)


@main.command()
@click.argument("model")
@click.option("--source", default="", help="Another Python file beside the YAML, for this release only.")
@click.option("--config", default="", help="Another configuration file beside the YAML, for this release only.")
@click.option("--force", is_flag=True, help="Release although the same content was rejected before.")
@click.option("--dagster", "dagster_url", default="http://127.0.0.1:3000", show_default=True, help="Dagster's address.")
@_sentences
def start(model: str, source: str, config: str, force: bool, dagster_url: str) -> None:
    """Start a release of MODEL in a running Dagster."""
    from release_pipeline.demo.dagster_api import DagsterApi

    release = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run_config = {"ops": {f"{model}__logged_model": {"config": {"source": source, "config": config, "force": force}}}}
    run_id = DagsterApi(dagster_url).start_release(model, release, run_config)
    click.echo(f"release {release} of {model} started: {dagster_url}/runs/{run_id}")


main.add_command(replay)
main.add_command(power)
for operator in (history, rollback, promote, approve, withdraw, pause, unpause):
    main.add_command(operator)
main.add_command(preflight)


if __name__ == "__main__":
    main()
