"""An OpenAI-compatible model for tests: echoes what it was sent and keeps a record of it.

``POST /v1/chat/completions`` answers with the last user message and the number of
messages. Each call is kept with its start and end, so that a test can see which turns
overlapped and whose words reached whose prompt.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its messages (role, content) and when it was being answered."""

    messages: tuple[tuple[str, str], ...]
    began: float
    ended: float

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


class StubLLM:
    """The server; ``url`` ends in ``/v1``. ``delay`` in seconds holds every answer back.

    ``script`` is asked first: it may return ``(status, body)`` to answer with instead.
    """

    def __init__(self, *, delay: float = 0.0) -> None:
        self.delay = delay
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

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        began = time.monotonic()
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        messages = tuple((m["role"], str(m.get("content") or "")) for m in body["messages"])
        scripted = self.script(messages) if self.script else None
        time.sleep(self.delay)
        call = Call(messages, began, time.monotonic())
        with self._lock:
            self.calls.append(call)
        status, answer = scripted or (200, _completion(f"eco: {call.asked}"))
        payload = json.dumps(answer).encode()
        try:
            request.send_response(status)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(payload)))
            request.end_headers()
            request.wfile.write(payload)
        except ConnectionError:
            pass  # the worker that asked was killed


def _completion(text: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
