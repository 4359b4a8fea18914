"""A real browser, and an endpoint with an agent to be reviewed."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from databricks.sdk import WorkspaceClient

from tests.browser.chromium import Chromium
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import create, entity, inference_table, register, wait_for

AGENT = "main.default.reviewed"
MODELS = Path(__file__).parent / "models"


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The browser of the session; starting one takes seconds."""
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or browser is None:
        why = "there is no Chromium with its driver here; Debian's packages are chromium and chromium-driver"
        (pytest.fail if os.environ.get("SCREENSHOTS") else pytest.skip)(why)
    made = Chromium(driver, browser, tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@dataclass
class Reviewed:
    """An endpoint whose agent is traced into an experiment."""

    name: str
    experiment: str
    experiment_name: str

    def assessments(self, number: int) -> list[Any]:
        """All assessments of the experiment's traces, once there are as many."""

        def found() -> list[Any]:
            traces = mlflow.search_traces(locations=[self.experiment], return_type="list", include_spans=False)
            all_of_them = [each for trace in traces for each in trace.info.assessments]
            return all_of_them if len(all_of_them) >= number else []

        return wait_for(found)


@pytest.fixture(scope="session")
def reviewed(workspace: RunningWorkspace) -> Iterator[Reviewed]:
    """The endpoint ``reviewed``, which serves version 1 of the agent alone."""
    experiment_name = f"/Shared/reviewed-{uuid.uuid4().hex[:8]}"
    assert register(str(MODELS / "reviewed_agent.py"), AGENT) == "1"
    experiment = str(mlflow.set_experiment(experiment_name).experiment_id)
    client = WorkspaceClient()
    served = entity("first", AGENT, ENABLE_MLFLOW_TRACING="true", MLFLOW_EXPERIMENT_ID=experiment)
    create(client, "reviewed", served, ai_gateway=inference_table("reviewed"))
    yield Reviewed("reviewed", experiment, experiment_name)
    client.serving_endpoints.delete("reviewed")


@dataclass
class Page:
    """The review page of one endpoint, as somebody sees it who has signed in."""

    browser: Chromium
    url: str

    def sign_in(self, token: str) -> None:
        """Type a token and press Enter."""
        self.browser.type("#token", token + "\n")

    def ask(self, text: str) -> None:
        """Type a question and press Enter."""
        self.browser.type("#question", text + "\n")

    def answer(self, words: str) -> str:
        """The text of the newest answer, once it is complete and holds these words."""
        newest = "article.answer:last-of-type"

        def complete() -> str:
            if not self.browser.all(f"{newest}[aria-busy=false]"):
                return ""
            text = self.browser.text(newest)
            return text if words in text else ""

        return self.browser.wait(complete, f"an answer with {words!r}")

    def saved(self) -> None:
        """Wait until the newest feedback is kept."""
        self.browser.wait(lambda: "Saved as" in self.browser.text("article:last-of-type .status"), "feedback saved")


@pytest.fixture
def open_page(chromium: Chromium, workspace: RunningWorkspace) -> Iterator[Callable[..., Page]]:
    """Opens the page of an endpoint, signed in; at the end the browser has complained of nothing."""

    def open_(name: str, *, query: str = "", signed_in: bool = True) -> Page:
        page = Page(chromium, f"{workspace.url}/review/{name}{query}")
        chromium.open(page.url)
        chromium.find("#token, #question")  # until then the page may still be keeping a token of the test before
        chromium.run("sessionStorage.clear()")
        chromium.open(page.url)
        if signed_in:
            page.sign_in(workspace.token)
            chromium.find("#question")
        return page

    chromium.resize(1000, 900)
    yield open_
    complaints = [each for each in chromium.console() if "status of 4" not in each]
    assert complaints == []
