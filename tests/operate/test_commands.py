"""What operators type, against the real workspace and with no Dagster running."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.catalog import PermissionsChange, Privilege

from release_pipeline.assets.deployed_endpoint import served_entity
from release_pipeline.cli import main
from release_pipeline.operate.history import history, serving
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.rollout.state import paused, queued
from release_pipeline.workspace.registry import TAG_REASON, TAG_STATUS
from tests.operate.conftest import Operated

Make = Callable[..., Operated]


@pytest.fixture
def me(client: WorkspaceClient) -> str:
    return f"user:{client.current_user.me().user_name}"


def tags_of(operated: Operated, version: str) -> dict[str, str]:
    found = operated.model.parts().registry.get(version)
    assert found is not None
    return dict(found.tags)


@pytest.mark.slow
def test_a_rollback_says_how_long_it_took_and_twice_is_once(operate: Make, me: str) -> None:
    operated = operate()
    release = operated.on_its_ramp()
    assert operated.world().shares == {"1": 75, "2": 25}
    told = operated.json("rollback", operated.name, "--reason", "wrong prices, ticket 4711")
    assert (told["action"], told["changed"], told["state"]["stage"]) == ("rollback", True, "rolled_back")
    assert told["state"]["release"] == release
    assert 0 <= told["seconds_to_zero_traffic"] < 600
    assert operated.world().shares == {"1": 100}
    assert tags_of(operated, "2")[TAG_STATUS] == "rejected"
    assert tags_of(operated, "2")[TAG_REASON] == "wrong prices, ticket 4711"
    rows = [row for row in operated.entries() if row.action is Action.ROLL_BACK]
    assert [(row.phase, row.actor) for row in rows] == [(Phase.INTENT, me), (Phase.DONE, me)]
    again = operated.run("rollback", operated.name, "--release", release, "--reason", "once more")
    assert again.exit_code == 0
    assert f"Release {release} of {operated.name} was rolled back already: wrong prices" in again.stdout
    assert [row for row in operated.entries() if row.action is Action.ROLL_BACK] == rows

    parts = operated.model.parts()
    now, rejected = parts.endpoint.read(), served_entity(operated.model.spec, "2", "0")
    assert now is not None
    parts.endpoint.update((*now.entities, rejected), {now.entities[0].name: 70, rejected.name: 30})
    parts.endpoint.wait(timeout_seconds=60, progress=operated.model.said.append)
    back = operated.json("rollback", operated.name, "--release", release, "--reason", "somebody serves it again")
    assert (back["changed"], operated.world().shares) == (True, {"1": 100})
    newest = [row for row in operated.entries() if row.action is Action.ROLL_BACK][len(rows) :]
    assert [row.phase for row in newest] == [Phase.INTENT, Phase.DONE]
    zero = datetime.fromisoformat(newest[1].after["zero_traffic_at"])
    assert back["seconds_to_zero_traffic"] == pytest.approx((zero - newest[0].at).total_seconds())


def test_history_answers_for_now_for_a_time_and_for_what_is_no_time(ramping: tuple[Operated, str]) -> None:
    operated, release = ramping
    told = operated.json("history", operated.name)
    assert told["served"][-1]["serving"] == operated.world().shares == {"1": 75, "2": 25}
    assert told["served"][-1]["done"]["release"] == release
    assert told["served"][-1]["until"] is None
    moment = operated.entries()[-1].at.isoformat()
    assert operated.json("history", operated.name, "--at", moment)["served"]["traffic"] == {"1": 75, "2": 25}
    early = operated.json("history", operated.name, "--at", operated.entries()[-2].at.isoformat())
    assert early["served"]["traffic"] == {"1": 100, "2": 0}
    assert [change["meant"] for change in early["under_way"]] == [{"1": 75, "2": 25}]
    naive = operated.run("history", operated.name, "--at", moment[:23])
    assert naive.exit_code == 0
    assert naive.stdout.startswith("No zone was given: the time is taken as UTC.")
    before = operated.run("history", operated.name, "--at", "2020-01-01")
    assert before.exit_code == 1
    assert "it does not say what served" in before.stdout
    for wrong in ("2999-01-01", "noon"):
        assert operated.run("history", operated.name, "--at", wrong).exit_code == 2


@pytest.mark.slow
def test_history_tells_what_really_served(operate: Make, me: str) -> None:
    operated = operate()
    seen = []
    release = operated.on_its_ramp()
    for words in (
        (),
        ("promote", operated.name, "--release", release, "--override", "hotfix"),
        ("rollback", operated.name, "--reason", "no"),
    ):
        if words:
            assert operated.run(*words).exit_code == 0
        seen.append((operated.entries()[-1].at, operated.world()))
    found = history(operated.entries())
    assert [world.shares for _, world in seen] == [{"1": 75, "2": 25}, {"2": 100}, {"1": 100}]
    for at, world in seen:
        answer = found.at(at)
        assert serving(answer.served.shares) == world.shares
        assert answer.served.aliases == {"champion": world.alias}
    text = operated.run("history", operated.name)
    assert text.exit_code == 0
    for words_of in ("75 %", "25 %", "roll back", me, release, "champion → 2"):
        assert words_of in text.stdout
    moment = (seen[0][0] + timedelta(milliseconds=1)).isoformat()
    told = operated.json("history", operated.name, "--at", moment)
    assert told["known"] is True
    assert told["served"]["traffic"] == {"1": 75, "2": 25}
    assert told["served"]["done"]["action"] == "set_traffic"
    assert told["served"]["done"]["release"] == release


def test_a_model_without_a_release_has_no_history_and_nothing_to_move(operate: Make) -> None:
    operated = operate()
    none = operated.run("history", operated.name)
    assert none.exit_code == 0
    assert none.stdout == f"No release of {operated.name} yet: {operated.model.spec.ledger_table} has no rows.\n"
    assert operated.run("history", operated.name, "--at", "2026-01-01T00:00Z").exit_code == 1
    for words in (("rollback", "--reason", "x"), ("promote",), ("approve",)):
        result = operated.run(words[0], operated.name, *words[1:])
        assert result.exit_code == 1
        assert "no release of" in result.stderr


def test_a_promotion_needs_the_gate_and_an_override_is_recorded(ramping: tuple[Operated, str], me: str) -> None:
    operated, release = ramping
    refused = operated.run("promote", operated.name)
    assert refused.exit_code == 1
    assert f"the gate has not passed release {release}" in refused.stderr
    assert operated.world().shares == {"1": 75, "2": 25}
    assert operated.run("promote", operated.name, "--override", " ").exit_code == 2
    unnamed = operated.run("promote", operated.name, "--override", "incident 12")
    assert (unnamed.exit_code, f"--release {release}: version 2, ramping at 25 %" in unnamed.stderr) == (1, True)
    told = operated.json("promote", operated.name, "--release", release, "--override", "incident 12")
    assert (told["changed"], told["override"], told["state"]["stage"]) == (True, True, "promoted")
    assert operated.world().alias == "2"
    row = operated.entries()[-1]
    assert row.reason.startswith(f"By hand against the gate, {me}: incident 12 (the gate said: ")
    assert row.after["approved_by"] == me
    assert operated.json("promote", operated.name)["changed"] is False


def killed_rollback(operated: Operated, release: str) -> None:
    """The intent to roll back, of a run that was killed before it did anything."""
    ledger, names = operated.model.parts().ledger, operated.state(release).entities
    ledger.append(
        ledger.read(),
        release=release,
        actor="run:killed",
        action=Action.ROLL_BACK,
        phase=Phase.INTENT,
        after={
            "routes": {names["champion"]: 100, names["challenger"]: 0},
            "alias": {"champion": "1"},
            "remove": [names["challenger"]],
            "rejected": "2",
        },
        reason="worse",
    )


def test_nothing_goes_over_a_rollback_that_is_open(ramping: tuple[Operated, str]) -> None:
    operated, release = ramping
    killed_rollback(operated, release)
    for options in ((), ("--override", "I know better", "--release", release)):
        refused = operated.run("promote", operated.name, *options)
        assert refused.exit_code == 1
        assert operated.world().shares == {"1": 75, "2": 25}
    assert "in the middle of roll_back" in refused.stderr


@pytest.mark.slow
def test_a_rollback_that_somebody_else_began_is_finished(operate: Make) -> None:
    operated = operate()
    killed_rollback(operated, operated.on_its_ramp())
    told = operated.json("rollback", operated.name, "--reason", "to finish it")
    assert told["state"]["stage"] == "rolled_back"
    assert "run:killed had asked for it first: worse" in told["sentence"]
    assert operated.world().shares == {"1": 100}
    assert sum(row.action is Action.ROLL_BACK and row.phase is Phase.INTENT for row in operated.entries()) == 1


def test_an_approval_is_in_the_ledger_and_on_the_version(ramping: tuple[Operated, str], me: str) -> None:
    operated, release = ramping
    unnamed = operated.run("approve", operated.name, "--reason", "looked at the answers")
    assert (unnamed.exit_code, "approve takes --release" in unnamed.stderr) == (1, True)
    assert operated.state(release).approved is None
    told = operated.json("approve", operated.name, "--release", release, "--reason", "looked at the answers")
    assert (told["changed"], told["approved_by"], told["tagged"]) == (True, me, True)
    assert operated.state(release).approved is not None
    tags = tags_of(operated, "2")
    assert (tags["approval"], tags["approval_by"]) == ("approved", me)
    again = operated.run("approve", operated.name, "--release", release)
    assert (again.exit_code, "was approved already" in again.stdout) == (0, True)
    assert "Nobody waits for it" in again.stdout, "the YAML asks for no approval"
    assert sum(row.action is Action.APPROVE and row.release == release for row in operated.entries()) == 1
    assert operated.run("promote", operated.name, "--release", release, "--override", "now").exit_code == 0
    late = operated.run("approve", operated.name, "--release", release)
    assert late.exit_code == 1
    assert "only one on its ramp" in late.stderr


def test_an_approval_is_that_of_whose_token_it_is(
    ramping: tuple[Operated, str], client: WorkspaceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    operated, release = ramping
    robot = client.service_principals_v2.create(display_name="approver")
    token = client.token_management.create_obo_token(str(robot.application_id)).token_value
    change = PermissionsChange(principal=str(robot.application_id), add=[Privilege.ALL_PRIVILEGES])
    client.grants.update("CATALOG", "main", changes=[change])
    try:
        with monkeypatch.context() as patch:
            patch.setenv("DATABRICKS_TOKEN", str(token))
            told = operated.json("approve", operated.name, "--release", release)
        assert told["approved_by"] == f"user:{robot.application_id}"
        approved = operated.state(release).approved
        assert approved is not None
        assert approved.actor == f"user:{robot.application_id}"
    finally:
        revoke = PermissionsChange(principal=str(robot.application_id), remove=[Privilege.ALL_PRIVILEGES])
        client.grants.update("CATALOG", "main", changes=[revoke])
        client.service_principals_v2.delete(str(robot.id))


def test_a_model_is_paused_once_until_it_is_not(operate: Make, me: str) -> None:
    operated = operate()
    assert operated.json("unpause", operated.name)["changed"] is False
    told = operated.json("pause", operated.name, "--reason", "incident 12")
    assert (told["changed"], told["state"]) == (True, None)
    again = operated.run("pause", operated.name, "--reason", "another")
    assert f"was paused already, by {me}" in again.stdout
    assert operated.json("unpause", operated.name)["changed"] is True
    assert paused(operated.entries()) is None


def test_a_pause_says_where_the_release_stands(ramping: tuple[Operated, str], me: str) -> None:
    operated, release = ramping
    now = operated.run("pause", operated.name, "--reason", "incident 13")
    assert f"Now release {release} is ramping: version 2 has 25 % of the traffic; paused by {me}." in now.stdout
    assert "moves by itself again" in operated.run("unpause", operated.name).stdout


def test_all_models_of_the_project_are_paused_and_one_bad_file_stops_none(operate: Make, tmp_path: Path) -> None:
    one, two = operate(), operate()
    told = one.json("pause", "--all", "--reason", "freeze for the holidays")
    assert {each["model"] for each in told} >= {one.name, two.name}
    assert all(paused(each.entries()) is not None for each in (one, two))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "defs.yaml").write_text("type: release_pipeline.ReleasePipelineComponent\nattributes: 3\n")
    ended = one.run("unpause", "--all")
    assert ended.exit_code == 1
    assert "broken/defs.yaml" in ended.stderr
    assert all(paused(each.entries()) is None for each in (one, two))
    for wrong in (["pause", "--reason", "x"], ["pause", one.name, "--all", "--reason", "x"], ["pause", one.name]):
        assert one.run(*wrong).exit_code == 2


def test_a_release_is_taken_out_of_the_queue(ramping: tuple[Operated, str]) -> None:
    operated, first = ramping
    second = operated.model.release()
    operated.model.parts().events.queue(second, f"release {first} is under way")
    waits = operated.run("rollback", operated.name, "--release", second, "--reason", "x")
    assert waits.exit_code == 1
    assert f"withdraw {operated.name} --release {second}" in waits.stderr
    assert operated.json("withdraw", operated.name, "--release", second)["changed"] is True
    assert queued(operated.entries()) == []
    assert operated.json("withdraw", operated.name, "--release", second)["changed"] is False
    for wrong, why in ((first, "roll it back instead"), ("20990101-000000", "does not wait in the queue")):
        refused = operated.run("withdraw", operated.name, "--release", wrong)
        assert (refused.exit_code, why in refused.stderr) == (1, True)


def test_a_model_is_found_by_its_name_and_a_mistake_is_a_sentence(operate: Make, tmp_path: Path) -> None:
    operated = operate()
    unknown = operated.run("pause", "nobody", "--reason", "x")
    assert unknown.exit_code == 2
    assert operated.name in unknown.stderr
    assert "python_docs_agent" not in unknown.stderr, "what ships is for folders that have no release"
    file = tmp_path / operated.name / "defs.yaml"
    other = operated.run("pause", "nobody", "--reason", "x", "--spec", str(file))
    assert (other.exit_code, f"release of {operated.name}, not of nobody" in other.stderr) == (2, True)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "defs.yaml").write_bytes(file.read_bytes())
    twice = operated.run("history", operated.name)
    assert (twice.exit_code, "--spec" in twice.stderr) == (2, True)
    assert operated.run("history", operated.name, "--spec", str(file)).exit_code == 0


def test_it_is_a_program_whose_stdout_is_the_answer(operate: Make, me: str, tmp_path: Path) -> None:
    operated = operate()
    command = [sys.executable, "-m", "release_pipeline.cli", "pause", operated.name, "--reason", "x", "--json"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["model"] == operated.name
    said = paused(operated.entries())
    assert said is not None
    assert said.actor == me


def test_without_a_workspace_every_command_says_so(operate: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    operated = operate()
    words = (["rollback", "--reason", "x"], ["pause", "--reason", "x"], ["history"], ["approve"], ["promote"])
    with monkeypatch.context() as patch:
        patch.setenv("DATABRICKS_HOST", "http://127.0.0.1:1")
        for name, *options in words:
            ended = CliRunner().invoke(main, [name, operated.name, *options])
            assert (ended.exit_code, "nothing answers at" in ended.stderr) == (1, True)
