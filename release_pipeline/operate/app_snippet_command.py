"""The command ``app-snippet``: what a Databricks App needs to call a model's endpoint."""

import json
from pathlib import Path

import click

from release_pipeline.operate.session import model_argument, operator_command
from release_pipeline.waits import wait_of_command

_FILES = ("databricks.yml", "app.yaml", "app.py", "requirements.txt")


@click.command("app-snippet")
@model_argument
@click.option("--only", type=click.Choice(_FILES), help="This file alone, to be written to one.")
@operator_command
def app_snippet(model: str, only: str | None, file: Path | None, as_json: bool) -> None:
    r"""Print what a Databricks App needs to call the endpoint of MODEL: bundle resource, variable, Python.

    Nothing is asked of the workspace.

    \b
        release-pipeline app-snippet my_agent
        release-pipeline app-snippet my_agent --only app.py > app/app.py

    Exit codes: 0 it is printed; 2 a mistake in what was asked.
    """
    from release_pipeline.operate.app_snippet import snippets
    from release_pipeline.operate.find_spec import find_spec

    texts = snippets(find_spec(model, file))
    if only is not None:
        texts = {only: texts[only]}
    wait_of_command().over()
    if as_json:
        click.echo(json.dumps(texts, indent=2))
    elif only is not None:
        click.echo(texts[only], nl=False)
    else:
        click.echo("\n".join(f"# --- {name} ---\n{text}" for name, text in texts.items()), nl=False)
