"""The models an agent thinks with; with ``agent/crew.py`` the only home of CrewAI.

In come the settings, out goes a model. Promises of one that is called over the network: a call ends
in time and its answer is bounded, no more calls are in flight than is allowed, a request that is too
long for the model is shortened, and its failures are ours, without a word of what a server wrote.

``offline`` is a model of ours that needs no key: it plays an assistant well enough to
try the system and says plainly that it is only playing.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import structlog

# CrewAI reads these while it is imported: no telemetry, no traces, no writes into the home directory.
for _name, _value in {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_STORAGE_DIR": str(Path(tempfile.gettempdir()) / "chatbot-crewai"),
}.items():
    os.environ.setdefault(_name, _value)

from crewai_core.lock_store import set_lock_backend  # noqa: E402  # after the variables it reads
from crewai_core.user_data import has_user_declined_tracing, is_tracing_enabled, update_user_data  # noqa: E402

if not (has_user_declined_tracing() or is_tracing_enabled()):
    # As ``crewai traces disable`` does. Where nobody has decided, CrewAI collects what is said from its import
    # on, and asks on a terminal whether to upload it. Its own lock would need the Redis of REDIS_URL.
    set_lock_backend(lambda *_, **__: nullcontext())
    update_user_data({"first_execution_done": True, "trace_consent": False})
    set_lock_backend(None)

import crewai  # noqa: E402  # after the decision it reads
from crewai import LLM, BaseLLM  # noqa: E402
from crewai.llms.providers.openai.completion import OpenAICompletion  # noqa: E402
from pydantic import PrivateAttr  # noqa: E402

from chatbot.agent import prompt  # noqa: E402
from chatbot.agent.model_client import ModelClient, Slots  # noqa: E402
from chatbot.agent.model_errors import TooLong  # noqa: E402
from chatbot.agent.window import ASSUMED, Window, ask_server, fixed  # noqa: E402
from chatbot.config import Settings, SettingsError  # noqa: E402
from chatbot.errors import ChatbotError, Permanent, ServiceDown  # noqa: E402

log = structlog.get_logger(__name__)

OPENAI_COMPATIBLE_KEY = "none"
OPENAI_HOST = "api.openai.com"
OLLAMA_URL = "http://127.0.0.1:11434"
#: A message is cut down to so many characters before a request is given up as too long.
SHORTEST = 200


def _not_of_crewai(record: logging.LogRecord) -> bool:
    return not record.pathname.startswith(_CREWAI)


_CREWAI = str(Path(crewai.__file__).parent)


# CrewAI logs each failure of a call on the root logger, in the server's words; it raises it too, to us.
logging.getLogger().addFilter(_not_of_crewai)


def build(settings: Settings, slots: Slots | None = None) -> BaseLLM:
    """Return the model the settings name; no call is made. Raises ``SettingsError``.

    ``offline``; ``ollama/<model>``; any name with ``llm_base_url`` for an OpenAI-compatible
    server; otherwise a model of OpenAI. With ``llm_vision`` it is a ``SeeingLLM``. ``slots``
    bounds its calls in flight. Retries are ours (``conversation/turn.py``), so the client makes none;
    of CrewAI's other providers, CrewAI itself asks one that is busy (429) up to three times.
    """
    model, base_url = settings.llm_model, settings.llm_base_url
    if model == "offline":
        return OfflineLLM(model="offline", seconds=settings.offline_seconds)
    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
    limits: dict[str, Any] = {"timeout": settings.llm_timeout, "max_retries": 0}
    if settings.llm_temperature is not None:
        limits["temperature"] = settings.llm_temperature
    if model.startswith("ollama/"):
        model = model.removeprefix("ollama/")
        base_url = (base_url or OLLAMA_URL).removesuffix("/v1") + "/v1"
    elif not base_url and "/" in model.removeprefix("openai/"):
        return LLM(
            model=model, api_key=key, max_tokens=settings.llm_max_tokens, **limits
        )  # another provider of CrewAI's
    if not key and not base_url:
        raise SettingsError(f"CHATBOT_LLM_MODEL={model} needs a key: set CHATBOT_LLM_API_KEY (or OPENAI_API_KEY)")
    kind = SeeingLLM if settings.llm_vision else ServedLLM
    llm = kind(
        model=model.removeprefix("openai/"),
        base_url=base_url,
        api_key=key or OPENAI_COMPATIBLE_KEY,
        custom_openai=bool(base_url),
        **limits,
    )
    llm.serve(
        ModelClient(slots, base_url=base_url, api_key=key or OPENAI_COMPATIBLE_KEY, timeout=settings.llm_timeout),
        window=_window(settings, llm),
        answer=settings.llm_max_tokens,
    )
    return llm


def _window(settings: Settings, llm: ServedLLM) -> Window:
    if settings.llm_context:
        return fixed(settings.llm_context)
    if llm.base_url and not _is_openai(llm.base_url):
        base_url, model, key = llm.base_url, llm.model, llm.api_key or ""
        return Window(lambda: ask_server(base_url, model, key))
    return fixed(llm.get_context_window_size())


def _is_openai(url: str) -> bool:
    return urlsplit(url).hostname == OPENAI_HOST


class ServedLLM(OpenAICompletion):
    """A model behind an OpenAI-compatible API, whose requests are made to fit what it can read.

    The agent gives each turn a copy of its own (``for_turn``). A request that the server refuses as
    too long is made again with the older half of the past left out, until none is left, and then with
    the middle of the messages left out, visibly; what was left out once is left out for the whole turn.
    """

    _window: Window = PrivateAttr(default_factory=lambda: fixed(ASSUMED))
    _answer: int = PrivateAttr(1024)
    _past: int = PrivateAttr(0)
    _dropped: int = PrivateAttr(0)
    _longest: int = PrivateAttr(0)

    def serve(self, client: ModelClient, *, window: Window, answer: int) -> None:
        """Make its calls with ``client``; its context has the size of ``window``, its answers ``answer`` tokens."""
        self._client = client
        self._window = window
        self._answer = answer

    def room(self) -> int:
        """Return the tokens there are for a request, the agent's description included."""
        return self._window.tokens() - self.answer_tokens()

    def answer_tokens(self, times: int = 1) -> int:
        """Return the tokens an answer may have: what is set, ``times`` over, and at most a quarter of the context.

        Half of it for who asks a second time.
        """
        return min(self._answer * times, self._window.tokens() // (4 if times == 1 else 2))

    def for_turn(self, *, past: int, times: int = 1) -> Self:
        """Return a copy for one turn, of whose messages ``past`` are of the past."""
        copy = self.model_copy()
        copy._begin(past)  # noqa: SLF001  # it is one of these
        if self.base_url and not _is_openai(self.base_url):
            copy.max_tokens = self.answer_tokens(times)
        else:
            copy.max_completion_tokens = self.answer_tokens(times)  # what OpenAI's models that think insist on
        return copy

    def _begin(self, past: int) -> None:
        self._past, self._dropped, self._longest = past, 0, 0

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the model's answer, to as much of the messages as it can read."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        while True:
            try:
                return super().call(self._shown(self._fitted(messages)), *args, **kwargs)
            except TooLong:
                self._window.forget()
                self._shorten(messages)

    def _fitted(self, messages: list[Any]) -> list[Any]:
        lead = _lead(messages)
        kept = [*messages[:lead], *messages[lead + self._dropped :]]
        if not self._longest:
            return kept
        return [*kept[:lead], *(_cut(message, self._longest) for message in kept[lead:])]

    def _shorten(self, messages: list[Any]) -> None:
        """Leave more out from now on. Raises ``ServiceDown`` where nothing is left to be left out."""
        if self._dropped < self._past:
            self._dropped += max(2, (self._past - self._dropped + 2) // 4 * 2)
            log.info("model.past_left_out", messages=self._dropped, of=self._past)
            return
        shown = self._fitted(messages)
        longest = max((len(message["content"]) for message in shown[_lead(shown) :] if _has_text(message)), default=0)
        if longest <= SHORTEST:
            raise self._too_small()
        self._longest = max(longest // 2, SHORTEST)
        log.info("model.message_cut", chars=self._longest, of=longest)

    def _too_small(self) -> ChatbotError:
        return ServiceDown("the model's context does not even hold what the agent is: enlarge it (CHATBOT_LLM_CONTEXT)")

    def _shown(self, messages: list[Any]) -> list[Any]:
        return messages


def _lead(messages: list[Any]) -> int:
    """Return how many messages stand before the conversation."""
    return next((n for n, message in enumerate(messages) if message.get("role") != "system"), len(messages))


def _has_text(message: Any) -> bool:
    return isinstance(message.get("content"), str)


def _cut(message: Any, chars: int) -> Any:
    return {**message, "content": prompt.cut_to(message["content"], chars)} if _has_text(message) else message


class SeeingLLM(ServedLLM):
    """A model behind an OpenAI-compatible API that is shown an image beside what was written.

    CrewAI makes plain text of the message that it is asked to answer, so the image joins it
    here, on its last way out: no token is counted for it but ``IMAGE_TOKENS``.
    """

    _image: str = PrivateAttr("")
    _beside: str = PrivateAttr("")

    def show(self, image: str, *, beside: str) -> None:
        """Show ``image``, a data URL, in every call: with the last user message that holds ``beside``."""
        self._image, self._beside = image, beside

    def _shown(self, messages: list[Any]) -> list[Any]:
        return self._with_image(messages) if self._image else messages

    def _too_small(self) -> ChatbotError:
        return Permanent("the image is too large for the model's context") if self._image else super()._too_small()

    def _with_image(self, messages: list[Any]) -> list[Any]:
        asked = [n for n, message in enumerate(messages) if message["role"] == "user"]
        place = next((n for n in reversed(asked) if self._beside in str(messages[n]["content"])), asked[-1])
        parts = [
            {"type": "text", "text": messages[place]["content"]},
            {"type": "image_url", "image_url": {"url": self._image}},
        ]
        # The executor keeps its list for the next call: the image must not be in it twice.
        return [*messages[:place], {**messages[place], "content": parts}, *messages[place + 1 :]]


class OfflineLLM(BaseLLM):
    """A pretend model: no network, no key, no intelligence, but it does use the conversation.

    It learns a name from "meu nome é …" (or "me chamo", "my name is", "me llamo") and tells
    it again when asked; everything else it repeats, with the number of the message. It takes
    ``seconds`` for that, by way of ``pause``, so that a page can show that it is typing.
    """

    seconds: float = 0.0
    pause: Callable[[float], None] = time.sleep

    def call(self, messages: Any, *_: Any, **__: Any) -> str:
        """Return a reply to the last user message, from the messages alone."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        self.pause(self.seconds)
        said = [_text(message) for message in messages if message.get("role") == "user"]
        return offline_reply(said)

    def supports_function_calling(self) -> bool:
        """Return that tools are beyond this model."""
        return False

    def get_input_tokens_count(self, messages: Any, *_: Any, **__: Any) -> int:
        """Return a rough count: four characters a token."""
        return len(str(messages)) // 4

    def get_context_window_size(self) -> int:
        """Return a size (in tokens) that no conversation reaches."""
        return 1_000_000


_NAMED = re.compile(
    r"(?:meu nome (?:é|eh|e)|me chamo|my name is|me llamo|mi nombre es)\s+([^\W\d_][\w'-]*(?: [A-ZÀ-Þ][\w'-]*)*)",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"(?:qual|sabe|lembra).{0,20}\bmeu nome|what.{0,6} my name|know my name"
    r"|(?:cuál|cual).{0,6} mi nombre|como me llamo",
    re.IGNORECASE,
)
_OPTIONS = re.compile(r"\b(?:opções|opcoes|options|opciones)\b", re.IGNORECASE)


def offline_reply(said: list[str]) -> str:
    """Return the pretend model's reply to the last of what one person said."""
    last = said[-1].strip() if said else ""
    names = [match.group(1) for text in said if (match := _NAMED.search(text))]
    if _ASKED.search(last):
        return f"Seu nome é {names[-1]}." if names else "Você ainda não me disse o seu nome."
    if match := _NAMED.search(last):
        return f"Prazer, {match.group(1)}! Vou me lembrar do seu nome."
    if _OPTIONS.search(last):
        return "Sobre o que quer falar?\n[[Preços]]\n[[Entrega]]\n[[Outra coisa]]"
    if len(said) <= 1:
        return f"Olá! Sou um modelo offline de demonstração, sem inteligência de verdade. Você disse: {last}"
    return f"Você disse: {last} (mensagem {len(said)} desta conversa)"


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""
