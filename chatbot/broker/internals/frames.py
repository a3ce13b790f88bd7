"""AMQP frames, many of them in one system call: what is written can be held back.

Promise: frames go out in the order they were written, at the latest when the block that holds
them back ends, also by an error.

Each call also lets another thread run, and each write wakes the broker. py-amqp calls what
writes a connection's frames once it is connected: ``frame_writer`` of ``amqp.Connection``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from amqp.method_framing import frame_writer


class Frames:
    """Writes the frames of one connection, which one thread uses at a time."""

    def __init__(self, connection: Any, transport: Any) -> None:
        self._transport = transport
        self._held: bytearray | None = None
        self._write_frame = frame_writer(connection, self)

    def __call__(self, *frame: Any) -> None:
        """Write a frame, as py-amqp has it."""
        self._write_frame(*frame)

    def write(self, data: Any) -> None:
        """Write what a frame is made of, or hold it back: what ``amqp.method_framing`` needs of a transport."""
        if self._held is None:
            self._transport.write(data)
        else:
            self._held += data

    @contextmanager
    def together(self) -> Iterator[None]:
        """Hold frames back until the block ends; nothing may be waited for in it."""
        self._held = bytearray()
        try:
            yield
        finally:
            held, self._held = self._held, None
            self._transport.write(held)


def together(channel: Any) -> AbstractContextManager[None]:
    """Hold a channel's frames back until the block ends, where its connection has ``Frames``."""
    writer = channel.connection.frame_writer
    return writer.together() if isinstance(writer, Frames) else nullcontext()
