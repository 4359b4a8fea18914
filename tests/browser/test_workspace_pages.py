"""The pages behind the links of Dagster, the command line and MLflow, in a real browser."""

import os
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import requests

from release_pipeline.workspace.client import connect
from release_pipeline.workspace.links import endpoint_links
from tests.browser.chromium import Chromium
from tests.browser.conftest import AGENT, Page, Reviewed
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import say, wait_for

pytestmark = pytest.mark.slow

Open = Callable[..., Page]
MARKUP = "<img src=x onerror=document.title='hit'>"


@pytest.fixture
def entered(open_page: Open, chromium: Chromium, reviewed: Reviewed) -> Callable[[str], str]:
    """Opens an address in a tab that is signed in; the text that it shows."""
    open_page(reviewed.name)

    def enter(url: str) -> str:
        chromium.open(url)
        chromium.find("#view > *")
        return chromium.text("body")

    return enter


def test_every_link_of_an_endpoint_leads_to_what_it_names(
    entered: Callable[[str], str], chromium: Chromium, workspace: RunningWorkspace, reviewed: Reviewed, tmp_path: Path
) -> None:
    answer = requests.post(
        f"{workspace.url}/serving-endpoints/{reviewed.name}/invocations",
        json=say("what do the pages show?"),
        headers={"Authorization": f"Bearer {workspace.token}"},
        timeout=60,
    )
    assert answer.status_code == 200
    mlflow.MlflowClient().set_model_version_tag(AGENT, "1", "note", MARKUP)
    mlflow.MlflowClient().set_registered_model_alias(AGENT, "champion", "1")
    links = endpoint_links(connect(), reviewed.name, reviewed.experiment)
    text = entered(links.endpoint)
    assert "READY" in text
    assert f"100 % {AGENT} 1 first DEPLOYMENT_READY" in text
    chromium.screenshot(Path(os.environ.get("SCREENSHOTS", tmp_path)) / "endpoint-page.png")
    chromium.click("#view details summary")
    chromium.wait(lambda: "…" not in chromium.text("#view details[open] pre"), "the build log")
    chromium.click(f"#view a[href^='/explore/data/models/{AGENT.split('.')[0]}/']")
    chromium.wait(lambda: "champion" in chromium.text("body"), "the page of the model")
    assert f"note: {MARKUP}" in chromium.text("#view")
    assert chromium.run("return document.title") == f"Model {AGENT}"
    chromium.click("#view a[href*='/runs/']")
    chromium.wait(lambda: "Parameters" in chromium.text("body"), "the page of the run")
    assert links.traces is not None
    assert "what do the pages show?" in wait_for(lambda: asked(entered(links.traces or "")))
    table = f"{workspace.url}/explore/data/{AGENT.replace('.', '/')}_payload"
    assert "served_entity_id string" in entered(table).lower()
    assert "what do the pages show?" in wait_for(lambda: asked(entered(table)))
    assert reviewed.name in entered(workspace.url)


def asked(text: str) -> str:
    """The text, once the question is in it."""
    return text if "what do the pages show?" in text else ""


def test_what_is_not_there_is_told_and_nobody_is_signed_out(
    entered: Callable[[str], str], workspace: RunningWorkspace
) -> None:
    for path in ("ml/endpoints/none", "explore/data/models/main/default/none", "explore/data/main/default/none"):
        text = entered(f"{workspace.url}/{path}")
        assert "none" in text
        assert "NOT_FOUND" in text or "DOES_NOT_EXIST" in text, path
        assert "Sign out" in text


def test_a_link_that_opens_a_tab_needs_no_second_sign_in(
    entered: Callable[[str], str], chromium: Chromium, workspace: RunningWorkspace, reviewed: Reviewed
) -> None:
    entered(workspace.url)
    with chromium.another_tab():
        assert "READY" in entered_in_new_tab(chromium, workspace, reviewed)
        chromium.click("#leave")
        chromium.find("#token")
        with chromium.another_tab():
            assert "READY" in entered_in_new_tab(chromium, workspace, reviewed)
        assert chromium.all("#sign-in:not([hidden])"), "who has signed out stays so, whoever opens another tab"
    assert "READY" in entered(f"{workspace.url}/ml/endpoints/{reviewed.name}"), "the first tab has not signed out"


def entered_in_new_tab(chromium: Chromium, workspace: RunningWorkspace, reviewed: Reviewed) -> str:
    """What the endpoint's page shows in a tab in which nobody has signed in."""
    chromium.open(f"{workspace.url}/ml/endpoints/{reviewed.name}")
    chromium.find("#view > *")
    return chromium.text("body")


def test_nobody_is_shown_anything_without_a_token(
    open_page: Open, chromium: Chromium, workspace: RunningWorkspace, reviewed: Reviewed
) -> None:
    open_page(reviewed.name, signed_in=False)
    chromium.open(f"{workspace.url}/ml/endpoints/{reviewed.name}")
    chromium.find("#token")
    assert "READY" not in chromium.text("body")
    chromium.type("#token", "wrong\n")
    chromium.wait(lambda: "not valid" in chromium.text("#refused"), "a refusal")
