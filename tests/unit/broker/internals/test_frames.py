"""Frames that go out together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from chatbot.broker.internals.frames import Frames, together


@pytest.fixture
def channel():
    """A channel whose ``written`` is what its connection's socket was given."""
    written = []
    transport = SimpleNamespace(write=lambda data: written.append(bytes(data)))
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
