"""The agent: CrewAI, asked one turn at a time.

In come a message and the past; out goes the text of a reply. Promise: nothing is kept
between turns, so no user's words can reach another's prompt: no CrewAI memory, one copy of
the shared model's counters a turn, and a fresh ``Agent`` wherever one keeps state.

CrewAI words the system prompt, makes the call and emits the events. Its executor (a flow
engine, built anew for each answer) costs three times as much CPU as the call itself and is
left to what needs it: tools, and a past that has to be summarised to fit the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog
import yaml

from chatbot.config import Settings, SettingsError
from chatbot.errors import Permanent, Transient
from chatbot.llm import SeeingLLM, build  # first: it prepares what CrewAI reads on import

# isort: split
import openai
from crewai import Agent, BaseLLM
from crewai.events import (
    LiteAgentExecutionCompletedEvent,
    LiteAgentExecutionErrorEvent,
    LiteAgentExecutionStartedEvent,
    crewai_event_bus,
)
from crewai.events.event_listener import EventListener
from crewai.lite_agent_output import LiteAgentOutput
from crewai.llms.retry import _active_llm_rate_limit_retry
from crewai.tools import BaseTool
from crewai.utilities.exceptions.context_window_exceeding_exception import LLMContextLengthExceededError
from crewai.utilities.prompts import Prompts, SystemPromptResult

from chatbot.messages import Message, Turn, writable

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Persona:
    """Who the agent is; plain text, braces included."""

    role: str
    goal: str
    backstory: str


def persona(settings: Settings) -> Persona:
    """Return the persona from the YAML file if one is set, else from the settings.

    Raises ``SettingsError`` when the file is not a mapping of the three texts.
    """
    if settings.agent_file is None:
        return Persona(settings.agent_role, settings.agent_goal, settings.agent_backstory)
    return _persona_from_file(settings.agent_file)


def _persona_from_file(path: Path) -> Persona:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise SettingsError(f"CHATBOT_AGENT_FILE: {path} cannot be read as YAML: {err}") from err
    texts = content if isinstance(content, dict) else {}
    missing = [k for k in ("role", "goal", "backstory") if not isinstance(texts.get(k), str) or not texts[k].strip()]
    if missing:
        raise SettingsError(f"CHATBOT_AGENT_FILE: {path} needs a text for: {', '.join(missing)}")
    return Persona(texts["role"], texts["goal"], texts["backstory"])


class CrewAgent:
    """Answers messages with a CrewAI agent, which may use ``tools``. Safe to use from many threads."""

    def __init__(
        self, persona: Persona, llm: BaseLLM, *, history_chars: int, tools: Sequence[BaseTool] = ()
    ) -> None:  # fmt: skip
        EventListener().formatter.verbose = False
        self._persona = persona
        self._llm = llm
        self._history_chars = history_chars
        self._tools = list(tools)
        self._agent = self._fresh_agent(llm, persona)
        prompt = cast("SystemPromptResult", Prompts(agent=self._agent, use_system_prompt=True).task_execution())
        self._system = {"role": "system", "content": prompt["system"]}

    def reply(self, message: Message, history: Sequence[Turn], image: str = "") -> str:
        """Return the agent's answer to ``message``, given the past turns, oldest first.

        ``image`` is a data URL, shown with it to a model that can see (``SeeingLLM``). Raises
        ``Transient`` when the model is busy, away or says nothing, ``Permanent`` when it
        refuses the request or the key.
        """
        messages = self._messages(message, history)
        # Retrying is the conversation's business: CrewAI's own would multiply with it.
        token = _active_llm_rate_limit_retry.set(True)
        try:
            text = writable(self._answer(messages, image, beside=message.text))
        except (openai.OpenAIError, ConnectionError, TimeoutError, ValueError) as err:
            raise _classified(err) from err
        except Exception as err:  # whatever else CrewAI, a tool or a provider raises
            raise Permanent(f"the agent broke: {type(err).__name__}: {str(err)[:200]}") from err
        finally:
            _active_llm_rate_limit_retry.reset(token)
            crewai_event_bus.reset_runtime_state()
        if not text.strip():
            raise Transient("the model answered with nothing")
        return text.strip()

    def _answer(self, messages: list[dict[str, str]], image: str, *, beside: str) -> str:
        if not self._tools:
            try:
                return self._call(messages, self._fresh_llm(image, beside=beside))
            except LLMContextLengthExceededError:
                log.warning("agent.past_too_long", messages=len(messages))
        return self._execute(messages, self._fresh_llm(image, beside=_escape(beside)))

    def _call(self, messages: list[dict[str, str]], llm: BaseLLM) -> str:
        """Ask the model once, with the events of an agent's execution around it."""
        info = {"id": self._agent.id, "role": self._agent.role, "tools": []}
        emit = partial(crewai_event_bus.emit, self._agent)
        emit(LiteAgentExecutionStartedEvent(agent_info=info, tools=[], messages=cast("Any", messages)))
        try:
            text = str(llm.call(cast("Any", [self._system, *messages]), from_agent=self._agent))
        except Exception as err:
            emit(LiteAgentExecutionErrorEvent(agent_info=info, error=str(err)))
            raise
        emit(LiteAgentExecutionCompletedEvent(agent_info=info, output=text))
        return text

    def _execute(self, messages: list[dict[str, str]], llm: BaseLLM) -> str:
        """Have CrewAI's executor work on the answer: it runs tools and summarises a past that is too long."""
        who, asked = self._persona, messages[-1]
        agent = self._fresh_agent(llm, Persona(*(_escape(text) for text in (who.role, who.goal, who.backstory))))
        asked = {**asked, "content": _escape(asked["content"])}
        output = cast("LiteAgentOutput", agent.kickoff(cast("Any", [*messages[:-1], asked])))
        return str(output.raw)

    def _fresh_agent(self, llm: BaseLLM, persona: Persona) -> Agent:
        return Agent(
            role=persona.role,
            goal=persona.goal,
            backstory=persona.backstory,
            llm=llm,
            tools=self._tools,
            max_iter=4,
            verbose=False,
            respect_context_window=True,
        )

    def _fresh_llm(self, image: str, *, beside: str) -> BaseLLM:
        """Return the shared model with token counters and an image of its own."""
        llm = self._llm.model_copy()
        llm._token_usage = dict.fromkeys(llm._token_usage, 0)  # noqa: SLF001  # copied, it would be shared
        if image and isinstance(llm, SeeingLLM):
            llm.show(image, beside=beside)
        return llm

    def _messages(self, message: Message, history: Sequence[Turn]) -> list[dict[str, str]]:
        recent: list[dict[str, str]] = []
        room = self._history_chars
        for turn in reversed(history):
            room -= len(turn.message.told) + len(turn.reply)
            if room < 0:
                break
            if not turn.reply:
                continue  # nothing was said to that
            recent[:0] = [
                {"role": "user", "content": turn.message.told},
                {"role": "assistant", "content": turn.reply},
            ]
        return [*recent, {"role": "user", "content": message.told}]


def from_settings(settings: Settings) -> CrewAgent:
    """Build the agent the settings describe. Raises ``SettingsError``."""
    return CrewAgent(persona(settings), build(settings), history_chars=settings.history_chars)


def _classified(err: Exception) -> Transient | Permanent:
    """Return what a model's failure means for the turn (openai-python, "Handling errors")."""
    refused = (openai.AuthenticationError, openai.PermissionDeniedError, openai.BadRequestError, openai.NotFoundError)
    if isinstance(err, refused):
        return Permanent(f"the model refused: {type(err).__name__}")
    retry_after = _retry_after(err)
    return Transient(f"the model failed: {type(err).__name__}: {str(err)[:200]}", retry_after=retry_after)


def _retry_after(err: Exception) -> float | None:
    headers: Any = getattr(getattr(err, "response", None), "headers", {})
    try:
        return float(headers.get("retry-after"))
    except (TypeError, ValueError):
        return None


def _escape(text: str) -> str:
    """Keep the executor from filling in what a text happens to name: only these three are replaced."""
    return re.sub(r"\{(input|tools|tool_names)\}", r"{ \1 }", text)
