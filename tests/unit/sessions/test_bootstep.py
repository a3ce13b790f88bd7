"""What a worker's subscriptions do with a message, without a broker."""

from __future__ import annotations

import gc
import math
import time
import weakref
from types import SimpleNamespace

import pytest
from kombu.message import Message

from chatbot.sessions.bootstep import THREAD_SECONDS, Session, Subscriptions, excess_sessions
from chatbot.store.presence import Process


class Watched(Message):
    """A message that can be referred to weakly."""


@pytest.fixture
def _no_collection():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize("settle", ["acknowledge", "reject"])
def test_a_settled_message_is_freed_without_a_collection(settle):
    told, handled = [], []
    channel = SimpleNamespace(
        message_to_python=lambda raw: Watched(body=raw, delivery_tag=7, channel=channel, properties={}),
        no_ack_consumers=None,
        basic_ack=lambda tag, **_: told.append(("acknowledge", tag)),
        basic_reject=lambda tag, **_: told.append(("reject", tag)),
    )
    subscriptions = Subscriptions(SimpleNamespace())
    subscriptions._accept, subscriptions._handle, subscriptions._stopping = None, handled.append, False
    session = Session("chat.x", None, leased_at=0.0, active_at=0.0, amqp_channel=channel)

    subscriptions._on_delivery(session, "oi")
    [message] = handled
    if settle == "acknowledge":
        message.ack_log_error(None, ())
    else:
        message.reject_log_error(None, ())
    assert told == [(settle, 7)]

    freed = weakref.ref(message)
    handled.clear()
    session.delivery = message = None
    assert freed() is None


def worker(id_, sessions, *, silent=0.0, kind="worker", broker="b"):
    return Process(id=id_, kind=kind, silent=silent, skew=0.0, broker=broker, sessions=sessions)


@pytest.mark.parametrize(
    ("sessions", "others", "excess"),
    [
        (100, [], 0),  # alone
        (100, [worker("new", 0)], 50),  # the first one up took them all
        (100, [worker("b", 100), worker("c", 100)], 0),  # everybody has their share
        (60, [worker("b", 50)], 0),  # nearly
        (4, [worker("new", 0)], 0),  # too few to matter
        (0, [worker("b", 100)], 0),  # the others' business
        (100, [worker("dead", 0, silent=60.0)], 0),
        (100, [worker("sender", 0, kind="sender")], 0),
        (100, [worker("elsewhere", 0, broker="another")], 0),
        (90, [worker("new", 0), worker("newer", 0)], 60),
    ],
)
def test_a_worker_hands_on_what_is_more_than_its_share(sessions, others, excess):
    # What it said of itself a moment ago is not what it has now.
    assert excess_sessions("mine", sessions, [worker("mine", 1), *others]) == excess


def waiting(threads):
    """Return subscriptions of a worker with so many threads, and what was handed to its pool."""
    handled, later = [], []
    subscriptions = Subscriptions(SimpleNamespace())
    subscriptions._accept, subscriptions._handle, subscriptions._stopping = None, handled.append, False
    subscriptions._most_handed = threads
    subscriptions._steps = SimpleNamespace(add=later.append)
    return subscriptions, handled, later


def deliver(subscriptions, user, told):
    channel = SimpleNamespace(
        message_to_python=lambda raw: Message(body=raw, delivery_tag=raw, channel=channel, properties={}),
        no_ack_consumers=None,
        basic_ack=lambda tag, **_: told.append(("acknowledged", tag)),
        basic_reject=lambda tag, **_: told.append(("given back", tag)),
    )
    session = subscriptions.sessions.get(user) or Session(user, None, leased_at=math.inf, active_at=0.0)
    session.amqp_channel = channel
    subscriptions.sessions[user] = session
    subscriptions._virtual = True
    subscriptions._on_delivery(session, user)
    return session


def test_messages_wait_for_a_thread_in_their_order():
    subscriptions, handled, later = waiting(threads=2)
    for user in "abcd":
        deliver(subscriptions, user, [])
    assert [message.body for message in handled] == ["a", "b"]
    handled[0].ack_log_error(None, ())
    later.pop()()
    assert [message.body for message in handled] == ["a", "b", "c"]
    handled[2].reject_log_error(None, ())
    handled[1].ack_log_error(None, ())
    for step in later:
        step()
    assert [message.body for message in handled] == ["a", "b", "c", "d"]


def test_what_waited_long_for_a_thread_is_asked_for_anew_and_keeps_its_place():
    """Else RabbitMQ would close the channel of everybody: it gives 30 minutes to a delivery."""
    subscriptions, handled, _ = waiting(threads=1)
    told = []
    for user in "abc":
        deliver(subscriptions, user, told)
    now = time.monotonic()
    subscriptions._ask_anew(now + THREAD_SECONDS - 1)
    assert told == []
    subscriptions.sessions["c"].waits_since += 60  # it came later
    subscriptions._ask_anew(now + THREAD_SECONDS + 1)
    assert told == [("given back", "b")]
    deliver(subscriptions, "b", told)
    assert [session.queue for session in subscriptions._waiting] == ["b", "c"]
    assert [message.body for message in handled] == ["a"]
