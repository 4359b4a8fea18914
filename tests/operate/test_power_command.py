"""The command `power`: text, JSON, plot, and sentences for mistakes; with a rate given, without a workspace."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner, Result

from release_pipeline.cli import main
from tests.demo.test_cli import run

RELEASE: dict[str, Any] = {
    "type": "release_pipeline.ReleasePipelineComponent",
    "attributes": {
        "name": "support_agent",
        "model": {"registered_name": "main.agents.support_agent", "source": "agent.py"},
        "ramp": {"steps": [5, 50]},
        "gate": {
            "metrics": [
                {"name": "errors", "kind": "errors", "segments": "region"},
                {"name": "thumbs", "kind": "feedback", "assessment": "thumbs", "margin": 0.2},
                {"name": "watched", "kind": "slow", "muted": True},
            ]
        },
    },
}


def power(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["power", *arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.py").touch()
    (tmp_path / "defs.yaml").write_text(yaml.safe_dump(RELEASE))
    return tmp_path


def test_a_model_of_the_project_is_found_by_its_name(folder: Path) -> None:
    by_name, by_path = (power(which, "--rate", "10/s", "--json") for which in ("support_agent", "defs.yaml"))
    assert by_name.exit_code == 0
    assert by_name.stdout == by_path.stdout
    unknown = power("another_agent", "--rate", "10/s")
    assert unknown.exit_code == 2
    assert "has a release of another_agent; the models there are support_agent" in unknown.stderr


def test_text_says_what_to_expect(folder: Path) -> None:
    ended = run("power", "defs.yaml", "--rate", "10/s", "--segments", "errors=2", "--level", "thumbs=0.1", cwd=folder)
    assert ended.returncode == 0
    assert not [line for line in ended.stderr.splitlines() if not line.startswith("… planning")], "but news of a wait"
    assert ended.stdout.startswith("At 10 requests/s an equal version passes the ramp 5/50 % in ")
    for words in (
        "errors (each of 2 segments)",
        "thumbs",
        "by the margin",
        "all guards",
        "rows come 30 min after their request",
        "thumbs: 5 % of requests",
        "Scores are taken to be 0 or 1",
    ):
        assert words in ended.stdout
    assert "watched" not in ended.stdout


def test_hopeless_comes_first(folder: Path) -> None:
    ended = power(".", "--rate", "20/day")
    assert ended.exit_code == 0
    assert ended.stdout.startswith("Hopeless: at 20 requests/day")


def test_json_is_for_machines_and_the_plot_is_a_picture(folder: Path) -> None:
    ended = power("defs.yaml", "--rate", "600/h", "--lag", "0", "--json", "--plot", "power.svg")
    assert ended.exit_code == 0
    plan = json.loads(ended.stdout)
    assert plan["traffic"]["requests_per_second"] == pytest.approx(1 / 6, rel=1e-3)
    assert {(each["metric"], each["percent"]) for each in plan["series"]} == {
        (name, step) for name in ("errors", "thumbs") for step in (5, 50)
    }
    assert plan["false_rollback_in_all"] <= plan["alpha"] == 0.05
    again = power("defs.yaml", "--rate", "10/min", "--lag", "0", "--json")
    assert json.loads(again.stdout) == plan
    picture = ElementTree.parse(folder / "power.svg").getroot()
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"errors (each of 3 segments)", "thumbs", "5 %", "50 %"} <= set(texts)
    bars = [each for each in picture.iter("{http://www.w3.org/2000/svg}rect") if each.get("x") is not None]
    assert len(bars) == 2 * 2 + 2  # two series on two steps, and the legend


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "either --rate, such as 10/s, or --days"),
        (["--rate", "1/s", "--days", "7"], "either --rate, such as 10/s, or --days"),
        (["--rate", "10"], "10 is no rate; write a number above 0 and a unit"),
        (["--rate", "0/s"], "0/s is no rate"),
        (["--rate", "1/s", "--level", "errors=2"], "errors=2 is not METRIC=SHARE with a share above 0 and below 1"),
        (["--rate", "1/s", "--rows", "errors"], "errors is not METRIC=SHARE with a share above 0 and up to 1"),
        (["--rate", "1/s", "--segments", "errors=1.5"], "errors=1.5 is not METRIC=N with a whole number from 1 to 100"),
        (["--rate", "1/s", "--level", "eros=0.1"], "--level names eros; the gate's metrics are errors, thumbs"),
        (["--rate", "1/s", "--segments", "thumbs=2"], "--segments names thumbs; the gate's metrics with segments are"),
        (["--days", "7", "--segments", "errors=2"], "--segments goes with --rate"),
        (["--rate", "1/s", "--plot", "power.png"], "power.png must end in .svg"),
        (["--rate", "1/s", "--plot", "none/power.svg"], "none/power.svg cannot be written"),
        (["--rate", "1/s", "--lag", "-1"], "--lag"),
    ],
)
def test_a_mistake_is_a_sentence(folder: Path, options: list[str], words: str) -> None:
    ended = power("defs.yaml", *options)
    assert ended.exit_code == 2
    assert words in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("a: [", ":1: is not YAML"),
        ("a: 1", "field `name` is missing"),
        (yaml.safe_dump(RELEASE) + "---\n" + yaml.safe_dump(RELEASE), "has 2 releases"),
        (yaml.safe_dump(RELEASE).replace("- 50", "- 500"), "each step must be from 1 to 99 percent"),
        (yaml.safe_dump(RELEASE).replace("- 50", "- '{{ nothing.there }}'"), "the template cannot be resolved"),
    ],
)
def test_a_yaml_that_is_no_release_is_a_sentence(folder: Path, text: str | None, words: str) -> None:
    if text is None:
        (folder / "defs.yaml").unlink()
    else:
        (folder / "defs.yaml").write_text(text)
    ended = power("defs.yaml", "--rate", "1/s")
    assert ended.exit_code == 2
    assert words in ended.stderr
    assert "defs.yaml" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_template_is_resolved_as_dagster_does_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAST_STEP", "40")
    (folder / "defs.yaml").write_text(yaml.safe_dump(RELEASE).replace("- 50", "- '{{ env.LAST_STEP }}'"))
    ended = power("defs.yaml", "--rate", "10/s", "--json")
    assert json.loads(ended.stdout)["ramp"] == [5, 40]


def test_days_without_a_workspace_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_CONFIG_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    ended = run("power", "defs.yaml", "--days", "7", cwd=folder)
    assert ended.returncode == 2
    assert "DATABRICKS_HOST" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_given_rate_needs_no_client_of_databricks(folder: Path) -> None:
    code = (
        "import sys\nfrom release_pipeline.cli import main\n"
        "main(['power', 'defs.yaml', '--rate', '10/s'], standalone_mode=False)\n"
        "print([name for name in ('databricks.sdk', 'mlflow', 'dagster', 'pandas', 'duckdb') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr


def masked(text: str) -> list[list[str]]:
    """Lines of words without figures, which may move in their last digits, and without the units beside them."""
    lines = [re.sub(r"[\d.,]+( (h|min|s|days)\b)?", "#", line).replace("─", "").split() for line in text.splitlines()]
    return [line for line in lines if line]


def test_the_page_shows_what_the_command_prints(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "power.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^```(yaml|text)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    first, hopeless = re.findall(r"^release-pipeline (power .*)$", page, re.MULTILINE)
    (folder / "defs.yaml").write_text(blocks["yaml"])
    ended = power(*first.split()[1:])
    assert ended.exit_code == 0
    assert masked(ended.stdout) == masked(blocks["text"])
    assert (folder / "power.svg").stat().st_size > 3000
    quoted = " ".join(re.findall(r"^> (.*)$", page, re.MULTILINE))
    said = " ".join(power(*hopeless.split()[1:]).stdout.split("\n\n")[0].split())
    assert masked(said) == masked(quoted)
