"""The command ``start``: a release in a running Dagster."""

import json
from datetime import UTC, datetime

import click

from release_pipeline.exit_codes import mistakes_are_sentences
from release_pipeline.operate.completion import complete_model
from release_pipeline.waits import waiting


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option("--source", default="", help="Another Python file beside the YAML, for this release only.")
@click.option("--config", default="", help="Another configuration file beside the YAML, for this release only.")
@click.option("--force", is_flag=True, help="Release although the same content was rejected before.")
@click.option("--dagster", "dagster_url", default="http://127.0.0.1:3000", show_default=True, help="Dagster's address.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a sentence.")
@mistakes_are_sentences()
def start(model: str, source: str, config: str, force: bool, dagster_url: str, as_json: bool) -> None:
    r"""Start a release of MODEL in a running Dagster.

    \b
        release-pipeline start my_agent
        release-pipeline start my_agent --json
        release-pipeline start my_agent --config candidate.yaml --dagster http://127.0.0.1:3001

    Exit codes: 0 it has begun, and its run decides how it ends; 1 Dagster did not answer, has no such model, or
    refused; 2 a mistake in what was asked.
    """
    if not dagster_url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{dagster_url} is no address; write http://host:port.", param_hint="--dagster")
    from release_pipeline.operate.dagster_api import DagsterApi

    release = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    run_config = {"ops": {f"{model}__logged_model": {"config": {"source": source, "config": config, "force": force}}}}
    with waiting(f"until Dagster at {dagster_url} has started the run"):
        run_id = DagsterApi(dagster_url.rstrip("/")).start_release(model, release, run_config)
    url = f"{dagster_url.rstrip('/')}/runs/{run_id}"
    if as_json:
        click.echo(json.dumps({"model": model, "release": release, "run": run_id, "url": url}, indent=2))
    else:
        click.echo(f"release {release} of {model} started: {url}")
