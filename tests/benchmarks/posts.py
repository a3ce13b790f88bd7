"""A load generator for webhooks: prepared requests over raw connections, in an event loop of its own.

Cheap, because it shares the machine with what it measures: no HTTP library, and each
request is signed before the clock starts. All times are in seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence

from tests.system import sign


def prepared(body: bytes) -> bytes:
    """Return the whole signed POST of one webhook body."""
    head = (
        "POST /webhook/whatsapp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-Hub-Signature-256: {sign(body)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def post_all(port: int, requests: Sequence[bytes], connections: int) -> float:
    """Post as fast as they are answered, over that many connections; return the seconds it took."""
    return asyncio.run(_post_all(port, requests, connections))


def post_at(port: int, requests: Sequence[bytes], connections: int, rate: float) -> list[float]:
    """Post at ``rate`` a second whatever comes back; return how long each took from when it was due."""
    return asyncio.run(_post_at(port, requests, connections, rate))


async def _post_all(port: int, requests: Sequence[bytes], connections: int) -> float:
    waiting = iter(requests)
    async with asyncio.TaskGroup() as group:
        began = time.monotonic()
        for _ in range(connections):
            group.create_task(_post_each(port, waiting))
    return time.monotonic() - began


async def _post_each(port: int, waiting: Iterator[bytes]) -> None:
    connection = await asyncio.open_connection("127.0.0.1", port)
    for request in waiting:
        await _post(connection, request)
    connection[1].close()


async def _post_at(port: int, requests: Sequence[bytes], connections: int, rate: float) -> list[float]:
    began, numbers, took = time.monotonic() + 0.1, itertools.count(), [0.0] * len(requests)

    async def post_due() -> None:
        connection = await asyncio.open_connection("127.0.0.1", port)
        while (number := next(numbers)) < len(requests):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await _post(connection, requests[number])
            took[number] = time.monotonic() - due
        connection[1].close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(post_due())
    return took


async def _post(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes) -> None:
    reader, writer = connection
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    fields = head.lower().split(b"\r\n")
    length = next(int(field.split(b":")[1]) for field in fields if field.startswith(b"content-length:"))
    await reader.readexactly(length)
