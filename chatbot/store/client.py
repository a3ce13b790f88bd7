"""Redis as every store of ours uses it: one client, one treatment of its errors, scripts with one clock.

In comes an address, out goes a client; what Redis raises while it is down, loading or full
becomes ``Transient``. Every script begins with ``lua/clock.lua``: time that processes are compared by
is Redis' own, so no host's clock decides anything. The form of all that is stored has a version,
which stands in Redis: with its first command a client looks at it, and refuses what is of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import redis
import redis.exceptions

from chatbot import extras
from chatbot.errors import StoreRefused, Transient
from chatbot.store import keys

#: The form of what is stored. It changes where a release could not read, or would break, what another one wrote.
VERSION = "1"


class _Client(redis.Redis):
    """A client that uses a store of our ``VERSION`` only. Raises ``StoreRefused`` for another one.

    An empty Redis becomes one of ours. What was found to be ours is not looked at again.
    """

    _is_ours = False

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Do one command, once the version was looked at."""
        self._check_version()
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # of redis-py

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Return a pipeline, once the version was looked at."""
        self._check_version()
        return super().pipeline(*args, **options)

    def _check_version(self) -> None:
        if self._is_ours:
            return
        run: Any = super().execute_command  # redis-py gives it no types
        key = keys.VERSION.of()
        found = run("GET", key)
        if found is None:  # read first: a Redis that is full takes no write, and can still be read
            run("SET", key, VERSION, "NX")
            found = run("GET", key)
        if found != VERSION:
            raise StoreRefused(
                f"Redis holds a store of version {found}, and this release uses version {VERSION}: start the release "
                "that wrote it, or have CHATBOT_REDIS_URL name an empty database"
            )
        self._is_ours = True


def connect(url: str, *, timeout: float = 5.0, tls: Mapping[str, Any] | None = None) -> Any:
    """Return a redis-py client for ``url``; ``fakeredis://`` is a store inside this process.

    Nothing is connected yet. ``timeout`` in seconds bounds every call. ``tls`` is what ``tls.of_redis`` made.
    Raises ``MissingExtra``.
    """
    if url.startswith("fakeredis:"):
        extras.require("demo")  # only the demo and tests have no Redis of their own
        import fakeredis

        class Fake(_Client, fakeredis.FakeRedis):
            """The same, inside this process."""

        server = fakeredis.FakeServer.get_server(url, server_type="redis", version=(7,))
        made: Any = Fake  # mypy takes its arguments for redis-py's
        return made(server=server, decode_responses=True)
    return _Client.from_url(
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
def _names() -> tuple[str, ...]:
    """Return the names of all scripts."""
    found = (file.name.removesuffix(".lua") for file in (files("chatbot.store") / "lua").iterdir())
    return tuple(sorted(name for name in found if name != "clock"))


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


class Records:
    """What each part of the store has: the client, its scripts, and the clock that processes are compared by."""

    def __init__(self, client: Any, *, clock: Callable[[], float] | None = None) -> None:
        self._redis = client  # Any: redis-py types every reply as "maybe awaitable"
        self._clock = clock  # a test's; otherwise all times are Redis'
        self._script = {name: script(client, name) for name in _names()}

    def now(self) -> float:
        """Return the time as Redis has it, in Unix seconds."""
        if self._clock:
            return self._clock()
        with reachable():
            return redis_time(self._redis)

    def _run(self, name: str, names: list[str], *arguments: Any) -> Any:
        """Run the script ``name`` on the keys ``names``."""
        now = self._clock() if self._clock else ""
        with reachable():
            return self._script[name](names, [now, *arguments])
