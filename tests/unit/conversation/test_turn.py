"""One turn: what is committed, what is said when it fails, what is never done twice."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from chatbot import texts
from chatbot.conversation.turn import MAX_ATTEMPTS, MAX_WAITS, SUSPECT_ATTEMPTS, Conversation
from chatbot.errors import (
    BrokerUnavailable,
    CircuitOpen,
    NoRoom,
    Permanent,
    QueueFull,
    ServiceDown,
    StaleTurn,
    Transient,
    TurnUnderWay,
)
from chatbot.messages import Message
from chatbot.resilience.breaker import Breaker
from chatbot.store.client import connect
from chatbot.store.presence import Runs
from chatbot.store.store import Store
from tests.servers import wait_until

fresh = itertools.count()


class Echo:
    """An agent that repeats, and raises what the script says."""

    def __init__(self):
        self.asked: list[tuple[str, list[str]]] = []
        self.script: list[Exception | None] = []

    def reply(self, message, history):
        self.asked.append((message.text, [turn.message.text for turn in history]))
        error = self.script.pop(0) if self.script else None
        if error:
            raise error
        return f"eco {message.text}"


class Others:
    """Other processes, of which the test says which are gone."""

    def __init__(self):
        self.gone = set()

    def is_gone(self, process):
        return process in self.gone


class Published:
    """Keeps what a turn publishes."""

    def __init__(self):
        self.woken, self.typing, self.buried, self.told, self.routed = [], [], [], [], []
        self.full = False
        self.script: list[Exception] = []

    def route(self, message):
        if self.full:
            raise QueueFull("the user's queue is full")
        self.routed.append(message)

    def wake_sender(self, user, number):
        if self.script:
            raise self.script.pop(0)
        self.woken.append((user, number))

    def mark_read(self, message, *, at):
        self.typing.append(message.id)

    def bury(self, message, reason):
        self.buried.append((message.id, reason))

    def notify(self, message, what, text):
        self.told.append((message.user, what, text))


@pytest.fixture
def store():
    return Store(connect(f"fakeredis://talk-{next(fresh)}"), history_turns=5, retention=100, clock=lambda: 1.0)


@pytest.fixture
def agent():
    return Echo()


@pytest.fixture
def published():
    return Published()


@pytest.fixture
def breaker():
    return Breaker(failures=5, rest=60)


@pytest.fixture
def runs():
    return Runs("here", Others())


@pytest.fixture
def conversation(store, agent, published, breaker, runs):
    return Conversation(store, lambda: agent, published, runs=runs, llm_tries=3, breaker=breaker, sleep=lambda _: None)


def said(text, id_=None, user="ana", phone="5511999990001"):
    return Message(user=user, id=id_ or text, text=text, phone=phone)


def test_typing_is_shown_anew_while_the_model_takes_long(monkeypatch, store, published, breaker, runs):
    monkeypatch.setattr("chatbot.conversation.turn.TYPING_SECONDS", 0.01)

    class Slow(Echo):
        def reply(self, message, history):
            wait_until(lambda: len(published.typing) >= 3, what="typing shown anew")
            return super().reply(message, history)

    slow = Conversation(store, Slow, published, runs=runs, llm_tries=3, breaker=breaker, sleep=lambda _: None)
    assert slow.answer(said("um")).reply == "eco um"
    assert set(published.typing) == {"um"}


def test_a_turn_is_committed_and_the_sender_woken(conversation, agent, published, store):
    assert conversation.answer(said("um")).reply == "eco um"
    conversation.answer(said("dois"))
    assert agent.asked == [("um", []), ("dois", ["um"])]
    assert published.woken == [("ana", 1)], "the sender that is woken for the first takes the second along"
    assert published.typing == ["um", "dois"]


def test_a_message_delivered_twice_has_one_turn(conversation, agent, published):
    conversation.answer(said("um"))
    conversation.answer(said("um"))
    assert len(agent.asked) == 1
    assert published.woken == [("ana", 1), ("ana", 1)], "its reply is handed over again: the first try may be lost"


def test_an_overtaken_run_writes_nothing(conversation, agent, published, store):
    def overtaken(message, history):
        # This process stood still for so long that another one took over.
        fence = store._redis.hget("chatbot:{ana}:conversation", "run")
        store.begin_turn(message, fence="elsewhere/1", gone=fence)
        return "from the zombie"

    agent.reply = overtaken
    with pytest.raises(StaleTurn):
        conversation.answer(said("um"))
    assert published.woken == []
    assert store.history("ana") == []


def test_a_run_that_lives_is_neither_overtaken_nor_an_attempt(conversation, agent, runs, store):
    """A connection that is cut again and again has the message delivered again, while its turn goes on."""

    def cut(message, history):
        if len(agent.asked) < 5:
            agent.asked.append((message.text, []))
            with pytest.raises(TurnUnderWay):
                conversation.answer(message)
        return "eco"

    agent.reply = cut
    assert conversation.answer(said("um")).reply == "eco"
    assert len(agent.asked) == 1, "the model is asked once"
    assert store._redis.hget("chatbot:{ana}:conversation", "attempts") is None


@pytest.mark.parametrize(("gone", "reply"), [(True, "eco um"), (False, None)])
def test_a_turn_of_another_process_is_taken_over_only_when_that_is_gone(conversation, runs, store, gone, reply):
    store.begin_turn(said("um"), fence="there/7")
    runs.liveness.gone = {"there"} if gone else set()
    if reply:
        assert conversation.answer(said("um")).reply == reply
    else:
        with pytest.raises(TurnUnderWay):
            conversation.answer(said("um"))


def test_the_claim_of_a_turn_that_takes_long_is_renewed(monkeypatch, store, agent, published, breaker):
    monkeypatch.setattr("chatbot.store.presence.RENEW_SECONDS", 0.01)
    renewed = []
    monkeypatch.setattr(store, "renew_turn", lambda user, fence: renewed.append((user, fence)))

    class Slow(Echo):
        def reply(self, message, history):
            wait_until(lambda: len(renewed) >= 3, what="renewed")
            return super().reply(message, history)

    runs = Runs("here", Others())
    Conversation(store, Slow, published, runs=runs, llm_tries=3, breaker=breaker).answer(said("um"))
    assert set(renewed) == {("ana", "here/1")}
    assert runs.is_gone("here/1")


def test_the_model_is_tried_again_in_place(conversation, agent, published):
    agent.script = [Transient("429"), Transient("429")]
    assert conversation.answer(said("um")).reply == "eco um"
    assert len(agent.asked) == 3
    assert published.buried == []


def test_who_cannot_be_answered_hears_an_apology(conversation, agent, published):
    agent.script = [Permanent("bad key")]
    assert conversation.answer(said("oi")).reply == texts.APOLOGY["pt"]
    assert [id_ for id_, _ in published.buried] == ["oi"]
    assert "bad key" in published.buried[0][1]
    assert published.woken == [("ana", 1)]


def test_who_meets_a_passing_failure_is_told_once_and_answered_when_it_is_over(
    conversation, agent, published, store, breaker
):
    """A blip of a second used to cost the first customer the answer: an apology, and nothing after it."""
    breaker._most_failures = 10**6
    agent.script = [Transient("503")] * 6
    for _ in range(2):
        with pytest.raises(Transient):
            conversation.answer(said("oi"))
    assert store.history("ana") == []
    assert conversation.answer(said("oi")).reply == "eco oi"
    assert published.told == [("ana", "waiting", texts.WAITING["pt"])]
    assert published.buried == []
    assert store.counts()["turn_waits"] == 1


def test_a_message_that_fails_again_and_again_while_others_are_answered_is_given_up(conversation, agent, published):
    def answer(text, user):
        agent.script = [Transient("500")] * 3 if text == "oi" else []
        return conversation.answer(said(text, user=user, id_=f"{text}-{user}"))

    for n in range(MAX_WAITS):
        with pytest.raises(Transient):
            answer("oi", "ana")
        answer(f"olá {n}", "bia")
    assert answer("oi", "ana").failure
    assert [id_ for id_, _ in published.buried] == ["oi-ana"]


def test_while_nobody_is_answered_no_message_is_given_up(conversation, agent, published, breaker):
    breaker._most_failures = 10**6
    for _ in range(MAX_WAITS + 3):
        agent.script = [Transient("500")] * 3
        with pytest.raises(Transient):
            conversation.answer(said("oi"))
    assert conversation.answer(said("oi")).reply == "eco oi"
    assert len(published.told) == 1
    assert published.buried == []


def never_heard_of_again(store, text, times):
    for n in range(times):
        store.begin_turn(said(text), fence=f"gone/{n}", gone=f"gone/{n - 1}")


def test_a_suspect_is_answered_apart(store, agent, published, breaker, runs):
    """Two runs that were never heard of again: the third is in a process of its own."""
    apart = []

    def think(message, history):
        apart.append(message.text)
        return message, "from apart"

    conversation = Conversation(store, lambda: agent, published, runs=runs, llm_tries=3, breaker=breaker, apart=think)
    runs.liveness.gone = {"gone"}
    never_heard_of_again(store, "suspeita", SUSPECT_ATTEMPTS - 2)
    assert conversation.answer(said("suspeita")).reply == "eco suspeita"
    assert apart == []
    never_heard_of_again(store, "veneno", SUSPECT_ATTEMPTS - 1)
    assert conversation.answer(said("veneno")).reply == "from apart"
    assert apart == ["veneno"]


def test_a_suspect_that_ends_its_process_is_given_up(store, agent, published, breaker, runs):
    def think(message, history):
        raise Permanent("it ended the process that answered it (EOFError)")

    conversation = Conversation(store, lambda: agent, published, runs=runs, llm_tries=3, breaker=breaker, apart=think)
    runs.liveness.gone = {"gone"}
    never_heard_of_again(store, "veneno", SUSPECT_ATTEMPTS - 1)
    assert conversation.answer(said("veneno")).reply == texts.APOLOGY["pt"]
    assert agent.asked == []
    assert "ended the process" in published.buried[0][1]
    assert conversation.answer(said("oi")).reply == "eco oi"


def test_a_suspect_that_finds_no_room_waits_as_long_as_it_takes(store, agent, published, breaker, runs):
    def think(message, history):
        raise NoRoom("other suspects are being answered")

    conversation = Conversation(store, lambda: agent, published, runs=runs, llm_tries=3, breaker=breaker, apart=think)
    runs.liveness.gone = {"gone"}
    never_heard_of_again(store, "suspeita", SUSPECT_ATTEMPTS - 1)
    conversation.answer(said("oi", user="bia"))
    for _ in range(MAX_WAITS + 2):
        with pytest.raises(NoRoom):
            conversation.answer(said("suspeita"))
    assert (published.told, published.buried) == ([], [])


def test_a_suspect_that_found_no_room_is_not_given_up_for_one_failure(store, agent, published, breaker, runs):
    """To find no room is no failure, and counts as none once the model is busy for a moment."""
    errors = [NoRoom("other suspects are being answered")] * (MAX_WAITS + 2) + [Transient("429")]

    def think(message, history):
        if errors:
            raise errors.pop(0)
        return message, "eco suspeita"

    conversation = Conversation(store, lambda: agent, published, runs=runs, llm_tries=3, breaker=breaker, apart=think)
    runs.liveness.gone = {"gone"}
    never_heard_of_again(store, "suspeita", SUSPECT_ATTEMPTS - 1)
    conversation.answer(said("oi", user="bia"))
    while errors:
        with pytest.raises(Transient):
            conversation.answer(said("suspeita"))
    assert conversation.answer(said("suspeita")).reply == "eco suspeita"
    assert published.buried == []


def test_a_message_whose_runs_never_end_is_given_up_even_so(conversation, agent, published, store, runs):
    runs.liveness.gone = {"gone"}
    never_heard_of_again(store, "veneno", MAX_ATTEMPTS)
    assert conversation.answer(said("veneno")).reply == texts.APOLOGY["pt"]
    assert agent.asked == []


def test_a_message_given_back_is_not_taken_for_one_that_ends_its_worker(conversation, agent, published, store):
    agent.script = [RuntimeError("not foreseen")] * SUSPECT_ATTEMPTS * 2
    for _ in range(SUSPECT_ATTEMPTS * 2):
        with pytest.raises(RuntimeError):
            conversation.answer(said("oi"))
    assert conversation.answer(said("oi")).reply == "eco oi"


def test_while_the_model_is_down_a_message_waits_and_its_user_is_told_once(conversation, agent, published, breaker):
    agent.script = [ServiceDown("down")] * 5
    with pytest.raises(Transient):
        conversation.answer(said("um", user="caio"))  # three tries
    for _ in range(3):
        with pytest.raises(CircuitOpen):
            conversation.answer(said("dois"))
    assert len(agent.asked) == 5
    assert published.told == [(user, "waiting", texts.WAITING["pt"]) for user in ("caio", "ana")]
    assert published.buried == []
    breaker._clock = lambda: float("inf")
    assert conversation.answer(said("dois")).reply == "eco dois"


def test_an_apology_is_one_dead_letter_even_if_its_worker_ended_right_after_it(conversation, agent, published, store):
    agent.script = [Permanent("bad key")]
    conversation._outbound = Published()
    conversation.answer(said("oi"))
    conversation._outbound = published  # what was published is gone; the message comes again
    conversation.answer(said("oi"))
    assert published.buried == [], "it is one already"
    store._redis.delete("chatbot:{ana}:told:dead:oi")  # its worker ended before it was one
    conversation.answer(said("oi"))
    assert published.buried == [("oi", "Permanent: bad key")]
    assert published.woken == [("ana", 1)] * 2


def test_what_cannot_be_read_is_said_honestly_and_once(conversation, agent, store):
    replies = [conversation.answer(said("", id_=f"sticker {n}")).reply for n in range(3)]
    assert replies == [texts.UNREADABLE["pt"], "", ""]
    assert agent.asked == []
    assert [turn.number for turn in store.history("ana")] == [1, 2, 3], "no turn is left out"
    conversation.answer(said("oi"))
    assert conversation.answer(said("", id_="another")).reply == texts.UNREADABLE["pt"]


def test_a_quoted_message_is_given_as_context(conversation, agent, store):
    conversation.answer(said("quero o azul"))
    quoting = replace(said("e esse?"), quoted="quero o azul", context="Veio de um anúncio")
    assert conversation.answer(quoting).message.told == ("[Em resposta a: “quero o azul”. Veio de um anúncio]\ne esse?")
    unknown = replace(said("e aquele?"), quoted="wamid.unheard of")
    assert conversation.answer(unknown).message.told == "e aquele?"
    claimed = store.claim_delivery("ana", fence="w")
    store.settle_done(claimed, sent="wamid.ours")
    ours = replace(said("como assim?"), quoted="wamid.ours")
    assert conversation.answer(ours).message.context == "Em resposta a: “eco quero o azul”"


def test_a_broker_that_is_away_for_a_moment_loses_no_reply(conversation, published):
    published.script = [BrokerUnavailable("away")] * 3
    conversation.answer(said("um"))
    assert published.woken == [("ana", 1)]


@pytest.mark.parametrize(
    ("text", "phone", "expected"),
    [
        ("Oi, qual é o preço?", "", "pt"),
        ("Hello, what is the price?", "5511999990001", "en"),
        ("Hola, quiero saber el precio", "", "es"),
        ("???", "15550001111", "en"),
        ("???", "5215550001111", "es"),
        ("", "", "pt"),
    ],
)
def test_the_language_is_guessed(text, phone, expected):
    assert texts.guess(text, phone) == expected


def test_a_claim_asked_for_again_because_its_answer_was_lost_is_one_attempt(conversation, agent, published, store):
    begin, lost = store.begin_turn, [None] * SUSPECT_ATTEMPTS

    def answer_lost(message, **options):
        begun = begin(message, **options)
        if lost:
            lost.pop()
            raise Transient("Redis answered, and nobody heard")
        return begun

    store.begin_turn = answer_lost
    assert conversation.answer(said("oi")).reply == "eco oi"
    assert published.buried == []


def moved(to, user="ana"):
    return replace(said("", id_=f"to {to}", user=user, phone=user), kind="system", moved_to=to, sent_at=1.0)


def test_who_moves_is_not_answered_and_takes_replies_along(conversation, agent, published):
    conversation.answer(said("um"))
    assert conversation.answer(moved("5521977770003")) is None
    assert published.woken == [("ana", 1), ("5521977770003", 0)]
    conversation.answer(said("dois", user="5521977770003"))
    assert agent.asked[-1] == ("dois", ["um"])


def test_what_comes_under_an_old_name_is_forwarded_in_order(conversation, agent, published):
    conversation.answer(moved("5521977770003"))
    for text in ("um", "dois"):
        assert conversation.answer(said(text)) is None
    assert agent.asked == []
    assert [(m.id, m.user, m.phone, m.origin) for m in published.routed] == [
        (text, "5521977770003", "5521977770003", "ana") for text in ("um", "dois")
    ]
    for message in [*published.routed, said("um")]:
        conversation.answer(message)
    assert [text for text, _ in agent.asked] == ["um", "dois"], "forwarded or delivered again, it has one turn"


def test_what_finds_no_room_when_it_is_forwarded_is_kept(conversation, published):
    conversation.answer(moved("5521977770003"))
    published.full = True
    assert conversation.answer(said("um")) is None
    assert published.buried == [("um", "the user's queue is full")]
