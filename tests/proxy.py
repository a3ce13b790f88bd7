"""A TCP proxy of the tests: its connections can be cut, stalled and watched."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Self

from tests.servers import free_port

#: What sees the bytes that go one way on one connection.
Watcher = Callable[[bytes], None]


class TcpProxy:
    """Passes bytes on from ``port`` of the loopback to ``target`` until told otherwise.

    ``watch`` is called once a connection and returns two functions, which see the bytes that
    go there and those that come back.
    """

    def __init__(self, target: int, *, watch: Callable[[], tuple[Watcher, Watcher]] | None = None) -> None:
        self.port, self._target = free_port(), target
        self._watch = watch or (lambda: (_unseen, _unseen))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._connections: set[asyncio.StreamWriter] = set()
        self._flows: asyncio.Event
        self._server: asyncio.Server

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._serve())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def cut(self) -> None:
        """Break every connection; new ones are taken."""
        self._run(self._cut())

    def stall(self) -> None:
        """Pass nothing on, and let nobody know, until ``flow``."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def flow(self) -> None:
        """Pass on what was held back."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def _run(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _serve(self) -> None:
        self._flows = asyncio.Event()
        self._flows.set()
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)

    async def _close(self) -> None:
        self._server.close()
        self._flows.set()
        await self._cut()
        if ending := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(ending, timeout=5)

    async def _cut(self) -> None:
        for writer in list(self._connections):
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, there_writer}
        self._connections |= ends
        try:
            there, back = self._watch()
            await asyncio.gather(self._pass(reader, there_writer, there), self._pass(there_reader, writer, back))
        except OSError:
            pass
        finally:
            self._connections -= ends
            for end in ends:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watcher: Watcher) -> None:
        while data := await reader.read(65_536):
            await self._flows.wait()
            watcher(data)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _unseen(data: bytes) -> None:
    """Look at nothing."""
