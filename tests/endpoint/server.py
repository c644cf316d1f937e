"""A server that answers chat completions as a test tells it to, well or badly, and remembers what it served.

with Server(lambda call: Act(status=503) if call.number == 1 else Act()) as server:
    ... server.url, server.calls, server.served
"""

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Call:
    """A request as it came in; `nth` counts those with the same body."""

    number: int
    nth: int
    body: dict[str, Any]
    headers: Mapping[str, str]
    path: str
    at: float

    @property
    def prompt(self) -> str:
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Act:
    """What to do with it. kind: answer; reset, before or in the middle; half of the JSON; hang; trickle a byte at a time."""

    status: int = 200
    text: str | None = None  # None: the prompt, reversed
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # before it answers
    kind: str = "answer"
    finish: str = "stop"
    content: bytes | None = None  # in place of a completion or an error
    usage: tuple[int, int] | None = (10, 5)
    closes: bool = False  # the connection, afterwards


class Server:
    """Use it as a context manager. Everything it remembers may be read while it runs."""

    def __init__(self, rule: Callable[[Call], Act] = lambda call: Act()) -> None:
        self.rule = rule
        self.calls: list[Call] = []
        self.served: list[tuple[float, str]] = []  # when a whole completion was handed over, and its prompt
        self.under_way = self.most_under_way = self.connections = 0
        self._lock = threading.Lock()
        self._bodies: Counter[str] = Counter()
        self._ended = threading.Event()
        self._http = _Http(("127.0.0.1", 0), self)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()

    def took(self, body: dict[str, Any], headers: Mapping[str, str], path: str) -> Call:
        with self._lock:
            text = json.dumps(body, sort_keys=True)
            self._bodies[text] += 1
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            call = Call(len(self.calls) + 1, self._bodies[text], body, headers, path, time.monotonic())
            self.calls.append(call)
            return call

    def gave(self, call: Call, whole: bool) -> None:
        with self._lock:
            self.under_way -= 1
            if whole:
                self.served.append((time.monotonic(), call.prompt))

    def wait(self, seconds: float) -> None:
        self._ended.wait(seconds)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, place: tuple[str, int], owner: Server) -> None:
        super().__init__(place, _Handler)
        self.owner = owner

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is none of this server's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.server.owner.connections += 1

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_POST(self) -> None:
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = owner.took(body, dict(self.headers.items()), self.path)
        whole = False
        try:
            act = owner.rule(call)
            owner.wait(act.seconds)
            self.close_connection = act.closes or act.kind != "answer"
            whole = (
                getattr(self, f"_{act.kind}")(act, self._content(call, act))
                and act.status == 200
                and act.content is None
            )
        finally:
            owner.gave(call, bool(whole))

    def _content(self, call: Call, act: Act) -> bytes:
        if act.content is not None:
            return act.content
        if act.status != 200:
            return json.dumps({"error": {"message": f"told to say {act.status}", "code": "told"}}).encode()
        text = call.prompt[::-1] if act.text is None else act.text
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": act.finish}
        content: dict[str, Any] = {"object": "chat.completion", "choices": [choice]}
        if act.usage is not None:
            content["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), act.usage, strict=True))
        return json.dumps(content).encode()

    def _head(self, act: Act, length: int) -> None:
        self.send_response(act.status)
        given = {"Content-Type": "application/json", "Content-Length": str(length)} | dict(act.headers)
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, act: Act, content: bytes) -> bool:
        self._head(act, len(content))
        self.wfile.write(content)
        return True

    def _half(self, act: Act, content: bytes) -> bool:
        """A whole HTTP answer with half of the JSON in it."""
        self._answer(act, content[: len(content) // 2])
        return False

    def _short(self, act: Act, content: bytes) -> bool:
        """Fewer bytes than were announced, then the end."""
        self._head(act, len(content))
        self.wfile.write(content[: len(content) // 2])
        return False

    def _reset(self, act: Act, content: bytes) -> bool:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        return False

    def _hang(self, act: Act, content: bytes) -> bool:
        self.server.owner.wait(30)
        return False

    def _trickle(self, act: Act, content: bytes) -> bool:
        self._head(act, len(content))
        for place in range(len(content)):
            self.wfile.write(content[place : place + 1])
            self.wfile.flush()
            self.server.owner.wait(0.05)
        return False
