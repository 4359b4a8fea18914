"""A run that is killed at one of its HTTP calls, as SIGKILL would end it: nothing of it can catch that."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import requests


@dataclass(frozen=True)
class Kills:
    """Where an action is killed: at its calls, or only at those that write; before or after each."""

    at: Literal["calls", "writes"]
    moment: Literal["before", "after"]

    def __str__(self) -> str:
        return f"{self.moment}-{self.at}"


class Killed(BaseException):
    """What a run sees of SIGKILL: nothing that it could catch."""


class Killer:
    """Ends its caller at one of the HTTP calls of both clients."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._at, self._kills, self.calls = 0, Kills("calls", "before"), 0
        send = requests.Session.send

        def counted(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            if not self._at or (self._kills.at == "writes" and not writes(request)):
                return send(session, request, **options)
            self.calls += 1
            if self.calls == self._at and self._kills.moment == "before":
                raise Killed
            answer = send(session, request, **options)
            if self.calls == self._at:
                raise Killed
            return answer

        patch.setattr(requests.Session, "send", counted)

    def kills(self, act: Callable[[], Any], *, at: int, kills: Kills) -> bool:
        """Run ``act`` and end it at its call (or write) number ``at``; whether it was killed."""
        self._at, self._kills, self.calls = at, kills, 0
        try:
            act()
        except Killed:
            return True
        finally:
            self._at = 0
        return False


def writes(request: requests.PreparedRequest) -> bool:
    """Whether a call can change the server."""
    if request.method == "GET":
        return False
    body = request.body.decode() if isinstance(request.body, bytes) else str(request.body)
    return "sql/statements" not in str(request.url) or "INSERT INTO" in body or "CREATE TABLE" in body
