"""A chat endpoint on this machine that gives scripted answers, one a request, and keeps what it was sent."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test/0123456789-abcdefghij+KLMNOP="  # a secret: no test may find it in a file or an output
CLASSES = ("benign", "malignant", "normal")


@dataclass
class Asked:
    """A request as it came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What to send back: a status, a body, headers, and how long to wait first and before the last byte."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    trickle_s: float = 0.0


def texts(n: int = 2, classes: tuple[str, ...] = CLASSES) -> dict[str, list[str]]:
    """N different descriptions a class."""
    return {label: [f"an image of {label} tissue, number {k}" for k in range(n)] for label in classes}


def says(content: Any, ended: str = "stop", **message: Any) -> Answer:
    """A chat completion whose message is `content`: text as it is, anything else as JSON."""
    content = content if isinstance(content, str) or content is None else json.dumps(content)
    return Answer(json.dumps({
        "model": "writer-2026-01-01", "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
        "choices": [{"finish_reason": ended, "message": {"role": "assistant", "content": content, **message}}],
    }))  # fmt: skip


def fails(status: int, message: str = "", **headers: str) -> Answer:
    """An error as OpenAI words it; header names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(json.dumps({"error": {"message": message}}), status, named)


@dataclass
class Endpoint:
    """A running endpoint: its address, and the requests it was sent."""

    url: str
    asked: list[Asked]


@contextlib.contextmanager
def serving(*answers: Answer) -> Iterator[Endpoint]:
    """An endpoint that gives these answers in turn, and the last one ever after."""
    asked: list[Asked] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(lambda k: answers[min(k, len(answers) - 1)], asked))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Endpoint(f"http://127.0.0.1:{server.server_port}/v1", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(answer: Callable[[int], Answer], asked: list[Asked]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            asked.append(Asked(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            given = answer(len(asked) - 1)
            time.sleep(given.wait_s)
            with contextlib.suppress(OSError):  # the client may have given up
                self._send(given)

        def _send(self, given: Answer) -> None:
            data = given.body.encode("utf-8", "surrogatepass")
            self.send_response(given.status)
            for name, value in {"Content-Length": str(len(data)), **given.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if given.trickle_s:
                for k in range(len(data)):
                    self.wfile.write(data[k : k + 1])
                    time.sleep(given.trickle_s)
            else:
                self.wfile.write(data)

        def do_GET(self) -> None:
            self.do_POST()  # a client that follows a redirect comes with GET

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
