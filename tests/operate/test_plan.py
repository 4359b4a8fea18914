"""What ``release-pipeline plan`` says before a release, and that it changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from release_pipeline.assets.context import CHAIN
from release_pipeline.cli import main
from release_pipeline.workspace.registry import TAG_DIGEST, TAG_REASON, TAG_STATUS
from release_pipeline.workspace.tracking import release_digest
from tests.operate.conftest import Operated

pytestmark = pytest.mark.slow


def plan(operated: Operated, *options: str) -> Result:
    return CliRunner().invoke(main, ["plan", operated.name, *options])


def planned(operated: Operated) -> tuple[int, dict[str, Any]]:
    result = plan(operated, "--json")
    return result.exit_code, {each["asset"]: each for each in json.loads(result.stdout)}


def test_a_first_release_makes_the_endpoint(operate: Callable[..., Operated]) -> None:
    operated = operate(promotion={"automatic": True, "approval": "required", "windows": ["mon-thu 09:00-16:00"]})
    code, said = planned(operated)
    assert code == 0
    assert tuple(said) == CHAIN
    assert said["evaluation"]["sentence"] == "Nothing is evaluated: evaluation.dataset is not set."
    assert said["predeploy_predict"]["sentence"].startswith("The model loads")
    assert "which no version has" in said["logged_model"]["sentence"]
    assert said["registered_version"]["sentence"].startswith("Version 1 of ")
    assert f"Endpoint {operated.name} is created" in said["deployed_endpoint"]["sentence"]
    assert "There is no ramp" in said["canary_traffic"]["sentence"]
    assert said["promoted_alias"]["sentence"] == (
        "The alias champion moves from nothing to 1, by the gate sensor as soon as the gate has passed, within "
        "mon-thu 09:00-16:00 (UTC), after a person's approval."
    )
    assert operated.model.parts().endpoint.read() is None
    assert not operated.entries()
    assert "if it were started now" in plan(operated).stdout


def test_examples_are_counted_and_a_broken_one_refuses_it(operate: Callable[..., Operated]) -> None:
    operated = operate()
    file, examples = (Path(operated.name) / name for name in ("defs.yaml", "examples.jsonl"))
    written = yaml.safe_load(file.read_text())
    written["attributes"] |= {
        "evaluation": {"dataset": "examples.jsonl", "thresholds": {"answered": 0.9}},
        "predeploy_predict": {"environment": "uv"},
    }
    file.write_text(yaml.safe_dump(written))
    examples.write_text(2 * '{"inputs": {"input": []}}\n')
    code, said = planned(operated)
    assert code == 0
    assert said["evaluation"]["sentence"] == "2 examples are answered, and scored by answered at least 0.9."
    assert said["predeploy_predict"]["sentence"] == (
        "The model loads and answers 3 example requests, in an environment that uv builds of the logged requirements."
    )
    examples.write_text("{")
    code, said = planned(operated)
    assert code == 1
    assert said["evaluation"]["refused"]
    assert "examples.jsonl, line 1: not JSON" in said["evaluation"]["sentence"]


def test_what_is_under_way_or_was_rejected_refuses_it(ramping: tuple[Operated, str]) -> None:
    operated, release = ramping
    world = operated.world()
    code, said = planned(operated)
    assert code == 1
    assert said["deployed_endpoint"]["refused"]
    assert (
        f"Release {release} is under way (ramping): a second one is refused." in said["deployed_endpoint"]["sentence"]
    )
    assert "It gets 25, 50 % of the traffic" in said["canary_traffic"]["sentence"]
    assert operated.world() == world

    spec, folder = operated.model.spec, Path(operated.name).resolve()
    registry = operated.model.parts().registry
    digest = release_digest(spec, source=folder / "agent.py", config=folder / "first.yaml", folder=folder)
    tags = {version: found.tags for version in "12" if (found := registry.get(version)) is not None}
    try:
        registry.tag("1", {TAG_DIGEST: digest})
        assert planned(operated)[1]["logged_model"]["sentence"] == (
            f"The content has the digest {digest}, which is the champion's (1)."
        )
        registry.tag("2", {TAG_DIGEST: digest, TAG_STATUS: "rejected", TAG_REASON: "it was slow."})
        refused = planned(operated)[1]["logged_model"]
        assert refused["refused"]
        assert "were rejected as version 2: it was slow." in refused["sentence"]
    finally:  # other tests have the same versions
        for version, had in tags.items():
            registry.tag(version, {key: had.get(key, "") for key in (TAG_DIGEST, TAG_STATUS, TAG_REASON)})
