"""Addresses for people: pages of the workspace, where an endpoint is queried, where its agent is reviewed.

The local workspace has pages at the same addresses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.client import Workspace

#: What the review page asks for, by the scale from worst to best.
_CONTROLS: Final = {(0.0, 1.0): "thumbs", (1.0, 5.0): "rating"}
#: What it calls the assessments unless the link says otherwise.
_USUAL: Final = {"thumbs": "helpful", "rating": "rating"}
_PLACE: Final = "{endpoint}"
_REVIEW_APPS: Final = "/api/2.0/managed-evals/review-apps"


@dataclass(frozen=True)
class Links:
    """The links of one endpoint.

    Attributes:
        endpoint: Its page in the workspace.
        query: Where clients send requests.
        review: Where people chat with it: the local workspace's review page, the experiment's review app on
            Databricks, else AI Playground.
        traces: The traces of its requests, None where they are in no known experiment.
    """

    endpoint: str
    query: str
    review: str
    traces: str | None


def endpoint_page(workspace: Workspace, endpoint: str) -> str:
    """The page of an endpoint."""
    return f"{workspace.host}/ml/endpoints/{quote(endpoint, safe='')}"


def run_page(workspace: Workspace, experiment_id: str, run_id: str) -> str:
    """The page of an MLflow run."""
    return f"{workspace.host}/ml/experiments/{experiment_id}/runs/{run_id}"


def version_page(workspace: Workspace, model: str, version: str) -> str:
    """The page of a version of a registered model, by its full name."""
    return f"{workspace.host}/explore/data/models/{_as_path(model)}/version/{quote(version, safe='')}"


def table_page(workspace: Workspace, table: str) -> str:
    """The page of a table, by its full name."""
    return f"{workspace.host}/explore/data/{_as_path(table)}"


def _as_path(full_name: str) -> str:
    return "/".join(quote(part, safe="") for part in full_name.split("."))


def endpoint_links(
    workspace: Workspace, endpoint: str, experiment_id: str = "", metrics: Sequence[Metric] = ()
) -> Links:
    """The links of an endpoint, whether or not it is there already.

    Args:
        workspace: It is asked for its review page, or for the experiment's review app; where it has neither, or does
            not say, AI Playground is left.
        endpoint: The endpoint's name.
        experiment_id: Where its traces are, empty where that is not known.
        metrics: Those of the gate: what they read is what the review page asks for.
    """
    host, name = workspace.host, quote(endpoint, safe="")
    return Links(
        endpoint=endpoint_page(workspace, endpoint),
        query=f"{host}/serving-endpoints/{name}/invocations",
        review=_review(workspace, name, experiment_id, metrics),
        traces=f"{host}/ml/experiments/{experiment_id}/traces" if experiment_id else None,
    )


def _review(workspace: Workspace, name: str, experiment_id: str, metrics: Sequence[Metric]) -> str:
    template = _said_by(workspace, "/.well-known/databricks-config").get("review_url")
    if not isinstance(template, str) or _PLACE not in template or not template.startswith(("http://", "https://")):
        app = _review_app(workspace, experiment_id) if experiment_id else None
        return f"{workspace.host}/ml/{f'review-v2/{app}/chat' if app else f'playground?endpointName={name}'}"
    asked: dict[str, str] = {}
    for metric in metrics:
        control = _CONTROLS.get((float(metric.worst), float(metric.best)))
        if metric.kind == "feedback" and metric.assessment and control:
            asked.setdefault(control, metric.assessment)
    named = {control: found for control, found in asked.items() if found != _USUAL[control]}
    return template.replace(_PLACE, name) + (f"?{urlencode(named)}" if named else "")


def _review_app(workspace: Workspace, experiment_id: str) -> str | None:
    """The id of an experiment's review app on Databricks, None where it has none.

    The route is the one that Databricks' own pages ask, and documented nowhere: what it does not say is not missed.
    """
    said = _said_by(workspace, _REVIEW_APPS, {"filter": f"experiment_id={experiment_id}"})
    apps = said.get("review_apps")
    found = [app for app in apps if isinstance(app, dict)] if isinstance(apps, list) else []
    ids = [app.get("review_app_id") for app in found if app.get("experiment_id") == experiment_id]
    return next((quote(each, safe="") for each in ids if isinstance(each, str) and each), None)


def _said_by(workspace: Workspace, path: str, query: dict[str, str] | None = None) -> dict[str, Any]:
    """What the workspace answers; nothing where it does not: a link is not worth an error."""
    from databricks.sdk.errors.base import DatabricksError

    try:
        said = workspace.client.api_client.do("GET", path, query=query)
    except (DatabricksError, OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
