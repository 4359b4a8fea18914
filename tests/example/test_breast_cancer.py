"""The example of a classical model, released from a copy of its folder, and judged by labels that come later."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance

from release_pipeline.gate.verdict import Action
from release_pipeline.rollout.observer import Observed
from release_pipeline.spec import ReleaseSpec, parse_spec
from release_pipeline.spec_file import read_spec
from tests.conftest import RunningWorkspace
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model
from tests.pipeline.test_assets import Project

EXAMPLE = Path(__file__).parents[2] / "examples" / "breast_cancer"
CONFIGS = ("three_columns", "all_columns", "fewer_alarms")
REQUESTS = 120


def load(folder: Path, name: str) -> ModuleType:
    """One of the folder's Python files as a module."""
    spec = importlib.util.spec_from_file_location(f"breast_cancer_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def quick_spec(file: Path) -> ReleaseSpec:
    """What the YAML says, without installing and without waiting: every label is written before the gate looks.

    And as few rows to a block as a slow machine may answer in a second.
    """
    written = yaml.safe_load(file.read_text())["attributes"]
    written["predeploy_predict"] = {"environment": "local"}
    written["ramp"]["min_step_seconds"] = 0
    written["gate"] |= {"bucket_seconds": 1, "min_block_rows": 5}
    (wrong,) = [metric for metric in written["gate"]["metrics"] if metric["kind"] == "label"]
    wrong["settle_minutes"] = 0
    return parse_spec(written, file=file)


@pytest.fixture
def data() -> Any:
    """The data set; scikit-learn takes seconds to import, and is not for the tests that are quick."""
    from sklearn.datasets import load_breast_cancer  # type: ignore[import-untyped]

    return load_breast_cancer(as_frame=True)


def test_the_yaml_and_its_configurations_are_valid() -> None:
    spec = read_spec(EXAMPLE / "defs.yaml")
    (label,) = [metric for metric in spec.gate.metrics if metric.kind == "label"]
    assert label.settle_minutes == 0.5, "the README explains this figure"
    assert spec.promotion.automatic, "the README promises it"
    assert spec.model.config in {f"{name}.yaml" for name in CONFIGS}
    for name in CONFIGS:
        assert set(yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text())) == {"columns", "malignant_from"}


@pytest.mark.slow
def test_no_row_of_the_evaluation_set_was_trained_on_or_is_asked_about(data: Any) -> None:
    model, labels = load(EXAMPLE, "model"), load(EXAMPLE, "labels")
    rows = [json.loads(line) for line in (EXAMPLE / "evaluation.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    known = data.data.to_dict("records")
    numbers = {known.index(row["inputs"]["dataframe_records"][0]) for row in rows}
    every = range(len(known))
    apart = (numbers, set(every[model.TRAINED_ON]), set(every[labels.ASKED_ABOUT]))
    assert sum(map(len, apart)) == len(set.union(*apart))
    for row in rows:
        number = known.index(row["inputs"]["dataframe_records"][0])
        assert row["expectations"] == {"malignant": bool(data.target[number] == 0)}


@pytest.mark.slow
def test_the_configurations_are_what_they_say(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, labels = load(EXAMPLE, "model"), load(EXAMPLE, "labels")
    rows = [json.loads(line) for line in (EXAMPLE / "evaluation.jsonl").read_text().splitlines()]
    evaluated = data.data.iloc[:0]
    for row in rows:
        evaluated.loc[len(evaluated)] = row["inputs"]["dataframe_records"][0]
    wrong = {}
    for name in CONFIGS:
        monkeypatch.setattr(module, "CONFIG", yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text()))
        model = module.BreastCancer()
        model.load_context(None)
        said = model.predict(None, data.data)["malignant"]
        wrong[name] = float((said != (data.target == 0))[labels.ASKED_ABOUT].mean())
        said = model.predict(None, evaluated)["malignant"]
        assert said.tolist() == [row["expectations"]["malignant"] for row in rows], "the evaluation shows nothing"
    assert wrong["all_columns"] < wrong["three_columns"] < 0.13
    assert wrong["fewer_alarms"] > 0.2


class Asked(Model):
    """The example's model, asked by the example's own clinic."""

    clinic: ModuleType

    def ask(self, count: int, text: str = "") -> list[int]:
        """So many requests, and the truth about each of them."""
        self.clinic.run(self.spec.endpoint_name, "main.default.biopsies", count, per_second=1000, delay_seconds=0)
        return []


@pytest.fixture
def project(workspace: RunningWorkspace, instance: DagsterInstance, tmp_path: Path) -> Iterator[Project]:
    folder = tmp_path / "breast_cancer"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def unused(config: str) -> Any:
        raise AssertionError("the chain logs its models itself")

    model = Asked(quick_spec(folder / "defs.yaml"), unused)
    model.clinic = load(folder, "labels")
    yield Project(folder / "defs.yaml", model, instance)
    model.parts().endpoint.delete()


def judged(project: Project, release: str) -> Observed:
    """The first look that ends the waiting, after as many labels as it takes."""
    seen: Observed | None = None
    for _ in range(20):
        before = project.model.counted(project.model.parts())
        project.model.ask(REQUESTS)
        project.model.rows(before + REQUESTS)
        project.model.clock.advance(61)  # rows are compared once their minute is over
        seen = project.model.parts().observer.look(release)
        assert seen is not None
        if seen.verdict.action is not Action.HOLD:
            return seen
    raise AssertionError(seen.verdict.sentence if seen else "never looked at")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*", "ignore::FutureWarning:mlflow.*")
@pytest.mark.filterwarnings("ignore:.*[Tt]ype hint.*:UserWarning")
def test_labels_promote_a_better_model_and_roll_back_a_worse_one(project: Project) -> None:
    model = project.model
    first, second, third = (f"20260101-00000{number}" for number in (1, 2, 3))
    assert project.run("release", first).success
    assert project.metadata("evaluation", first)["right_challenger"] == 1.0
    seen = judged(project, first)
    assert seen.verdict.action is Action.PROMOTE, seen.verdict.sentence
    assert project.run("promote", first).success

    assert project.release(second, "all_columns").success
    assert World.of(model).shares == {"1": 50, "2": 50}
    seen = judged(project, second)
    assert seen.verdict.action is Action.PROMOTE, seen.verdict.sentence
    total = seen.evidence.metric("wrong").total()
    assert min(total.champion_n, total.challenger_n) > REQUESTS // 4, "both by their labels"
    assert project.run("promote", second).success
    assert World.of(model).alias == "2"

    assert project.release(third, "fewer_alarms").success
    assert project.metadata("evaluation", third)["right_challenger"] == 1.0, "only the labels show it"
    seen = judged(project, third)
    assert seen.verdict.action is Action.ROLL_BACK, seen.verdict.sentence
    assert "wrong is " in seen.verdict.sentence
    model.parts().rollout.roll_back(third, reason=seen.verdict.sentence)
    world = World.of(model)
    assert (world.shares, world.alias) == ({"2": 100}, "2")
