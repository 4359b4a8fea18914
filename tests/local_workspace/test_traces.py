"""From a request to its trace, to people's feedback on it, and back to the version and the row of the request."""

from typing import Any

import mlflow
import pytest
import requests
from databricks.sdk import WorkspaceClient
from mlflow.entities import AssessmentSource, AssessmentSourceType

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, create, entity, inference_table, say, traffic, wait_for

PERSON = AssessmentSource(source_type=AssessmentSourceType.HUMAN, source_id="reader@example.com")


def ask(workspace: RunningWorkspace, endpoint: str, entity_name: str, text: str, **more: Any) -> str:
    """Send one request to an entity; the request's id."""
    answer = requests.post(
        f"{workspace.url}/serving-endpoints/{endpoint}/served-models/{entity_name}/invocations",
        json=say(text, **more),
        headers={"Authorization": f"Bearer {workspace.token}"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-request-id"])


def search(experiment: str, filter_string: str, number: int = 1) -> list[Any]:
    """The traces that a filter finds, once there are as many."""

    def found() -> list[Any]:
        traces = mlflow.search_traces(locations=[experiment], filter_string=filter_string, return_type="list")
        return list(traces) if len(traces) >= number else []

    return wait_for(found)


@pytest.fixture
def traced(client: WorkspaceClient, endpoint_name: str) -> tuple[str, str]:
    """An endpoint with versions 1 and 2, both traced, and the experiment of their traces."""
    experiment = str(mlflow.set_experiment(f"/Shared/{endpoint_name}").experiment_id)
    pair = [
        entity(name, version=version, ENABLE_MLFLOW_TRACING="true", MLFLOW_EXPERIMENT_ID=experiment)
        for name, version in (("a", "1"), ("b", "2"))
    ]
    prefix = endpoint_name.replace("-", "_")
    create(client, endpoint_name, *pair, traffic=traffic(a=100, b=0), ai_gateway=inference_table(prefix))
    return endpoint_name, experiment


def test_a_trace_leads_to_the_version_and_to_the_row(
    workspace: RunningWorkspace, client: WorkspaceClient, traced: tuple[str, str]
) -> None:
    endpoint, experiment = traced
    ids = {
        name: [ask(workspace, endpoint, name, "hello", client_request_id=f"mine-{name}"),
               ask(workspace, endpoint, name, "hello", stream=True)]
        for name in ("a", "b")
    }  # fmt: skip
    for name, version in (("a", "1"), ("b", "2")):
        model_id = mlflow.MlflowClient().get_model_version(AGENT, version).model_id
        traces = search(experiment, f"metadata.`mlflow.modelId` = '{model_id}'", 2)
        assert {trace.info.client_request_id for trace in traces} == set(ids[name])
        for trace in traces:
            assert trace.info.trace_metadata["mlflow.databricks.modelServingEndpointName"] == endpoint
    (trace,) = search(experiment, f"trace.client_request_id = '{ids['b'][0]}'")
    mlflow.log_feedback(trace_id=trace.info.trace_id, name="helpful", value=False, source=PERSON, rationale="wrong")
    # The request's id is the one of the row, whatever id the client gave.
    statement = (
        f"SELECT databricks_request_id, client_request_id FROM main.default.{endpoint.replace('-', '_')}_payload "
        "WHERE client_request_id = 'mine-b'"
    )

    def rows() -> list[list[str]]:
        answer = client.statement_execution.execute_statement(statement, "local", wait_timeout="30s")
        assert answer.result is not None, answer.status
        return answer.result.data_array or []

    assert wait_for(rows) == [[trace.info.client_request_id, "mine-b"]]


def test_feedback_is_found_by_its_value_its_version_and_its_request(
    workspace: RunningWorkspace, traced: tuple[str, str]
) -> None:
    endpoint, experiment = traced
    liked, disliked, silent = (ask(workspace, endpoint, name, "hello") for name in ("a", "b", "b"))
    for request_id, value in ((liked, True), (disliked, False)):
        (trace,) = search(experiment, f"trace.client_request_id = '{request_id}'")
        mlflow.log_feedback(trace_id=trace.info.trace_id, name="helpful", value=value, source=PERSON, rationale="so")
    search(experiment, f"trace.client_request_id = '{silent}'")
    version_2 = mlflow.MlflowClient().get_model_version(AGENT, "2").model_id
    for filter_string, expected in (
        ("feedback.helpful = 'true'", {liked}),
        ("feedback.helpful = 'false'", {disliked}),
        ("feedback.helpful IS NOT NULL", {liked, disliked}),
        (f"feedback.helpful IS NOT NULL AND metadata.`mlflow.modelId` = '{version_2}'", {disliked}),
        (f"trace.client_request_id IN ('{liked}', '{disliked}', 'none')", {liked, disliked}),
        ("trace.timestamp_ms > 0 AND trace.status = 'OK'", {liked, disliked, silent}),
    ):
        traces = search(experiment, filter_string, len(expected))
        assert {trace.info.client_request_id for trace in traces} == expected, filter_string
    (trace,) = search(experiment, f"trace.client_request_id = '{disliked}'")
    (assessment,) = trace.info.assessments
    assert (assessment.name, assessment.feedback.value, assessment.rationale) == ("helpful", False, "so")
    assert (assessment.source.source_type, assessment.source.source_id) == ("HUMAN", "reader@example.com")
    assert assessment.create_time_ms >= trace.info.request_time
    # A second opinion of the same person is a second assessment: a reader has to take the newest.
    mlflow.log_feedback(trace_id=trace.info.trace_id, name="helpful", value=True, source=PERSON)
    (trace,) = search(experiment, f"trace.client_request_id = '{disliked}'")
    values = [each.feedback.value for each in sorted(trace.info.assessments, key=lambda each: each.create_time_ms)]
    assert values == [False, True]
