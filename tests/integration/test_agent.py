"""The agent against a model over HTTP: what it is shown, and what its failures mean."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from crewai.events import (
    LiteAgentExecutionCompletedEvent,
    LiteAgentExecutionStartedEvent,
    LLMCallCompletedEvent,
    LLMCallStartedEvent,
    crewai_event_bus,
)
from crewai.tools import BaseTool
from openai._utils import _transform as openai_transform

from chatbot.agent.crew import CrewAgent, Persona, from_settings
from chatbot.agent.models import OfflineLLM, SeeingLLM, build, offline_reply
from chatbot.config import Settings, SettingsError
from chatbot.errors import ModelTimeout, Permanent, ServiceDown, Transient
from chatbot.messages import Message, Turn
from tests.servers import ROOT
from tests.stub_llm import StubLLM, completion


def said(text, user="ana"):
    return Message(user=user, id=text, text=text)


def past(*pairs):
    return [Turn(n, said(question), answer, 0.0) for n, (question, answer) in enumerate(pairs, 1)]


@pytest.fixture
def llm():
    with StubLLM() as llm:
        yield llm


@pytest.fixture
def agent(llm):
    settings = Settings(_env_file=None, llm_model="stub", llm_base_url=llm.url)
    return CrewAgent(Persona("Papel {tools}", "Meta {x}", "História"), build(settings), history_chars=100)


def test_persona_history_and_message_reach_the_model_once(agent, llm):
    reply = agent.reply(said("e agora?"), past(("oi", "olá"), ("tudo bem?", "tudo")))
    assert reply == "eco: e agora?"
    [call] = llm.calls
    system = call.messages[0]
    assert system[0] == "system"
    assert all(text in system[1] for text in ("Papel {tools}", "Meta {x}", "História"))
    assert call.messages[-1] == ("user", "e agora?"), "as it was written, without any wording around it"
    assert call.said == ["oi", "tudo bem?", "e agora?"]
    assert [content for role, content in call.messages if role == "assistant"] == ["olá", "tudo"]


def test_braces_people_write_are_not_filled_in(agent, llm):
    agent.reply(said("o que é {input}, {tools} e {outra}?"), [])
    assert llm.calls[0].asked == "o que é {input}, {tools} e {outra}?"


@pytest.mark.parametrize("answer", ["meio \ud83d", "\0meio\x07 \udfff"])
def test_an_answer_with_what_utf8_cannot_carry_is_a_reply(agent, llm, answer):
    llm.script = lambda _: (200, completion(answer))
    assert agent.reply(said("oi"), []) == "meio \ufffd"


def test_an_answer_of_control_characters_is_none(agent, llm):
    llm.script = lambda _: (200, completion("\0\0"))
    with pytest.raises(Transient):
        agent.reply(said("oi"), [])


def test_only_as_much_past_as_fits(agent, llm):
    agent.reply(said("fim"), past(("a" * 60, "b" * 60), ("c" * 30, "d" * 30)))
    assert llm.calls[0].said == ["c" * 30, "fim"]


def test_a_long_past_is_not_walked_through_type_by_type(llm, monkeypatch):
    """OpenAI's client does so with each message, and there most of a turn's processor time went."""
    walked, walk = [], openai_transform._transform_recursive

    def counted(*arguments, **options):
        walked.append(arguments)
        return walk(*arguments, **options)

    monkeypatch.setattr(openai_transform, "_transform_recursive", counted)
    settings = Settings(_env_file=None, llm_model="stub", llm_base_url=llm.url)
    agent = CrewAgent(Persona("p", "m", "h"), build(settings), history_chars=10_000)
    steps = []
    for turns in (0, 30):
        walked.clear()
        agent.reply(said("oi"), past(*[("oi", "olá")] * turns))
        steps.append(len(walked))
    assert steps[0] == steps[1] > 0
    assert [len(call.messages) for call in llm.calls] == [2, 62]


IMAGE = "data:image/png;base64,aWNvbg=="


@pytest.mark.parametrize("name", ["stub", "ollama/llava"])
def test_an_image_reaches_a_model_that_can_see(llm, name):
    settings = Settings(_env_file=None, llm_model=name, llm_base_url=llm.url, llm_vision=True)
    agent = CrewAgent(Persona("p", "m", "h"), build(settings), history_chars=1000)
    said_before = past(("oi {input}", "olá"))
    assert agent.reply(said("o que é {input}?"), said_before, IMAGE) == "eco: o que é {input}?"
    assert agent.reply(said("e agora?"), said_before) == "eco: e agora?"
    with_image, without = llm.calls
    assert with_image.images == (IMAGE,)
    assert with_image.said == ["oi {input}", "o que é {input}?"]
    assert without.images == (), "an image belongs to one turn"


def test_a_large_image_makes_no_second_call(llm):
    settings = Settings(_env_file=None, llm_model="stub", llm_base_url=llm.url, llm_vision=True)
    agent = CrewAgent(Persona("p", "m", "h"), build(settings), history_chars=1000)
    image = "data:image/jpeg;base64," + "A" * 7_000_000
    agent.reply(said("veja"), past(("oi", "olá")), image)
    [call] = llm.calls
    assert call.images == (image,)


def test_a_model_that_cannot_see_is_shown_no_image(agent, llm):
    assert agent.reply(said("veja"), [], IMAGE) == "eco: veja"
    assert llm.calls[0].images == ()


def test_the_image_stands_beside_what_was_written_with_it():
    llm = SeeingLLM(model="m", base_url="http://127.0.0.1:1/v1", api_key="x")
    llm.show(IMAGE, beside="veja")
    messages = [
        {"role": "user", "content": "antes"},
        {"role": "user", "content": "Current Task: veja"},
        {"role": "user", "content": "what a tool said"},
    ]
    before, asked, after = llm._with_image(messages)
    assert (before, after) == (messages[0], messages[2])
    assert [part["type"] for part in asked["content"]] == ["text", "image_url"]
    assert messages[1]["content"] == "Current Task: veja", "the executor's own list stays as it is"


@pytest.fixture
def events():
    """What CrewAI's event bus was given, by type; plain turns and those of the executor alike."""
    kinds = (
        LiteAgentExecutionStartedEvent,
        LLMCallStartedEvent,
        LLMCallCompletedEvent,
        LiteAgentExecutionCompletedEvent,
    )
    seen = []
    with crewai_event_bus.scoped_handlers():
        for kind in kinds:
            crewai_event_bus.on(kind)(lambda _source, event: seen.append(event.type))
        yield seen


PLAIN = {
    "lite_agent_execution_started", "llm_call_started", "llm_call_completed", "lite_agent_execution_completed",
}  # fmt: skip


def test_a_plain_turn_emits_the_events_of_crewai(agent, events):
    agent.reply(said("oi"), [])
    crewai_event_bus.flush()
    assert (len(events), set(events)) == (4, PLAIN)


class Price(BaseTool):
    """Tells what something costs."""

    name: str = "price"
    description: str = "Tells the price of a product."

    def _run(self, product: str) -> str:
        return f"{product}: R$ 10"


def test_a_tool_is_run_and_its_result_answered_with(llm, events):
    settings = Settings(_env_file=None, llm_model="stub", llm_base_url=llm.url)
    agent = CrewAgent(Persona("p", "m", "h"), build(settings), history_chars=1000, tools=[Price()])
    function = {"name": "price", "arguments": '{"product": "{input}"}'}
    asked = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }

    def script(call):
        if call.messages[-1][0] == "user":
            return 200, completion("") | {"choices": [{"index": 0, "message": asked, "finish_reason": "tool_calls"}]}
        told = [content for role, content in call.messages if role == "tool"]
        return 200, completion(f"Custa {told[0]}")

    llm.script = script
    assert agent.reply(said("quanto custa {input}?"), past(("oi", "olá"))) == "Custa {input}: R$ 10"
    assert llm.calls[0].said == ["oi", "quanto custa { input }?"]
    crewai_event_bus.flush()
    assert set(events) == PLAIN


def test_a_past_too_long_for_the_model_is_left_out(agent, llm):
    def script(call):
        if len(llm.calls) == 0:
            return 400, {"error": {"message": "maximum context length", "code": "context_length_exceeded"}}
        return None

    llm.script = script
    assert agent.reply(said("e agora?"), past(("oi", "olá"))) == "eco: e agora?"
    assert [call.said for call in llm.calls] == [["oi", "e agora?"], ["e agora?"]]


def test_two_users_in_a_row_share_nothing(agent, llm):
    agent.reply(said("sou a Ana", "1"), [])
    agent.reply(said("sou o Beto", "10"), [])
    assert llm.calls[1].said == ["sou o Beto"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, Transient),
        (500, ServiceDown),
        (503, ServiceDown),
        (401, ServiceDown),
        (403, ServiceDown),
        (404, ServiceDown),
        (504, ModelTimeout),
        (400, Permanent),
        (422, Permanent),
    ],
)
def test_a_failing_model_is_asked_once_and_classified(agent, llm, status, kind):
    llm.script = lambda _: (status, {"error": {"message": "no", "type": "x", "code": None}})
    with pytest.raises(kind) as raised:
        agent.reply(said("oi"), [])
    assert type(raised.value) is kind
    assert len(llm.calls) == 1, "retries are the conversation's business"


def test_an_empty_answer_is_transient(agent, llm):
    choice = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
    llm.script = lambda _: (
        200,
        {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]},
    )
    with pytest.raises(Transient) as raised:
        agent.reply(said("oi"), [])
    assert type(raised.value) is Transient, "one person's empty answer is no failure of the service"


def test_a_model_that_is_not_there_is_a_service_that_is_down():
    settings = Settings(_env_file=None, llm_model="stub", llm_base_url="http://127.0.0.1:1/v1")
    agent = CrewAgent(Persona("p", "m", "h"), build(settings), history_chars=100)
    with pytest.raises(ServiceDown):
        agent.reply(said("oi"), [])


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({"llm_model": "offline"}, "offline"),
        ({"llm_model": "gpt-4o-mini", "llm_api_key": "sk-x"}, "gpt-4o-mini"),
        ({"llm_model": "any-name", "llm_base_url": "http://127.0.0.1:8080/v1"}, "any-name"),
        ({"llm_model": "ollama/llama3.2"}, "llama3.2"),
    ],
)
def test_each_kind_of_model_can_be_built(settings, model):
    llm = build(Settings(_env_file=None, **settings))
    assert llm.model.removeprefix("ollama/") == model
    assert isinstance(llm, OfflineLLM) == (model == "offline")


def test_a_persona_comes_from_a_yaml_file(tmp_path, llm):
    path = tmp_path / "agente.yaml"
    path.write_text("role: Padeiro\ngoal: Vender pão\nbackstory: Desde 1950\n")
    settings = {"llm_model": "stub", "llm_base_url": llm.url, "agent_file": path}
    from_settings(Settings(_env_file=None, **settings)).reply(said("oi"), [])
    assert "Padeiro" in llm.calls[0].messages[0][1]
    path.write_text("role: Padeiro\n")
    with pytest.raises(SettingsError, match="goal, backstory"):
        from_settings(Settings(_env_file=None, **settings))
    path.write_text("{")
    with pytest.raises(SettingsError, match="YAML"):
        from_settings(Settings(_env_file=None, **settings))


@pytest.mark.parametrize(
    ("conversation", "reply"),
    [
        (["Oi, meu nome é Ana Clara", "Qual é o meu nome?"], "Seu nome é Ana Clara."),
        (["me chamo Zé", "my name is Joe", "what is my name?"], "Seu nome é Joe."),
        (["você sabe meu nome?"], "Você ainda não me disse o seu nome."),
        (["a", "b"], "Você disse: b (mensagem 2 desta conversa)"),
    ],
)
def test_the_offline_model_uses_the_conversation(conversation, reply):
    assert offline_reply(conversation) == reply


def test_the_offline_model_takes_its_time_where_it_is_told_to():
    waited = []
    asked = [{"role": "user", "content": "me chamo Zé"}]
    assert OfflineLLM(model="offline", seconds=1.2, pause=waited.append).call(asked).startswith("Prazer, Zé!")
    assert waited == [1.2]
    assert build(Settings(_env_file=None, llm_model="offline", offline_seconds=2)).seconds == 2


#: Two turns on a terminal, where CrewAI asks its questions; a tool of the second fails. It notes what it touched.
ON_A_TERMINAL = """
import json, sys
touched = {"connected": [], "written": []}

def note(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo"}:
        touched["connected"].append(str(arguments))
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        touched["written"].append(str(arguments[0]))

sys.addaudithook(note)
from chatbot.agent.crew import CrewAgent, Persona
from chatbot.agent.models import build
from chatbot.config import Settings
from chatbot.messages import Message
from chatbot.observability.logging import configure_logging
from crewai.tools import BaseTool

class Broken(BaseTool):
    name: str = "broken"
    description: str = "Fails."
    def _run(self) -> str:
        raise RuntimeError("no")

configure_logging(Settings(_env_file=None, log_level="WARNING"))
llm = build(Settings(_env_file=None, llm_model="stub", llm_base_url=sys.argv[1], llm_context=8192))
for tools in [], [Broken()]:
    agent = CrewAgent(Persona("p", "m", "h"), llm, history_chars=100, tools=tools)
    assert agent.reply(Message(user="ana", id="1", text="oi"), []) == "Pronto."
from crewai.events import crewai_event_bus
from crewai.events.listeners.tracing.trace_listener import TraceCollectionListener
from opentelemetry.sdk.trace import TracerProvider
assert crewai_event_bus.flush()
touched["collected"] = len(TraceCollectionListener().batch_manager.event_buffer)
touched["traces"] = TracerProvider().get_tracer("the operator's").start_span("a span").is_recording()
json.dump(touched, open(sys.argv[2], "w"))
"""


def test_crewai_prints_nothing_asks_nothing_collects_nothing_and_calls_nobody_but_the_model(llm, tmp_path):
    """Not even on its first run on a machine; OpenTelemetry stays usable for the operator's own traces."""
    calls = [{"id": "1", "type": "function", "function": {"name": "broken", "arguments": "{}"}}]
    broken = completion("")
    broken["choices"][0] |= {"message": {"role": "assistant", "content": None, "tool_calls": calls}}

    def script(call):
        ended = "tools" not in call.options or any(role == "tool" for role, _ in call.messages)
        return 200, completion("Pronto.") if ended else broken

    llm.script = script
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CREWAI_", "OTEL_"))}
    env |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1"}
    noted = tmp_path / "noted"
    terminal, other = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", ON_A_TERMINAL, llm.url, str(noted)],
            env=env, stdin=other, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(other)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    touched, port = json.loads(noted.read_text()), llm.url.split(":")[2].split("/")[0]
    assert touched["connected"]
    assert all(port in address for address in touched["connected"])
    outside = [path for path in touched["written"] if "chatbot-crewai" not in path and path != os.devnull]
    assert outside == [str(noted)]
    assert touched["collected"] == 0
    assert touched["traces"]
    assert len(llm.calls) == 3


def test_nothing_of_a_turn_is_left_in_its_thread(agent):
    """CrewAI's record of events would grow with each turn, and hold what everybody wrote."""
    for _ in range(2):
        agent.reply(said("oi"), [])
        assert crewai_event_bus.runtime_state is None


def test_what_lives_as_long_as_the_worker_is_left_out_of_garbage_collections():
    code = """
import gc
from chatbot.app import from_environment
bot = from_environment()
bot.warm_up()
frozen = gc.get_freeze_count()
bot.warm_up()
print(frozen, gc.get_freeze_count() - frozen)
"""
    env = {**os.environ, "CHATBOT_BROKER_URL": "memory://", "CHATBOT_REDIS_URL": "fakeredis://warm"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    frozen, more = map(int, done.stdout.split())
    assert frozen > 100_000, "CrewAI is large"
    assert more == 0, "what a lost connection leaves behind is garbage like any other"


_UNFINISHED = """
import sys
from chatbot.agent.crew import CrewAgent, Persona
from chatbot.agent.models import build
from chatbot.config import Settings
from chatbot.messages import Message
from crewai.tools import BaseTool
from pydantic import BaseModel

class Clock(BaseTool):
    name: str = "clock"
    description: str = "Tells the time."
    def _run(self) -> str:
        return "noon"

def unfinished():
    found, unseen = set(), [BaseModel]
    while unseen:
        known = unseen.pop().__subclasses__()
        unseen += known
        found |= {model for model in known if not model.__pydantic_complete__}
    return found

llm = build(Settings(_env_file=None, llm_model="stub", llm_base_url=sys.argv[1], llm_context=8192))
agents = [CrewAgent(Persona("p", "m", "h"), llm, history_chars=100, tools=tools) for tools in ([], [Clock()])]
before = unfinished()
for agent in agents:
    agent.reply(Message(user="ana", id="1", text="oi"), [])
print([f"{model.__module__}.{model.__name__}" for model in before - unfinished()])
"""


def test_the_first_turns_of_many_threads_find_every_class_finished(llm):
    """pydantic finishes a class at its first use, which two threads at once break: somebody gets an apology for it."""
    done = subprocess.run(
        [sys.executable, "-c", _UNFINISHED, llm.url], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"
