"""The agent with models as they really are: small contexts, servers that fail in every way, answers that leak."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from crewai.tools import BaseTool

from chatbot import texts
from chatbot.agent.crew import CrewAgent, Persona
from chatbot.agent.models import build
from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.errors import CircuitOpen, ModelTimeout, NoRoom, Permanent, ServiceDown, Transient
from chatbot.messages import Message, Turn
from chatbot.resilience.breaker import Breaker
from tests.stub_llm import SERVERS, StubLLM, completion

CPF = "529.982.247-25"


def said(text, user="ana", id_=None):
    return Message(user=user, id=id_ or text[:40], text=text)


def turn(number, text, reply, failure=""):
    return Turn(number, said(text, id_=f"m{number}"), reply, 0.0, failure)


@pytest.fixture
def llm():
    with StubLLM() as llm:
        yield llm


def agent_for(llm, **settings):
    bot = Chatbot(Settings(_env_file=None, broker_url="memory://", llm_model="stub", llm_base_url=llm.url, **settings))
    return bot.agent


@pytest.fixture
def agent(llm):
    return agent_for(llm)


def converse(agent, texts, *, kept=30):
    """Return the replies to ``texts``, one after the other, the past as the store keeps it."""
    history, replies = [], []
    for number, text in enumerate(texts, 1):
        reply = agent.reply(said(text, id_=f"m{number}"), history[-kept:])
        replies.append(reply)
        history.append(turn(number, text, reply))
    return replies


def finished(text, reason, **fields):
    message = {"role": "assistant", "content": text, **fields}
    return 200, completion("") | {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}


# -- requests that fit ---------------------------------------------------------------

WORDS = "Queria saber se vocês fazem entrega no domingo à tarde e quanto custa o frete até a Vila Mariana. "
PASTE = "Segue o contrato: " + "cláusula número 42, parágrafo único, valor R$ 1.234,56; " * 150
#: What 60 people of flesh and blood might write, one long paste among it.
SIXTY = [PASTE if n in {20, 45} else f"({n}) {WORDS * (1 + n % 4)}" for n in range(60)]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("letters", [4, 2], ids=["usual tokens", "short tokens"])
def test_sixty_turns_on_a_small_context_without_an_apology(server, letters):
    """The server refuses every request that is too long, and says nothing of its size."""
    with StubLLM(server=server, context=2048, letters=letters) as llm:
        replies = converse(agent_for(llm), SIXTY)
        assert all(reply.startswith("eco: ") for reply in replies)
        assert any(call.status != 200 for call in llm.calls), "the server did refuse"
        assert len(llm.calls) < 60 * 8


@pytest.mark.parametrize("server", ["llama.cpp", "LM Studio", "vLLM", "Ollama"])
def test_a_server_that_says_how_much_it_holds_refuses_nothing(server):
    with StubLLM(server=server, context=2048, tells=True) as llm:
        agent = agent_for(llm)
        converse(agent, SIXTY)
        assert {call.status for call in llm.calls} == {200}
        assert len(llm.asked_for) <= 6, "asked once"
        assert max(len(call.messages) for call in llm.calls) > 6, "and what it holds is used"


def test_the_context_can_be_set():
    with StubLLM(server="OpenAI", context=2048) as llm:
        converse(agent_for(llm, llm_context=2048), SIXTY)
        assert {call.status for call in llm.calls} == {200}
        assert llm.asked_for == []


def test_a_message_longer_than_the_context_is_cut_visibly():
    with StubLLM(server="llama.cpp", context=2048, tells=True) as llm:
        text = "COMEÇO " + PASTE + " FIM"
        assert agent_for(llm).reply(said(text), []).startswith("eco: COMEÇO")
        [call] = llm.calls
        assert call.asked.startswith("COMEÇO")
        assert call.asked.endswith("FIM")
        assert "omitido" in call.asked


def test_a_context_that_does_not_hold_the_agent_is_a_system_that_is_down():
    with StubLLM(server="llama.cpp", context=30) as llm, pytest.raises(ServiceDown, match="CHATBOT_LLM_CONTEXT"):
        agent_for(llm).reply(said("oi"), [])


def test_no_summary_is_made_of_a_past_that_is_too_long():
    with StubLLM(server="vLLM", context=2048) as llm:
        converse(agent_for(llm), SIXTY[:25])
        assert all("ummar" not in call.messages[-1][1] for call in llm.calls)


class Price(BaseTool):
    """Tells what something costs, at length, and counts how often it was asked."""

    name: str = "price"
    description: str = "Tells the price of a product."
    asked: int = 0

    def _run(self, product: str) -> str:
        self.asked += 1
        return f"{product}: " + "R$ 10, " * 4_000


def test_what_a_tool_says_is_cut_to_fit_and_no_tool_runs_twice():
    with StubLLM(server="llama.cpp", context=2048) as llm:
        tool = Price()
        settings = Settings(_env_file=None, llm_model="stub", llm_base_url=llm.url)
        agent = CrewAgent(Persona("p", "m", "h"), build(settings), history_chars=24_000, tools=[tool])
        function = {"name": "price", "arguments": '{"product": "bolo"}'}
        calls = [{"id": "1", "type": "function", "function": function}]

        def script(call):
            if any(role == "tool" for role, _ in call.messages):
                return 200, completion("Custa R$ 10.")
            return finished(None, "tool_calls", tool_calls=calls)

        llm.script = script
        history = [turn(n, f"pergunta {n}", "resposta") for n in range(1, 5)]
        assert agent.reply(said("quanto custa?"), history) == "Custa R$ 10."
        assert tool.asked == 1


def test_the_prompt_begins_as_it_did_but_for_a_few_turns(agent, llm):
    """A server's cache of the prompt is of use where the messages before the new ones are the same."""
    converse(agent, [f"mensagem {n}" for n in range(60)])
    kept = 0
    for before, after in zip(llm.calls, llm.calls[1:], strict=False):
        kept += after.messages[: len(before.messages)] == before.messages
    assert kept >= 54
    assert max(len(call.said) for call in llm.calls) == 21, "20 turns of the past and what is asked"


def test_the_prompt_begins_as_it_did_where_the_context_is_what_is_short():
    with StubLLM(server="llama.cpp", context=2048, tells=True) as llm:
        converse(agent_for(llm), [f"({n}) {WORDS}" for n in range(60)])
        kept = 0
        for before, after in zip(llm.calls, llm.calls[1:], strict=False):
            kept += after.messages[: len(before.messages)] == before.messages
        assert kept >= 40


# -- what a model is shown -----------------------------------------------------------


@pytest.mark.parametrize("reply", [texts.APOLOGY["pt"], texts.WAITING["en"], texts.UNSEEN["es"]])
def test_what_the_system_says_is_not_shown_as_the_models_words(agent, llm, reply):
    failure = "Permanent: x" if reply == texts.APOLOGY["pt"] else ""
    history = [turn(1, "oi", "olá"), turn(2, "abrem domingo?", reply, failure)]
    agent.reply(said("conseguiu ver?"), history)
    [call] = llm.calls
    assert all(reply not in content for _, content in call.messages)
    assert [role for role, _ in call.messages] == ["system", "user", "assistant", "user"], "roles take turns"
    assert call.said == ["oi", "abrem domingo?\n\nconseguiu ver?"]


def test_what_is_asked_again_is_shown_once(agent, llm):
    history = [turn(1, "abrem domingo?", texts.APOLOGY["pt"], "Transient: x")]
    agent.reply(said("abrem domingo?", id_="m1"), history)
    assert llm.calls[0].said == ["abrem domingo?"]


def test_a_past_that_is_refused_does_not_lock_its_customer_out(agent, llm):
    def script(call):
        refused = any("veneno" in content for _, content in call.messages)
        return (400, {"error": {"message": "invalid"}}) if refused else None

    llm.script = script
    assert agent.reply(said("e agora?"), [turn(1, "veneno", "olá")]) == "eco: e agora?"
    with pytest.raises(Permanent):
        agent.reply(said("veneno"), [])


# -- answers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answered", "read"),
    [
        ("<think>hm</think>Olá!", "Olá!"),
        ("Thought: I now know\nFinal Answer: Olá!", "Olá!"),
        ("<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>Olá!", "Olá!"),
        ("Olá!<|im_end|>\n<|im_start|>user\nobrigado", "Olá!"),
    ],
)
def test_what_is_not_meant_for_people_is_not_shown(agent, llm, answered, read):
    llm.script = lambda _: (200, completion(answered))
    assert agent.reply(said("oi"), []) == read


@pytest.mark.parametrize(
    "answered",
    [
        "<think>será que",
        "Agent completed execution but produced no final output.",
        '<tool_call>{"name": "x"}</tool_call>',
    ],
)
def test_what_holds_nothing_for_people_is_no_answer(agent, llm, answered):
    llm.script = lambda _: (200, completion(answered))
    with pytest.raises(Transient) as raised:
        agent.reply(said("oi"), [])
    assert type(raised.value) is Transient


def test_calls_of_tools_that_there_are_none_of_are_no_answer(agent, llm):
    calls = [{"id": "1", "type": "function", "function": {"name": "preco", "arguments": "{}"}}]
    llm.script = lambda _: finished(None, "tool_calls", tool_calls=calls)
    with pytest.raises(Transient):
        agent.reply(said("oi"), [])


def test_an_answer_that_was_cut_off_ends_with_a_sentence(agent, llm):
    llm.script = lambda _: finished("Abrimos às 8h. No domingo a gente", "length")
    assert agent.reply(said("oi"), []) == "Abrimos às 8h. …"


def test_a_model_that_thinks_aloud_is_given_more_once(agent, llm):
    def script(call):
        enough = call.options["max_tokens"] > 1024
        return finished("<think>longo</think>Olá!", "stop") if enough else finished("<think>lon", "length")

    llm.script = script
    assert agent.reply(said("oi"), []) == "Olá!"
    assert [call.options["max_tokens"] for call in llm.calls] == [1024, 4096]


def test_an_answer_in_parts_is_read(agent, llm):
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Olá!"}]
    llm.script = lambda _: finished(parts, "stop")
    assert agent.reply(said("oi"), []) == "Olá!"


FILTERED = {
    "OpenAI ends it": finished("Claro, vou", "content_filter"),
    "OpenAI refuses": finished(None, "stop", refusal="I'm sorry, I can't help with that."),
    "Azure": (400, {"error": {"message": CPF, "type": None, "param": "prompt", "code": "content_filter", "status": 400,
              "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    "OpenRouter": (403, {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["violence"]}}}),
    "DashScope": (400, {"error": {"code": "data_inspection_failed", "message": "inappropriate content"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILTERED)
def test_a_content_filters_refusal_is_an_answer(agent, llm, name):
    llm.script = lambda _: FILTERED[name]
    assert agent.reply(said("Hello, what is the price?"), []) == texts.REFUSED["en"]
    assert agent.reply(said("quanto custa?"), []) == texts.REFUSED["pt"]
    llm.script = None
    agent.reply(said("e o bolo?"), [turn(1, "quanto custa?", texts.REFUSED["pt"])])
    assert llm.calls[-1].said == ["e o bolo?"], "what was refused is not shown again"


# -- failures ------------------------------------------------------------------------

NO_ANSWERS = {
    "HTML": b"<html><body>502 Bad Gateway</body></html>",
    "nothing": b"",
    "a stream": b'data: {"choices": [{"delta": {"content": "oi"}}]}\n\ndata: [DONE]\n\n',
    "garbage": bytes(range(256)) * 50,
    "a list": b"[]",
    "a number": b"42",
    "null": b"null",
    "another object": b'{"status": "ok"}',
    "no choices": b'{"choices": []}',
    "choices of another form": b'{"choices": [[]]}',
    "no message": b'{"choices": [{"index": 0, "finish_reason": "stop"}]}',
    "a number as content": b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": 5}}]}',
    "half of it": json.dumps(completion("olá")).encode()[:-20],
    "nested": b"[" * 100_000,
    "an error": json.dumps({"error": {"message": CPF, "code": 502}}).encode(),
    "an error without a code": json.dumps({"error": CPF}).encode(),
    "ended with an error": json.dumps(finished("Olá, me", "error")[1]).encode(),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_what_is_no_answer_is_a_failure_of_the_service(agent, llm, name):
    llm.script = lambda _: (200, NO_ANSWERS[name])
    with pytest.raises(ServiceDown):
        agent.reply(said("oi"), [])


DOWN = {
    "loading": (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}),
    "key": (401, {"error": {"message": "Incorrect API key provided: sk-secret", "code": "invalid_api_key"}}),
    "forbidden": (403, {"error": {"message": "no"}}),
    "no money": (402, {"error": {"message": "Insufficient credits"}}),
    "quota": (429, {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota",
             "code": "insufficient_quota"}}),
    "no such model": (404, {"error": {"message": 'model "x" not found, try pulling it first'}}),
    "no model loaded": (400, {"error": "No models loaded. Please load a model in the developer page"}),
    "a redirect": (301, b"", {"Location": "https://example.com/"}),
    "a parameter": (400, {"error": {"message": "no 'temperature'", "code": "unsupported_parameter"}}),
    "a proxy": (502, b"<html>Bad Gateway</html>"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOWN)
def test_a_system_that_is_down_is_waited_for(agent, llm, name):
    llm.script = lambda _: DOWN[name]
    breaker = Breaker(failures=3, rest=60)
    for user in ("ana", "beto", "caio"):
        with pytest.raises(ServiceDown):
            breaker.call(lambda user=user: agent.reply(said("oi", user), []), key=user)
    with pytest.raises(CircuitOpen):
        breaker.call(lambda: agent.reply(said("oi"), []), key="dora")


def test_one_persons_messages_open_nobodys_breaker(agent, llm):
    """Whatever she makes the model do: the others are answered."""
    breaker = Breaker(failures=3, rest=60)
    failures = [
        finished("", "stop"),
        finished("", "length"),
        (200, b""),
        (400, {"error": {"message": "no"}}),
        (422, {"detail": "no"}),
        (429, {"error": "no"}),
        (500, {"error": "no"}),
    ]
    made = itertools.cycle(failures)
    llm.script = lambda call: next(made) if "mal" in call.asked else None
    for _ in range(20):
        with pytest.raises((Transient, Permanent)) as raised:
            breaker.call(lambda: agent.reply(said("mal"), []), key="eva")
        assert raised.type is not CircuitOpen
    assert breaker.call(lambda: agent.reply(said("oi"), []), key="ana") == "eco: oi"


def test_the_pause_that_was_asked_for_is_known(agent, llm):
    for header, pause in (("30", 30), ("nan", None), ("inf", None), ("-1", None), ("1e9", 3600), ("soon", None)):
        llm.script = lambda _, header=header: (429, {"error": {"message": "slow down"}}, {"Retry-After": header})
        with pytest.raises(Transient) as raised:
            agent.reply(said("oi"), [])
        assert raised.value.retry_after == pause


ECHOES = {
    "400": (400, {"error": {"message": f"bad: {CPF}", "type": f"x {CPF}", "code": f"y {CPF}"}}),
    "404": (404, {"error": {"message": f"This is not a chat model: {CPF}"}}),
    "429": (429, {"error": {"message": f"slow: {CPF}"}}),
    "500": (500, f"<html>{CPF}</html>".encode()),
    "200, an error": (200, {"error": {"message": CPF, "code": 500}}),
    "200, an error of another form": (200, {"error": {"message": CPF}}),
    "200, no JSON": (200, CPF.encode()),
    "tools": (400, {"error": {"message": f"registry/x does not support tools {CPF}"}}),
}


@pytest.mark.parametrize("name", ECHOES)
@pytest.mark.parametrize("tools", [[], [Price()]], ids=["plain", "with tools"])
def test_nothing_a_server_echoes_reaches_a_log_or_an_error(llm, caplog, capsys, name, tools):
    settings = Settings(_env_file=None, llm_model="stub", llm_base_url=llm.url)
    agent = CrewAgent(Persona("p", "m", "h"), build(settings), history_chars=1000, tools=tools)
    llm.script = lambda _: ECHOES[name]
    caplog.set_level(logging.DEBUG)
    for library in ("openai", "httpcore", "httpx", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)  # as ``configure_logging`` does
    with pytest.raises((Transient, Permanent)) as raised:
        agent.reply(said(f"meu CPF é {CPF}"), [])
    printed = capsys.readouterr()
    shown = "".join(traceback.format_exception(raised.value))
    for place in (caplog.text, printed.out, printed.err, str(raised.value), shown):
        assert CPF not in place


class Broken(BaseTool):
    """A tool that fails with what somebody wrote."""

    name: str = "broken"
    description: str = "Fails."

    def _run(self) -> str:
        raise RuntimeError(CPF)


def test_nothing_a_tool_raises_is_printed(llm, caplog, capsys):
    settings = Settings(_env_file=None, llm_model="stub", llm_base_url=llm.url)
    agent = CrewAgent(Persona("p", "m", "h"), build(settings), history_chars=1000, tools=[Broken()])
    calls = [{"id": "1", "type": "function", "function": {"name": "broken", "arguments": "{}"}}]

    def script(call):
        told = any(role == "tool" for role, _ in call.messages)
        return (200, completion("Não deu.")) if told else finished(None, "tool_calls", tool_calls=calls)

    llm.script = script
    assert agent.reply(said("oi"), []) == "Não deu."
    printed = capsys.readouterr()
    assert CPF not in caplog.text + printed.out + printed.err


# -- deadlines, sizes, places --------------------------------------------------------


class Dripping:
    """A server that sends a byte whenever one is about to give up waiting, or more than anybody can read."""

    def __init__(self, pause, chunk=b" "):
        self.stopped = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.end_headers()
                try:
                    while not server.stopped.wait(pause):
                        self.wfile.write(chunk)
                        self.wfile.flush()
                except OSError:
                    pass

            def do_GET(self):
                self.send_error(404)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.mark.timeout(60)
def test_a_server_that_drips_is_given_up_after_the_time_of_the_whole_call():
    with Dripping(0.2) as llm, pytest.raises(ModelTimeout):
        agent_for(llm, llm_timeout=1.0).reply(said("oi"), [])


@pytest.mark.timeout(60)
def test_a_server_that_does_not_end_is_not_read_to_its_end():
    with Dripping(0.0, b"x" * 1_000_000) as llm, pytest.raises(ServiceDown):
        agent_for(llm, llm_timeout=30.0).reply(said("oi"), [])


def test_a_timeout_is_not_repeated_in_place():
    from chatbot.resilience.retry import in_place

    with Dripping(0.2) as llm:
        agent, asked = agent_for(llm, llm_timeout=0.5), []

        def ask():
            asked.append(1)
            return agent.reply(said("oi"), [])

        with pytest.raises(ModelTimeout):
            in_place(ask, tries=3, sleep=lambda _: None)
        assert len(asked) == 1


def test_the_length_and_the_temperature_of_answers_are_asked_for(llm):
    agent_for(llm, llm_max_tokens=300, llm_temperature=0.2).reply(said("oi"), [])
    agent_for(llm).reply(said("oi"), [])
    first, second = (call.options for call in llm.calls)
    assert (first["max_tokens"], first["temperature"]) == (300, 0.2)
    assert second["max_tokens"] == 1024
    assert "temperature" not in second, "the server's own"


@pytest.fixture
def redis_url(redis_server):
    return redis_server.url


def test_no_more_calls_are_in_flight_than_is_allowed(llm, redis_url):
    """Two processes, as it were: each agent has its own connection to Redis."""
    llm.delay = 0.05
    agents = [agent_for(llm, llm_concurrency=2, redis_url=redis_url) for _ in range(2)]
    threads = [
        threading.Thread(target=lambda n=n: agents[n % 2].reply(said(f"oi {n}", f"user{n}"), [])) for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(llm.calls) == 12
    moments = [call.began for call in llm.calls]
    assert max(sum(call.began <= moment < call.ended for call in llm.calls) for moment in moments) <= 2


def test_waiting_for_a_place_is_no_part_of_the_models_time(llm, redis_url):
    """Six calls of 0.4 s in one place take longer than one call may."""
    llm.delay = 0.4
    agent = agent_for(llm, llm_concurrency=1, llm_timeout=1.5, redis_url=redis_url)
    replies = []
    threads = [threading.Thread(target=lambda n=n: replies.append(agent.reply(said(f"oi {n}"), []))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(replies) == 6


def test_without_redis_a_message_waits_in_its_queue(llm):
    agent = agent_for(llm, llm_concurrency=1, redis_url="redis://127.0.0.1:1/0")
    with pytest.raises(NoRoom):
        agent.reply(said("oi"), [])
    assert llm.calls == []
