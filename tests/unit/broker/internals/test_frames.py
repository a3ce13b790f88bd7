"""Frames that go out together."""

from __future__ import annotations

from struct import pack
from types import SimpleNamespace

import pytest
from amqp.transport import TCPTransport

from chatbot.broker.internals.frames import Frames, together


@pytest.fixture
def channel():
    """A channel whose ``written`` is what its connection's socket was given."""
    written = []
    transport = SimpleNamespace(write=lambda data: written.append(bytes(data)), _quick_recv=None)
    connection = SimpleNamespace(frame_max=131072, bytes_sent=0)
    connection.frame_writer = Frames(connection, transport)
    return SimpleNamespace(connection=connection, written=written)


def ask(channel, number):
    channel.connection.frame_writer(1, number, (50, 10), b"arguments", None)


def test_each_frame_is_written_at_once_but_those_of_a_block_together(channel):
    for number in (1, 2):
        ask(channel, number)
    with together(channel):
        for number in (1, 2):
            ask(channel, number)
    ask(channel, 1)
    first, second = channel.written[:2]
    assert channel.written == [first, second, first + second, first]


def test_what_was_written_before_an_error_is_not_kept_for_the_next(channel):
    """It was counted, and its confirm is waited for."""

    def ask_and_fail():
        with together(channel):
            ask(channel, 1)
            raise ValueError("unusable")

    with pytest.raises(ValueError, match="unusable"):
        ask_and_fail()
    ask(channel, 2)
    assert len(channel.written) == 2


def test_a_connection_that_writes_as_it_likes_is_left_alone():
    with together(SimpleNamespace(connection=SimpleNamespace(frame_writer=print))):
        pass


def test_frames_that_came_together_are_read_with_one_call():
    """A confirm and what was declared, as the broker writes them, one of them in two parts."""
    frames = [b"\x01" + pack(">HI", 1, len(content)) + content + b"\xce" for content in (b"ack", b"declared", b"ok")]
    coming = [b"".join(frames)[:-2], b"".join(frames)[-2:]]
    transport = TCPTransport("127.0.0.1")
    transport._quick_recv, transport._read_buffer = lambda _: coming.pop(0), b""
    Frames(SimpleNamespace(frame_max=131072), transport)
    assert transport.read_frame() == (1, 1, b"ack")
    assert transport.read_frame() == (1, 1, b"declared")
    assert len(coming) == 1
    assert transport.read_frame() == (1, 1, b"ok")
