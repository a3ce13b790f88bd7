"""How many tokens a model's context holds: set, told by its server, or assumed.

In come what the settings say and a server's address, out goes a number. Promises: a server is asked
within a turn, not at start, for ``SECONDS`` at most and by one turn at a time; what it said is kept
until a request turns out to be too long; one that says nothing is asked again after a while.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import structlog

from chatbot.errors import ChatbotError
from chatbot.http import Service

log = structlog.get_logger(__name__)

#: Tokens that are assumed where nobody says: what common servers are started with and more.
ASSUMED = 8_192
#: What Ollama loads a model with unless it is told otherwise.
OLLAMA_LOADS = 4_096
#: One question may take this long.
SECONDS = 2.0
#: A server that said nothing is asked again after so many seconds.
AGAIN_SECONDS = 60.0
#: OpenRouter's list of models has about 1 MB.
MOST_BYTES = 8 * 1024 * 1024


class Window:
    """The context of one model, in tokens; safe to use from many threads.

    ``ask`` returns what the server says, ``None`` where it does not.
    """

    def __init__(
        self, ask: Callable[[], int | None], *, assumed: int = ASSUMED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._assumed = assumed
        self._clock = clock
        self._asking = threading.Lock()
        self._told: int | None = None
        self._known = False
        self._next = 0.0

    def tokens(self) -> int:
        """Return how many tokens the context holds."""
        if not self._known and self._clock() >= self._next and self._asking.acquire(blocking=False):
            try:
                self._told = self._ask()
                self._known = self._told is not None
                self._next = self._clock() + AGAIN_SECONDS
                log.info("model.context", tokens=self._told or self._assumed, told=self._known)
            finally:
                self._asking.release()
        return self._told or self._assumed

    def forget(self) -> None:
        """Ask again, but not more often than others are: a request was too long, it may be smaller by now."""
        self._known = False


def fixed(tokens: int) -> Window:
    """Return a context of a size that is known."""
    return Window(lambda: tokens)


def ask_server(base_url: str, model: str, key: str) -> int | None:
    """Return the tokens that the server at ``base_url`` (which ends in ``/v1``) says its model has, if it does."""
    service = Service(
        "the model's server",
        setting="CHATBOT_LLM_API_KEY",
        timeout=SECONDS,
        max_bytes=MOST_BYTES,
        headers={b"Authorization": f"Bearer {key}".encode()},
    )
    try:
        return next(filter(None, _answers(service, base_url.rstrip("/"), model)), None)
    except ChatbotError:
        return None
    finally:
        service.close()


def _answers(service: Service, base: str, model: str) -> Iterator[int | None]:
    root = f"{urlsplit(base).scheme}://{urlsplit(base).netloc}" if base.endswith("/v1") else base
    yield from _listed(_get(service, f"{base}/models"), model)
    yield _llama_cpp(_get(service, f"{root}/props"))
    yield from _listed(_get(service, f"{root}/api/v0/models"), model)
    yield from _ollama(service, root, model)


def _listed(content: Any, model: str) -> Iterator[int | None]:
    """Yield what a list of models says: vLLM and SGLang, LM Studio, OpenRouter, Groq."""
    entries = content.get("data") if isinstance(content, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("id") == model:
            for name in ("max_model_len", "loaded_context_length", "context_length", "context_window"):
                yield _number(entry.get(name))


def _llama_cpp(content: Any) -> int | None:
    """Return what one slot of a llama.cpp server holds."""
    settings = content.get("default_generation_settings") if isinstance(content, dict) else None
    return _number(settings.get("n_ctx")) if isinstance(settings, dict) else None


def _ollama(service: Service, root: str, model: str) -> Iterator[int | None]:
    """Yield what Ollama has loaded the model with, or will load it with; its ``context_length`` is what it could."""
    running = _get(service, f"{root}/api/ps")
    loaded = running.get("models") if isinstance(running, dict) else None
    for entry in loaded if isinstance(loaded, list) else []:
        if isinstance(entry, dict) and model in {entry.get("name"), str(entry.get("name")).removesuffix(":latest")}:
            yield _number(entry.get("context_length"))
    shown = _get(service, f"{root}/api/show", {"model": model})
    if not isinstance(shown, dict) or not isinstance(shown.get("model_info"), dict):
        return
    chosen = re.search(r"^num_ctx\s+(\d{1,9})", str(shown.get("parameters"))[:10_000], re.MULTILINE)
    yield int(chosen[1]) if chosen else None
    could = [_number(value) for name, value in shown["model_info"].items() if name.endswith(".context_length")]
    yield min([OLLAMA_LOADS, *filter(None, could)])


def _get(service: Service, url: str, asked: dict[str, str] | None = None) -> Any:
    """Return the JSON at an address, ``None`` where there is none. Raises ``ChatbotError`` where nobody answers."""
    with service.calling():
        answer = service.client().post(url, json=asked) if asked else service.client().get(url)
    try:
        return json.loads(answer.content) if answer.is_success else None
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
