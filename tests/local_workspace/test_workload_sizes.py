"""Workload sizes: how many requests an entity answers at a time, in how many processes, and what waits."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue
from databricks.sdk.service.serving import ServedEntityInput
from mlflow.models import infer_signature

from release_pipeline.local_workspace.serving.slots import Slots
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import (
    AGENT,
    create,
    raw_entity,
    register,
    say,
    scoring_processes,
    start_creating,
    wait_for,
)

MEETING = "main.default.meeting"
SetFaults = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def meeting(workspace: RunningWorkspace) -> None:
    table = pd.DataFrame({"folder": ["a"], "until": ["b"]})
    register("meeting_model.py", MEETING, signature=infer_signature(table, [[1, 2]]))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


class Meeting:
    """Requests to an endpoint of the meeting model."""

    def __init__(self, workspace: RunningWorkspace, threads: ThreadPoolExecutor, name: str, folder: Path) -> None:
        self._workspace, self._threads, self._name, self._folder = workspace, threads, name, folder

    def ask(self, until: str = "") -> "Future[requests.Response]":
        """Send a request that is answered once a file of that name is there."""
        return self._threads.submit(
            requests.post,
            f"{self._workspace.url}/serving-endpoints/{self._name}/invocations",
            json={"dataframe_records": [{"folder": str(self._folder), "until": until}]},
            headers={"Authorization": f"Bearer {self._workspace.token}"},
            timeout=60,
        )

    def under_way(self) -> int:
        """How many requests are being answered."""
        return len(list(self._folder.glob("*.here")))

    def let(self, until: str) -> None:
        """Let those go on that wait for a file of that name."""
        (self._folder / until).touch()


def answered(response: "Future[requests.Response]") -> tuple[int, int]:
    """In which process a request was answered, and beside how many others."""
    answer = response.result()
    assert answer.status_code == 200, answer.text
    process, others = answer.json()["predictions"][0]
    return process, others


def sized(name: str, **size: Any) -> ServedEntityInput:
    return ServedEntityInput(name=name, entity_name=MEETING, entity_version="1", **size)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_medium_entity_answers_side_by_side_in_two_processes(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    endpoint_name: str,
    meeting: None,
    threads: ThreadPoolExecutor,
    tmp_path: Path,
) -> None:
    others = scoring_processes(workspace)
    ready = create(client, endpoint_name, sized("m", workload_size="Medium"))
    assert ready.config.served_entities[0].workload_size == "Medium"
    assert len(scoring_processes(workspace) - others) == 2
    room = Meeting(workspace, threads, endpoint_name, tmp_path)
    slow = [room.ask(until="go") for _ in range(2)]
    wait_for(lambda: room.under_way() == 2)
    assert answered(room.ask())[1] == 2
    room.let("go")
    killed, _ = processes = sorted({answered(each)[0] for each in slow})
    assert len(processes) == 2
    # One that dies leaves the other to answer, and the entity is ready meanwhile.
    os.kill(killed, signal.SIGKILL)
    assert client.serving_endpoints.get(endpoint_name).state.ready.value == "READY"
    # A request on a connection that the end has just cut may have been begun, so it is not sent again.
    wait_for(lambda: room.ask().result().status_code == 200)
    assert killed not in [answered(room.ask())[0] for _ in range(3)]

    def build() -> str:
        return str(client.serving_endpoints.build_logs(endpoint_name, "m").logs)

    wait_for(lambda: build().count("Ready.") == 3)
    assert "ended with code -9" in build()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("size", "processes"),
    [
        ({"workload_size": "Large"}, 4),
        ({"min_provisioned_concurrency": 4, "max_provisioned_concurrency": 16}, 2),
        ({"min_provisioned_concurrency": 0, "max_provisioned_concurrency": 64}, 4),
    ],
    ids=["large", "16 at a time", "64 at a time"],
)
def test_larger_entities_have_more_processes(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    endpoint_name: str,
    meeting: None,
    size: dict[str, Any],
    processes: int,
) -> None:
    others = scoring_processes(workspace)
    create(client, endpoint_name, sized("l", **size))
    assert len(scoring_processes(workspace) - others) == processes


@pytest.mark.slow
def test_with_one_slot_requests_are_answered_one_after_the_other_and_then_refused(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    endpoint_name: str,
    meeting: None,
    set_faults: SetFaults,
    threads: ThreadPoolExecutor,
    tmp_path: Path,
) -> None:
    create(client, endpoint_name, sized("m", workload_size="Small"))
    set_faults(concurrency_limit=1, queued_requests=1)
    room = Meeting(workspace, threads, endpoint_name, tmp_path)
    first = room.ask(until="go")
    wait_for(lambda: room.under_way() == 1)
    more = [room.ask() for _ in range(3)]
    # One of them waits, and there is no room for the others.
    wait_for(lambda: sum(each.done() for each in more) == 2)
    refused = [each.result() for each in more if each.done()]
    (waiting,) = (each for each in more if not each.done())
    assert [each.status_code for each in refused] == [429, 429]
    assert {each.json()["error_code"] for each in refused} == {"REQUEST_LIMIT_EXCEEDED"}
    assert "parallel requests" in refused[0].json()["message"]
    room.let("go")
    assert answered(first)[1] == 0
    assert answered(waiting)[1] == 0, "the first was still being answered"


def test_a_request_above_the_limit_is_refused_and_the_next_after_a_stream_is_taken(
    workspace: RunningWorkspace, shared_endpoint: Callable[[str], str], set_faults: SetFaults, tmp_path: Path
) -> None:
    url = f"{workspace.url}/serving-endpoints/{shared_endpoint(AGENT)}/invocations"
    headers = {"Authorization": f"Bearer {workspace.token}"}
    set_faults(concurrency_limit=1, queued_requests=0)
    go = tmp_path / "go"
    with requests.post(url, json=say(f"{go}", stream=True), headers=headers, stream=True, timeout=60) as held:
        lines = held.iter_lines()
        next(lines)
        refused = requests.post(url, json=say("hello"), headers=headers, timeout=60)
        assert (refused.status_code, refused.json()["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")
        go.touch()
        assert [line for line in lines if line][-1] == b"data: [DONE]"
    # The slot comes back a moment after the last byte.
    wait_for(lambda: requests.post(url, json=say("hello"), headers=headers, timeout=60).status_code == 200)


def test_provisioned_concurrency_in_place_of_a_size(client: WorkspaceClient, endpoint_name: str, models: None) -> None:
    entity = raw_entity("a")
    del entity["workload_size"]
    for wrong, words in (
        ({"workload_size": "Small", "max_provisioned_concurrency": 4}, "not both"),
        ({"max_provisioned_concurrency": 6}, "multiple of 4"),
        ({"min_provisioned_concurrency": 8, "max_provisioned_concurrency": 4}, "multiple of 4"),
        ({"min_provisioned_concurrency": 4}, "multiple of 4"),
    ):
        with pytest.raises(InvalidParameterValue, match=words):
            start_creating(client, endpoint_name, entity | wrong)
    sizes = {"min_provisioned_concurrency": 0, "max_provisioned_concurrency": 4}
    served = start_creating(client, endpoint_name, entity | sizes)["pending_config"]["served_entities"][0]
    assert {key: served.get(key) for key in (*sizes, "workload_size")} == sizes | {"workload_size": None}


def test_slots_are_given_in_the_order_of_asking() -> None:
    limit = 1

    async def story() -> None:
        nonlocal limit
        slots = Slots(lambda: limit, lambda: 3)
        order: list[str] = []

        async def ask(name: str) -> None:
            assert await slots.take()
            order.append(name)

        assert await slots.take()
        waiting = {name: asyncio.create_task(ask(name)) for name in ("a", "b", "c")}
        await asyncio.sleep(0)
        assert not await slots.take(), "three wait, and no more may"
        # Who gives up, before or after a slot was given, keeps none.
        waiting["a"].cancel()
        await asyncio.sleep(0)
        slots.give()
        waiting["b"].cancel()
        await asyncio.gather(*waiting.values(), return_exceptions=True)
        assert order == ["c"]
        slots.give()
        # A limit that was raised counts from the next slot that comes back.
        assert await slots.take()
        more = [asyncio.create_task(ask(name)) for name in ("d", "e")]
        await asyncio.sleep(0)
        limit = 2
        slots.give()
        await asyncio.gather(*more)
        assert order == ["c", "d", "e"]

    asyncio.run(story())
