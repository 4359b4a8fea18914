"""News of releases: what the ledger and a look tell, sent through apprise to a real receiver, and in nobody's way."""

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import dagster as dg
import pytest

from release_pipeline.automation.jobs import ACTION_TAG
from release_pipeline.automation.notification_sensor import MOST_ATTEMPTS, gather
from release_pipeline.automation.receivers import Receivers
from release_pipeline.build import build_release
from release_pipeline.errors import SpecError
from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.report.news import hold_of, news_of
from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Phase
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_notifications import NotificationsPart
from tests.pipeline.conftest import MODELS, Model
from tests.pipeline.test_sensor import ask_until

VARIABLE = "RELEASE_NEWS"


class Receiver:
    """A service that takes notifications, or answers with an error."""

    def __init__(self) -> None:
        self.letters: list[dict[str, Any]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if receiver.status == 200:
                    receiver.letters.append(body)
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"json://127.0.0.1:{self._server.server_port}/hook/s3cr3t"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    started = Receiver()
    monkeypatch.setenv(VARIABLE, started.address)
    yield started
    started.stop()


@pytest.fixture
def second() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.stop()


def tick(spec: ReleaseSpec, instance: dg.DagsterInstance, cursor: str | None) -> tuple[str, str | None]:
    """What one tick of the notification sensor says, and the cursor after it."""
    repository = build_release(spec, MODELS).get_repository_def()
    context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository)
    said: Any = repository.get_sensor_def(f"{spec.name}_notifications")(context)
    return str(said.skip_message), context.cursor


def gate_tick(spec: ReleaseSpec, instance: dg.DagsterInstance) -> Any:
    """The run that one tick of the gate's sensor asks for, or why it asks for none."""
    repository = build_release(spec, MODELS).get_repository_def()
    context = dg.build_sensor_context(instance=instance, repository_def=repository)
    found: Any = repository.get_sensor_def(f"{spec.name}_gate")(context)
    return found.run_requests[0] if found.run_requests else found.skip_reason


def telling(spec: ReleaseSpec, **fields: Any) -> ReleaseSpec:
    return spec.model_copy(update={"notifications": NotificationsPart(addresses_variable=VARIABLE, **fields)})


def test_each_turn_of_a_release_is_told_once_and_nothing_of_the_past(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    model, release = deployed
    spec = telling(model.spec)
    said, cursor = tick(spec, instance, None)
    assert said == "no news", "what was before the first tick is no news"
    model.step(release)
    model.parts("user:ada").events.pause("incident 12")
    said, cursor = tick(spec, instance, cursor)
    assert said == "sent 2 news"
    (first,) = receiver.letters
    assert first["title"].startswith(f"{spec.name}: ")
    assert f"{release}: 25 % of the traffic, by test" in first["message"]
    assert "paused, by user:ada: incident 12" in first["message"]
    model.parts().events.unpause("over")  # the model is shared
    _, cursor = tick(spec, instance, cursor)
    assert "unpaused, by test: over" in receiver.letters[-1]["message"]
    assert f"/ml/endpoints/{spec.endpoint_name}" in first["message"]
    assert tick(spec, instance, cursor)[0] == "no news"
    model.parts().rollout.roll_back(release, reason="wrong prices")
    _, cursor = tick(spec, instance, cursor)
    assert receiver.letters[-1]["type"] == "warning"
    assert "is being rolled back, by test: wrong prices" in receiver.letters[-1]["message"]
    assert "has no traffic" in receiver.letters[-1]["message"]
    assert len(receiver.letters) == 3


def test_a_long_hold_is_told_once_per_step_and_reason(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    model, release = deployed
    model.step(release)
    patient, impatient = telling(model.spec), telling(model.spec, about=("hold",), hold_minutes=1e-9)
    _, cursor = tick(patient, instance, None)
    assert tick(patient, instance, cursor)[0] == "no news", "two hours are not over"
    said, cursor = tick(impatient, instance, cursor)
    assert said == "sent 1 news"
    assert "version 2 at 25 %: NO_DATA for 0 min on this step" in receiver.letters[-1]["message"]
    assert tick(impatient, instance, cursor)[0] == "no news"


def test_a_hold_lasts_from_when_it_was_seen_first_and_short_interruptions_do_not_end_it() -> None:
    seen = Receivers()
    assert seen.held_seconds("r/0/NOT_ENOUGH", 0) == 0
    assert seen.held_seconds("r/0/LAGGING", 7200) == 0, "time on the step is not time in the hold"
    assert seen.held_seconds("r/0/WAREHOUSE_BUSY", 7300) == 0
    again = Receivers.of(seen.cursor(), 0)
    assert again.held_seconds("r/0/LAGGING", 7500) == 300
    assert again.held_seconds("", 9000) == 0
    assert again.held_seconds("r/0/LAGGING", 9060) == 0, "it had ended"


def test_a_receiver_that_fails_is_tried_again_and_given_up_without_its_address(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    model, release = deployed
    spec = telling(model.spec, about=("step",))
    _, cursor = tick(spec, instance, None)
    model.step(release)
    receiver.status = 500
    for attempt in range(1, MOST_ATTEMPTS):
        said, cursor = tick(spec, instance, cursor)
        assert said == f"address 1: 1 news could not be sent; attempt {attempt} of {MOST_ATTEMPTS}"
    receiver.status = 200
    assert tick(spec, instance, cursor)[0] == "sent 1 news", "nothing was lost"
    receiver.status = 500
    said, cursor = tick(spec, instance, cursor)
    assert said == f"address 1: given up: 1 news could not be sent in {MOST_ATTEMPTS} attempts"
    assert Receivers.of(cursor, 1).told[0].attempts == 0
    assert "s3cr3t" not in caplog.text + str(cursor)


def test_each_receiver_gets_its_news_once_however_often_another_one_fails(
    deployed: tuple[Model, str],
    instance: dg.DagsterInstance,
    receiver: Receiver,
    second: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, release = deployed
    monkeypatch.setenv(VARIABLE, f"{receiver.address} {second.address}")
    spec = telling(model.spec, about=("step", "rollback"))
    _, cursor = tick(spec, instance, None)
    model.step(release)
    second.status = 500
    said, cursor = tick(spec, instance, cursor)
    assert said == f"sent 1 news; address 2: 1 news could not be sent; attempt 1 of {MOST_ATTEMPTS}"
    model.step(release, 1)
    said, cursor = tick(spec, instance, cursor)
    assert said == f"sent 1 news; address 2: 2 news could not be sent; attempt 2 of {MOST_ATTEMPTS}"
    second.status = 200
    assert tick(spec, instance, cursor)[0] == "sent 2 news", "to the second, and nothing to the first"
    assert [len(each.letters) for each in (receiver, second)] == [2, 1]
    assert "25 %" in second.letters[0]["message"]
    assert "50 %" in second.letters[0]["message"]

    second.status = 500
    for _ in range(MOST_ATTEMPTS - 2):
        said, cursor = tick(spec, instance, cursor)
    assert said == f"address 2: given up: 2 news could not be sent in {MOST_ATTEMPTS} attempts"
    assert tick(spec, instance, cursor)[0] == "no news"
    second.status = 200
    model.parts().rollout.roll_back(release, reason="wrong prices")
    tick(spec, instance, cursor)
    assert "2 earlier news could not be sent here and are lost" in second.letters[-1]["message"]
    assert "lost" not in receiver.letters[-1]["message"]
    assert [len(each.letters) for each in (receiver, second)] == [3, 2]


@pytest.mark.parametrize("cursor", [None, "", "7", "[]", '{"told": 7}', '{"told": [{"old": 1}]}', "{"])
def test_a_cursor_that_somebody_edited_is_a_new_beginning_and_a_new_receiver_begins_at_its_end(
    cursor: str | None,
) -> None:
    assert Receivers.of(cursor, 2) == Receivers.of(None, 2)
    known = Receivers.of(None, 1)
    known.told[0].sequence = 7
    assert [told.sequence for told in Receivers.of(known.cursor(), 2).told] == [7, -1]


def test_an_address_that_is_missing_or_unknown_is_a_sentence_without_it(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    spec = telling(model.spec)
    _, cursor = tick(spec, instance, None)
    model.step(release)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert f"the environment variable {VARIABLE}" in tick(spec, instance, cursor)[0]
    monkeypatch.setenv(VARIABLE, "nosuch://hidden:pass@x")
    said, _ = tick(spec, instance, cursor)
    assert said.startswith(f"address 1 of the environment variable {VARIABLE} is none that apprise knows")
    assert "hidden" not in said


def test_a_release_goes_on_while_a_receiver_takes_its_news_and_does_not_answer(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as beside:
        monkeypatch.setenv(VARIABLE, f"json://127.0.0.1:{silent.getsockname()[1]}")
        spec = telling(model.spec)
        _, cursor = tick(spec, instance, None)
        wanted = gate_tick(spec, instance)
        assert wanted.tags[ACTION_TAG] == "step_0"
        assert model.step(release).traffic_percent == 25
        telling_it = beside.submit(tick, spec, instance, cursor)
        connection, _ = silent.accept()
        with connection:
            # The gate's sensor ticks, and a run takes its step, while the news are on their way to nowhere.
            assert "NO_DATA" in str(gate_tick(spec, instance))
            assert model.step(release, 1).traffic_percent == 50
            assert not telling_it.done()
            said, _ = telling_it.result(60)
    assert said == f"address 1: 1 news could not be sent; attempt 1 of {MOST_ATTEMPTS}"


def test_without_apprise_it_says_what_to_install_and_releases_go_on(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    monkeypatch.setitem(sys.modules, "apprise", None)
    spec = telling(model.spec)
    assert gate_tick(spec, instance).tags[ACTION_TAG] == "step_0"
    said, _ = tick(spec, instance, None)
    assert "install release-pipeline[notifications]" in said
    assert model.step(release).traffic_percent == 25


def test_a_freeze_calls_a_person(deployed: tuple[Model, str], instance: dg.DagsterInstance, receiver: Receiver) -> None:
    model, release = deployed
    spec = telling(model.spec, about=("hold",))
    model.step(release)
    _, cursor = tick(spec, instance, None)
    model.parts("sensor:gate").events.freeze(release, "errors is 40 % of 90 challenger requests", "")
    assert tick(spec, instance, cursor)[0] == "sent 1 news"
    (letter,) = receiver.letters
    assert letter["type"] == "warning"
    assert f"{release}: frozen, by sensor:gate: errors is 40 % of 90 challenger requests" in letter["message"]


def test_an_address_in_the_yaml_is_refused_and_not_repeated(make_spec: Callable[..., ReleaseSpec]) -> None:
    with pytest.raises(SpecError, match="name of an environment variable") as refused:
        make_spec(notifications={"addresses_variable": "mailto://ada:secret@example.org"})
    assert "secret@" not in str(refused.value)


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("phase", list(Phase))
def test_every_row_of_a_ledger_is_told_or_left_out_on_purpose(
    action: Action, phase: Phase, make_spec: Callable[..., ReleaseSpec]
) -> None:
    entry = Entry("20260101-000000", 7, datetime(2026, 1, 1, tzinfo=UTC), "run:1", action, phase, reason="so")
    told = news_of([entry], 6, make_spec())
    quiet = {
        (Action.RETIRE, Phase.FAILED),
        (Action.ROLL_BACK, Phase.FAILED),
    }
    begins = phase is Phase.INTENT and action is not Action.ROLL_BACK and action not in EVENTS
    never = action in EVENTS and phase is not Phase.DONE and (action, phase) != (Action.QUEUE, Phase.FAILED)
    if not never:
        assert bool(told) == (not begins and (action, phase) not in quiet), (action, phase)
    assert all("run:1" in message.text and "so" in message.text for message in told)
    assert news_of([entry], 7, make_spec()) == []


def test_only_what_is_wanted_is_told(make_spec: Callable[..., ReleaseSpec]) -> None:
    spec = make_spec(notifications={"about": ["rollback"]})
    rows = [
        Entry("r", number, datetime(2026, 1, 1, tzinfo=UTC), "a", action, Phase.DONE)
        for number, action in enumerate((Action.DEPLOY, Action.SET_TRAFFIC, Action.ROLL_BACK), start=1)
    ]
    assert [message.topic for message in news_of(rows, 0, spec)] == ["rollback"]


def test_a_missing_approval_is_told_at_once(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    model.step(release)
    observed = model.parts().observer.look(release, ingest=False)
    assert observed is not None
    waiting = replace(
        observed, verdict=replace(observed.verdict, action=GateAction.HOLD, reason=HoldReason.AWAITING_APPROVAL)
    )
    told = hold_of(waiting, model.spec, 0.0)
    assert told is not None
    assert told.topic == "approval"
    baking = replace(waiting, verdict=replace(waiting.verdict, reason=HoldReason.BAKING))
    assert hold_of(baking, model.spec, 9 * 24 * 60.0) is None, "a bake is meant to last"


def test_what_was_begun_and_is_not_finished_for_long_is_told_once(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    model, release = deployed
    spec = telling(model.spec, about=("hold", "rollback"), hold_minutes=30)
    model.parts().rollout.begin_roll_back(release, reason="wrong prices")
    (told,) = gather(model.parts(), spec, Receivers.of(None, 1), datetime.now(UTC), print)
    assert told == [], "it has just been asked for"
    receivers, later = Receivers.of(None, 1), datetime.now(UTC) + timedelta(minutes=31)
    (told,) = gather(model.parts(), spec, receivers, later, print)
    assert [message.topic for message in told] == ["rollback"]
    assert f"{release}: roll_back was begun 31 min ago by test and is not finished" in told[0].text
    assert gather(model.parts(), spec, receivers, later, print) == [[]]
    silent = telling(model.spec, about=("step",), hold_minutes=30)
    assert gather(model.parts(), silent, Receivers.of(None, 1), later, print) == [[]]
    model.parts().rollout.roll_back(release, reason="wrong prices")


@pytest.mark.slow
def test_every_topic_reaches_the_receiver_in_the_life_of_one_release(
    make_model: Callable[..., Model], instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    model = make_model(promotion={"automatic": True, "approval": "required", "bake_seconds": 3600})
    model.champion()
    spec = telling(model.spec, hold_minutes=1e-9)
    _, cursor = tick(spec, instance, None)

    def news() -> str:
        nonlocal cursor
        # As if the last look for drift were long ago.
        _, cursor = tick(spec, instance, json.dumps({**json.loads(cursor or "{}"), "drift_at": 0}))
        return str(receiver.letters.pop()["message"])

    release, version = model.release(), model.register("second")
    model.deploy(release, version)
    assert f"{release}: version {version} is deployed beside version 1 at 0 %, by test" in news()
    model.step(release)
    assert f"{release}: 25 % of the traffic" in news()
    assert "NO_DATA for 0 min on this step" in news(), "seen a second time, it has lasted"
    model.step(release, 1)
    ask_until(model, spec, instance, lambda text: text.startswith(HoldReason.AWAITING_APPROVAL))
    assert "approval wanted" in news()
    model.parts("user:ada").events.approve(release, "looked at the answers")
    model.promote(release)
    told = news()
    assert "approved by user:ada: looked at the answers" in told
    assert f"{release}: version {version} is live, alias champion" in told
    now = model.parts().endpoint.read()
    assert now is not None
    model.parts().endpoint.update(now.entities, dict.fromkeys(now.routes, 50))
    model.parts().endpoint.wait(timeout_seconds=60, progress=print)
    assert "the ledger says" in news()
    model.parts().rollout.roll_back(release, reason="wrong prices")
    assert f"{release}: version {version} is rolled back and has no traffic" in news()
