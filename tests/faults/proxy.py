"""A proxy between a run and the workspace that lets one call of the run meet a fault."""

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.faults.calls import STATEMENTS, Call
from tests.faults.faults import ANSWERS, Fault
from tests.faults.runner import SITE_HEADER

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "accept-encoding"}
# A client that waits longer than this for an answer has no time-out.
_PATIENCE_SECONDS = 30.0

Answer = tuple[int, list[tuple[str, str]], bytes]


#: A place in the code, and how often it has called so far in this run.
Spot = tuple[str, int]


@dataclass
class Plan:
    """The first call of the run that the fault can meet, and that none has met at this spot before, meets it.

    A wait asks again and again from one spot: from there on every further call is as the last of ``most_alike``.

    Attributes:
        writes: Whether a call that writes meets it, or one that reads.
        done: Spots that have met the fault; the new one is added.
        met: The call that met it, None so far.
        number: Which of the run's calls it was, from 1.
    """

    fault: Fault
    writes: bool
    done: set[Spot]
    most_alike: int = 3
    met: Call | None = None
    number: int = 0
    _called: Counter[str] = field(default_factory=Counter)

    def meets(self, call: Call) -> bool:
        """Whether this call, the next of the run, meets the fault."""
        if self.met is not None:
            return self.fault.stays and call == self.met
        self.number += 1
        site = f"{call.site} {call.route}"
        self._called[site] += 1
        spot = (site, min(self._called[site], self.most_alike))
        if call.writes is not self.writes or not self.fault.can_meet(call) or spot in self.done:
            return False
        self.met = call
        self.done.add(spot)
        return True


class FaultyProxy:
    """Passes every call on to the workspace, except the one that a plan is about.

    Args:
        upstream: The workspace's address.
        token: Its token, for what the proxy itself asks for.
        kill: Ends the process whose calls these are.
        written: Called with each write after the workspace has done it, before the answer goes back.
    """

    def __init__(
        self,
        upstream: str,
        token: str,
        *,
        kill: Callable[[], None],
        written: Callable[[Call], None] = lambda call: None,
    ) -> None:
        self.calls: list[Call] = []
        self.plan: Plan | None = None
        self._host = urlsplit(upstream).netloc
        self._token = token
        self._kill = kill
        self._written = written
        self._lock = threading.Lock()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def begin(self, plan: Plan | None) -> None:
        """Forget the calls of the run before; the next ones follow ``plan``."""
        with self._lock:
            self.calls, self.plan = [], plan

    def answer(self, call: Call, headers: list[tuple[str, str]], hung_up: Callable[[], None]) -> Answer | None:
        """What the run hears, None for an end of the connection; ``hung_up`` waits until the run has lost patience."""
        with self._lock:
            self.calls.append(call)
            fault = self.plan.fault if self.plan and self.plan.meets(call) else None
        match fault:
            case None:
                return self._forward(call, headers)
            case Fault.KILL_BEFORE:
                self._kill()
                return None
            case Fault.KILL_AFTER:
                self._forward(call, headers)
                self._kill()
                return None
            case Fault.DROPPED | Fault.CUT:
                self._forward(call, headers)
                return None
            case Fault.LOST:
                hung_up()
                return None
            case Fault.LATE:
                self._forward(call, headers)
                hung_up()
                return None
            case Fault.TWICE:
                self._forward(call, headers)
                return self._forward(call, headers)
            case Fault.UPDATE_FAILED:
                self._ask("PATCH", "/local/faults", {"updates_to_fail": 1})
                return self._forward(call, headers)
            case Fault.NOTHING:
                return 200, [("Content-Type", "application/json")], self._as_if_done(call)
            case _:
                status, code, message = ANSWERS[fault]
                body = json.dumps({"error_code": code, "message": message}).encode()
                return status, [("Content-Type", "application/json")], body

    def _forward(self, call: Call, headers: list[tuple[str, str]]) -> Answer:
        answer = self._send(call, headers)
        if call.writes:
            self._written(call)
        return answer

    def _send(self, call: Call, headers: list[tuple[str, str]]) -> Answer:
        upstream = http.client.HTTPConnection(self._host, timeout=60)
        try:
            upstream.request(
                call.method,
                call.path,
                body=call.body,
                headers={name: value for name, value in headers if name.lower() not in _HOP_BY_HOP},
            )
            answer = upstream.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
            return answer.status, kept, answer.read()
        finally:
            upstream.close()

    def _ask(self, method: str, path: str, body: object = None) -> bytes:
        headers = [("Authorization", f"Bearer {self._token}"), ("Content-Type", "application/json")]
        content = b"" if body is None else json.dumps(body).encode()
        status, _, answer = self._send(Call(method, path, content), headers)
        assert status == 200, answer
        return answer

    def _as_if_done(self, call: Call) -> bytes:
        """The answer of a workspace that has done it."""
        path = call.path.split("?")[0]
        if path == STATEMENTS:
            return json.dumps({"statement_id": "0" * 32, "status": {"state": "SUCCEEDED"}}).encode()
        if call.updates_endpoint and call.method == "PUT":
            return self._ask("GET", path.removesuffix("/config"))
        if call.updates_endpoint:
            state = {"ready": "NOT_READY", "config_update": "IN_PROGRESS"}
            return json.dumps({"name": call.json["name"], "id": "0" * 32, "state": state}).encode()
        return b"{}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: FaultyProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A run that was killed leaves broken connections behind; they are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = Call(self.command, self.path, body, self.headers.get(SITE_HEADER, ""))
        headers = [(name, value) for name, value in self.headers.items() if name != SITE_HEADER]
        answer = self.server.proxy.answer(call, headers, self._hung_up)
        if answer is None:
            self.close_connection = True
            return
        status, headers, content = answer
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        # One write for head and body: two would wait for each other's acknowledgement.
        self._headers_buffer.append(b"\r\n" + content)  # type: ignore[attr-defined]
        self.flush_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

    def _hung_up(self) -> None:
        self.connection.settimeout(_PATIENCE_SECONDS)
        self.rfile.read(1)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the calls are in the proxy's list."""
