"""OpenAI's client as we use it: a call takes its place, ends in time, and fails with our errors.

In come the requests that CrewAI makes, out go their answers. Promises: no more calls are in flight
than ``slots`` has places, and waiting for one is no part of a call's time; a call is over after
``timeout`` seconds and its answer has at most ``MOST_BYTES``; what is no completion is a failure of
the service; what is raised holds no word of what a server wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from openai import APIStatusError, APITimeoutError, OpenAI, OpenAIError
from openai.resources.chat import Completions
from pydantic import BaseModel

from chatbot.agent import model_errors
from chatbot.agent.model_errors import Filtered
from chatbot.errors import ChatbotError, ModelTimeout, ServiceDown, Transient
from chatbot.http import CONNECT_SECONDS, client

#: An answer of so many bytes is none.
MOST_BYTES = 8 * 1024 * 1024
#: Modules of the classes that a turn makes use of.
_USED = ("openai.types.chat.", "openai.types.completion_usage", "openai.types.shared.", "crewai.")
#: A call waits this long for its place among the calls in flight.
PLACE_SECONDS = 60.0


class Slots(Protocol):
    """Bounds the calls that are in flight (``store/slots.py``)."""

    def held(self, *, wait: float) -> AbstractContextManager[None]:
        """Hold a place within the block. Raises ``NoRoom`` when none was free for ``wait`` seconds."""


@dataclass(slots=True)
class Heard:
    """What came with the text of the last answer: why it ended, and how many answers there were."""

    finish: str = ""
    answers: int = 0


_heard: ContextVar[Heard | None] = ContextVar("heard", default=None)


@contextmanager
def listening() -> Iterator[Heard]:
    """Yield what is heard beside the texts of the answers within the block."""
    heard = Heard()
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


def finish_classes() -> None:
    """Have pydantic finish the classes of answers and of CrewAI's events, which it leaves for their first use.

    Two threads that use one for the first time at once break each other, and the first turns of a worker
    come together.
    """
    unseen: list[type[BaseModel]] = [BaseModel]
    while unseen:
        found = unseen.pop().__subclasses__()
        unseen += found
        for model in found:
            if model.__module__.startswith(_USED):
                model.model_rebuild(raise_errors=False)


class ModelClient(OpenAI):
    """Makes the calls to one model's server; safe to use from many threads."""

    def __init__(self, slots: Slots | None, *, base_url: str | None, api_key: str, timeout: float) -> None:
        super().__init__(
            base_url=base_url,
            api_key=api_key,
            max_retries=0,
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
            http_client=client(timeout=timeout, max_bytes=MOST_BYTES),
        )
        self._slots = slots
        finish_classes()
        self.chat.completions = _Completions(self)  # type: ignore[misc]  # a cached property

    def request(self, cast_to: Any, options: Any, **how: Any) -> Any:
        """Return the answer. Raises ``ChatbotError``."""
        answer, failed = None, None
        with self._slots.held(wait=PLACE_SECONDS) if self._slots else nullcontext():
            try:
                answer = super().request(cast_to, options, **how)
            except OpenAIError as err:
                failed = failure(err)
            except (ValueError, RecursionError, httpx.HTTPError) as err:  # JSON that is none
                failed = ServiceDown(f"the model's server answered with no answer: {type(err).__name__}")
        if failed:
            raise failed  # out here: CrewAI asks again where a 429 is in the context of an error
        raw = getattr(answer, "http_response", None)  # of ``with_raw_response``, which CrewAI asks with
        if isinstance(raw, httpx.Response):
            _listen(raw.text)
        return answer


def _listen(body: str) -> None:
    """Note what came with an answer. Raises ``ServiceDown`` where it is none, ``Filtered``."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ServiceDown("the model's server answered with no JSON object")
    choices = content.get("choices")
    if content.get("error") and not choices:
        raise model_errors.in_answer(content["error"])
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict) or _is_odd(message.get("content")):
        raise ServiceDown("the model's server answered with no completion")
    finish = choice.get("finish_reason")
    if finish == "error":
        raise ServiceDown("the model's server ended its answer with an error")
    if finish == "content_filter" or (message.get("refusal") and not message.get("content")):
        raise Filtered("a content filter ended the answer")
    if heard := _heard.get():
        heard.finish = str(finish)
        heard.answers += 1


def _is_odd(content: Any) -> bool:
    return content is not None and not isinstance(content, str | list)


#: Words of an error that CrewAI goes by; whatever else stands there may be what somebody wrote.
_CREWAI_GOES_BY = (
    "only supported in v1/responses", "not a chat model", "function tools", "reasoning_effort", "unknown field",
    "unsupported parameter", "unrecognized request argument", "unknown parameter", "unknown argument",
    "extra inputs", "not permitted", "does not support tools", "doesn't support tools", "tools are not supported",
    "tool calling is not supported", "tool calls are not supported", "function calling is not supported",
    "does not support function calling",
)  # fmt: skip
_FALLBACKS = ("v1/responses", "not a chat model", "reasoning_effort", "tools", "call")


def failure(err: BaseException) -> Exception:
    """Return what a failure of OpenAI's client or of CrewAI's means, without a word of theirs.

    One that CrewAI knows a way around stays what it is, with the words that it goes by.
    """
    if isinstance(err, ChatbotError):
        return err
    return _refused(err) if isinstance(err, APIStatusError) else _unanswered(err)


def _unanswered(err: BaseException) -> Transient:
    cause = err.__cause__ or err
    if isinstance(cause, httpx.PoolTimeout):
        return Transient("every connection to the model's server is in use")
    if isinstance(err, APITimeoutError) and not isinstance(cause, httpx.ConnectTimeout):
        return ModelTimeout("the model did not answer in time")
    return ServiceDown(f"the model's server gave no answer: {type(cause).__name__}")


def _refused(err: APIStatusError) -> Exception:
    words = str(err)[: model_errors.LONGEST].lower()
    known = ", ".join(phrase for phrase in _CREWAI_GOES_BY if phrase in words)
    if err.status_code in {400, 404, 422, 501} and any(phrase in known for phrase in _FALLBACKS):
        param = "reasoning_effort" if "reasoning_effort" in known else None
        return type(err)(known, response=err.response, body={"message": known, "param": param})
    pause = model_errors.pause(err.response.headers.get("retry-after"))
    return model_errors.meaning(err.status_code, err.response.text, retry_after=pause)


class _Completions(Completions):
    """OpenAI's chat completions; their messages go out as they are.

    The client walks each message through every type it could be of, to rename fields that
    none has: 0.2 ms of CPU a message, most of what a call with a long past costs. What
    stands in ``extra_body`` it only encodes.
    """

    def create(self, *, messages: Any, extra_body: Any = None, **options: Any) -> Any:
        """Return the model's answer to ``messages``, which are JSON already."""
        return super().create(messages=[], extra_body={**(extra_body or {}), "messages": messages}, **options)
