"""A release over inference tables of every shape that the service has had, with and without a change feed."""

from collections.abc import Callable

import pytest
import requests

from release_pipeline.gate.verdict import Action
from release_pipeline.workspace.inference_table import InferenceTable
from tests.pipeline.conftest import Model, eventually


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["legacy", "unity_ai_gateway"])
def test_a_bad_release_is_rolled_back_on_a_table_of_another_shape(
    shape: str, make_model: Callable[..., Model], set_faults: Callable[..., requests.Response]
) -> None:
    set_faults(payload_shape=shape)
    model = make_model()
    model.champion()
    model.deploy(release := model.release(), model.register("raising"))
    model.step(release)
    parts = model.parts()
    assert parts.payload.shape().name != "AI Gateway"
    asked = 0
    for _ in range(20):
        model.ask(20, "a question")
        asked += 20

        def counted() -> int:
            seen = model.parts().observer.look(release)
            assert seen is not None
            total = seen.evidence.metric("errors").total()
            return total.champion_n + total.challenger_n

        eventually(lambda asked=asked: counted() >= asked)
        verdict = parts.observer.look(release, ingest=False)
        assert verdict is not None
        if verdict.verdict.action is Action.ROLL_BACK:
            break
    assert verdict.verdict.action is Action.ROLL_BACK, verdict.verdict.sentence
    total = verdict.evidence.metric("errors").total()
    assert total.champion_n + total.challenger_n == asked, "tracers are no evidence in any shape"
    assert total.champion[1] == 0


def test_a_table_without_a_change_feed_is_read_up_to_its_watermark(
    make_model: Callable[..., Model], set_faults: Callable[..., requests.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_faults(change_data_feed=False)
    model = make_model()
    model.champion()
    model.deploy(release := model.release(), model.register("second"))
    model.step(release)
    make = InferenceTable.__init__

    def trailing_a_second(self: InferenceTable, *given: object, **named: object) -> None:
        make(self, *given, **{**named, "hold_back_seconds": 1.0})  # type: ignore[arg-type]

    monkeypatch.setattr(InferenceTable, "__init__", trailing_a_second)
    model.ask(30)

    def seen() -> int:
        model.ask(1)  # time goes on by rows only
        observed = model.parts().observer.look(release)
        assert observed is not None
        total = observed.evidence.metric("errors").total()
        return total.champion_n + total.challenger_n

    eventually(lambda: seen() >= 30)
