"""`release-pipeline logs` and `release-pipeline metrics`, against the real workspace."""

from collections.abc import Callable

import pytest
from click.testing import CliRunner

from release_pipeline.cli import main
from release_pipeline.workspace.endpoint_logs import HIDDEN, readable
from release_pipeline.workspace.endpoint_metrics import parse_metrics
from tests.operate.conftest import Operated
from tests.pipeline.conftest import eventually

PAGE = """# TYPE request_count_total gauge
request_count_total{endpoint_name="e",served_model_name="a",replica="1"} 30 1760000040000
request_count_total{endpoint_name="e",served_model_name="a",replica="2"} 10 1760000040000
request_count_total{endpoint_name="e",served_model_name="b",replica="1"} NaN 1760000040000
request_5xx_count_total{endpoint_name="e",served_model_name="b"} 0 1760000040000
cpu_usage_percentage{served_model_name="a",replica="1"} 12.5 1760000040000
cpu_usage_percentage{served_model_name="a",replica="2"} 80 1760000040000
request_latency_ms_bucket{served_model_name="a",le="100"} 20 1760000040000
request_latency_ms_bucket{served_model_name="a",le="200"} 38 1760000040000
request_latency_ms_bucket{served_model_name="a",le="+Inf"} 40 1760000040000
request_latency_ms_count{served_model_name="a"} 40 1760000040000
python_gc_objects 7
served_model_name{le="many",served_model_name="a"} 7
not a sample {
"""


def test_logs_of_all_versions_of_one_and_of_its_build(ramping: tuple[Operated, str]) -> None:
    operated, _ = ramping
    name = operated.name
    every = operated.json("logs", name)
    assert [(each["version"], each["kind"]) for each in every] == [("1", "runtime"), ("2", "runtime")]
    (build,) = operated.json("logs", name, "--version", "2", "--build")
    assert (build["version"], build["kind"]) == ("2", "build")
    shown = operated.run("logs", name, "--version", "2", "--build")
    assert shown.exit_code == 0
    assert shown.output.startswith(f"==> version 2, {build['entity']} <==\n")
    assert build["log"].splitlines()[0] in shown.output
    assert build["log"] != every[1]["log"]
    missing = operated.run("logs", name, "--version", "9")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert f"version 9 of {name} is on endpoint {name}, which serves 1, 2." in missing.stderr


def test_metrics_count_what_each_version_answered(ramping: tuple[Operated, str]) -> None:
    operated, _ = ramping

    def counted() -> float:
        rows = operated.json("metrics", operated.name)
        assert {row["version"] for row in rows} == {"1", "2"}
        return float(sum(row["values"]["request_count_total"] for row in rows))

    before = counted()
    assert operated.model.ask(5) == [200] * 5
    eventually(lambda: counted() >= before + 5)
    asked = [row for row in operated.json("metrics", operated.name) if row["values"]["request_count_total"]]
    assert all(0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p95"] for row in asked)
    table = operated.run("metrics", operated.name).output
    assert "since its start" in table
    assert "p95 ms" in table
    assert {row["minute_end"] for row in asked} == {None}
    assert "CPU" not in table, "the local workspace does not measure it"


@pytest.mark.parametrize("command", ["logs", "metrics"])
def test_without_an_endpoint_it_is_a_sentence(operate: Callable[..., Operated], command: str) -> None:
    operated = operate()
    result = operated.run(command, operated.name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no endpoint {operated.name}" in result.stderr
    assert CliRunner().invoke(main, [command, "no_such_model"]).exit_code == 2


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("OPENAI_API_KEY=sk-abc123 next", f"OPENAI_API_KEY={HIDDEN} next"),
        ('{"access_token": "a.b-c", "n": 1}', f'{{"access_token": "{HIDDEN}", "n": 1}}'),
        ("Authorization: Bearer abcdefgh12345", f"Authorization: Bearer {HIDDEN}"),
        (f"with dapi{'0a' * 16}.", f"with {HIDDEN}."),
        (f"jwt eyJ{'a' * 20}.{'b' * 20}.{'c' * 20}", f"jwt {HIDDEN}"),
        ("total_tokens: 12345 of 2000", "total_tokens: 12345 of 2000"),
        ("the secret of a good log", "the secret of a good log"),
        ("\x1b[31mred\x1b[0m\x07 10 %\r20 %\r\nend\tof it", "red 10 %\n20 %\nend\tof it"),
    ],
)
def test_a_log_shows_no_secret_and_gives_a_terminal_no_orders(line: str, shown: str) -> None:
    assert readable(line) == shown


def test_a_log_of_one_long_line_is_read_in_time() -> None:
    for piece in ("token-", "eyJ", "Bearer ", "api_key"):
        assert readable(piece * 20_000)


def test_replicas_are_added_up_and_the_slowest_is_not_guessed() -> None:
    first, second = parse_metrics(PAGE.splitlines())
    assert (first.entity, first.at) == ("a", 1760000040.0)
    assert first.values == {"request_count_total": 40, "cpu_usage_percentage": 80, "request_latency_ms_count": 40}
    assert first.quantile(0.5) == pytest.approx(100)
    assert first.quantile(0.725) == pytest.approx(150)
    assert first.quantile(0.99) == 200, "no more than the last finite bound is known"
    assert (second.entity, second.values, second.quantile(0.5)) == ("b", {"request_5xx_count_total": 0}, None)
    assert parse_metrics(["", "request_count_total 7"]) == ()
