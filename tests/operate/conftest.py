"""A model whose releases are moved by commands: its YAML in a project's folder, which is the current one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from release_pipeline.cli import main
from release_pipeline.rollout.ledger import Entry
from release_pipeline.rollout.state import ReleaseState
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, beside_champion, deployed, logged, make_model, make_spec, model, write_folder

__all__ = ["beside_champion", "deployed", "logged", "make_model", "make_spec", "model"]


@dataclass
class Operated:
    """A model as an operator sees it: through commands."""

    model: Model

    @property
    def name(self) -> str:
        return self.model.spec.name

    def run(self, *words: str) -> Result:
        """A command, typed in the project's folder; the rows that the ledger had are still there afterwards."""
        before = self.entries()
        result = CliRunner().invoke(main, [words[0], *words[1:]])
        assert self.entries()[: len(before)] == before, "the ledger is append-only"
        return result

    def json(self, *words: str) -> Any:
        """The answer of a command that succeeds, as machines read it."""
        result = self.run(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def entries(self) -> list[Entry]:
        return self.model.parts().ledger.read_all()

    def state(self, release: str) -> ReleaseState:
        state = self.model.parts().rollout.state(release)
        assert state is not None
        return state

    def world(self) -> World:
        return World.of(self.model)

    def on_its_ramp(self) -> str:
        """A champion, and a release on its first step; the release."""
        self.model.champion()
        release = self.model.release()
        self.model.deploy(release, self.model.register("second"))
        self.model.step(release)
        return release


@pytest.fixture
def operate(
    make_model: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Operated]:
    """Models with their YAML in the current folder."""
    monkeypatch.chdir(tmp_path)

    def make(**parts: Any) -> Operated:
        model = make_model(**parts)
        write_folder(tmp_path / model.spec.name, model.spec.name, **parts)
        return Operated(model)

    return make


@pytest.fixture
def ramping(deployed: tuple[Model, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Operated, str]:
    """A release of version 2 on its first step beside version 1, which may not take version 2 off the endpoint."""
    model, release = deployed
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / model.spec.name, model.spec.name)
    model.step(release)
    return Operated(model), release
