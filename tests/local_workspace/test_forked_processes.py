"""Scoring processes are forked from one that has the imports, and are as if each had been started on its own."""

import os
import signal
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import create, entity, is_running, said, scoring_processes, update, wait_for
from tests.local_workspace.test_endpoints import invoke, linux

pytestmark = linux


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def open_files(pid: int) -> set[str]:
    return {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}


def is_forked(pid: int) -> bool:
    return b"serving.fork_server" in Path(f"/proc/{parent_of(pid)}/cmdline").read_bytes()


@pytest.mark.slow
def test_processes_are_forked_unless_a_variable_may_say_how_something_is_imported(
    workspace: RunningWorkspace, client: WorkspaceClient, models: None, endpoint_name: str
) -> None:
    before = scoring_processes(workspace)
    create(client, endpoint_name, entity("a", ENABLE_MLFLOW_TRACING="false"))
    (forked,) = scoring_processes(workspace) - before
    assert is_forked(forked)
    assert os.getsid(forked) == forked  # an interrupt typed at the server is the server's to handle
    # Nothing by which it could be taken for its parent, or read what another one is given.
    its = open_files(forked)
    assert not {each for each in its if "memfd:environment" in each}
    assert not {each for each in its & open_files(parent_of(forked)) if each.startswith(("socket:", "pipe:"))}
    update(client, endpoint_name, entity("b", OMP_NUM_THREADS="1"))
    (started,) = scoring_processes(workspace) - before - {forked}
    assert not is_forked(started)
    assert said(invoke(client, endpoint_name)) == "echo: hello"


# It takes the processes of all other tests with it, which come back; so not among them.
@pytest.mark.exhaustive
def test_when_what_forks_them_is_killed_they_come_back(
    workspace: RunningWorkspace, client: WorkspaceClient, models: None, endpoint_name: str
) -> None:
    before = scoring_processes(workspace)
    create(client, endpoint_name, entity("a"))
    (forked,) = scoring_processes(workspace) - before
    server = parent_of(forked)
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not is_running(forked))  # it does not outlive it, with nobody to watch it
    assert said(invoke(client, endpoint_name)) == "echo: hello"
    again = scoring_processes(workspace) - before - {forked}  # those of other tests among them
    assert again
    assert all(is_forked(pid) and parent_of(pid) != server for pid in again)
    assert f"ended with code {-signal.SIGKILL}" in client.serving_endpoints.build_logs(endpoint_name, "a").logs
