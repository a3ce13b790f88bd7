"""The web process as Procfile starts it, under clients that never finish what they send."""

from __future__ import annotations

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.servers import Redis, wait_until
from tests.slow_clients import SENT, SlowClients
from tests.system import System, sign, webhook_body

SLOW, GOOD = 500, 200
USERS = [f"55116666{n:05}" for n in range(10)]
BIG = 3 * 1024 * 1024 + 1
SMUGGLED = b"GET /smuggled HTTP/1.1\r\n\r\n"


@pytest.fixture(scope="module")
def system(tmp_path_factory, rabbitmq):
    """Only the web process; its Redis was never started."""
    with System(tmp_path_factory.mktemp("web"), rabbitmq, Redis(tmp_path_factory.mktemp("redis")), None) as system:
        yield system.start("web")
        for queue in rabbitmq.queues(system.vhost):
            rabbitmq.ctl("delete_queue", "-p", system.vhost, queue)


def request(body: bytes, *fields: str, signature: str | None = None) -> bytes:
    head = (
        "POST /webhook/whatsapp HTTP/1.1", "Host: h", "Content-Type: application/json",
        f"X-Hub-Signature-256: {signature or sign(body)}", *fields,
    )  # fmt: skip
    return "\r\n".join((*head, "", "")).encode() + body


def message(text: str = "oi") -> bytes:
    return webhook_body([(USERS[0], f"wamid.{os.urandom(6).hex()}", text)])


class Client:
    """One raw connection."""

    def __init__(self, system):
        self.socket = socket.create_connection(("127.0.0.1", system.port), timeout=30)
        self.file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        lines = iter(lambda: self.file.readline().strip().decode(), "")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return status, fields, self.file.read(int(fields.get("content-length", 0)))

    def is_closed(self) -> bool:
        """Whether the server closed it; waits for that as long as the socket's timeout is."""
        return self.file.read() == b""


@pytest.fixture
def connect(system):
    clients = []

    def connect() -> Client:
        clients.append(Client(system))
        return clients[-1]

    yield connect
    for client in clients:
        client.file.close()
        client.socket.close()


def test_500_slow_clients_stop_nobody_and_are_closed(system):
    def post(number: int) -> int:
        with httpx.Client(timeout=60) as client:
            body = webhook_body([(USERS[number % len(USERS)], f"wamid.slow.{number}", "oi")])
            headers = {"X-Hub-Signature-256": sign(body), "Content-Type": "application/json"}
            return client.post(
                f"http://127.0.0.1:{system.port}/webhook/whatsapp", content=body, headers=headers
            ).status_code

    with SlowClients(system.port, SLOW) as slow, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(post, range(GOOD))) == [200] * GOOD
        wait_until(lambda: slow.held == SLOW, what="slow clients back")
        wait_until(lambda: slow.closed >= SLOW, seconds=120, what="every slow client closed")
        assert post(GOOD) == 200


def test_each_kind_is_closed_at_its_deadline(connect):
    clients = {kind: connect() for kind in SENT}
    for kind, client in clients.items():
        client.send(SENT[kind])
    assert clients["half a body, not signed"].answer()[0] == 401, "before the body is there"
    for kind in clients.keys() - {"silent", "half a body, not signed"}:
        status, fields, body = clients[kind].answer()
        assert (status, fields["connection"]) == (408, "close"), kind
        assert "after 10 s" in json.loads(body)["error"]
    assert all(client.is_closed() for client in clients.values())


@pytest.mark.parametrize("signature", ["", "sha256=", "sha1=" + "0" * 40, "sha256=" + "g" * 64, "sha256=" + "0" * 65])
def test_what_is_no_signature_is_refused_before_the_body(connect, signature):
    client = connect()
    body = message()
    client.send(request(body, f"Content-Length: {len(body)}", signature=signature or " ")[: -len(body)])
    assert client.answer()[0] == 401
    client.send(body)  # read away
    client.send(request(body, f"Content-Length: {len(body)}"))
    assert client.answer()[0] == 200, "the connection stays usable"


def test_a_body_too_large_is_refused_before_it_is_sent(connect):
    client = connect()
    client.send(request(b"", f"Content-Length: {BIG}"))
    status, fields, _ = client.answer()
    assert (status, fields["connection"]) == (413, "keep-alive")
    client.send(b" " * BIG)
    body = message()
    client.send(request(body, f"Content-Length: {len(body)}"))
    assert client.answer()[0] == 200


def test_a_body_of_absurd_length_is_refused_and_its_connection_closed(connect):
    client = connect()
    client.send(request(b"", f"Content-Length: {10**11}"))
    status, fields, _ = client.answer()
    assert (status, fields["connection"]) == (413, "close")
    assert client.is_closed()


def test_chunks_that_grow_too_large_are_refused(connect):
    client = connect()
    client.send(request(b"", "Transfer-Encoding: chunked", signature=sign(b"")))
    piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    for _ in range(51):
        client.send(piece)
    status, fields, _ = client.answer()
    assert (status, fields["connection"]) == (413, "close")


def test_a_head_that_never_ends_is_refused(connect):
    client = connect()
    client.send(b"GET /health HTTP/1.1\r\nX: " + b"x" * 70_000)
    assert client.answer()[0] == 431
    assert client.is_closed()


def test_chunked_bodies_and_bytewise_clients_are_served(connect):
    body = message()
    chunks = b"".join(b"%x;note=1\r\n%s\r\n" % (len(part), part) for part in (body[:5], body[5:]))
    whole = request(b"", "Transfer-Encoding: chunked", signature=sign(body)) + chunks + b"0\r\nX-Trailer: 1\r\n\r\n"
    client = connect()
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in whole:
        client.send(bytes([byte]))
    assert client.answer()[0] == 200
    client.send(whole)
    assert client.answer()[0] == 200


def test_requests_sent_behind_each_other_are_answered_in_their_order(connect):
    client = connect()
    bodies = [message() for _ in range(5)]
    posts = b"".join(request(body, f"Content-Length: {len(body)}") for body in bodies)
    client.send(
        posts + b"GET /health HTTP/1.1\r\nHost: h\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    )
    assert [client.answer()[0] for _ in range(7)] == [200] * 6 + [404]
    assert client.is_closed()


def test_who_asks_whether_to_go_on_is_told(connect):
    body = message()
    client = connect()
    client.send(request(b"", f"Content-Length: {len(body)}", "Expect: 100-continue", signature=sign(body)))
    assert client.answer()[0] == 100
    client.send(body)
    statuses = [client.answer()[0]]
    while statuses[-1] == 100:
        statuses.append(client.answer()[0])
    assert statuses[-1] == 200
    refused = connect()
    refused.send(request(b"", f"Content-Length: {BIG}", "Expect: 100-continue"))
    assert refused.answer()[0] == 413, "and nothing is sent"
    assert refused.is_closed()


@pytest.mark.parametrize(
    "odd",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /health HTTP/1.1\r\nContent-Length: +5\r\n\r\n" + SMUGGLED,
        b"POST /health HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + SMUGGLED,
        b"POST /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 9\r\n\r\n" + SMUGGLED,
    ],
)  # fmt: skip
def test_what_is_no_request_gets_one_answer_and_is_closed(connect, odd):
    client = connect()
    client.send(odd)
    assert client.answer()[0] >= 400
    assert client.is_closed()


def test_a_client_that_does_not_go_costs_nobody(system, connect):
    """Gunicorn's own loop waits 2 s for each."""
    staying = [connect() for _ in range(30)]
    for client in staying:
        client.send(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert [client.answer()[0] for client in staying] == [200] * 30
    assert system.healthy()
    assert all(client.is_closed() for client in staying)
