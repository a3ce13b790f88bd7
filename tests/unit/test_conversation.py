"""One turn: what is committed, what is said when it fails, what is never done twice."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import pytest

from chatbot import language
from chatbot.breaker import Breaker
from chatbot.conversation import MAX_ATTEMPTS, Conversation
from chatbot.errors import BrokerUnavailable, CircuitOpen, Permanent, QueueFull, StaleTurn, Transient
from chatbot.messages import Message
from chatbot.store import Store, TurnUnderWay, connect
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

    def mark_read(self, message):
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
def conversation(store, agent, published, breaker):
    return Conversation(store, lambda: agent, published, llm_tries=3, breaker=breaker, sleep=lambda _: None)


def said(text, id_=None, user="ana", phone="5511999990001"):
    return Message(user=user, id=id_ or text, text=text, phone=phone)


def test_typing_is_shown_anew_while_the_model_takes_long(monkeypatch, store, agent, published, breaker):
    monkeypatch.setattr("chatbot.conversation.TYPING_SECONDS", 0.01)

    class Slow(Echo):
        def reply(self, message, history):
            wait_until(lambda: len(published.typing) >= 3, what="typing shown anew")
            return super().reply(message, history)

    slow = Conversation(store, Slow, published, llm_tries=3, breaker=breaker, sleep=lambda _: None)
    assert slow.answer(said("um")).reply == "eco um"
    assert set(published.typing) == {"um"}


def test_a_turn_is_committed_and_the_sender_woken(conversation, agent, published, store):
    assert conversation.answer(said("um")).reply == "eco um"
    conversation.answer(said("dois"))
    assert agent.asked == [("um", []), ("dois", ["um"])]
    assert published.woken == [("ana", 1), ("ana", 2)]
    assert published.typing == ["um", "dois"]


def test_a_message_delivered_twice_has_one_turn(conversation, agent, published):
    conversation.answer(said("um"))
    conversation.answer(said("um"))
    assert len(agent.asked) == 1
    assert published.woken == [("ana", 1), ("ana", 1)], "its reply is handed over again: the first try may be lost"


def test_an_overtaken_run_writes_nothing(conversation, agent, published, store):
    def overtaken(message, history):
        store.begin_turn(message, seconds=60)  # the broker gave the message to another worker meanwhile
        return "from the zombie"

    agent.reply = overtaken
    with pytest.raises(StaleTurn):
        conversation.answer(said("um"))
    assert published.woken == []
    assert store.history("ana") == []


def test_the_model_is_tried_again_in_place(conversation, agent, published):
    agent.script = [Transient("429"), Transient("429")]
    assert conversation.answer(said("um")).reply == "eco um"
    assert len(agent.asked) == 3
    assert published.buried == []


@pytest.mark.parametrize("errors", [[Transient("429")] * 3, [Permanent("bad key")]])
def test_who_cannot_be_answered_hears_an_apology(conversation, agent, published, errors):
    agent.script = list(errors)
    assert conversation.answer(said("oi")).reply == language.APOLOGY["pt"]
    assert [id_ for id_, _ in published.buried] == ["oi"]
    assert str(errors[-1]) in published.buried[0][1]
    assert published.woken == [("ana", 1)]


def test_a_message_that_ends_its_worker_is_given_up(conversation, agent, published, store):
    for _ in range(MAX_ATTEMPTS):
        store.begin_turn(said("veneno"), seconds=60)  # began, and was never heard of again
    assert conversation.answer(said("veneno")).reply == language.APOLOGY["pt"]
    assert agent.asked == []
    assert "3 times" in published.buried[0][1]
    assert conversation.answer(said("oi")).reply == "eco oi"


def test_a_message_given_back_is_not_taken_for_one_that_ends_its_worker(conversation, agent, published, store):
    agent.script = [RuntimeError("not foreseen")] * MAX_ATTEMPTS * 2
    for _ in range(MAX_ATTEMPTS * 2):
        with pytest.raises(RuntimeError):
            conversation.answer(said("oi"))
    assert conversation.answer(said("oi")).reply == "eco oi"


def test_the_last_try_of_a_suspect_runs_alone(conversation, agent, store):
    """Two runs that were never heard of again: the third one may end its worker, but nothing else in it."""
    for _ in range(MAX_ATTEMPTS - 1):
        store.begin_turn(said("veneno"), seconds=60)
    running, most, go, begun = set(), [], threading.Event(), threading.Event()

    def reply(message, history):
        running.add(message.user)
        most.append(set(running))
        if message.user == "beto":
            begun.set()
            assert go.wait(10)
        running.discard(message.user)
        return "ok"

    agent.reply = reply
    turns = [threading.Thread(target=conversation.answer, args=(said("oi", user="beto"),))]
    turns[0].start()
    assert begun.wait(10)
    turns.append(threading.Thread(target=conversation.answer, args=(said("veneno"),)))
    turns[1].start()
    wait_until(lambda: conversation._floor._waiting == 1)
    turns.append(threading.Thread(target=conversation.answer, args=(said("oi", user="caio"),)))
    turns[2].start()
    go.set()
    for turn in turns:
        turn.join(10)
    assert {"ana"} in most
    assert all(len(users) == 1 for users in most if "ana" in users)
    assert len(most) == 3


def test_a_suspect_that_waits_to_run_alone_has_not_begun(conversation, store):
    for _ in range(MAX_ATTEMPTS - 1):
        store.begin_turn(said("veneno"), seconds=60)
    with conversation._floor.shared():
        turn = threading.Thread(target=conversation.answer, args=(said("veneno"),))
        turn.start()
        wait_until(lambda: conversation._floor._waiting == 1)
        assert store.begin_turn(said("veneno"), seconds=0).attempts == MAX_ATTEMPTS
    turn.join(10)


def test_while_the_model_is_down_a_message_waits_and_its_user_is_told_once(conversation, agent, published, breaker):
    agent.script = [Transient("down")] * 5
    assert conversation.answer(said("um", user="caio")).failure  # three tries
    for _ in range(3):
        with pytest.raises(CircuitOpen):
            conversation.answer(said("dois"))
    assert len(agent.asked) == 5
    assert published.told == [("ana", "waiting", language.WAITING["pt"])]
    assert published.buried == [("um", "Transient: down")]
    breaker._clock = lambda: float("inf")
    assert conversation.answer(said("dois")).reply == "eco dois"


def test_an_apology_is_a_dead_letter_even_if_its_worker_ended_right_after_it(conversation, agent, published):
    agent.script = [Permanent("bad key")]
    conversation._outbound = Published()
    conversation.answer(said("oi"))
    conversation._outbound = published  # what was published is gone; the message comes again
    conversation.answer(said("oi"))
    assert published.buried == [("oi", "Permanent: bad key")]
    assert published.woken == [("ana", 1)]


def test_what_cannot_be_read_is_said_honestly_and_once(conversation, agent, published):
    replies = [conversation.answer(said("", id_=f"sticker {n}")).reply for n in range(3)]
    assert replies == [language.UNREADABLE["pt"], "", ""]
    assert agent.asked == []
    assert [number for _, number in published.woken] == [1, 2, 3], "no turn is left out"
    conversation.answer(said("oi"))
    assert conversation.answer(said("", id_="another")).reply == language.UNREADABLE["pt"]


def test_a_quoted_message_is_given_as_context(conversation, agent, store):
    conversation.answer(said("quero o azul"))
    quoting = replace(said("e esse?"), quoted="quero o azul", context="Veio de um anúncio")
    assert conversation.answer(quoting).message.told == ("[Em resposta a: “quero o azul”. Veio de um anúncio]\ne esse?")
    unknown = replace(said("e aquele?"), quoted="wamid.unheard of")
    assert conversation.answer(unknown).message.told == "e aquele?"
    claimed = store.claim_delivery("ana", holder="w", seconds=60)
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
    assert language.guess(text, phone) == expected


def test_a_suspect_that_waits_to_run_alone_keeps_the_next_message_waiting(conversation, store):
    for _ in range(MAX_ATTEMPTS - 1):
        store.begin_turn(said("veneno"), seconds=60)
    with conversation._floor.shared():
        turn = threading.Thread(target=conversation.answer, args=(said("veneno"),))
        turn.start()
        wait_until(lambda: conversation._floor._waiting == 1)
        with pytest.raises(TurnUnderWay):
            store.begin_turn(said("a seguinte"), seconds=60)
    turn.join(10)


def test_a_claim_asked_for_again_because_its_answer_was_lost_is_one_attempt(conversation, agent, published, store):
    begin, lost = store.begin_turn, [None] * MAX_ATTEMPTS

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
