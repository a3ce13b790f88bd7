"""The agent: CrewAI, asked one turn at a time.

In come a message and the past; out goes the text of a reply. Promise: nothing is kept
between turns, so no user's words can reach another's prompt: no CrewAI memory, one copy of
the shared model's counters a turn, and a fresh ``Agent`` wherever one keeps state.

CrewAI words the system prompt, makes the call and emits the events. Its executor (a flow
engine, built anew for each answer) costs three times as much CPU as the call itself and is
left to what needs it: tools. What a model says is cleaned before anybody reads it (``agent/spoken.py``).
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog
import yaml

from chatbot import texts
from chatbot.agent import prompt
from chatbot.agent.models import SeeingLLM, ServedLLM, build  # first: it prepares what CrewAI reads on import
from chatbot.config import Settings, SettingsError
from chatbot.errors import ChatbotError, Permanent, Transient

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
from crewai.tools import BaseTool
from crewai.utilities.prompts import Prompts, SystemPromptResult
from crewai_core.printer import set_suppress_console_output

from chatbot.agent.model_client import Heard, Slots, failure, listening
from chatbot.agent.model_errors import Filtered
from chatbot.agent.spoken import clean
from chatbot.messages import Message, Turn

log = structlog.get_logger(__name__)

#: Tokens that are reserved for an image; models that see take about so many for one.
IMAGE_TOKENS = 1_500
#: Tokens that are reserved for the answer of a model whose client is not ours.
UNKNOWN_ANSWER = 1_024
#: Tokens of a conversation that are shown in any case; where they do not fit either, the model's server says so.
SMALLEST_ROOM = 128
#: A model that used up its answer before it said anything may have so many times as much, once.
THINKING_ALOUD = 4


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
        self,
        persona: Persona,
        llm: BaseLLM,
        *,
        history_chars: int,
        history_turns: int = 1_000,
        tools: Sequence[BaseTool] = (),
    ) -> None:
        EventListener().formatter.verbose = False
        self._persona = persona
        self._llm = llm
        self._turns = history_turns
        self._chars = history_chars
        self._tools = list(tools)
        self._agent = self._fresh_agent(llm, persona)
        prompted = cast("SystemPromptResult", Prompts(agent=self._agent, use_system_prompt=True).task_execution())
        self._system = {"role": "system", "content": prompted["system"]}
        described = "".join(f"{tool.description}{tool.args_schema.model_json_schema()}" for tool in self._tools)
        self._fixed_tokens = prompt.tokens(prompted["system"] + described) + prompt.AROUND

    def reply(self, message: Message, history: Sequence[Turn], image: str = "") -> str:
        """Return the agent's answer to ``message``, given the past turns, oldest first.

        ``image`` is a data URL, shown with it to a model that can see (``SeeingLLM``). Where a
        content filter does not let the model answer, the answer says so. Raises ``ServiceDown`` and
        ``ModelTimeout`` when the model fails whoever asks, ``Transient`` when it is busy or says
        nothing, ``NoRoom`` when too many calls are in flight, ``Permanent`` when it refuses this request.
        """
        messages = prompt.messages(message, history, self._room(image))
        try:
            # CrewAI keeps a record of all events in the context, which in a thread of a pool would never end.
            return copy_context().run(self._said, messages, image, beside=message.text)
        except Filtered:
            log.warning("agent.refused", message_id=message.id)
            return texts.REFUSED[_language(message, history)]

    def _said(self, messages: list[dict[str, str]], image: str, *, beside: str) -> str:
        """Return the answer as a person may read it. Raises as ``reply`` does, and ``Filtered``."""
        set_suppress_console_output(True)
        for times in (1, THINKING_ALOUD):
            with listening() as heard:
                text = self._asked(messages, image, heard, beside=beside, times=times)
            said = clean(text, cut=heard.finish == "length")
            if said:
                return said
            if heard.finish != "length":
                break
            log.warning("agent.answer_used_up", hint="a model that thinks aloud needs more CHATBOT_LLM_MAX_TOKENS")
        raise Transient("the model answered with nothing")

    def _asked(self, messages: list[dict[str, str]], image: str, heard: Heard, *, beside: str, times: int) -> str:
        """Return what the model says; without the past where that is what it refuses."""
        try:
            return self._answer(messages, image, beside=beside, times=times)
        except (Permanent, Filtered):
            if len(messages) == 1 or heard.answers:
                raise
            log.warning("agent.past_refused", messages=len(messages))
            return self._answer(messages[-1:], image, beside=beside, times=times)

    def _answer(self, messages: list[dict[str, str]], image: str, *, beside: str, times: int) -> str:
        llm = self._fresh_llm(
            image, beside=_escape(beside) if self._tools else beside, past=len(messages) - 1, times=times
        )
        try:
            return self._execute(messages, llm) if self._tools else self._call(messages, llm)
        except ChatbotError:
            raise
        except (openai.OpenAIError, ConnectionError, TimeoutError, ValueError) as err:
            raise _ours(err) from None
        except Exception as err:  # noqa: BLE001  # whatever else CrewAI, a tool or a provider raises
            log.error("agent.broke", error=type(err).__name__, at=_place(err))
            raise Permanent(f"the agent broke: {type(err).__name__}") from None

    def _call(self, messages: list[dict[str, str]], llm: BaseLLM) -> str:
        """Ask the model once, with the events of an agent's execution around it."""
        info = {"id": self._agent.id, "role": self._agent.role, "tools": []}
        emit = partial(crewai_event_bus.emit, self._agent)
        emit(LiteAgentExecutionStartedEvent(agent_info=info, tools=[], messages=cast("Any", messages)))
        try:
            text = _text(llm.call(cast("Any", [self._system, *messages]), from_agent=self._agent))
        except Exception as err:
            emit(LiteAgentExecutionErrorEvent(agent_info=info, error=str(_ours(err))))
            raise
        emit(LiteAgentExecutionCompletedEvent(agent_info=info, output=text))
        return text

    def _execute(self, messages: list[dict[str, str]], llm: BaseLLM) -> str:
        """Have CrewAI's executor work on the answer: it runs tools."""
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
            # The model itself shortens a request that is too long (``agent/models.py``).
            respect_context_window=False,
        )

    def _fresh_llm(self, image: str, *, beside: str, past: int, times: int) -> BaseLLM:
        """Return the shared model with token counters and an image of its own."""
        llm = self._llm.for_turn(past=past, times=times) if isinstance(self._llm, ServedLLM) else self._llm.model_copy()
        llm._token_usage = dict.fromkeys(llm._token_usage, 0)  # noqa: SLF001  # copied, it would be shared
        if image and isinstance(llm, SeeingLLM):
            llm.show(image, beside=beside)
        return llm

    def _room(self, image: str) -> prompt.Room:
        llm = self._llm
        whole = llm.room() if isinstance(llm, ServedLLM) else llm.get_context_window_size() - UNKNOWN_ANSWER
        left = max(whole - self._fixed_tokens, SMALLEST_ROOM)
        seen = min(IMAGE_TOKENS, left - SMALLEST_ROOM) if image and isinstance(llm, SeeingLLM) else 0
        return prompt.Room(turns=self._turns, chars=self._chars, tokens=left, image=seen)


def from_settings(settings: Settings, slots: Slots | None = None) -> CrewAgent:
    """Build the agent the settings describe; ``slots`` bounds its calls in flight. Raises ``SettingsError``."""
    llm = build(settings, slots)
    return CrewAgent(persona(settings), llm, history_chars=settings.history_chars, history_turns=settings.history_turns)


def _ours(err: BaseException) -> Exception:
    """Return what a failure means for the turn: what it came from says so, CrewAI only wraps it."""
    came_from, seen = err, set[int]()
    while id(came_from) not in seen:
        seen.add(id(came_from))
        if isinstance(came_from, ChatbotError | openai.APIStatusError | openai.APIConnectionError):
            meant = failure(came_from)
            return meant if isinstance(meant, ChatbotError) else Permanent(f"the model refused: {type(meant).__name__}")
        came_from = came_from.__cause__ or came_from.__context__ or came_from
    return Transient(f"the model failed: {type(err).__name__}")


def _text(answer: Any) -> str:
    """Return the words of an answer: a list holds parts of it, or calls of tools that there are none of."""
    if isinstance(answer, str):
        return answer
    parts = answer if isinstance(answer, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def _language(message: Message, history: Sequence[Turn]) -> str:
    """Return the language of the message or, where it has no words, of the past."""
    said = message.text if message.text.strip() else " ".join(turn.message.text for turn in history)
    return texts.guess(said, message.phone)


def _place(err: BaseException) -> str:
    """Return where an error was raised; its text may hold what somebody wrote."""
    frame = next(iter(traceback.extract_tb(err.__traceback__)[-1:]), None)
    return f"{Path(frame.filename).name}:{frame.lineno}" if frame else ""


def _escape(text: str) -> str:
    """Keep the executor from filling in what a text happens to name: only these three are replaced."""
    return re.sub(r"\{(input|tools|tool_names)\}", r"{ \1 }", text)
