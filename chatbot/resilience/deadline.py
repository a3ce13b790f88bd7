"""A transport of httpx whose requests end in time and whose answers are bounded while they are read.

In comes a request, out goes its answer. Promises: ``timeout`` seconds after its start a
request is over, whatever the other side does: httpx's own timeouts start anew with each
read, so a server that sends a byte a second is never too late for them. No more than
``max_bytes`` of an answer are read; an answer in an encoding that nobody asked for, which
could grow when it is decoded, is refused.

httpcore hands a request's timeouts to its network stream untouched. Ours are floats that
also know when the whole request ends (``_Timeout``), and the stream gives every connect,
handshake, write and read no more than what is left until then.

This module imports httpx, so ``http.py`` imports it with the first client.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from time import monotonic
from typing import Any, Self
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

#: As httpx has them.
MAX_CONNECTIONS, KEPT_ALIVE, KEPT_ALIVE_SECONDS = 100, 20, 5.0


class AnswerTooLong(httpx.RequestError):
    """The answer has more bytes than the request allows."""


class Transport(httpx.BaseTransport):
    """Sends requests, each of ``timeout`` seconds at most with all that belongs to it.

    A request's own ``timeout=`` wins over that of the transport; where it differs by phase,
    ``read`` bounds the whole. A request with the extension ``max_bytes`` has its own bound.
    A proxy is taken from the environment, as httpx itself does.
    """

    def __init__(self, *, timeout: float, max_bytes: int) -> None:
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._proxies = getproxies()
        self._ssl = httpx.create_ssl_context()
        self._pools: dict[str, httpcore.ConnectionPool] = {}
        self._opening = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer, its body still to be read. Raises ``httpx.RequestError``."""
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions={**request.extensions, "timeout": self._until(request.extensions.get("timeout") or {})},
        )
        with _httpx_errors():
            answer = self._pool(request.url).handle_request(asked)
        body = _Body(answer, request.extensions.get("max_bytes", self._max_bytes))
        try:
            body.check(httpx.Headers(answer.headers))
        except httpx.RequestError:
            body.close()
            raise
        return httpx.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)

    def close(self) -> None:
        """Close all connections."""
        with self._opening:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.close()

    def _until(self, given: dict[str, float | None]) -> dict[str, float]:
        whole = given.get("read") or self._timeout
        ends = monotonic() + whole
        return {phase: _Timeout(given.get(phase) or whole, ends) for phase in ("connect", "read", "write", "pool")}

    def _pool(self, url: httpx.URL) -> httpcore.ConnectionPool:
        direct = not self._proxies or proxy_bypass(url.host)
        proxy = "" if direct else self._proxies.get(url.scheme) or self._proxies.get("all", "")
        with self._opening:
            if proxy not in self._pools:
                self._pools[proxy] = httpcore.ConnectionPool(
                    ssl_context=self._ssl,
                    proxy=_proxy(proxy) if proxy else None,
                    max_connections=MAX_CONNECTIONS,
                    max_keepalive_connections=KEPT_ALIVE,
                    keepalive_expiry=KEPT_ALIVE_SECONDS,
                    network_backend=_Network(),
                )
            return self._pools[proxy]


def _proxy(url: str) -> httpcore.Proxy:
    known = httpx.Proxy(url if "://" in url else f"http://{url}")
    return httpcore.Proxy(url=str(known.url), auth=known.raw_auth, headers=known.headers.raw)


class _Body(httpx.SyncByteStream):
    """The body of an answer, of so many bytes at most."""

    def __init__(self, answer: httpcore.Response, max_bytes: int) -> None:
        self._content: Any = answer.stream  # an iterable with a close(), which httpcore does not say
        self._max_bytes = max_bytes

    def check(self, headers: httpx.Headers) -> None:
        """Refuse what the headers tell already. Raises ``AnswerTooLong``, ``httpx.DecodingError``."""
        if headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
            raise httpx.DecodingError("the answer is encoded, which was not asked for")
        length = headers.get("Content-Length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._max_bytes):
            raise AnswerTooLong("the answer says that it is too long")

    def __iter__(self) -> Iterator[bytes]:
        left = self._max_bytes
        with _httpx_errors():
            for chunk in self._content:
                left -= len(chunk)
                if left < 0:
                    raise AnswerTooLong("the answer is too long")
                yield chunk

    def close(self) -> None:
        with _httpx_errors():
            self._content.close()


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Raise httpcore's errors as httpx's, which have the same names."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as err:
        raise getattr(httpx, type(err).__name__)(str(err)) from err


class _Timeout(float):
    """The seconds of one step, of a request that is over at ``ends`` (monotonic)."""

    ends: float

    def __new__(cls, seconds: float, ends: float) -> Self:
        timeout = super().__new__(cls, seconds)
        timeout.ends = ends
        return timeout


def _left(timeout: float | None, too_late: type[Exception]) -> float | None:
    """Return the seconds that a step may take from now on. Raises ``too_late`` where none are left."""
    if not isinstance(timeout, _Timeout):
        return timeout
    left = timeout.ends - monotonic()
    if left <= 0:
        raise too_late("the time of the whole request is over")
    return min(left, timeout)


@contextmanager
def _network_errors(timed_out: type[Exception], failed: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as err:
        raise timed_out(str(err)) from err
    except OSError as err:
        raise failed(str(err)) from err


class _Network(httpcore.NetworkBackend):
    """Opens connections within a request's time, names looked up included."""

    def __init__(self) -> None:
        self._names = _Names()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002  # the pool is given none
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002  # nor these
    ) -> httpcore.NetworkStream:
        """Return a connection to the first address of ``host`` that takes one; each has its share of the time."""
        whole = _left(timeout, httpcore.ConnectTimeout)
        ends = None if whole is None else monotonic() + whole
        with _network_errors(httpcore.ConnectTimeout, httpcore.ConnectError):
            addresses = self._names.addresses(host, port, whole)
            for position, (family, kind, protocol, _, address) in enumerate(addresses, 1):
                share = None if ends is None else (ends - monotonic()) / (len(addresses) - position + 1)
                try:
                    return _Stream(_connected(family, kind, protocol, address, share))
                except OSError:
                    if position == len(addresses):
                        raise
        raise httpcore.ConnectError("the name has no address")


def _connected(family: int, kind: int, protocol: int, address: Any, seconds: float | None) -> socket.socket:
    if seconds is not None and seconds <= 0:
        raise TimeoutError
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(seconds)
        sock.connect(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        sock.close()
        raise
    return sock


class _Names:
    """Looks names up in threads of its own: the system's resolver knows no timeout.

    One name is looked up once at a time, so a resolver that hangs holds one thread a name.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, int], Future[list[Any]]] = {}

    def addresses(self, host: str, port: int, seconds: float | None) -> list[Any]:
        """Return what ``getaddrinfo`` says. Raises ``OSError``, also ``TimeoutError``."""
        with self._lock:
            asked = self._asked.get((host, port))
            if asked is None:
                asked = self._asked[host, port] = Future()
                threading.Thread(target=self._look_up, args=(host, port, asked), daemon=True).start()
        return asked.result(seconds)

    def _look_up(self, host: str, port: int, asked: Future[list[Any]]) -> None:
        try:
            asked.set_result(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except OSError as err:
            asked.set_exception(err)
        except UnicodeError:
            asked.set_exception(OSError("the name is none"))
        finally:
            with self._lock:
                del self._asked[host, port]


class _Stream(httpcore.NetworkStream):
    """One connection; each step of it has what is left of its request's time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return some bytes, ``b""`` at the end."""
        self._sock.settimeout(_left(timeout, httpcore.ReadTimeout))
        with _network_errors(httpcore.ReadTimeout, httpcore.ReadError):
            return self._sock.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of ``buffer``."""
        rest = memoryview(buffer)
        while rest:
            self._sock.settimeout(_left(timeout, httpcore.WriteTimeout))
            with _network_errors(httpcore.WriteTimeout, httpcore.WriteError):
                rest = rest[self._sock.send(rest) :]

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the connection with TLS on it; the whole handshake has one timeout. No TLS inside of TLS."""
        try:
            self._sock.settimeout(_left(timeout, httpcore.ConnectTimeout))
            with _network_errors(httpcore.ConnectTimeout, httpcore.ConnectError):
                if isinstance(self._sock, ssl.SSLSocket):
                    raise OSError("https through a proxy that speaks TLS itself is not supported")
                return _Stream(ssl_context.wrap_socket(self._sock, server_hostname=server_hostname))
        except (httpcore.ConnectTimeout, httpcore.ConnectError):
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for: whether a kept connection was closed, and what TLS agreed on."""
        told: dict[str, Callable[[], Any]] = {
            "is_readable": self._is_readable,
            "ssl_object": lambda: self._sock if isinstance(self._sock, ssl.SSLSocket) else None,
            "socket": lambda: self._sock,
            "client_addr": self._sock.getsockname,
            "server_addr": self._sock.getpeername,
        }
        return told[info]() if info in told else None

    def _is_readable(self) -> bool:
        if self._sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))
