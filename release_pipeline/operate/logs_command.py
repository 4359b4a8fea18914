"""The command ``logs``: how the versions of a model were built, and what they print."""

import json
import sys
from pathlib import Path

import click

from release_pipeline.errors import EndpointError, WorkspaceError
from release_pipeline.operate.session import model_argument, operator_command
from release_pipeline.waits import wait_of_command


@click.command()
@model_argument
@click.option("--version", help="This version alone; else all that the endpoint serves or is being given.")
@click.option("--build", is_flag=True, help="How the version was built and started, and not what it prints.")
@operator_command
def logs(model: str, version: str | None, build: bool, file: Path | None, as_json: bool) -> None:
    r"""Show the logs of the versions of MODEL on its endpoint; what looks like a secret is hidden.

    \b
        release-pipeline logs my_agent --version 12
        release-pipeline logs my_agent --build

    Exit codes: 0 they are shown; 1 there is no such version on the endpoint, or a log could not be read; 2 a mistake in
    what was asked.
    """
    from release_pipeline.operate.find_spec import find_spec
    from release_pipeline.workspace.client import connect
    from release_pipeline.workspace.endpoint_logs import read_log, served_versions

    spec, workspace = find_spec(model, file), connect()
    endpoint = spec.endpoint_name
    served = served_versions(workspace, endpoint, spec.model.registered_name)
    chosen = [each for each in served if version in (None, each.version)]
    if not chosen:
        there = ", ".join(each.version for each in served) or "no version of it"
        raise EndpointError(
            f"{f'version {version}' if version else 'no version'} of {model} is on endpoint {endpoint}, which serves "
            f"{there}."
        )
    found, wrong = [], []
    for entity in chosen:
        try:
            found.append((entity, read_log(workspace, endpoint, entity, build=build)))
        except WorkspaceError as error:
            wrong.append(str(error))
    wait_of_command().over()
    if as_json:
        kind = "build" if build else "runtime"
        rows = [{"version": each.version, "entity": each.name, "kind": kind, "log": text} for each, text in found]
        click.echo(json.dumps(rows, indent=2))
    else:
        for entity, text in found:
            click.echo(f"==> version {entity.version}, {entity.name} <==")
            click.echo(text.rstrip("\n") or "(nothing yet)")
    for line in wrong:
        click.echo(f"release-pipeline: {line}", err=True)
    if wrong:
        sys.exit(1)
