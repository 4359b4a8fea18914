"""Addresses for people: where an endpoint is queried, where its agent is reviewed, where its traces are."""

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


@dataclass(frozen=True)
class Links:
    """The links of one endpoint.

    Attributes:
        endpoint: Its page in the workspace.
        query: Where clients send requests.
        review: Where people chat with it: the workspace's review page, else AI Playground.
        traces: The traces of its requests, None where they are in no known experiment.
    """

    endpoint: str
    query: str
    review: str
    traces: str | None


def endpoint_links(
    workspace: Workspace, endpoint: str, experiment_id: str = "", metrics: Sequence[Metric] = ()
) -> Links:
    """The links of an endpoint, whether or not it is there already.

    Args:
        workspace: It is asked for the address of its review page; one that has none, or does not say, is a workspace
            with AI Playground.
        endpoint: The endpoint's name.
        experiment_id: Where its traces are, empty where that is not known.
        metrics: Those of the gate: what they read is what the review page asks for.
    """
    host, name = workspace.host, quote(endpoint, safe="")
    return Links(
        endpoint=f"{host}/ml/endpoints/{name}",
        query=f"{host}/serving-endpoints/{name}/invocations",
        review=_review(workspace, name, metrics),
        traces=f"{host}/ml/experiments/{experiment_id}/traces" if experiment_id else None,
    )


def _review(workspace: Workspace, name: str, metrics: Sequence[Metric]) -> str:
    template = _said_by(workspace).get("review_url")
    if not isinstance(template, str) or _PLACE not in template or not template.startswith(("http://", "https://")):
        return f"{workspace.host}/ml/playground?endpointName={name}"
    asked: dict[str, str] = {}
    for metric in metrics:
        control = _CONTROLS.get((float(metric.worst), float(metric.best)))
        if metric.kind == "feedback" and metric.assessment and control:
            asked.setdefault(control, metric.assessment)
    named = {control: found for control, found in asked.items() if found != _USUAL[control]}
    return template.replace(_PLACE, name) + (f"?{urlencode(named)}" if named else "")


def _said_by(workspace: Workspace) -> dict[str, Any]:
    """What the workspace says about itself to every client; nothing where it does not: a link is not worth an error."""
    from databricks.sdk.errors.base import DatabricksError

    try:
        said = workspace.client.api_client.do("GET", "/.well-known/databricks-config")
    except (DatabricksError, OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
