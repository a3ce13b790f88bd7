"""An OpenAI-compatible model for tests: echoes what it was sent and keeps a record of it.

``POST /v1/chat/completions`` answers with the last user message and the number of
messages. Each call is kept with its start and end, so that a test can see which turns
overlapped and whose words reached whose prompt. ``POST /<asker>/v1/…`` does the same and
notes who asked. With a ``context`` it refuses what is too long, in the words of one of ``SERVERS``,
and says how large its context is where that server would.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its messages (role, content), when it was being answered, and by whom it was made.

    ``status`` is that of the answer, 0 where there was none; ``images`` are the data URLs in
    the user messages, ``options`` whatever else was asked for.
    """

    number: int
    messages: tuple[tuple[str, str], ...]
    began: float
    ended: float
    asker: str = ""
    status: int = 200
    images: tuple[str, ...] = ()
    port: int = 0  # of the connection, at the end of who asked
    options: dict[str, Any] = field(default_factory=dict)

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


#: How servers refuse a prompt of ``{n}`` tokens, of which ``{c}`` fit; ``{a}`` are for the answer.
SERVERS: dict[str, tuple[int, Any]] = {
    "llama.cpp": (400, {"error": {"code": 400, "message": "the request exceeds the available context size, "
                 "try increasing it", "type": "exceed_context_size_error", "n_prompt_tokens": 0, "n_ctx": 0}}),
    "llama.cpp, older": (500, {"error": {"code": 500, "message": "context size exceeded", "type": "server_error"}}),
    "LM Studio": (400, {"error": "Trying to keep the first {n} tokens when context the overflows. However, the model "
                 "is loaded with context length of only {c} tokens, which is not enough. Try to load the model with a "
                 "larger context length, or provide a shorter input"}),
    "vLLM": (400, {"object": "error", "message": "This model's maximum context length is {c} tokens. However, you "
            "requested {t} tokens ({n} in the messages, {a} in the completion). Please reduce the length of the "
            "messages or completion.", "type": "BadRequestError", "param": None, "code": 400}),
    "OpenAI": (400, {"error": {"message": "This model's maximum context length is {c} tokens. However, your messages "
              "resulted in {n} tokens. Please reduce the length of the messages.", "type": "invalid_request_error",
              "param": "messages", "code": "context_length_exceeded"}}),
    "Ollama": (400, {"error": {"message": "the input length exceeds the context length", "type": "api_error",
              "param": None, "code": None}}),
}  # fmt: skip
#: Servers that want room for the answer too.
WITH_ANSWER = {"vLLM", "OpenAI"}


def tokens(call: Call, letters: int) -> int:
    """Return the tokens of a prompt: so many letters of a word are one, whatever else is there one each."""
    pieces = re.compile(rf"\w{{1,{letters}}}|[^\w\s]|\n")
    return sum(len(pieces.findall(content)) + 5 for _, content in call.messages)


class HangUp(Exception):
    """Raised by a script: the connection ends without an answer."""


class StubLLM:
    """The server; ``url`` ends in ``/v1``. ``delay`` in seconds holds every answer back.

    ``script`` is asked first, with the call: it may return ``(status, body)`` or
    ``(status, body, headers)`` to answer with instead, or raise ``HangUp``. With
    ``numbered`` each answer ends in `` #<number of the call>``. ``server`` is one of
    ``SERVERS``, whose model has ``context`` tokens of so many ``letters``; ``tells`` says whether
    it answers who asks for that.
    """

    def __init__(
        self, *, delay: float = 0.0, numbered: bool = False,
        server: str = "", context: int = 0, letters: int = 4, tells: bool = False,
    ) -> None:  # fmt: skip
        self.delay = delay
        self._server_kind = server
        self._context = context
        self._letters = letters
        self._tells = tells
        self.asked_for: list[str] = []
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

            def do_GET(self) -> None:
                stub._tell(self)

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
        if "messages" not in body:
            self._tell(request)
            return
        messages = tuple((m["role"], "".join(part.get("text", "") for part in parts(m))) for m in body["messages"])
        images = tuple(part["image_url"]["url"] for m in body["messages"] for part in parts(m) if "image_url" in part)
        asker = request.path.split("/v1/")[0].strip("/")
        port = request.client_address[1]
        options = {name: value for name, value in body.items() if name != "messages"}
        call = Call(next(self._numbers), messages, began, began, asker, images=images, options=options, port=port)
        try:
            scripted = self._refusal(call) or (self.script(call) if self.script else None)
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

    def _refusal(self, call: Call) -> Any:
        if not self._context:
            return None
        answer = call.options.get("max_tokens") or call.options.get("max_completion_tokens") or 0
        has = tokens(call, self._letters)
        if has + (answer if self._server_kind in WITH_ANSWER else 0) <= self._context:
            return None
        status, body = SERVERS[self._server_kind]
        words = json.dumps(body)
        for name, value in (("n", has), ("c", self._context), ("a", answer), ("t", has + answer)):
            words = words.replace(f"{{{name}}}", str(value))
        return status, words.encode()

    def _tell(self, request: BaseHTTPRequestHandler) -> None:
        """Answer who asks for the size of the context, as that server does."""
        self.asked_for.append(request.path)
        n = self._context
        told = {
            "llama.cpp": {"/props": {"default_generation_settings": {"n_ctx": n}, "total_slots": 1}},
            "LM Studio": {"/api/v0/models": {"data": [{"id": "stub", "loaded_context_length": n}]}},
            "vLLM": {"/v1/models": {"object": "list", "data": [{"id": "stub", "max_model_len": n}]}},
            "Ollama": {"/api/ps": {"models": [{"name": "stub:latest", "context_length": n}]}},
        }.get(self._server_kind, {})
        body = told.get(request.path) if self._tells else None
        payload = json.dumps(body or {"error": "not found"}).encode()
        request.send_response(200 if body else 404)
        request.send_header("Content-Length", str(len(payload)))
        request.end_headers()
        request.wfile.write(payload)

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
