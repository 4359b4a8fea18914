"""An entity that nobody asks ends its processes where it may, and the next request starts them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from databricks.sdk import WorkspaceClient

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import (
    create,
    entity,
    is_running,
    said,
    say,
    scoring_processes,
    traffic,
    update,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


def ask(client: WorkspaceClient, name: str, served: str) -> str:
    path = f"/serving-endpoints/{name}/served-models/{served}/invocations"
    return said(client.api_client.do("POST", path, body=say("hello")))


def test_what_idles_stops_and_the_next_request_starts_it(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    endpoint_name: str,
    set_faults: Callable[..., requests.Response],
) -> None:
    stays = entity("stays")
    stays.scale_to_zero_enabled = False
    pair = [stays, entity("sleeps", version="2")]
    before = scoring_processes(workspace)
    create(client, endpoint_name, stays)
    (staying,) = scoring_processes(workspace) - before
    update(client, endpoint_name, *pair, traffic=traffic(stays=100, sleeps=0))
    (sleeping,) = scoring_processes(workspace) - before - {staying}
    set_faults(scale_to_zero_seconds=0)
    wait_for(lambda: not is_running(sleeping))
    set_faults(scale_to_zero_seconds=1800)

    def state(name: str) -> tuple[str, str]:
        config = client.serving_endpoints.get(endpoint_name).config
        (served,) = (each for each in config.served_entities if each.name == name)
        return served.state.deployment.value, served.state.deployment_state_message

    # It is ready, as it is on the service, and says why nothing runs.
    assert client.serving_endpoints.get(endpoint_name).state.ready.value == "READY"
    assert state("sleeps") == ("DEPLOYMENT_READY", "Scaled to zero")
    assert state("stays") == ("DEPLOYMENT_READY", "")
    assert is_running(staying)
    # Traffic can be moved to it, and it goes on sleeping.
    update(client, endpoint_name, *pair, traffic=traffic(stays=50, sleeps=50))
    assert state("sleeps") == ("DEPLOYMENT_READY", "Scaled to zero")
    assert ask(client, endpoint_name, "sleeps") == "echo: hello"
    assert state("sleeps") == ("DEPLOYMENT_READY", "")
    (started,) = scoring_processes(workspace) - before - {staying}
    assert started != sleeping
    log = client.serving_endpoints.build_logs(endpoint_name, "sleeps").logs
    assert [line.split(" ", 1)[1] for line in log.splitlines() if "Loading" not in line] == [
        "Ready.",
        "Scaled to zero.",
        "Ready.",
    ]


def test_it_does_not_sleep_while_it_answers(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    endpoint_name: str,
    set_faults: Callable[..., requests.Response],
    tmp_path: Path,
) -> None:
    create(client, endpoint_name, entity("only"))
    go = tmp_path / "go"
    with requests.post(
        f"{workspace.url}/serving-endpoints/{endpoint_name}/invocations",
        json=say(str(go), stream=True),
        headers={"Authorization": f"Bearer {workspace.token}"},
        stream=True,
        timeout=60,
    ) as held:
        lines = held.iter_lines()
        next(lines)
        # Another one falls asleep after it could have.
        create(client, f"{endpoint_name}-b", entity("only"))
        set_faults(scale_to_zero_seconds=0)

        def message(name: str) -> str:
            return client.serving_endpoints.get(name).config.served_entities[0].state.deployment_state_message or ""

        wait_for(lambda: message(f"{endpoint_name}-b"))
        assert message(endpoint_name) == ""
        client.serving_endpoints.delete(f"{endpoint_name}-b")  # asleep, it can be deleted
        go.touch()
        assert [line for line in lines if line][-1] == b"data: [DONE]"
    wait_for(lambda: message(endpoint_name) == "Scaled to zero")
