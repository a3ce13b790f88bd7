"""An OpenAI-compatible model that takes its time and next to no processor: one thread for any number of calls.

``python -m tests.benchmarks.slow_llm PORT SECONDS``. Every ``POST /<asker>/<slots>/v1/…`` is
answered with the same completion after so many seconds, but for the first calls of an asker, one
for each of its slots: the first of them takes hardly any time, the last takes it all. So its slots
ask one after the other from then on, as they do where people write when they like.
``GET /<asker>/<slots>`` hands over the calls that ended since it was last asked, a JSON list of when each
began and ended, in ``time.monotonic()``; what comes next are first calls again.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers import PYTHON, Process, accepts, free_port, wait_until
from tests.stub_llm import completion

ANSWER = json.dumps(completion("Claro! Pode me dizer o número do seu pedido?")).encode()


@contextmanager
def started(folder: Path, seconds: float) -> Iterator[str]:
    """Run one that takes so many seconds; give its URL."""
    port = free_port()
    process = Process([PYTHON, "-m", __name__, str(port), str(seconds)], log=folder / "llm.log").start()
    try:
        wait_until(lambda: accepts(port), what="model up")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection that is kept; a client sends its next request after the answer."""

    def __init__(self, seconds: float, begun: Counter[str], ended: dict[str, list[tuple[float, float]]]) -> None:
        self._seconds, self._begun, self._ended = seconds, begun, ended
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if not ended or len(body) < _length(head):
            return
        self._received = b""
        method, path, _ = head.split(b" ", 2)
        name, slots = path.decode().split("/")[1:3]
        asker = f"{name}/{slots}"
        if method == b"GET":
            self._begun.pop(asker, None)
            self._answer(json.dumps(self._ended.pop(asker, [])).encode())
        else:
            self._begun[asker] += 1
            share = min(1.0, self._begun[asker] / int(slots))
            asyncio.get_running_loop().call_later(self._seconds * share, self._end, asker, time.monotonic())

    def _end(self, asker: str, began: float) -> None:
        self._ended[asker].append((began, time.monotonic()))
        self._answer(ANSWER)

    def _answer(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )


def _length(head: bytes) -> int:
    """Return the length of the body that a request's head announces."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def _serve(port: int, seconds: float) -> None:
    begun: Counter[str] = Counter()
    ended: dict[str, list[tuple[float, float]]] = defaultdict(list)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(seconds, begun, ended), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
