"""The command ``doctor``: what is wrong with an installation, and what to do about it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release_pipeline.errors import NotConfigured, ReleasePipelineError, WorkspaceError
from release_pipeline.operate.session import models_argument, operator_command, progress
from release_pipeline.waits import wait_of_command

if TYPE_CHECKING:
    from release_pipeline.rollout.preflight import Check
    from release_pipeline.spec import ReleaseSpec


@click.command()
@models_argument
@operator_command
def doctor(models: tuple[str, ...], file: Path | None, as_json: bool) -> None:
    r"""Find what keeps this installation from releasing MODELs, and say what to do; nothing is changed.

    Packages, Dagster's instance, credentials, the SQL warehouse, and for each model everything that preflight asks and
    what its inference table has. Without MODEL all models of the project are looked at. Run it first, with the
    credentials that the releases run with.

    \b
        release-pipeline doctor
        release-pipeline doctor my_agent --json

    Exit codes: 0 nothing failed; 1 something did; 2 there is no such model, or its YAML is wrong.
    """
    from release_pipeline.rollout.preflight import Outcome, Preflight

    found = Preflight(tuple(_checks(models, file)))
    wait_of_command().over()
    if as_json:
        rows = [{"check": each.name, "outcome": each.outcome.value, "sentence": each.sentence} for each in found.checks]
        click.echo(json.dumps(rows, indent=2))
    else:
        from rich.console import Console

        from release_pipeline.report.preflight_table import preflight_text

        Console(width=None if sys.stdout.isatty() else 160).print(preflight_text(found, title="Doctor"))
        failed, warned = len(found.of(Outcome.FAILED)), len(found.of(Outcome.WARNING))
        click.echo(f"{len(found.checks)} checks: {failed} failed, {warned} to be looked at.")
    if found.failed:
        sys.exit(1)


def _checks(models: tuple[str, ...], file: Path | None) -> "Iterator[Check]":
    from release_pipeline.operate import doctor
    from release_pipeline.operate.find_spec import chosen_specs
    from release_pipeline.rollout.preflight import Check, Outcome
    from release_pipeline.workspace.client import connect

    specs, wrong = chosen_specs(models, file)
    yield from doctor.packages()
    yield from doctor.dagster_instance()
    for sentence in wrong:
        yield Check("YAML", Outcome.FAILED, sentence)
    yield from doctor.apart(specs)
    try:
        workspace = connect()
    except (NotConfigured, WorkspaceError) as error:
        yield Check("credentials", Outcome.FAILED, str(error))
        return
    checks = list(doctor.connection(workspace))
    yield from checks
    if any(check.outcome is Outcome.FAILED for check in checks):
        return  # each model would say the same
    for spec in wait_of_command().each(specs, "looking at the models"):
        yield from _of_model(spec)


def _of_model(spec: "ReleaseSpec") -> "Iterator[Check]":
    from release_pipeline.operate import doctor
    from release_pipeline.rollout.parts import connect_parts
    from release_pipeline.rollout.preflight import Check, Outcome

    try:
        parts = connect_parts(spec, actor="doctor", progress=progress)
    except ReleasePipelineError as error:
        yield Check(f"{spec.name}: connection", Outcome.FAILED, str(error))
        return
    yield from doctor.model(spec, parts)
