"""A server on a real socket that does what no HTTP server should: drips, never ends, never reads, never answers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

#: Between two drops: far below every timeout that a test gives a call.
PAUSE = 0.05
#: A drip ends by itself after so many drops, so that a client without a deadline gets its answer.
DROPS = 60

Serve = Callable[["Connection"], None]


class Connection:
    """One connection to the server; ``sent`` counts the bytes of it, ``began`` says that it misbehaves by now."""

    def __init__(self, sock: socket.socket, closing: threading.Event) -> None:
        self.sock = sock
        self._closing = closing
        self.sent = 0
        self.began = False
        self.over = threading.Event()

    def request(self) -> bytes:
        """Return the request with its body, by its Content-Length."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._received()
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        while lengths and len(body) < int(lengths[0].partition(b":")[2]):
            body += self._received()
        return head + b"\r\n\r\n" + body

    def _received(self) -> bytes:
        data = self.sock.recv(65_536)
        if not data:
            raise ConnectionError("the client left")
        return data

    def send(self, data: bytes) -> None:
        """Send all of it. Raises ``OSError`` once the client has gone."""
        self.sock.sendall(data)
        self.sent += len(data)

    def drip(self, data: bytes) -> None:
        """Send ``DROPS`` pieces of it with pauses between them."""
        size = max(1, -(-len(data) // DROPS))
        for start in range(0, len(data), size):
            self.send(data[start : start + size])
            self.rest(PAUSE)

    def rest(self, seconds: float | None = None) -> None:
        """Do nothing for a while, or until the test is over."""
        self._closing.wait(seconds)


@contextmanager
def serving(serve: Serve, *, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[Connection]]]:
    """Run ``serve`` for each connection, with TLS on it where asked; yield the port and the connections so far."""
    connections: list[Connection] = []
    closing = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def handle(sock: socket.socket, connection: Connection) -> None:
        with suppress(OSError), tls.wrap_socket(sock, server_side=True) if tls else sock as connection.sock:
            serve(connection)
        connection.over.set()

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                connections.append(Connection(sock, closing))
                threads.append(threading.Thread(target=handle, args=(sock, connections[-1]), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1], connections
    finally:
        closing.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(5)


def answer(body: bytes, *, status: str = "200 OK", head: str = "") -> bytes:
    """Return an HTTP answer with that body."""
    return f"HTTP/1.1 {status}\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def dripping(head: bytes, body: bytes = b"") -> Serve:
    """Return a server that sends ``head`` at once and ``body`` in drops."""

    def serve(connection: Connection) -> None:
        connection.request()
        connection.began = True
        connection.send(head)
        connection.drip(body)

    return serve


def endless(head: bytes, *, most: int = 200_000_000) -> Serve:
    """Return a server whose answer has hardly an end: it stops when the client has gone, or after ``most`` bytes."""

    def serve(connection: Connection) -> None:
        connection.request()
        connection.began = True
        connection.send(head)
        while connection.sent < most:
            connection.send(b"x" * 65_536)

    return serve
