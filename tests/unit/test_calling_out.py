"""Every call we make, to a server that drips, never ends or quotes people: it ends, bounded, and tells nothing."""

from __future__ import annotations

import base64
import json
import logging
import traceback
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import pytest
import structlog

from chatbot.agent.transcription import Transcriber
from chatbot.channels.cloud import media as cloud_media
from chatbot.channels.cloud.channel import WhatsApp
from chatbot.channels.cloud.errors import MEANINGS
from chatbot.channels.evolution.channel import Evolution
from chatbot.config import Settings
from chatbot.conversation.media import SILENT, MediaReader
from chatbot.errors import ChatbotError, OutcomeUnknown, Permanent, Transient
from chatbot.messages import Media, Message, Part
from chatbot.observability.logging import configure_logging
from tests.slow_server import Connection, answer, dripping, endless, serving

#: What every call may take here; a drip takes six times as long.
SECONDS = 0.5
LIMIT = 300_000
FILE = Media("4711", mime_type="audio/ogg", voice=True)
TO = Message("ana", "wamid.in", "oi", account="77", phone="5511999990001", media=FILE, kind="audio")
CPF = "123.456.789-09"


@cache
def whatsapp(port: int) -> WhatsApp:
    return WhatsApp(
        graph_url=f"http://127.0.0.1:{port}/v26.0",
        phone_number_id="42",
        access_token="token",
        app_secret="s",
        verify_token="v",
        timeout=SECONDS,
    )


@cache
def evolution(port: int, *, timeout: float = SECONDS) -> Evolution:
    return Evolution(
        url=f"http://127.0.0.1:{port}", api_key="k", instance="loja", webhook_secret="s", jwt_key="", timeout=timeout
    )


@cache
def transcriber(port: int) -> Transcriber:
    return Transcriber(f"http://127.0.0.1:{port}/v1", model="m", api_key="k", timeout=SECONDS)


@dataclass(frozen=True)
class Call:
    """One call of ours: how it is made, an answer that it takes, and whether it ``sends`` something."""

    make: Callable[[int], object]
    taken: bytes
    sends: bool = False
    asks_first: bool = False


CALLS = {
    "graph: send": Call(
        lambda port: whatsapp(port).send(TO, Part("oi"), callback="c"), b'{"messages": [{"id": "wamid.out"}]}', True
    ),
    "graph: read": Call(lambda port: whatsapp(port).mark_read(TO, typing=True), b'{"success": true}', True),
    "graph: about a file": Call(lambda port: whatsapp(port).download(TO, limit=LIMIT), b""),
    "graph: a file": Call(lambda port: whatsapp(port).download(TO, limit=LIMIT), b"OggS", asks_first=True),
    "evolution: send": Call(
        lambda port: evolution(port).send(TO, Part("oi"), callback="c"), b'{"key": {"id": "out"}}', True
    ),
    "evolution: read": Call(lambda port: evolution(port).mark_read(TO, typing=False), b"{}", True),
    "evolution: a file": Call(lambda port: evolution(port).download(TO, limit=LIMIT), b'{"base64": "T2dn"}'),
    "transcription": Call(lambda port: transcriber(port).transcribe(b"Ogg", ""), b'{"text": "oi"}'),
}


def after_the_first_question(call: Call, serve: Callable[[Connection], None]) -> Callable[[Connection], None]:
    """Return a server that says where a file lies before it does what it does."""

    def both(connection: Connection) -> None:
        if call.asks_first:
            host = next(line for line in connection.request().split(b"\r\n") if line.lower().startswith(b"host:"))
            url = f"http://{host.partition(b':')[2].strip().decode()}/file"
            connection.send(answer(json.dumps({"url": url}).encode()))
        serve(connection)

    return both


def failed(call: Call, port: int, connections: list[Connection]) -> tuple[ChatbotError, Connection]:
    """Return how the call fails, and the connection whose server misbehaves: its time may be up before that."""
    for _ in range(20):
        with pytest.raises(ChatbotError) as error:
            call.make(port)
        for connection in connections:
            if connection.began:
                return error.value, connection
    raise AssertionError("no call came as far as that")


@pytest.fixture(autouse=True)
def little_time(monkeypatch):
    monkeypatch.setattr(cloud_media, "SECONDS", SECONDS)


@pytest.mark.parametrize("part", ["headers", "body"])
@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_drips_holds_up_no_call(name, part):
    call = CALLS[name]
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(call.taken)}\r\n"
    filled = f"X-Filler: {'a' * 600}\r\n\r\n".encode() + call.taken
    padded = b" " * 600 + call.taken
    drip = {
        "headers": dripping(head.encode(), filled),
        "body": dripping(f"HTTP/1.1 200 OK\r\nContent-Length: {len(padded)}\r\n\r\n".encode(), padded),
    }[part]
    with serving(after_the_first_question(call, drip)) as (port, connections):
        error, connection = failed(call, port, connections)
        assert type(error) is (OutcomeUnknown if call.sends else Transient)
        assert connection.over.wait(10), "it is not read on in the background"
        assert connection.sent < len(padded), "given up long before its end"


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "500 Oops"])
@pytest.mark.parametrize("name", CALLS)
def test_an_endless_answer_is_read_no_further_than_its_bound(name, status):
    call = CALLS[name]
    serve = after_the_first_question(call, endless(f"HTTP/1.1 {status}\r\n\r\n".encode()))
    with serving(serve) as (port, connections):
        error, connection = failed(call, port, connections)
        assert isinstance(error, OutcomeUnknown if call.sends else Transient | Permanent)
        assert connection.over.wait(10)
        assert connection.sent < 50_000_000


# -- a file that comes as base64 -------------------------------------------------


def fetched(file: bytes, *, limit: int) -> tuple[bytes, float]:
    """Return the file as it comes through Evolution, and how many times its size memory was held at most."""
    body = json.dumps({"mediaType": "audioMessage", "base64": base64.b64encode(file).decode(), "size": {}}).encode()

    def serve(connection: Connection) -> None:
        connection.request()
        connection.send(answer(body, head="Connection: close\r\n"))

    with serving(serve) as (port, _):
        channel = evolution(port, timeout=60)
        channel.download(TO, limit=limit)  # what a first call loads is not counted
        tracemalloc.start()
        try:
            content = channel.download(TO, limit=limit)
            return content, tracemalloc.get_traced_memory()[1] / len(file)
        finally:
            tracemalloc.stop()
            channel.close()


def test_a_file_through_evolution_is_copied_no_more_than_it_must():
    file = bytes(range(256)) * 32_768  # 8 MiB
    content, copies = fetched(file, limit=len(file))
    assert content == file
    assert copies < 4.5, "the body, its text and what the text holds, 4/3 each; then the file"


@pytest.mark.parametrize("size", [1, 2, 3, 100, 3001])
def test_the_bound_of_a_file_through_evolution_is_exact(size):
    assert fetched(bytes(size), limit=size)[0] == bytes(size)
    with pytest.raises(Permanent, match="over"):
        fetched(bytes(size), limit=size - 1)


# -- nothing that a provider writes is repeated ----------------------------------


@contextmanager
def logged(capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """Log as the processes do, everything; what was logged is in the list when the block is over."""
    root, lines = logging.getLogger(), []
    before = root.handlers[:], root.level, structlog.get_config()
    capfd.readouterr()
    configure_logging(Settings(_env_file=None, log_level="DEBUG"))
    structlog.configure(cache_logger_on_first_use=False)
    try:
        yield lines
        lines += capfd.readouterr().err.splitlines()
    finally:
        root.handlers[:], root.level = before[:2]
        structlog.configure(**before[2])


def _refusals() -> Iterator[tuple[str, str, bytes]]:
    quoting = {"message": CPF, "type": CPF, "fbtrace_id": CPF, "error_user_msg": CPF, "error_data": {"details": CPF}}
    codes = (*MEANINGS, 999_999, None, CPF, 12_345_678_909)
    for code in codes:
        for subcode in (33, CPF):
            error = {**quoting, "code": code, "error_subcode": subcode}
            yield "400 Bad Request", "", json.dumps({"error": error}).encode()
    evolutions = {"status": 400, "error": CPF, "response": {"message": [CPF, f"Error: {CPF} Connection Closed"]}}
    bodies = (
        json.dumps(evolutions).encode(),
        json.dumps({"response": {"message": [{"exists": False, "jid": CPF}]}}).encode(),
        json.dumps({"error": {"message": CPF, "code": CPF}}).encode(),
        f"<html>{CPF}</html>".encode(),
        CPF.encode(),
        b"",
    )
    for status in (301, 302, 400, 401, 403, 404, 405, 407, 408, 409, 413, 418, 429, 500, 501, 502, 503, 504):
        for body in bodies:
            yield f"{status} {CPF}", f"Location: http://{CPF}/{CPF}\r\nRetry-After: {CPF}\r\nX-A: {CPF}\r\n", body


def _answers() -> Iterator[tuple[str, str, bytes]]:
    """Answers that are no refusals and no use either."""
    files = "https://lookaside.fbsbx.com"
    for about in (
        {"url": CPF}, {"url": f"http://{CPF}.example/"}, {"url": f"{files}@{CPF}/"}, {"url": f"http://{CPF}:x/"},
        {"url": f"https://[{CPF}]/"}, {"url": [CPF]}, {"url": f"{files}/{CPF}\ud800"}, {"url": f"{CPF}://x"},
        {"url": "http://127.0.0.1/", "file_size": "12345678909"}, {"messages": [{"id": [CPF]}]},
        {"text": [CPF]}, {"base64": CPF}, {"base64": [CPF]}, {"key": {"id": CPF * 50}}, {"error": CPF}, [CPF], CPF,
    ):  # fmt: skip
        yield "200 OK", "", json.dumps(about).encode()
    yield "200 OK", "", f"<html>{CPF}".encode()
    yield "200 OK", f"Content-Encoding: {CPF}\r\n", b"{}"
    yield "200 OK", f"{CPF}\r\n", b"{}"
    yield "200 OK", f"Transfer-Encoding: {CPF}\r\n", b"{}"
    yield f"999999 {CPF}", "", b""


def assert_silent(error: BaseException) -> None:
    told = f"{error} {error!r} {''.join(traceback.format_exception(error))}"
    assert CPF not in told
    assert "12345678909" not in told


@pytest.mark.parametrize("name", CALLS)
def test_nothing_that_an_answer_quotes_is_in_an_error_or_a_log(name, capfd):
    call, failed = CALLS[name], 0
    answers = [
        answer(body, status=status, head=f"{head}Connection: close\r\n")
        for status, head, body in (*_refusals(), *_answers())
    ]
    waiting = deque(answers)

    def serve(connection: Connection) -> None:
        connection.request()
        connection.send(waiting.popleft())

    with logged(capfd) as lines, serving(after_the_first_question(call, serve)) as (port, _):
        for _ in range(len(answers) + 20):  # a call whose time is up before it is heard takes no answer
            if not waiting:
                break
            try:
                call.make(port)
            except ChatbotError as error:
                failed += 1
                assert_silent(error)
    assert not waiting, "each was given"
    assert failed >= len(answers) - 20, "most are errors"
    assert CPF not in str(lines)


def test_a_file_that_cannot_be_read_is_logged_without_what_was_said_of_it(capfd):
    body = json.dumps({"error": {"code": 100, "message": CPF}}).encode()
    with logged(capfd) as lines, serving(dripping(answer(body, status=f"400 {CPF}"))) as (port, _):
        reader = MediaReader(
            lambda message, limit: whatsapp(port).download(message, limit=limit),
            lambda *_: "",
            vision=True,
            max_bytes=LIMIT,
        )
        assert SILENT in reader.read(TO).message.text
    assert "media.unreadable" in str(lines)
    assert CPF not in str(lines)


@pytest.mark.parametrize("status", ["", CPF, f"HTTP/1.1 {CPF}", f"HTTP/1.1 200 OK\r\n{CPF}"])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_of_what_is_no_http_is_in_an_error_or_a_log(name, status, capfd):
    call = CALLS[name]

    def serve(connection: Connection) -> None:
        connection.request()
        connection.send(f"{status}\r\n\r\n".encode())

    with logged(capfd) as lines, serving(after_the_first_question(call, serve)) as (port, _):
        with pytest.raises(ChatbotError) as error:
            call.make(port)
        assert type(error.value) is (OutcomeUnknown if call.sends else Transient)
        assert_silent(error.value)
    assert CPF not in str(lines)
