"""Headless Chromium, driven over WebDriver's own HTTP protocol: the driver is a server, and requests its client."""

import base64
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import requests

from tests.conftest import free_port

T = TypeVar("T")

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key that the protocol gives to an element's id
_WAIT_SECONDS = 60
KEYS = {"Enter": "\ue007", "Shift": "\ue008", "Tab": "\ue004", "Space": " ", "Right": "\ue014", "NULL": "\ue000"}


class Chromium:
    """One browser with one window. What it is asked for waits until the page has it.

    Args:
        driver: The program ``chromedriver``.
        browser: The program ``chromium``.
        folder: For the browser's profile.
    """

    def __init__(self, driver: str, browser: str, folder: Path) -> None:
        port = free_port()
        self._driver = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._url = f"http://127.0.0.1:{port}"
        self._http = requests.Session()
        self._http.trust_env = False
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        arguments += [f"--user-data-dir={folder}", "--no-first-run", "--disable-background-networking"]
        options = {"binary": browser, "args": arguments}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._await_driver()
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._url += f"/session/{session['sessionId']}"

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            self._call("DELETE", "")
        finally:
            self._http.close()
            self._driver.terminate()
            self._driver.wait()

    def open(self, url: str) -> None:
        """Go to an address; returns when the page is loaded."""
        self._call("POST", "/url", {"url": url})

    @contextmanager
    def another_tab(self) -> Iterator[None]:
        """While this holds, everything happens in a tab of its own; the first one stays open."""
        first = self._call("GET", "/window")
        self._call("POST", "/window", {"handle": self._call("POST", "/window/new", {"type": "tab"})["handle"]})
        try:
            yield
        finally:
            self._call("DELETE", "/window")
            self._call("POST", "/window", {"handle": first})

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, in pixels."""
        self._call("POST", "/window/rect", {"width": width, "height": height})

    def find(self, css: str) -> str:
        """The first visible element, once there is one; its id."""

        def visible() -> str | None:
            return next((each for each in self.all(css) if self._call("GET", f"/element/{each}/displayed")), None)

        return self.wait(visible, f"an element {css}")

    def all(self, css: str) -> list[str]:
        """Ids of all elements there are now."""
        found = self._call("POST", "/elements", {"using": "css selector", "value": css})
        return [each[_ELEMENT] for each in found]

    def text(self, css: str) -> str:
        """The visible text of an element, without blanks around it."""
        return str(self._call("GET", f"/element/{self.find(css)}/text")).strip()

    def click(self, css: str) -> None:
        """Click an element."""
        self._call("POST", f"/element/{self.find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Type into an element."""
        self._call("POST", f"/element/{self.find(css)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press keys, by their names in `KEYS`, one after the other, wherever the focus is."""
        strokes = [{"type": kind, "value": KEYS[key]} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def point(self, x: int, y: int) -> None:
        """Move the pointer there, in pixels from the window's upper left corner."""
        move = {"type": "pointerMove", "duration": 100, "x": x, "y": y}
        self._call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script's body returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def cdp(self, command: str, parameters: dict[str, Any]) -> None:
        """A command of Chromium's own protocol."""
        self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def console(self) -> list[str]:
        """What the browser has complained of since it was asked last."""
        found = self._call("POST", "/se/log", {"type": "browser"})
        return [str(each["message"]) for each in found if each["level"] in ("WARNING", "SEVERE")]

    def screenshot(self, path: Path) -> None:
        """Keep a picture of the window."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def wait(self, condition: Callable[[], T | None], what: str) -> T:
        """The first true value of a condition; fails after a long time without one."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError(f"the page never had {what}: {self.run('return document.body.innerText')}")

    def _await_driver(self) -> None:
        for _ in range(600):
            try:
                self._http.get(f"{self._url}/status", timeout=10)
                return
            except requests.ConnectionError:
                time.sleep(0.05)
        raise RuntimeError("chromedriver does not answer")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._http.request(method, self._url + path, json=body, timeout=120).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{path}: {answer['error']}: {answer['message'].splitlines()[0]}")
        return answer
