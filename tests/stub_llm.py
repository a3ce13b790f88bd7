"""An OpenAI-compatible model for tests: echoes what it was sent and keeps a record of it.

``POST /v1/chat/completions`` answers with the last user message and the number of
messages. Each call is kept with its start and end, so that a test can see which turns
overlapped and whose words reached whose prompt. ``POST /<asker>/v1/…`` does the same and
notes who asked.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its messages (role, content), when it was being answered, and by whom it was made.

    ``status`` is that of the answer, 0 where there was none; ``images`` are the data URLs in
    the user messages.
    """

    number: int
    messages: tuple[tuple[str, str], ...]
    began: float
    ended: float
    asker: str = ""
    status: int = 200
    images: tuple[str, ...] = ()
    port: int = 0  # of the connection, at the end of who asked

    @property
    def asked(self) -> str:
        """The last user message, without CrewAI's wording around it."""
        return plain([content for role, content in self.messages if role == "user"][-1])

    @property
    def said(self) -> list[str]:
        """Every user message."""
        return [plain(content) for role, content in self.messages if role == "user"]


def plain(content: str) -> str:
    """Return a user message without CrewAI's wording around it."""
    text = content.strip().removeprefix("Current Task:")
    return text.strip().removesuffix("Provide your complete response:").strip()


def parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of a message's content; a plain text is one."""
    content = message.get("content") or ""
    return content if isinstance(content, list) else [{"type": "text", "text": str(content)}]


class HangUp(Exception):
    """Raised by a script: the connection ends without an answer."""


class StubLLM:
    """The server; ``url`` ends in ``/v1``. ``delay`` in seconds holds every answer back.

    ``script`` is asked first, with the call: it may return ``(status, body)`` or
    ``(status, body, headers)`` to answer with instead, or raise ``HangUp``. With
    ``numbered`` each answer ends in `` #<number of the call>``.
    """

    def __init__(self, *, delay: float = 0.0, numbered: bool = False) -> None:
        self.delay = delay
        self._numbered = numbered
        self._numbers = itertools.count(1)
        self.calls: list[Call] = []
        self.script: Any = None
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                stub._answer(self)

            def log_message(self, *_: Any) -> None:
                """Stay silent."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None:
                """Stay silent: whoever asked was killed."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = self.url_for("")
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def url_for(self, asker: str) -> str:
        """Return the base URL under which calls are noted as made by ``asker``."""
        return "/".join(part for part in (f"http://127.0.0.1:{self._server.server_port}", asker, "v1") if part)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        began = time.monotonic()
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        messages = tuple((m["role"], "".join(part.get("text", "") for part in parts(m))) for m in body["messages"])
        images = tuple(part["image_url"]["url"] for m in body["messages"] for part in parts(m) if "image_url" in part)
        asker = request.path.split("/v1/")[0].strip("/")
        port = request.client_address[1]
        call = Call(next(self._numbers), messages, began, began, asker, images=images, port=port)
        try:
            scripted = self.script(call) if self.script else None
        except HangUp:
            self._keep(call, 0)
            request.close_connection = True
            return
        time.sleep(self.delay)
        mark = f" #{call.number}" if self._numbered else ""
        status, answer, *headers = scripted or (200, completion(f"eco: {call.asked}{mark}"))
        payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self._keep(call, status)
        try:
            request.send_response(status)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(payload)))
            for name, value in (headers[0] if headers else {}).items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(payload)
        except ConnectionError:
            pass  # the worker that asked was killed

    def _keep(self, call: Call, status: int) -> None:
        with self._lock:
            self.calls.append(replace(call, ended=time.monotonic(), status=status))


def completion(text: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
