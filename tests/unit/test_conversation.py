"""One turn: what is committed, what is said when it fails, what is never done twice."""

from __future__ import annotations

import itertools

import pytest

from chatbot import language
from chatbot.conversation import MAX_ATTEMPTS, Conversation
from chatbot.errors import BrokerUnavailable, Permanent, StaleTurn, Transient
from chatbot.messages import Message
from chatbot.store import Store, connect

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
        self.woken, self.typing, self.buried = [], [], []
        self.script: list[Exception] = []

    def wake_sender(self, user, number):
        if self.script:
            raise self.script.pop(0)
        self.woken.append((user, number))

    def mark_read(self, message):
        self.typing.append(message.id)

    def bury(self, message, reason):
        self.buried.append((message.id, reason))


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
def conversation(store, agent, published):
    return Conversation(store, lambda: agent, published, llm_tries=3, sleep=lambda _: None)


def said(text, id_=None, user="ana", phone="5511999990001"):
    return Message(user=user, id=id_ or text, text=text, phone=phone)


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


def test_what_cannot_be_read_is_said_honestly(conversation, agent):
    assert conversation.answer(said("", id_="sticker")).reply == language.UNREADABLE["pt"]
    assert agent.asked == []


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
