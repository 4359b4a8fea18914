"""Faults on request, switched while the workspace runs and on the command line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from databricks.sdk import WorkspaceClient

from release_pipeline.cli import main
from release_pipeline.local_workspace import server
from release_pipeline.local_workspace.serving.metrics import MINUTE, RequestCounters, render_metrics
from release_pipeline.local_workspace.settings import Faults, Settings
from tests.conftest import RunningWorkspace, free_port
from tests.local_workspace.conftest import create, entity, inference_table, say, wait_for

SetFaults = Callable[..., requests.Response]


def ask(workspace: RunningWorkspace, endpoint: str, body: Any) -> str:
    answer = requests.post(
        f"{workspace.url}/serving-endpoints/{endpoint}/invocations",
        json=body,
        headers={"Authorization": f"Bearer {workspace.token}"},
        timeout=60,
    )
    return str(answer.headers["x-request-id"])


def select(client: WorkspaceClient, statement: str) -> list[list[str]]:
    answer = client.statement_execution.execute_statement(statement, "local", wait_timeout="30s")
    assert answer.result is not None, answer.status
    return answer.result.data_array or []


def test_faults_are_read_and_switched(workspace: RunningWorkspace, set_faults: SetFaults) -> None:
    changed = set_faults(inference_lag_seconds=7, unlogged_statuses=[500, 429]).json()
    assert (changed["inference_lag_seconds"], changed["unlogged_statuses"]) == (7, [500, 429])
    url, headers = f"{workspace.url}/local/faults", {"Authorization": f"Bearer {workspace.token}"}
    assert requests.get(url, headers=headers, timeout=60).json() == changed
    assert requests.get(url, timeout=60).status_code == 401
    assert requests.patch(url, json={}, timeout=60).status_code == 401


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lag": 1}, "no setting 'lag'"),
        ({"duplicate_fraction": 1.5}, "from 0 to 1"),
        ({"sampling_fraction": 0}, "above 0"),
        ({"inference_lag_seconds": "soon"}, "seconds"),
        ({"inference_lag_seconds": True}, "seconds"),
        ({"unlogged_statuses": [42]}, "statuses"),
        ({"payload_shape": ["legacy"]}, "one of ai_gateway"),
        ({"body_limit_bytes": 1.5}, "whole number"),
        ({"freeze_inference_tables": 1}, "true or false"),
    ],
)
def test_what_is_no_fault_is_refused_as_a_whole(set_faults: SetFaults, values: dict[str, Any], words: str) -> None:
    before = set_faults().json()
    answer = set_faults(update_seconds=5, **values)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert words in answer.json()["message"]
    assert set_faults().json() == before


def test_a_frozen_table_stays_as_it_is(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str, set_faults: SetFaults
) -> None:
    prefix = endpoint_name.replace("-", "_")
    create(client, endpoint_name, entity("a"), ai_gateway=inference_table(prefix))
    statement = f"SELECT databricks_request_id FROM main.default.{prefix}_payload"
    set_faults(inference_lag_seconds=1e6)
    under_way = ask(workspace, endpoint_name, say("hello"))
    set_faults(freeze_inference_tables=True, inference_lag_seconds=0)
    lost = ask(workspace, endpoint_name, say("hello"))
    version = select(client, f"DESCRIBE HISTORY main.default.{prefix}_payload LIMIT 1")
    assert select(client, statement) == []
    set_faults(freeze_inference_tables=False)
    after = ask(workspace, endpoint_name, say("hello"))
    arrived = wait_for(lambda: ids if len(ids := {row[0] for row in select(client, statement)}) >= 2 else None)
    assert arrived == {under_way, after}
    assert lost not in arrived
    assert version[0][0] == "0"


def test_sampling_body_limit_and_unlogged_statuses(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str, set_faults: SetFaults
) -> None:
    prefix = endpoint_name.replace("-", "_")
    create(client, endpoint_name, entity("a"), ai_gateway=inference_table(prefix))
    set_faults(sampling_fraction=0.5)
    sampled = [ask(workspace, endpoint_name, say("hello")) for _ in range(40)]
    set_faults(sampling_fraction=1.0, body_limit_bytes=300, unlogged_statuses=[400])
    large = ask(workspace, endpoint_name, say("x" * 300))
    streamed = ask(workspace, endpoint_name, say("x " * 20, stream=True))
    failed = ask(workspace, endpoint_name, say("fail"))
    last = ask(workspace, endpoint_name, say("hi"))
    statement = (
        "SELECT databricks_request_id, sampling_fraction, request IS NULL, response IS NULL, "
        f"logging_error_codes FROM main.default.{prefix}_payload"
    )

    def read() -> dict[str, list[str]] | None:
        found = {row[0]: row[1:] for row in select(client, statement)}
        return found if last in found else None

    rows = wait_for(read)
    logged = [request_id for request_id in sampled if request_id in rows]
    assert 0 < len(logged) < 40
    assert {rows[request_id][0] for request_id in logged} == {"0.5"}
    both = '["MAX_REQUEST_SIZE_EXCEEDED","MAX_RESPONSE_SIZE_EXCEEDED"]'
    assert rows[large] == ["1.0", "true", "true", both]
    assert rows[streamed] == ["1.0", "false", "true", '["MAX_RESPONSE_SIZE_EXCEEDED"]']
    assert rows[last] == ["1.0", "false", "false", "[]"]
    assert failed not in rows
    page = client.serving_endpoints.export_metrics(endpoint_name).contents.read().decode()
    # The counters know of the requests that the table does not: that is how a gate finds the gap.
    (requests_line,) = [line for line in page.splitlines() if line.startswith("request_count_total{")]
    (errors_line,) = [line for line in page.splitlines() if line.startswith("request_4xx_count_total{")]
    assert (requests_line.rsplit(" ", 1)[1], errors_line.rsplit(" ", 1)[1]) == ("44", "1")


def test_metrics_of_the_last_full_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, start = RequestCounters(), 1_800_000_000 // MINUTE * MINUTE
    for offset, status in ((0, 200), (59, 500), (60, 404), (130, 200)):
        monkeypatch.setattr("time.time", lambda offset=offset: float(start + offset))
        counter.count(status, 3.0)

    def sample(name: str, minute: float | None) -> list[str]:
        page = render_metrics("e", "i", {"a": counter}, minute)
        return [line.rsplit("}", 1)[1].strip() for line in page.splitlines() if line.startswith(f"{name}{{")]

    assert sample("request_count_total", None) == ["4"]
    assert sample("request_count_total", start + 130) == [f"1 {(start + 120) * 1000}"]
    assert sample("request_4xx_count_total", start + 179) == [f"1 {(start + 120) * 1000}"]
    assert sample("request_count_total", start + 200) == [f"1 {(start + 180) * 1000}"]
    assert sample("request_4xx_count_total", start + 200) == [f"0 {(start + 180) * 1000}"]
    assert sample("request_latency_ms_count", start + 500) == [f"0 {(start + 480) * 1000}"]
    # Buckets of a histogram count what took as long or less, so that each holds those before.
    counter.count(200, 20_000.0)
    counter.count(200, 40_000.0)
    assert sample("request_latency_ms_bucket", None) == ["0"] * 2 + ["4"] * 10 + ["4", "5", "6"]
    assert sample("request_latency_ms_sum", None) == [f"{4 * 3 + 60_000}"]
    assert "# TYPE request_count_total counter" in render_metrics("e", "i", {"a": counter})
    assert "# TYPE request_count_total gauge" in render_metrics("e", "i", {"a": counter}, start)


def test_metrics_by_the_minute_and_a_restart(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str, set_faults: SetFaults
) -> None:
    create(client, endpoint_name, entity("a"))
    ask(workspace, endpoint_name, say("hello"))
    set_faults(minute_metrics=True)
    page = client.serving_endpoints.export_metrics(endpoint_name).contents.read().decode()
    (line,) = [line for line in page.splitlines() if line.startswith("request_count_total{")]
    assert int(line.split()[-1]) % 60_000 == 0
    workspace.restart()
    page = client.serving_endpoints.export_metrics(endpoint_name).contents.read().decode()
    (line,) = [line for line in page.splitlines() if line.startswith("request_count_total{")]
    assert line.split()[-1] == "0"


def test_the_command_line_sets_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[Settings] = []
    monkeypatch.setattr(server, "serve", lambda settings, **options: started.append(settings))
    place = ["--data", str(tmp_path / "data"), "--token-file", str(tmp_path / "token")]
    options = "--lag 3 --unlogged-status 429 --unlogged-status 500 --sampling-fraction 0.5 --body-limit 1000 "
    options += "--payload-shape legacy --no-change-data-feed --derived-tables 60 --freeze-inference-tables "
    options += "--minute-metrics --duplicate-fraction 0.25 --update-seconds 2"
    for arguments in ([*place], [*place, *options.split()]):
        result = CliRunner().invoke(main, ["workspace", *arguments])
        assert result.exit_code == 0, result.output
    assert [settings.faults for settings in started] == [
        Faults(),
        Faults(
            inference_lag_seconds=3,
            unlogged_statuses=(429, 500),
            sampling_fraction=0.5,
            body_limit_bytes=1000,
            payload_shape="legacy",
            change_data_feed=False,
            derived_tables=60,
            freeze_inference_tables=True,
            minute_metrics=True,
            duplicate_fraction=0.25,
            update_seconds=2,
        ),
    ]
    wrong = CliRunner().invoke(main, ["workspace", *place, "--sampling-fraction", "0"])
    assert wrong.exit_code == 2
    assert "'sampling_fraction' must be a number above 0" in wrong.output


def test_the_process_takes_any_fault_by_its_name(tmp_path: Path) -> None:
    running = RunningWorkspace(tmp_path, "--fault", "payload_shape=legacy", "--fault", "unlogged_statuses=[500]")
    try:
        headers = {"Authorization": f"Bearer {running.token}"}
        faults = requests.get(f"{running.url}/local/faults", headers=headers, timeout=60).json()
    finally:
        running.stop()
    assert (faults["payload_shape"], faults["unlogged_statuses"]) == ("legacy", [500])
    command = [sys.executable, "-m", "release_pipeline.local_workspace", "--port", str(free_port())]
    command += ["--data", str(tmp_path / "other"), "--token-file", str(tmp_path / "t"), "--fault", "lag=1"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "no setting 'lag'" in refused.stderr
