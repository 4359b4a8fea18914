"""The review page in a real browser: what a person sees, types and is told, and what is kept of it."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import ServingEndpointAccessControlRequest, ServingEndpointPermissionLevel

from release_pipeline.clock import SystemClock
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.feedback import TraceFeedback
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.score_table import ScoreTable
from tests.browser.chromium import Chromium
from tests.browser.conftest import Page, Reviewed
from tests.browser.models.reviewed_agent import HTML
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import wait_for
from tests.served_models import CHAT, PLAIN, endpoints

pytestmark = pytest.mark.slow

Open = Callable[..., Page]


def test_a_person_signs_in_with_the_token_and_the_tab_keeps_it(
    open_page: Open, chromium: Chromium, workspace: RunningWorkspace, reviewed: Reviewed
) -> None:
    page = open_page(reviewed.name, signed_in=False)
    chromium.wait(lambda: chromium.run("return document.activeElement.id") == "token", "the focus on the token")
    page.sign_in("wrong")
    chromium.wait(lambda: "not valid" in chromium.text("#refused"), "a refusal")
    chromium.run("document.getElementById('token').value = ''")
    page.sign_in(workspace.token)
    assert chromium.text("#endpoint") == "reviewed"
    assert chromium.text("#versions") == "Traffic: version 1 has 100 %"
    assert chromium.text("#name") == "developer@localhost"
    chromium.open(page.url)
    chromium.find("#question")
    # Nothing that a browser would send by itself, and nothing in the address.
    assert chromium.run("return [document.cookie, localStorage.length, location.hash]") == ["", 0, ""]
    chromium.click("#leave")
    chromium.find("#token")
    assert chromium.run("return sessionStorage.length") == 0


def test_an_answer_is_shown_while_it_is_made_with_its_version_and_its_sources(
    open_page: Open, chromium: Chromium, reviewed: Reviewed, tmp_path: Path
) -> None:
    page = open_page(reviewed.name)
    gate = tmp_path / "go-on"
    page.ask(str(gate))
    chromium.wait(lambda: chromium.text("article.answer .text") == "I heard", "the beginning of the answer")
    assert chromium.all("article.answer[aria-busy=true]")
    assert chromium.text("article.answer h2") == "Version 1 of main.default.reviewed"
    gate.touch()
    assert "I heard 1 messages" in page.answer("1 messages")
    chromium.click(".sources summary")
    assert chromium.text(".sources summary") == "2 sources"
    assert [chromium.run(f"return document.querySelectorAll('.sources pre')[{n}].textContent") for n in (0, 1)] == [
        HTML,
        f"about {gate}",
    ]
    # The conversation goes on with what was said before.
    page.ask("and now?")
    page.answer("3 messages")
    chromium.click("#again")
    page.ask("anew")
    page.answer("1 messages")


def test_feedback_becomes_assessments_that_the_gates_metric_reads(
    open_page: Open, chromium: Chromium, reviewed: Reviewed
) -> None:
    page = open_page(reviewed.name)
    before = SystemClock().now() - timedelta(minutes=1)
    page.ask("rate this")
    page.answer("1 messages")
    chromium.click(".thumbs button:nth-of-type(1):enabled")
    page.saved()
    chromium.click(".thumbs button:nth-of-type(2)")
    assert chromium.run("return [...document.querySelectorAll('.thumbs button')].map(b => b.ariaPressed)") == [
        "false",
        "true",
    ]
    chromium.click(".rating input[value='4']")
    chromium.type(".comment textarea", "too short")
    chromium.click(".comment button")

    def kept() -> dict[str, object]:
        found = {each.name: each.feedback.value for each in reviewed.assessments(3)}
        return found if found.get("helpful") is False else {}

    assert wait_for(kept) == {"helpful": False, "rating": 4, "comment": "too short"}
    found = reviewed.assessments(3)
    assert len(found) == 3, "a change of mind changes what was said and adds nothing beside it"
    assert {(each.source.source_type, each.source.source_id) for each in found} == {("HUMAN", "developer@localhost")}

    workspace, payload = connect(), "main.default.reviewed_payload"
    metrics = (
        Metric(name="helpful", kind="feedback", assessment="helpful"),
        Metric(name="rating", kind="feedback", assessment="rating", worst=1, best=5),
    )
    table = InferenceTable(workspace.warehouse, payload)
    scores = ScoreTable(workspace.warehouse, "main.default.reviewed_scores", table)
    scores.create()
    source = TraceFeedback(workspace, reviewed.experiment_name, metrics, scores, SystemClock())

    def read() -> list[tuple[str | None, ...]]:
        source.collect(before, Budget(60))
        rows = workspace.warehouse.execute(
            f"SELECT metric, badness, served_entity_id FROM {scores.name} WHERE request_id IS NOT NULL ORDER BY metric"
        )
        return [tuple(row.values()) for row in rows] if len(rows) == 2 else []

    served = workspace.warehouse.execute(f"SELECT DISTINCT served_entity_id FROM {payload}")
    assert wait_for(read) == [
        ("helpful", "1.0", served[0]["served_entity_id"]),
        ("rating", "0.25", served[0]["served_entity_id"]),
    ]


def test_a_reviewer_needs_no_more_than_can_query(
    open_page: Open, chromium: Chromium, client: WorkspaceClient, reviewed: Reviewed
) -> None:
    somebody = client.service_principals_v2.create(display_name="reviewer")
    token = client.token_management.create_obo_token(application_id=str(somebody.application_id)).token_value
    allowed = ServingEndpointAccessControlRequest(
        service_principal_name=somebody.application_id, permission_level=ServingEndpointPermissionLevel.CAN_QUERY
    )
    endpoint = client.serving_endpoints.get(reviewed.name)
    client.serving_endpoints.update_permissions(str(endpoint.id), access_control_list=[allowed])
    page = open_page(reviewed.name, signed_in=False)
    page.sign_in(str(token))
    page.ask("may I?")
    page.answer("1 messages")
    chromium.click(".thumbs button:nth-of-type(1):enabled")
    page.saved()
    chromium.find(".sources")
    assert somebody.application_id in {each.source.source_id for each in reviewed.assessments(1)}
    client.service_principals_v2.delete(str(somebody.id))


def test_the_names_of_the_assessments_can_stand_in_the_link(
    open_page: Open, chromium: Chromium, reviewed: Reviewed
) -> None:
    page = open_page(reviewed.name, query="?thumbs=grounded&rating=tone")
    page.ask("by other names")
    page.answer("1 messages")
    chromium.click(".thumbs button:nth-of-type(1):enabled")
    chromium.click(".rating input[value='5']")
    wait_for(lambda: {"grounded", "tone"} <= {each.name for each in reviewed.assessments(2)})


def test_nothing_that_is_said_becomes_html(open_page: Open, chromium: Chromium, reviewed: Reviewed) -> None:
    page = open_page(reviewed.name)
    page.ask("html")
    page.answer("onerror")
    page.ask("use a tool")
    page.answer("3 messages")
    chromium.wait(lambda: len(chromium.all(".sources")) == 2, "the sources of both answers")
    assert chromium.run("return document.querySelector('article.answer .text').textContent") == f"I heard {HTML}"
    assert chromium.run("return [...document.querySelectorAll('.tools pre')].map(p => p.textContent)") == [
        'look_up({"word": "x"})',
        f"→ {HTML}",
    ]
    assert chromium.run("return [...document.querySelectorAll('#log img, #log script')].length") == 0
    # An address is a link only where it leads to the web, and the new page learns nothing of this one.
    links = "return [...document.querySelectorAll('.sources a')].map(a => [a.getAttribute('href'), a.rel])"
    assert chromium.run(links) == [["https://example.com/a", "noopener noreferrer"]] * 2
    assert chromium.run("return document.title") == "reviewed – review"
    for attack in ("document.body.innerHTML = arguments[0]", "document.write(arguments[0])"):
        with pytest.raises(AssertionError, match="TrustedHTML"):
            chromium.run(attack, HTML)
    chromium.console()


def test_what_goes_wrong_is_told(
    open_page: Open, chromium: Chromium, workspace: RunningWorkspace, reviewed: Reviewed
) -> None:
    page = open_page(reviewed.name)
    page.ask("break")
    assert "the tool did not answer" in page.answer("This went wrong:")
    assert chromium.text("article.answer .text") == "I heard"
    chromium.click("#ask details summary")
    chromium.type("#custom", "[1]")
    page.ask("inputs")
    assert "no JSON object" in chromium.text("#problem")
    chromium.run("document.getElementById('custom').value = arguments[0]", '{"passages": 2}')
    chromium.type("#question", "\n")
    page.answer('I heard {"passages": 2}')
    page = open_page("no-such-endpoint", signed_in=False)
    page.sign_in(workspace.token)
    chromium.wait(lambda: "does not exist" in chromium.text("#refused"), "the reason")


def test_other_kinds_of_models(open_page: Open, chromium: Chromium, workspace: RunningWorkspace) -> None:
    with endpoints() as served:
        page = open_page(served(CHAT))
        page.ask("hello there")
        answer = page.answer("echo: hello there")
        assert "No feedback: this version is served without traces" in answer
        page = open_page(served(PLAIN))
        chromium.wait(lambda: "serves no agent" in chromium.text("#problem"), "the reason")
        assert chromium.all("#send:disabled")


def test_it_can_be_used_by_keyboard_alone(open_page: Open, chromium: Chromium, reviewed: Reviewed) -> None:
    page = open_page(reviewed.name)
    focused = "const e = document.activeElement; return e.value || e.textContent || e.id"
    chromium.wait(lambda: chromium.run("return document.activeElement.id") == "question", "the focus on the question")
    chromium.type("#question", "by keys\n")
    page.answer("1 messages")
    chromium.find(".thumbs button:enabled")
    chromium.find(".sources")
    assert chromium.run("return document.activeElement.id") == "question", "the next question can be typed at once"
    chromium.run("document.getElementById('log').focus()")
    seen = []
    for _ in range(4):
        chromium.press("Tab")
        seen.append(chromium.run(focused))
        if seen[-1] == "No":
            chromium.press("Space")
    assert seen == ["2 sources", "Yes", "No", "1"]
    chromium.press("Right", "Right")
    page.saved()
    pressed = chromium.run("return document.querySelector('.thumbs button:nth-of-type(2)').ariaPressed")
    checked = chromium.run("return document.querySelector('.rating input:checked').value")
    assert (pressed, checked) == ("true", "3")
    # Everything that can be worked has a name for those who do not see it.
    unnamed = (
        "return [...document.querySelectorAll('#chat button, #chat textarea, #chat input')].filter(e => "
        "!(e.textContent.trim() || e.labels?.length || e.ariaLabel)).length"
    )
    assert chromium.run(unnamed) == 0


@pytest.mark.parametrize("width", [320, 500, 1400])
def test_it_fits_narrow_and_wide_windows(open_page: Open, chromium: Chromium, reviewed: Reviewed, width: int) -> None:
    page = open_page(reviewed.name)
    # A window is never narrower than 500 pixels, but what it shows may be.
    metrics = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    chromium.cdp("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.ask("html")
        page.answer("onerror")
        chromium.find(".sources")
        chromium.click(".sources summary")
        assert chromium.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
        outside = (
            "return [...document.querySelectorAll('button, textarea')]"
            ".filter(e => e.getBoundingClientRect().right > innerWidth).length"
        )
        assert chromium.run(outside) == 0
    finally:
        chromium.cdp("Emulation.clearDeviceMetricsOverride", {})


def test_it_is_readable_in_the_light_and_in_the_dark(open_page: Open, chromium: Chromium, reviewed: Reviewed) -> None:
    page = open_page(reviewed.name)
    page.ask("break")
    page.answer("This went wrong:")
    found = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        chromium.cdp("Emulation.setEmulatedMedia", {"features": features})
        pairs = chromium.run(
            "const style = (css) => getComputedStyle(document.querySelector(css));"
            "const card = style('article.answer').backgroundColor, ground = style('body').backgroundColor;"
            "return [[style('body').color, ground], [style('article.answer .text').color, card],"
            "[style('article.answer h2').color, card], [style('article.answer .error').color, card],"
            "[style('#versions').color, ground], [style('#send').color, style('#send').backgroundColor]]"
        )
        found[scheme] = pairs
        for text, ground in pairs:
            assert contrast(text, ground) >= 4.5, (scheme, text, ground)
    chromium.cdp("Emulation.setEmulatedMedia", {"features": []})
    assert found["light"] != found["dark"]


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, ``rgb(r, g, b)``, as WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
