"""Gunicorn's worker of threads, made for slow clients: a thread is given whole requests only.

In come connections; out go requests to the threads of gunicorn's ``gthread`` worker, which hold
a thread from a request's first byte to its last and so are all taken by a few clients that never
finish. Here one event loop, gunicorn's own, reads heads and bodies of all connections into
memory. Promise: a client that sends slowly, half a request or nothing costs no thread and no
other client, and is gone ``REQUEST_SECONDS`` after it began.

What keeps that promise bounded:

- The application says by the head alone (``HEAD_CHECK``) what it would refuse; that is answered
  before the body is there, and the body is read away and not kept.
- When connections, descriptors or ``MOST_HELD`` bytes run out, the connection that has been busy
  sending for longest is closed for the next one.
- Nothing here waits: not for the goodbye of a client, which gunicorn's own loop waits 2 s for.

Why not another worker: gevent would turn the blocking sockets and threads of kombu, py-amqp and
our group commit into its own, in the process that must not lose a message. Gunicorn's ASGI worker
has no deadline for a head or a whole body, and a WSGI application needs an adapter on it. Waitress
reads ahead as this does, but closes only who is silent, not who drips, and is not gunicorn.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from selectors import EVENT_READ
from typing import Any

from gunicorn import http, util
from gunicorn.errors import ConfigError
from gunicorn.workers.gthread import TConn, ThreadWorker

from chatbot.web.incoming import HEAD_CHECK, Incoming, Refused

#: A request must be there, head and body, so many seconds after its connection was made or, on
#: one that is kept alive, after its first byte. Meta sends its largest, 3 MB, in a second.
REQUEST_SECONDS = 10.0
#: A client that takes nothing of its answer for so long is given up.
ANSWER_SECONDS = 10
#: A client is given so long to close its side after the last answer on a connection.
GOODBYE_SECONDS = 2.0
#: Of a stopping worker: a request that is half there gets so long.
STOPPING_SECONDS = 2.0
#: Bytes of requests that are half there, in one process; and connections that say goodbye.
MOST_HELD, MOST_GOODBYES = 64 * 1024 * 1024, 200
#: Of a body that is refused, how much is read away so that its connection stays usable.
READ_AWAY = 48 * 1024 * 1024
LARGEST_BODY = 1024 * 1024

_PIECE = 64 * 1024
_GONE_AGAIN = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED})
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


class Connection(TConn):
    """A connection with what came in on it. Its socket is read by the event loop only."""

    def __init__(self, worker: Worker, client: socket.socket, address: Any, server: Any) -> None:
        super().__init__(worker.cfg, client, address, server)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", ANSWER_SECONDS, 0))
        self.worker = worker
        self.incoming = Incoming(largest=worker.largest)
        self.deadline = 0.0
        self.registered = False
        self.checked = False
        self.refused = False
        self.initialized = True  # no thread waits for data
        self.kept_alive = False

    def close(self, graceful: bool = False) -> None:  # noqa: FBT001, FBT002  # as gunicorn calls it
        """Close it; ``graceful`` lets the client read what it was sent first."""
        if graceful:
            self.worker.say_goodbye(self)
        else:
            util.close(self.sock)


class Worker(ThreadWorker):
    """Gunicorn's worker of threads, with an event loop that reads requests before they get one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Both in the order of their deadlines, because each gives all the same time.
        self._reading: dict[Connection, None] = {}
        self._leaving: dict[Connection, None] = {}
        self._held = 0
        self._stopping_at: float | None = None
        self._check: Any = None
        self.largest = LARGEST_BODY

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse settings that this worker does not know."""
        super().check_config(cfg, log)
        if cfg.is_ssl:
            raise ConfigError("TLS is the business of the proxy before this server")

    def load_wsgi(self) -> None:
        """Load the application, and what it says of heads."""
        super().load_wsgi()
        self._check = getattr(self.wsgi, "extensions", {}).get(HEAD_CHECK)
        self.largest = getattr(self._check, "largest", LARGEST_BODY)

    # -- connections come ---------------------------------------------------------

    def accept(self, listener: Any) -> None:
        """Take a connection and read what is there; where there is no room, make some first."""
        try:
            client, address = listener.accept()
        except OSError as err:
            if err.errno in _NO_DESCRIPTORS:
                self._make_room()
            elif err.errno not in _GONE_AGAIN:
                raise
            return
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections - self.cfg.threads:
            self._make_room()
        self._read_request(Connection(self, client, address, listener.getsockname()))

    def on_client_socket_readable(self, conn: Connection, client: Any) -> None:
        """Read the next request of a connection that was kept alive."""
        if client.fileno() < 0:
            return  # closed for another one that the same look at the sockets found
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._read_request(conn)

    def _make_room(self) -> None:
        """Close the connection that has been sending for longest or, where none is, the one idle for longest."""
        if self._reading:
            self._give_up(next(iter(self._reading)))
        elif self.keepalived_conns:
            conn = self.keepalived_conns.popleft()
            self.poller.unregister(conn.sock)
            self.nr_conns -= 1
            conn.close()

    # -- requests come in ---------------------------------------------------------

    def _read_request(self, conn: Connection) -> None:
        conn.deadline = time.monotonic() + REQUEST_SECONDS
        conn.checked = conn.refused = conn.kept_alive = False
        self._reading[conn] = None
        self._held += conn.incoming.size
        if conn.incoming.size:
            self._take_in(conn, b"")  # sent behind the request before
        if conn in self._reading:
            self._on_readable(conn)

    def _on_readable(self, conn: Connection, _: Any = None) -> None:
        if conn not in self._reading:
            return  # closed for another one that the same look at the sockets found
        try:
            data = conn.sock.recv(_PIECE)
        except BlockingIOError:
            self._wait(conn)
            return
        except OSError:
            data = b""
        if data:
            self._take_in(conn, data)
        else:
            self._give_up(conn)

    def _wait(self, conn: Connection) -> None:
        if not conn.registered:
            self.poller.register(conn.sock, EVENT_READ, partial(self._on_readable, conn))
            conn.registered = True

    def _take_in(self, conn: Connection, data: bytes) -> None:
        self._held += len(data)
        try:
            conn.incoming.feed(data)
            self._check_head(conn)
        except Refused as refused:
            self._refuse(conn, refused)
        if conn not in self._reading:
            return
        if conn.refused:
            self._read_away(conn)
        elif conn.incoming.complete:
            self._hand_over(conn)
        else:
            self._wait(conn)
            self._free_memory()

    def _check_head(self, conn: Connection) -> None:
        """Have the application look at the head, once. Raises ``Refused``."""
        head = conn.incoming.head
        if head is None or conn.checked:
            return
        conn.checked = True
        if self._check is not None:
            self._check.check(head)
        if "100-continue" in head.fields.get("expect", "").lower() and not conn.incoming.complete:
            # Gunicorn says so again when it has the request; clients take any number of these.
            _send(conn, b"HTTP/1.1 100 Continue\r\n\r\n")

    def _hand_over(self, conn: Connection) -> None:
        """Give a whole request to a thread."""
        self._forget(conn)
        request = conn.incoming.take()
        # Read from memory, whatever the parser makes of it: at its end it finds the connection closed.
        conn.parser = http.get_parser(self.cfg, [request], conn.client)
        self.enqueue_req(conn)

    def handle(self, conn: Connection) -> Any:
        """Handle a request, in a thread; what a parser leaves of it is no request."""
        try:
            return super().handle(conn)
        finally:
            conn.parser.unreader.take_buffered()

    def finish_request(self, conn: Connection, fs: Any) -> None:
        """Keep the connection for its next request, which may be there already, or close it."""
        super().finish_request(conn, fs)
        if conn.incoming.size and self.keepalived_conns and self.keepalived_conns[-1] is conn:
            self.on_client_socket_readable(conn, conn.sock)

    # -- refused requests ---------------------------------------------------------

    def _refuse(self, conn: Connection, refused: Refused) -> None:
        """Answer at once; the connection stays usable where the rest of the body can be read away."""
        head, missing = conn.incoming.head, conn.incoming.missing
        conn.refused = conn.checked = True
        conn.kept_alive = bool(
            head and head.keeps_alive and missing is not None and missing <= READ_AWAY and "expect" not in head.fields
        )
        _send(conn, _answer(refused, keep_alive=conn.kept_alive))
        if not conn.kept_alive:
            self._part(conn)

    def _read_away(self, conn: Connection) -> None:
        incoming = conn.incoming
        self._held -= incoming.size
        incoming.drop()
        self._held += incoming.size
        if incoming.missing:
            self._wait(conn)
            return
        self._forget(conn)
        incoming.take()
        conn.set_timeout()
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_client_socket_readable, conn))
        if incoming.size:
            self.on_client_socket_readable(conn, conn.sock)

    # -- connections go -----------------------------------------------------------

    def murder_pending(self) -> None:
        """Close what has had its time; gunicorn's loop calls this once a second or oftener."""
        now = time.monotonic()
        if not self.alive and self._stopping_at is None:
            self._stopping_at = now + STOPPING_SECONDS
        stopping = self._stopping_at is not None and now >= self._stopping_at
        while self._reading and (stopping or next(iter(self._reading)).deadline <= now):
            self._time_out(next(iter(self._reading)))
        while self._leaving and next(iter(self._leaving)).deadline <= now:
            self._leave(next(iter(self._leaving)))

    def say_goodbye(self, conn: Connection) -> None:
        """Close our side and let the client read to the end, for ``GOODBYE_SECONDS`` at most."""
        while len(self._leaving) >= MOST_GOODBYES:
            self._leave(next(iter(self._leaving)))
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(conn.sock, EVENT_READ, partial(self._on_goodbye, conn))
        except (OSError, KeyError, ValueError):
            util.close(conn.sock)
            return
        conn.deadline = time.monotonic() + GOODBYE_SECONDS
        self._leaving[conn] = None

    def _on_goodbye(self, conn: Connection, _: Any) -> None:
        if conn not in self._leaving:
            return
        try:
            gone = not conn.sock.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:
            self._leave(conn)

    def _leave(self, conn: Connection) -> None:
        del self._leaving[conn]
        with suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)
        util.close(conn.sock)

    def _time_out(self, conn: Connection) -> None:
        if conn.incoming.size and not conn.refused:
            _send(conn, _answer(Refused(408, f"the request was not there after {REQUEST_SECONDS:g} s")))
        self._give_up(conn)

    def _free_memory(self) -> None:
        while self._held > max(MOST_HELD, 2 * self.largest) and self._reading:
            self._give_up(next(iter(self._reading)))

    def _part(self, conn: Connection) -> None:
        """Say goodbye to a connection that is being read."""
        self._forget(conn)
        self.nr_conns -= 1
        conn.close(graceful=True)

    def _give_up(self, conn: Connection) -> None:
        self._forget(conn)
        self.nr_conns -= 1
        conn.close()

    def _forget(self, conn: Connection) -> None:
        """Read no further on a connection."""
        del self._reading[conn]
        self._held -= conn.incoming.size
        if conn.registered:
            self.poller.unregister(conn.sock)
            conn.registered = False


def _answer(refused: Refused, *, keep_alive: bool = False) -> bytes:
    body = json.dumps({"error": str(refused)}).encode()
    phrase = HTTPStatus(refused.status).phrase
    lines = (
        f"HTTP/1.1 {refused.status} {phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def _send(conn: Connection, data: bytes) -> None:
    """Send what fits into any socket's buffer; who takes nothing gets nothing."""
    with suppress(OSError):
        conn.sock.send(data)
