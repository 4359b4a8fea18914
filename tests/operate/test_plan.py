"""What ``release-pipeline plan`` says before a release, and that it changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

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
    assert list(said) == ["logged_model", "registered_version", "deployed_endpoint", "canary_traffic", "promoted_alias"]
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
