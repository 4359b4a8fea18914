"""What the pipeline sends, as it is sent: every configuration that an endpoint is asked for, and under which intent."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests


@dataclass
class Asked:
    """A configuration that the pipeline has asked for.

    Attributes:
        shares: Traffic by version, of all versions that are named.
        intent: The ledger's row under which it was asked for, empty where none has been written.
    """

    shares: dict[str, int]
    intent: str


@dataclass
class Wire:
    """Reads along with what both clients send.

    Attributes:
        asked: The configurations so far, oldest first.
    """

    patch: pytest.MonkeyPatch
    asked: list[Asked] = field(default_factory=list)
    _newest: str = ""
    _by_hand: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        send = requests.Session.send

        def read_along(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> Any:
            if not self._by_hand:
                self._read(request)
            return send(session, request, **options)

        self.patch.setattr(requests.Session, "send", read_along)

    def begin(self) -> None:
        """A new history."""
        self.asked.clear()
        self._newest = ""

    @contextmanager
    def by_hand(self) -> Iterator[None]:
        """What is sent meanwhile is not the pipeline's."""
        self._by_hand += 1
        try:
            yield
        finally:
            self._by_hand -= 1

    def _read(self, request: requests.PreparedRequest) -> None:
        url = str(request.url)
        if request.method == "POST" and "/sql/statements" in url:
            body = _json(request)
            if "_release_ledger" in body["statement"] and body["statement"].startswith("INSERT INTO"):
                values = {each["name"]: each.get("value") for each in body["parameters"]}
                if values["phase"] == "intent":
                    with self._lock:
                        self._newest = str(values["entry_id"])
        elif request.method in ("PUT", "POST") and url.split("?")[0].endswith(("/config", "/serving-endpoints")):
            body = _json(request)
            config = body.get("config", body)
            versions = {each["name"]: each["entity_version"] for each in config.get("served_entities", [])}
            routes = {
                each["served_model_name"]: each["traffic_percentage"]
                for each in config["traffic_config"].get("routes", [])
            }
            shares = {version: routes.get(name, 0) for name, version in versions.items()}
            with self._lock:
                self.asked.append(Asked(shares, self._newest))


def _json(request: requests.PreparedRequest) -> Any:
    assert isinstance(request.body, str | bytes | None)
    return json.loads(request.body or "{}")
