"""What keeps this machine, or this deployment, from releasing models: its packages, Dagster, the workspace, each model.

Every check has an outcome as those of :mod:`~release_pipeline.rollout.preflight`, whose checks are asked of each model,
too. A sentence says what was found, or what is wrong and what to do about it.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

import release_pipeline
from release_pipeline.errors import (
    NotConfigured,
    ReleasePipelineError,
    TableMissing,
    Unanswered,
    WorkspaceError,
    first_sentence,
)
from release_pipeline.rollout.preflight import Check, Outcome, preflight

if TYPE_CHECKING:
    from release_pipeline.rollout.parts import Parts
    from release_pipeline.spec import ReleaseSpec
    from release_pipeline.workspace.client import Workspace

_PACKAGE: Final = "release-pipeline"
_FOLDER: Final = Path(release_pipeline.__file__).parent
#: Settings of Dagster's instance that go with this package: an installed one has them in it, a clone beside it.
SETTINGS: Final = (_FOLDER if (_FOLDER / "dagster.yaml").exists() else _FOLDER.parent) / "dagster.yaml"
#: Tags whose runs Dagster must limit, and what happens where it does not.
_LIMITED: Final = {
    "release_pipeline/endpoint": "two runs may act on one endpoint at a time, of which one is refused",
    "release_pipeline/slot": "runs of many models may take all the room, and a rollback waits",
}


def packages() -> Iterator[Check]:
    """Whether the packages that are installed are those that this one needs."""
    from packaging.requirements import Requirement

    wrong = []
    for text in metadata.requires(_PACKAGE) or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{needed} is not installed")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            wrong.append(f"{needed.name} is {version}, needed is {needed.name}{needed.specifier}")
    python = ".".join(str(part) for part in sys.version_info[:3])
    if wrong:
        remedy = "install the package anew: `make setup` in a clone, else `pip install --upgrade` with its wheel"
        yield Check("packages", Outcome.FAILED, f"{'; '.join(wrong)}: {remedy}.")
        return
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("dagster", "mlflow", "databricks-sdk"))
    yield Check("packages", Outcome.PASSED, f"{_PACKAGE} {metadata.version(_PACKAGE)}, Python {python}, {versions}")


def dagster_instance() -> Iterator[Check]:
    """Whether Dagster keeps what it knows, and limits the runs that must be limited."""
    name, home = "Dagster's instance", os.environ.get("DAGSTER_HOME", "")
    if not home:
        yield Check(
            name,
            Outcome.WARNING,
            "DAGSTER_HOME is not set here; where the daemon runs it must name a folder with a dagster.yaml such as "
            f"{SETTINGS}.",
        )
        return
    file = Path(home, "dagster.yaml")
    if not file.exists():
        # Not a failure: of an installation on Kubernetes only Dagster's own pods, and runs, have it.
        yield Check(
            name,
            Outcome.WARNING,
            f"there is no {file}; where Dagster's daemon runs there must be one such as {SETTINGS}.",
        )
        return
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        yield Check(
            name,
            Outcome.FAILED,
            f"{file} cannot be read ({_said(error)}); copy {SETTINGS} there.",
        )
        return
    limited = _limited_tags(found)
    missing = [f"{tag} is not limited: {what}" for tag, what in _LIMITED.items() if tag not in limited]
    if missing:
        wanted = f"take concurrency.runs.tag_concurrency_limits from {SETTINGS}"
        yield Check(name, Outcome.WARNING, f"{file}: {'; '.join(missing)}; {wanted}.")
        return
    yield Check(name, Outcome.PASSED, str(file))


def apart(specs: "Sequence[ReleaseSpec]") -> Iterator[Check]:
    """Whether no two models of the project have what only one can have."""
    owners: dict[tuple[str, str], list[str]] = {}
    for spec in specs:
        for unique in (
            ("name", spec.name),
            ("registered model", spec.model.registered_name),
            ("endpoint", spec.endpoint_name),
        ):
            owners.setdefault(unique, []).append(spec.name)
    for (what, shared), names in owners.items():
        if len(names) > 1:
            sentence = f"{', '.join(names)} have the {what} {shared} in common, and would undo each other's releases"
            yield Check("models", Outcome.FAILED, f"{sentence}; give each its own.")


def connection(workspace: "Workspace") -> Iterator[Check]:
    """Whether the workspace knows who is asking, and runs SQL."""
    from release_pipeline.workspace.permissions import Permissions

    try:
        yield Check("credentials", Outcome.PASSED, f"{Permissions(workspace).me().name} at {workspace.host}")
    except Unanswered as error:
        remedy = "renew DATABRICKS_TOKEN, or the profile's credentials"
        yield Check("credentials", Outcome.FAILED, f"{workspace.host} does not say who is asking: {error}; {remedy}.")
        return
    began = time.monotonic()
    try:
        workspace.warehouse.execute("SELECT 1")
    except (NotConfigured, WorkspaceError) as error:
        yield Check("SQL warehouse", Outcome.FAILED, str(error))
        return
    seconds = time.monotonic() - began
    found = f"{workspace.warehouse.warehouse_id} answers in {seconds:.1f} s"
    yield Check("SQL warehouse", Outcome.PASSED, found)


def model(spec: "ReleaseSpec", parts: "Parts") -> Iterator[Check]:
    """Whether a release of this YAML could go through, and whether the gate would see its requests."""
    try:
        found = preflight(parts, spec)
        checks: Sequence[Check] = found.checks if found else ()
    except ReleasePipelineError as error:
        checks = (Check("preflight", Outcome.FAILED, str(error)),)
    for check in (*checks, _rows(parts)):
        yield replace(check, name=f"{spec.name}: {check.name}")


def _rows(parts: "Parts") -> Check:
    """What the inference table has."""
    name, table = "rows", parts.payload.name
    try:
        shape, feed, newest = parts.payload.shape(), parts.payload.has_change_feed(), parts.payload.newest()
    except TableMissing:
        return Check(name, Outcome.WARNING, f"{table} is not there yet; it comes with the endpoint's first requests.")
    except WorkspaceError as error:
        return Check(name, Outcome.FAILED, str(error))
    if newest is None:
        return Check(name, Outcome.WARNING, f"{table} has no rows yet; it has them minutes after requests.")
    minutes = (datetime.now(UTC) - newest).total_seconds() / 60
    what = f"{table} is in the {shape.name} shape, its newest row {_ago(minutes)} old"
    if feed:
        return Check(name, Outcome.PASSED, what)
    return Check(
        name,
        Outcome.WARNING,
        f"{what}; without a change feed each look reads by time, and rows that come very late are not judged: ALTER "
        f"TABLE {table} SET TBLPROPERTIES (delta.enableChangeDataFeed = true).",
    )


def _ago(minutes: float) -> str:
    if minutes < 120:
        return f"{max(minutes, 0):.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 2880 else f"{minutes / 1440:.0f} days"


def _limited_tags(instance: Any) -> set[str]:
    """Tags that an instance's YAML limits, in the form of today and in that of earlier versions of Dagster."""
    if not isinstance(instance, dict):
        return set()
    today = ((instance.get("concurrency") or {}).get("runs") or {}).get("tag_concurrency_limits")
    earlier = ((instance.get("run_coordinator") or {}).get("config") or {}).get("tag_concurrency_limits")
    return {str(limit.get("key")) for limit in (today or earlier or ()) if isinstance(limit, dict)}


def _said(error: OSError | yaml.YAMLError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else first_sentence(error)
