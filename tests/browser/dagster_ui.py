"""Dagster's own UI, used by the words on its buttons, as an operator uses it."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.browser.chromium import Chromium

LOCATION = "release_pipeline"
RELEASE_SECONDS = 300
#: Of the window, in pixels.
WIDTH, HEIGHT = 1500, 1100

_CLICK = """
const [words, css] = arguments;
const shown = each => each.innerText.trim() === words && each.offsetParent !== null && !each.disabled;
const found = Array.from(document.querySelectorAll(css)).filter(shown);
if (!found.length) return false;
found[found.length - 1].click();
return true;
"""
_WRITE = """
const editor = document.querySelector(".cm-s-config-editor");
if (!editor) return false;
editor.CodeMirror.setValue(arguments[0]);
return true;
"""


class DagsterUi:
    """The UI of one running Dagster.

    Args:
        browser: Looks at it.
        url: Where it is.
        pictures: Folder for the pictures that are asked for; none is kept without one.
    """

    def __init__(self, browser: Chromium, url: str, pictures: Path | None) -> None:
        self.browser = browser
        self._url = url
        self._pictures = pictures
        browser.resize(WIDTH, HEIGHT)

    def open(self, path: str, *words: str) -> str:
        """Go to a page; its text, once these words are on it."""
        self.browser.open(f"{self._url}{path}")
        return self.shows(*words)

    def shows(self, *words: str) -> str:
        """The text of the page, once these words are on it."""

        def there() -> str:
            text = str(self.browser.run("return document.body.innerText"))
            return text if all(each in text for each in words) else ""

        return self.browser.wait(there, f"the words {words}")

    def press(self, words: str, css: str = "button") -> None:
        """Click the last of the elements that say just this."""
        self.browser.wait(lambda: self.browser.run(_CLICK, words, css), f"something to press that says {words}")

    def graphs_go_down(self) -> None:
        """Lay graphs out from top to bottom from now on, as the button beside a graph does."""
        self.browser.run("localStorage.setItem('asset-graph-direction', JSON.stringify('vertical'))")

    def scroll_to(self, words: str) -> None:
        """Bring the last element that says just this to the top of what can be scrolled."""
        scrolled = (
            "const found = Array.from(document.querySelectorAll('*')).filter("
            "each => each.children.length === 0 && each.innerText?.trim() === arguments[0]);"
            "found.at(-1)?.scrollIntoView({block: 'start'});"
            "return found.length > 0"
        )
        self.browser.wait(lambda: self.browser.run(scrolled, words), f"something that says {words}")

    def keep(self, name: str) -> None:
        """Look at the window until all has moved into its place, and keep a picture of it."""
        time.sleep(2)
        if self._pictures is not None:
            self.browser.screenshot(self._pictures / f"{name}.png")

    def start_release(self, model: str, release: str, config: str) -> None:
        """Start a release of another configuration, in the dialog of the job."""
        self.open(f"/locations/{LOCATION}/jobs/{model}_release", "Materialize all")
        self.press("Materialize all…")
        self.press("Add a partition")
        self.browser.type("[role=dialog] input[placeholder=name]", release)
        self.press("Save")
        name = "[role=dialog] input[placeholder=name]"
        self.browser.wait(lambda: not self.browser.all(name), "a partition that is added")
        time.sleep(2)
        if "0 partitions" in self.shows("partition"):  # Dagster forgets what it has not yet read back; so it is chosen
            self.press("Select a partition or create one", "[role=dialog] span, [role=dialog] div")
            self.press(release, "[role=menuitem] div, [role=menuitem] span")
        self.shows("1 partition")
        self.press("Config", "[role=dialog] span")
        self.press("Add config")
        written = f"ops:\n  {model}__logged_model:\n    config:\n      config: {config}\n"
        self.browser.wait(lambda: self.browser.run(_WRITE, written), "an editor")
        self.keep("start-release")
        self.press("Save config")
        self.press("Launch 1 run")
        self.browser.wait(lambda: not self.browser.all("[role=dialog]"), "a closed dialog, and so a run")

    def canary(self, model: str, until: Callable[[str], bool]) -> str:
        """What the newest event of a canary says, once it says what it should."""
        deadline = time.monotonic() + RELEASE_SECONDS
        while True:
            text = self.open(f"/assets/{model}/canary_traffic?view=events", "Metadata", "challenger_version")
            if until(text):
                return text
            assert time.monotonic() < deadline, text
            time.sleep(3)

    def roll_back(self, model: str, release: str) -> None:
        """Roll a release back, in the launchpad of the job."""
        self.open(f"/locations/{LOCATION}/jobs/{model}_rollback/playground", "asked for by hand", "No errors")
        self.browser.click("input[placeholder=Partition]")
        self.browser.type("input[placeholder=Partition]", release)
        self.press(release, "[role=menuitem]")
        self.shows(f"partition: {release}")
        self.keep("roll-back")
        self.press("Launch Run")
        self.shows("RUN_START")

    def hover(self, words: str) -> None:
        """Lay the pointer on the first element that says just this."""
        place = self.browser.wait(
            lambda: self.browser.run(
                "const found = Array.from(document.querySelectorAll('span, div')).find("
                "each => each.children.length === 0 && each.innerText?.trim() === arguments[0]);"
                "if (!found) return null;"
                "found.scrollIntoView({block: 'center'});"
                "const box = found.getBoundingClientRect();"
                "return [Math.round(box.x + box.width / 2), Math.round(box.y + box.height / 2)]",
                words,
            ),
            f"something that says {words}",
        )
        self.browser.point(*place)
