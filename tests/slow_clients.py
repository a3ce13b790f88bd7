"""Clients that send half a request, a byte now and then, or nothing at all; each comes back when it is closed.

They live in an event loop in a thread of its own. ``held`` are open now, ``closed`` were closed by
the server so far.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Self

from tests.servers import wait_until

_LONG = "Content-Length: 100000"
_SIGNED = "X-Hub-Signature-256: sha256=" + 64 * "0"
_POST = "POST /webhook/whatsapp HTTP/1.1\r\nHost: h"
#: What each kind sends at once; kinds that drip go on with a byte at a time.
SENT = {
    "silent": b"",
    "half a head": _POST.encode(),
    "half a body, not signed": f"{_POST}\r\n{_LONG}\r\n\r\n{{".encode(),
    "half a body": f"{_POST}\r\n{_LONG}\r\n{_SIGNED}\r\n\r\n{{".encode(),
    "half a chunk": f"{_POST}\r\nTransfer-Encoding: chunked\r\n{_SIGNED}\r\n\r\nffff\r\n{{".encode(),
    "dripping head": f"{_POST}\r\nX-Long: ".encode(),
    "dripping body": f"{_POST}\r\n{_LONG}\r\n{_SIGNED}\r\n\r\n".encode(),
    "dripping chunks": f"{_POST}\r\nTransfer-Encoding: chunked\r\n{_SIGNED}\r\n\r\n".encode(),
}
DRIPS = {"dripping head": b"x", "dripping body": b" ", "dripping chunks": b"1\r\n \r\n"}
DRIP_SECONDS = 0.5


class SlowClients:
    """``count`` clients, of every kind equally many, on one port while the block lasts."""

    def __init__(self, port: int, count: int) -> None:
        self._port, self._count = port, count
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="slow clients", daemon=True)
        self.held = self.closed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        kinds = itertools.islice(itertools.cycle(SENT), self._count)
        self._tasks = [self._start(self._come_back(kind)) for kind in kinds]
        wait_until(lambda: self.held == self._count, what=f"{self._count} slow clients")
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        self._start(self._loop.shutdown_asyncgens()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _come_back(self, kind: str) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(DRIP_SECONDS)
                continue
            try:
                writer.write(SENT[kind])
                self.held += 1
                await self._stay(reader, writer, DRIPS.get(kind, b""))
                self.closed += 1
            finally:
                self.held -= 1
                writer.close()

    async def _stay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drip: bytes) -> None:
        """Return once the server has closed the connection."""
        gone = asyncio.ensure_future(_end(reader))
        try:
            while not gone.done():
                await asyncio.wait([gone], timeout=DRIP_SECONDS if drip else None)
                writer.write(drip)
        finally:
            gone.cancel()


async def _end(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(4096):
            pass
    except OSError:
        pass


def main() -> None:
    """``python -m tests.slow_clients PORT COUNT``: stay until ended; says ``held`` when all are connected."""
    port, count = map(int, sys.argv[1:])
    with SlowClients(port, count):
        print("held", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
