"""Calls out end in time and are bounded while they are read, whatever the other side does."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chatbot import http
from chatbot.errors import ChannelDown, OutcomeUnknown, Permanent, Transient
from chatbot.resilience.deadline import AnswerTooLong
from tests.slow_server import Connection, answer, dripping, endless, serving

#: What every call may take here; a drip takes several times as long.
SECONDS = 0.5
LIMIT = 100_000
CPF = "123.456.789-09"


def call(port: int, *, method: str = "GET", scheme: str = "http", **options) -> httpx.Response:
    with http.client(timeout=SECONDS, max_bytes=LIMIT) as client:
        return client.request(method, f"{scheme}://127.0.0.1:{port}/", **options)


# -- the whole of a call has one deadline ----------------------------------------


DRIPS = {
    "status line": (b"", answer(b"ok")),
    "headers": (b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 200 + b"\r\nContent-Length: 0\r\n\r\n"),
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 60 + answer(b"ok")),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n", b"b" * 600),
    "body to the end": (b"HTTP/1.0 200 OK\r\n\r\n", b"b" * 600),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nb\r\n" * 60 + b"0\r\n\r\n"),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: ", b"a" * 200 + b"\r\n\r\n"),
}


@pytest.mark.parametrize("what", DRIPS)
def test_a_server_that_drips_is_given_up_in_time(what):
    head, body = DRIPS[what]
    with serving(dripping(head, body)) as (port, connections):
        with pytest.raises(httpx.ReadTimeout):
            call(port)
        assert connections[0].over.wait(10), "its connection is closed"
        assert connections[0].sent < len(head + body)


def test_a_server_that_never_answers_is_given_up_in_time():
    with serving(Connection.rest) as (port, _), pytest.raises(httpx.ReadTimeout):
        call(port)


def test_a_tls_handshake_that_drips_is_given_up_in_time():
    def serve(connection: Connection) -> None:
        connection.drip(b"\x16\x03\x03\x40\x00" + bytes(600))

    with serving(serve) as (port, _), pytest.raises(httpx.ConnectTimeout):
        call(port, scheme="https")


def test_a_server_that_reads_slowly_is_given_up_in_time():
    def serve(connection: Connection) -> None:
        while True:
            connection._received()
            connection.rest(0.05)

    with serving(serve) as (port, _), pytest.raises(httpx.WriteTimeout):
        call(port, method="POST", content=bytes(50_000_000))


def test_a_server_that_accepts_no_connection_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as waiting:
        port = listener.getsockname()[1]
        for _ in range(2):  # no place is left in its queue
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        with pytest.raises(httpx.ConnectTimeout):
            call(port)


def test_a_name_that_is_not_looked_up_in_time_is_given_up(monkeypatch):
    over = threading.Event()
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: (asked.append(args), over.wait(30), [])[2])
    with http.client(timeout=SECONDS, max_bytes=LIMIT) as client:
        for _ in range(3):
            with pytest.raises(httpx.ConnectTimeout):
                client.get("http://slow.example/")
    over.set()
    assert len(asked) == 1, "who asks meanwhile waits for the same answer"


def test_the_next_address_has_its_share_of_the_time(monkeypatch):
    """The first address takes no connection, the second one does."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        ExitStack() as waiting,
        serving(dripping(answer(b"ok"))) as (port, _),
    ):
        for _ in range(2):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        addresses = [full.getsockname(), ("127.0.0.1", port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with http.client(timeout=20.0, max_bytes=LIMIT, connect=1.0) as client:
            assert client.get("http://two.example/").text == "ok"


def test_a_request_has_its_own_deadline_where_it_names_one():
    head, body = DRIPS["body"]
    with serving(dripping(head, body)) as (port, _), http.client(timeout=60, max_bytes=LIMIT) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.get(f"http://127.0.0.1:{port}/", timeout=SECONDS)
        assert len(client.get(f"http://127.0.0.1:{port}/").content) == 600


def test_waiting_for_a_connection_counts(monkeypatch):
    monkeypatch.setattr("chatbot.resilience.deadline.MAX_CONNECTIONS", 1)
    with serving(Connection.rest) as (port, connections), http.client(timeout=SECONDS, max_bytes=LIMIT) as client:
        url = f"http://127.0.0.1:{port}/"

        def keep() -> None:
            with pytest.raises(httpx.ReadTimeout):
                client.get(url, timeout=5 * SECONDS)

        kept = threading.Thread(target=keep)
        kept.start()
        while not connections:
            kept.join(0.01)
        with pytest.raises(httpx.PoolTimeout):
            client.get(url)
        kept.join()


# -- what is read is bounded while it is read ------------------------------------


ENDLESS = {
    "no length": b"HTTP/1.1 200 OK\r\n\r\n",
    "a length": b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n",
    "a length of no size": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "one chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    "a refusal": b"HTTP/1.1 500 Oops\r\n\r\n",
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_answer_is_read_no_further_than_its_bound(what):
    with serving(endless(ENDLESS[what])) as (port, connections), http.client(timeout=30, max_bytes=LIMIT) as client:
        with pytest.raises(AnswerTooLong):
            client.get(f"http://127.0.0.1:{port}/")
        assert connections[0].over.wait(10), "its connection is closed"
        assert connections[0].sent < 20_000_000, "what the sockets held, and no more"


def test_endless_headers_are_refused():
    with serving(endless(b"HTTP/1.1 200 OK\r\nX-A: ")) as (port, _), pytest.raises(httpx.RemoteProtocolError):
        call(port)


def test_an_answer_of_exactly_its_bound_is_read_and_a_request_can_bring_its_own():
    body = b"b" * LIMIT
    with serving(dripping(answer(body))) as (port, _):
        assert call(port).content == body
        with pytest.raises(AnswerTooLong):
            call(port, extensions=http.allow(LIMIT - 1))


def test_an_answer_that_would_grow_when_it_is_decoded_is_refused():
    bomb = answer(gzip.compress(bytes(50_000_000)), head="Content-Encoding: gzip\r\n")
    with serving(dripping(bomb)) as (port, _), pytest.raises(httpx.DecodingError):
        call(port)


def test_no_compression_is_asked_for_and_no_redirect_followed():
    asked = []

    def serve(connection: Connection) -> None:
        asked.append(connection.request())
        connection.send(answer(b"", status="302 Found", head="Location: /there\r\n"))

    with serving(serve) as (port, _):
        assert call(port).status_code == 302
    assert b"accept-encoding: identity" in asked[0].lower()


# -- the ordinary ----------------------------------------------------------------


def test_connections_are_kept_and_a_closed_one_is_not_used_again():
    def serve(connection: Connection) -> None:
        for _ in range(3):
            connection.request()
            connection.send(answer(b"ok"))

    with serving(serve) as (port, connections), http.client(timeout=10, max_bytes=LIMIT) as client:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(3):
            assert client.post(url, content=b"x" * 300_000).text == "ok"
        assert len(connections) == 1
        assert connections[0].over.wait(10)
        assert client.get(url).text == "ok"
        assert len(connections) == 2


def test_a_proxy_of_the_environment_is_used_but_not_for_what_it_excludes(monkeypatch):
    asked = []

    def serve(connection: Connection) -> None:
        asked.append(connection.request())
        connection.send(answer(b"proxied"))

    with serving(serve) as (port, _), serving(dripping(answer(b"direct"))) as (direct, _):
        monkeypatch.setenv("http_proxy", f"http://ana:pw@127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with http.client(timeout=10, max_bytes=LIMIT) as client:
            assert client.get("http://graph.example/v1").text == "proxied"
            assert client.get(f"http://127.0.0.1:{direct}/").text == "direct"
    assert asked[0].startswith(b"GET http://graph.example/v1 HTTP/1.1\r\n")
    assert b"proxy-authorization: basic" in asked[0].lower()


# -- the same over TLS ------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, signed by itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + signed.public_bytes(pem))
    return path


def with_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls_works_is_checked_and_ends_in_time(certificate, monkeypatch):
    drip = [False]

    def serve(connection: Connection) -> None:
        while True:
            body = connection.request().partition(b"\r\n\r\n")[2]
            (connection.drip if drip[0] else connection.send)(answer(body[-600:]))

    with serving(serve, tls=with_tls(certificate)) as (port, connections):
        with pytest.raises(httpx.ConnectError), http.client(timeout=20, max_bytes=LIMIT) as client:
            client.get(f"https://localhost:{port}/")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with pytest.raises(httpx.ConnectError), http.client(timeout=20, max_bytes=LIMIT) as client:
            client.get(f"https://127.0.0.1:{port}/")
        before = len(connections)
        with http.client(timeout=20, max_bytes=LIMIT) as client:
            for _ in range(2):
                assert client.post(f"https://localhost:{port}/", content=b"x" * 300_000).content == b"x" * 600
            assert len(connections) == before + 1, "it is kept"
            drip[0] = True
            with pytest.raises(httpx.ReadTimeout):
                client.get(f"https://localhost:{port}/", timeout=SECONDS)


def test_tls_goes_through_a_proxy(certificate, monkeypatch):
    asked = []

    def tunnel(connection: Connection) -> None:
        asked.append(connection.request())
        connection.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        connection.sock = with_tls(certificate).wrap_socket(connection.sock, server_side=True)
        asked.append(connection.request())
        connection.send(answer(b"through"))

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(tunnel) as (port, _):
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        with http.client(timeout=20, max_bytes=LIMIT) as client:
            assert client.get("https://localhost/v1", headers={"Authorization": "k"}).text == "through"
    assert asked[0].startswith(b"CONNECT localhost:443 HTTP/1.1\r\n")
    assert b"authorization: k" not in asked[0].lower(), "the proxy is told no key"
    assert asked[1].startswith(b"GET /v1 HTTP/1.1\r\n")


def test_the_openai_client_ends_in_time_with_it():
    content = json.dumps({"choices": [], "id": "1" * 600}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with serving(dripping(head, content)) as (port, _), http.client(timeout=SECONDS, max_bytes=LIMIT) as client:
        model = openai.OpenAI(base_url=f"http://127.0.0.1:{port}", api_key="k", http_client=client, max_retries=0)
        with pytest.raises(openai.APITimeoutError):
            model.chat.completions.create(model="m", messages=[])


def test_neither_httpx_nor_openai_is_imported_before_the_first_call():
    names = (
        "http",
        "conversation.media",
        "agent.transcription",
        "web.webhook",
        "channels.cloud.channel",
        "channels.evolution.channel",
    )
    imports = ", ".join(f"chatbot.{name}" for name in names)
    program = f"import sys, {imports}\nsys.exit(any(name in sys.modules for name in ('httpx', 'openai')))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# -- errors become ours, and say nothing of what was written ----------------------


def service(key: str = "k") -> http.Service:
    bearer = f"Bearer {key}".encode()
    return http.Service(
        "the service", setting="CHATBOT_KEY", timeout=SECONDS, max_bytes=LIMIT, headers={b"Authorization": bearer}
    )


def failure(url: str, *, key: str = "k", **options) -> Exception:
    called = service(key)
    with pytest.raises((Transient, Permanent)) as caught, called.calling(**options):
        called.client().get(url)
    called.close()
    assert CPF not in "".join(traceback.format_exception(caught.value)), "not in a traceback either"
    return caught.value


def test_what_was_not_sent_can_be_sent_again():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    error = failure(f"http://127.0.0.1:{port}/?{CPF}")
    assert type(error) is Transient
    assert str(error) == "the service cannot be reached: ConnectError of ConnectionRefusedError"


@pytest.mark.parametrize(
    "head",
    [b"", CPF.encode(), f"HTTP/1.1 {CPF}\r\n\r\n".encode(), f"HTTP/1.1 200 OK\r\n{CPF}\r\n\r\n".encode(),
     f"HTTP/1.1 200 OK\r\nContent-Encoding: {CPF}\r\n\r\n".encode(), ENDLESS["a length"],
     f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{CPF}\r\n".encode()],
)  # fmt: skip
def test_what_was_sent_and_has_no_answer_that_can_be_read_is_unknown(head):
    with serving(dripping(head)) as (port, _):
        assert type(failure(f"http://127.0.0.1:{port}/")) is OutcomeUnknown
        read_only = failure(f"http://127.0.0.1:{port}/", sends=False)
        assert type(read_only) is (Permanent if head == ENDLESS["a length"] else Transient)


def test_an_address_or_a_key_that_is_none_is_for_a_person():
    for url in (f"http://127.0.0.1:{CPF}/", f"http:///{CPF}", f"ftp://127.0.0.1/{CPF}"):
        assert type(failure(url)) is ChannelDown, url
    error = failure("http://127.0.0.1:1/", key=f"{CPF}\n")
    assert type(error) is Transient, "no connection: the key was not looked at"
    with serving(dripping(answer(b"ok"))) as (port, _):
        error = failure(f"http://127.0.0.1:{port}/", key=f"{CPF}\n")
        assert type(error) is ChannelDown
        assert "CHATBOT_KEY" in str(error)
        assert type(failure(f"http://127.0.0.1:{port}/", key="k\n", unusable=Permanent)) is Permanent


def test_half_a_surrogate_pair_is_sent_as_a_question_mark():
    asked = []

    def serve(connection: Connection) -> None:
        asked.append(connection.request())
        connection.send(answer(b"{}"))

    called = service()
    with serving(serve) as (port, _), called.calling():
        assert called.post(f"http://127.0.0.1:{port}/", {"text": "ol\u00e1 \ud83d!"}).is_success
    called.close()
    assert asked[0].endswith('\r\n\r\n{"text":"olá ?!"}'.encode())
    assert b"content-type: application/json\r\n" in asked[0].lower()
