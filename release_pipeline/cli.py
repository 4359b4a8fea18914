"""The command line. Exit codes: 0 done, 1 it was not to be, 2 a mistake in what was asked; see docs/operating.md."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from release_pipeline.demo.commands import DATA, demo, dev, stop_on_signals
from release_pipeline.exit_codes import mistakes_are_sentences
from release_pipeline.operate.app_snippet_command import app_snippet
from release_pipeline.operate.doctor_command import doctor
from release_pipeline.operate.history_command import history
from release_pipeline.operate.logs_command import logs
from release_pipeline.operate.metrics_command import metrics
from release_pipeline.operate.pause_commands import pause, unpause
from release_pipeline.operate.plan_command import plan
from release_pipeline.operate.power_command import power
from release_pipeline.operate.preflight_command import preflight
from release_pipeline.operate.release_commands import approve, promote, rollback, withdraw
from release_pipeline.operate.start_command import start
from release_pipeline.operate.status_command import status
from release_pipeline.replay_log.command import replay

#: In what order, and under which headings, `release-pipeline --help` names the commands.
SECTIONS = {
    "See what is there": ("status", "history", "logs", "metrics", "doctor"),
    "Move releases": ("start", "rollback", "promote", "approve", "withdraw", "pause", "unpause"),
    "Look ahead, before a release": ("plan", "preflight", "power", "replay", "app-snippet"),
    "On this machine": ("dev", "demo", "workspace"),
}


def _examples_as_written(text: str | None) -> str:
    """The help with click's mark before lines that are not wrapped: backspace, in raw docstrings two letters."""
    return (text or "").replace("\\b\n", "\b\n")


class _InSections(click.Group):
    """A group whose help names the commands by what they are for."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, whose examples stay as they are written."""
        cmd.help = _examples_as_written(cmd.help)
        super().add_command(cmd, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list of commands per section."""
        width = max(map(len, self.commands))
        for title, names in SECTIONS.items():
            with formatter.section(title):
                limit = formatter.width - 6 - width
                formatter.write_dl(
                    [(name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in names]
                )


@click.group(cls=_InSections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="release-pipeline")
def main() -> None:
    r"""Releases of models and agents to Databricks Model Serving, decided by evidence.

    \b
        release-pipeline doctor                # is everything there that a release needs?
        release-pipeline start my_agent        # with Dagster running
        release-pipeline status                # which version has how much traffic?
        release-pipeline rollback my_agent --reason "wrong prices"

    Exit codes: 0 done; 1 it could not be done, or was refused; 2 a mistake in what was asked. Completion with Tab in
    bash, zsh and fish: see docs/operating.md.
    """


main.help = _examples_as_written(main.help)


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5005, show_default=True, help="Port to listen on.")
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
@click.option("--processes-per-entity", type=click.IntRange(min=1), default=4, show_default=True,
              help="Most scoring processes of an entity, whatever its workload size.")  # fmt: skip
@click.option("--logged-environments", is_flag=True,
              help="Run each model with the requirements that it was logged with, built by uv.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--json", "as_json", is_flag=True, help="Say in JSON where it listens.")
@click.option("--allow-remote-clients", is_flag=True, help="Allow a --host that is not loopback.")
@mistakes_are_sentences()
def workspace(
    port: int,
    data: Path,
    token_file: Path,
    host: str,
    allow_remote_clients: bool,
    processes_per_entity: int,
    logged_environments: bool,
    as_json: bool,
    **behaviour: Any,
) -> None:
    r"""Serve a local Databricks workspace on loopback.

    It answers the unpatched clients (mlflow, databricks-sdk, the OpenAI client) with only DATABRICKS_HOST and
    DATABRICKS_TOKEN set:

    \b
        release-pipeline workspace --port 5005 --token-file token &
        export DATABRICKS_HOST=http://127.0.0.1:5005 DATABRICKS_TOKEN=$(cat token)
        python -c "from databricks.sdk import WorkspaceClient; print(WorkspaceClient().current_user.me())"

    Exit codes: 0 it was stopped; 2 a mistake in what was asked, or a port that is taken.
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
        settings = Settings(
            data_dir=data.resolve(),
            token=token,
            host=host,
            port=port,
            faults=faults,
            processes_per_entity=processes_per_entity,
            logged_environments=logged_environments,
        )

        def tell() -> None:
            told = f"local workspace on {settings.url}, token in {token_file}; stop it with Ctrl-C"
            click.echo(json.dumps({"host": settings.url, "token_file": str(token_file.resolve())}) if as_json else told)

        stop_on_signals()
        serve(settings, allow_remote=allow_remote_clients, listening=tell)
    except KeyboardInterrupt:
        return
    except CannotServe as error:
        click.echo(f"release-pipeline workspace: {error}", err=True)
        sys.exit(2)


for command in (
    dev,
    demo,
    start,
    doctor,
    status,
    history,
    logs,
    metrics,
    app_snippet,
    rollback,
    promote,
    approve,
    withdraw,
    pause,
    unpause,
    preflight,
    plan,
    power,
    replay,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
