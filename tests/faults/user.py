"""Users of an endpoint: a steady trickle of requests, none of which may fail."""

import threading
import time

import requests

PAUSE_SECONDS = 0.15


class User:
    """Asks the endpoint again and again in a thread of its own, straight at the workspace.

    Attributes:
        answered: How many requests were answered with success.
        failures: What the others got.
    """

    def __init__(self, url: str, token: str) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._over.set()
        self._thread.join()

    def ask(self, session: requests.Session) -> None:
        """One request."""
        body = {"input": [{"role": "user", "content": "hello"}]}
        try:
            answer = session.post(self._url, json=body, headers=self._headers, timeout=30)
        except requests.RequestException as error:
            self.failures.append(f"{time.time():.3f} {error!r}")
            return
        if answer.status_code == 200:
            self.answered += 1
        else:
            self.failures.append(f"{time.time():.3f} {answer.status_code} {answer.text[:200]}")

    def _ask_on(self) -> None:
        with requests.Session() as session:
            while not self._over.wait(PAUSE_SECONDS):
                self.ask(session)
