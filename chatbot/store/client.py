"""Redis as every store of ours uses it: one client, one treatment of its errors, scripts with one clock.

In comes an address, out goes a client; what Redis raises while it is down, loading or full
becomes ``Transient``. Every script begins with ``lua/clock.lua``: time that processes are compared by
is Redis' own, so no host's clock decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import redis
import redis.exceptions

from chatbot import extras
from chatbot.errors import Transient


def connect(url: str, *, timeout: float = 5.0, tls: Mapping[str, Any] | None = None) -> Any:
    """Return a redis-py client for ``url``; ``fakeredis://`` is a store inside this process.

    Nothing is connected yet. ``timeout`` in seconds bounds every call. ``tls`` is what ``tls.of_redis`` made.
    Raises ``MissingExtra``.
    """
    if url.startswith("fakeredis:"):
        extras.require("demo")  # only the demo and tests have no Redis of their own
        import fakeredis

        server = fakeredis.FakeServer.get_server(url, server_type="redis", version=(7,))
        return fakeredis.FakeRedis(server=server, decode_responses=True)
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        health_check_interval=30,
        **(tls or {}),
    )


def script(client: Any, name: str) -> Any:
    """Return the script ``lua/<name>.lua``, to be called with its KEYS and its ARGV, of which the first is the time.

    The time is ``""`` for Redis' own clock, or Unix seconds that a test gives.
    """
    return client.register_script(_text(name))


def redis_time(client: Any) -> float:
    """Return the time as Redis has it, in Unix seconds."""
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1_000_000


@cache
def _text(name: str) -> str:
    folder = files("chatbot.store") / "lua"
    return "\n".join((folder / f"{part}.lua").read_text() for part in ("clock", name))


@contextmanager
def reachable() -> Iterator[None]:
    """Turn what Redis raises while it is down, loading or full into ``Transient``."""
    try:
        yield
    except (redis.exceptions.RedisError, OSError) as err:
        raise Transient(f"Redis cannot be used: {err}") from err
