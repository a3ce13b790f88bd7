"""What a worker's subscriptions do with a message, without a broker."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
from kombu.message import Message

from chatbot.subscriptions import Session, Subscriptions


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
