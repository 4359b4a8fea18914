"""What the command line asks of a running Dagster, through its GraphQL API."""

from dataclasses import dataclass
from typing import Any

import requests

from release_pipeline.errors import WorkspaceUnreachable

TIMEOUT_SECONDS = 30
_LOCATION = """
query { repositoriesOrError { __typename ... on RepositoryConnection {
    nodes { name location { name } jobs { name } } } } }
"""
_ADD = """
mutation($repository: RepositorySelector!, $partitions: String!, $key: String!) {
  addDynamicPartition(repositorySelector: $repository, partitionsDefName: $partitions, partitionKey: $key) {
    __typename ... on PythonError { message } ... on UnauthorizedError { message } } }
"""
_LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }
"""
_STATUS = """
query($id: ID!) { runOrError(runId: $id) { __typename ... on Run { status
    stepStats { stepKey status } } } }
"""


@dataclass
class DagsterApi:
    """A running Dagster webserver at ``url``."""

    url: str

    def start_release(self, model: str, key: str, run_config: dict[str, Any]) -> str:
        """Add the release's partition and launch its job; returns the run's id.

        Raises:
            WorkspaceUnreachable: Dagster does not answer, or refuses; the message says why.
        """
        return self.launch(model, "release", key, run_config)

    def launch(self, model: str, name: str, key: str, run_config: dict[str, Any]) -> str:
        """Launch one of a model's jobs for a release, whose partition is added where it is new; the run's id.

        Raises:
            WorkspaceUnreachable: Dagster does not answer, or refuses; the message says why.
        """
        job = f"{model}_{name}"
        repository = self._repository_of(job)
        added = self._ask(_ADD, {"repository": repository, "partitions": f"{model}_releases", "key": key})
        _refuse(added["addDynamicPartition"], ("AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError"))
        launched = self._ask(
            _LAUNCH,
            {
                "params": {
                    "selector": {**repository, "jobName": job},
                    "runConfigData": run_config,
                    "mode": "default",
                    "executionMetadata": {"tags": [{"key": "dagster/partition", "value": key}]},
                }
            },
        )["launchRun"]
        _refuse(launched, ("LaunchRunSuccess",))
        return str(launched["run"]["runId"])

    def run_status(self, run_id: str) -> tuple[str, list[str]]:
        """A run's status, and its steps that are being executed."""
        run = self._ask(_STATUS, {"id": run_id})["runOrError"]
        steps = [stat["stepKey"] for stat in run.get("stepStats", []) if stat["status"] == "IN_PROGRESS"]
        return str(run.get("status", run["__typename"])), steps

    def _repository_of(self, job: str) -> dict[str, str]:
        found = self._ask(_LOCATION, {})["repositoriesOrError"]
        for node in found.get("nodes", []):
            if any(each["name"] == job for each in node["jobs"]):
                return {"repositoryName": node["name"], "repositoryLocationName": node["location"]["name"]}
        raise WorkspaceUnreachable(f"Dagster at {self.url} has loaded no job {job}; look at its Deployment page.")

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = requests.post(
                f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=TIMEOUT_SECONDS
            )
            answer.raise_for_status()
            body = answer.json()
        except requests.RequestException as error:
            raise WorkspaceUnreachable(
                f"Dagster does not answer at {self.url} ({type(error).__name__}); start it with `release-pipeline dev`."
            ) from None
        if body.get("errors"):
            raise WorkspaceUnreachable(f"Dagster at {self.url}: {body['errors'][0]['message']}")
        return dict(body["data"])


def _refuse(answer: dict[str, Any], accepted: tuple[str, ...]) -> None:
    if answer["__typename"] not in accepted:
        errors = answer.get("errors") or [{}]
        raise WorkspaceUnreachable(
            f"Dagster refused: {answer.get('message') or errors[0].get('message') or answer['__typename']}"
        )
