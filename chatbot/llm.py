"""The models an agent thinks with; with ``agent.py`` the only home of CrewAI.

``offline`` is a model of ours that needs no key: it plays an assistant well enough to
try the system and says plainly that it is only playing.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

# CrewAI reads these while it is imported: no telemetry, no tracing prompts, no writes
# into the home directory.
for _name, _value in {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "OTEL_SDK_DISABLED": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TESTING": "true",
    "CREWAI_STORAGE_DIR": str(Path(tempfile.gettempdir()) / "chatbot-crewai"),
}.items():
    os.environ.setdefault(_name, _value)

from crewai import LLM, BaseLLM  # noqa: E402  # after the variables it reads
from crewai.llms.providers.openai.completion import OpenAICompletion  # noqa: E402
from openai.resources.chat import Completions  # noqa: E402
from pydantic import PrivateAttr  # noqa: E402

from chatbot.config import Settings  # noqa: E402

OPENAI_COMPATIBLE_KEY = "none"
OLLAMA_URL = "http://127.0.0.1:11434"


def build(settings: Settings) -> BaseLLM:
    """Return the model the settings name; no call is made.

    ``offline``; ``ollama/<model>``; any name with ``llm_base_url`` for an
    OpenAI-compatible server; otherwise a model of OpenAI. With ``llm_vision`` it is a
    ``SeeingLLM``. Retries are ours (``conversation.py``), so the client makes none.
    """
    llm = _model(settings)
    client = llm._client if isinstance(llm, OpenAICompletion) else None  # noqa: SLF001  # CrewAI gives no other way
    if client is not None:  # there is none without a key
        client.chat.completions = _Completions(client)
    return llm


def _model(settings: Settings) -> BaseLLM:
    model = settings.llm_model
    if model == "offline":
        return OfflineLLM(model="offline")
    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
    limits: dict[str, Any] = {"timeout": settings.llm_timeout, "max_retries": 0}
    if settings.llm_vision:
        return _seeing(model, settings.llm_base_url, key, limits)
    if model.startswith("ollama/"):
        return LLM(model=model, base_url=settings.llm_base_url or OLLAMA_URL, **limits)
    if settings.llm_base_url:
        key = key or OPENAI_COMPATIBLE_KEY
        return LLM(model=model, provider="openai", base_url=settings.llm_base_url, api_key=key, **limits)
    return LLM(model=model, api_key=key, **limits)


def _seeing(model: str, base_url: str | None, key: str | None, limits: dict[str, Any]) -> SeeingLLM:
    if model.startswith("ollama/"):
        model = model.removeprefix("ollama/")
        base_url = (base_url or OLLAMA_URL).removesuffix("/v1") + "/v1"
    key = key or (OPENAI_COMPATIBLE_KEY if base_url else None)
    return SeeingLLM(model=model.removeprefix("openai/"), base_url=base_url, api_key=key, **limits)


class _Completions(Completions):
    """OpenAI's chat completions; their messages go out as they are.

    The client walks each message through every type it could be of, to rename fields that
    none has: 0.2 ms of CPU a message, most of what a call with a long past costs. What
    stands in ``extra_body`` it only encodes.
    """

    def create(self, *, messages: Any, extra_body: Any = None, **options: Any) -> Any:
        """Return the model's answer to ``messages``, which are JSON already."""
        return super().create(messages=[], extra_body={**(extra_body or {}), "messages": messages}, **options)


class SeeingLLM(OpenAICompletion):
    """A model behind an OpenAI-compatible API that is shown an image beside what was written.

    CrewAI makes plain text of the message that it is asked to answer, so the image joins it
    here, on its last way out: no summary is made of it and no token is counted for it.
    """

    _image: str = PrivateAttr("")
    _beside: str = PrivateAttr("")

    def show(self, image: str, *, beside: str) -> None:
        """Show ``image``, a data URL, in every call: with the last user message that holds ``beside``."""
        self._image, self._beside = image, beside

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the model's answer to the messages and the image, if there is one."""
        return super().call(self._with_image(messages) if self._image else messages, *args, **kwargs)

    def _with_image(self, messages: Any) -> list[Any]:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
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
    it again when asked; everything else it repeats, with the number of the message.
    """

    def call(self, messages: Any, *_: Any, **__: Any) -> str:
        """Return a reply to the last user message, from the messages alone."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
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
