"""Calls to a Graph API that refuses, stammers or hangs up: every failure has its class."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from chatbot.channels.cloud.channel import WhatsApp
from chatbot.errors import ChannelDown, OutcomeUnknown, Permanent, TooFast, Transient, WindowClosed
from chatbot.messages import Message, Part

TO = Message(user="5511999990001", id="wamid.in", text="oi", account="77", phone="5511999990001")


@dataclass
class Graph:
    """A Graph API that answers what the test says and keeps what it was asked."""

    url: str = ""
    status: int = 200
    content: Any = field(default_factory=lambda: {"messages": [{"id": "wamid.out"}]})
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False
    paths: list[str] = field(default_factory=list)
    tokens: list[bytes] = field(default_factory=list)
    callers: set[Any] = field(default_factory=set)

    def refuse(self, status: int, code: Any, **headers: str) -> None:
        self.status, self.content = status, {"error": {"code": code}}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture
def graph() -> Iterator[Graph]:
    api = Graph()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            api.paths.append(self.path)
            api.tokens.append(self.headers["Authorization"].encode("latin-1"))
            api.callers.add(self.client_address)
            if api.hangs_up:
                self.close_connection = True
                return
            answer = api.content if isinstance(api.content, bytes) else json.dumps(api.content).encode()
            self.send_response(api.status)
            for name, value in {**api.headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True  # a kept-alive connection holds up no test
    api.url = f"http://127.0.0.1:{server.server_port}/v26.0"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield api
    server.shutdown()
    server.server_close()


def whatsapp(graph: Graph, token: str = "token") -> WhatsApp:
    return WhatsApp(
        graph_url=graph.url, phone_number_id="42", access_token=token, app_secret="s", verify_token="v", timeout=5
    )


def failure(graph: Graph, **options: Any) -> Exception:
    """Return what a call raises, of exactly the class that was raised."""
    with pytest.raises((Transient, Permanent)) as caught:
        whatsapp(graph, **options).send(TO, Part("oi"), callback="")
    return caught.value


# -- Meta's codes ----------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        (Transient, [1, 2, 131000, 131016, 131057, 133004]),
        (TooFast, [131056, 130429, 80007, 4, 131048]),
        (Permanent, [131026, 131021, 131051, 100, 131049, 132001]),
        (WindowClosed, [131047]),
        (ChannelDown, [0, 3, 10, 190, 200, 250, 299, 368, 131031, 131037, 131042, 131045, 133010]),
    ],
)
def test_the_code_decides_whatever_the_http_status_is(graph, status, kind, codes):
    for code in codes:
        graph.refuse(status, code)
        assert type(failure(graph)) is kind, code


@pytest.mark.parametrize("code", [None, True, False, "190", 4.5, [], {}, 999_999])
def test_what_is_no_code_of_metas_leaves_it_to_the_http_status(graph, code):
    server_error = Transient if code == 999_999 else OutcomeUnknown  # with a code it is the Graph API that refused
    for status, kind in (
        (400, Permanent),
        (401, Permanent),
        (429, Transient),
        (500, server_error),
        (503, server_error),
    ):
        graph.refuse(status, code)
        assert type(failure(graph)) is kind, status


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff", [], {"error": "no"}, None, b"[" * 100_000])
def test_an_answer_that_is_no_error_object_leaves_it_to_the_http_status(graph, content):
    """A server error without words of Meta's own may hide a message that was taken; others refuse us, or it."""
    for status, kind in (
        (500, OutcomeUnknown), (502, OutcomeUnknown), (503, OutcomeUnknown), (504, OutcomeUnknown),
        (408, Transient), (429, Transient), (400, Permanent), (413, Permanent),
        (401, ChannelDown), (403, ChannelDown), (404, ChannelDown), (407, ChannelDown),
        (301, ChannelDown), (302, ChannelDown), (304, ChannelDown), (308, ChannelDown),
    ):  # fmt: skip
        graph.status, graph.content = status, b"" if status == 304 else content
        assert type(failure(graph)) is kind, status


@pytest.mark.parametrize(
    ("header", "pause"),
    [("7", 7.0), ("0", 0.0), ("nan", None), ("inf", None), ("-5", None), ("soon", None), ("3600", 3600.0),
     ("3601", 3600.0), ("1e300", 3600.0), ("9" * 300, 3600.0), ("", None), ("-inf", None)],
)  # fmt: skip
def test_a_pause_is_a_number_of_seconds_of_an_hour_at_most_or_none(graph, header, pause):
    graph.refuse(503, 2, Retry_After=header)
    assert failure(graph).retry_after == (5.0 if pause in (None, 0.0) else pause)
    graph.refuse(503, None, Retry_After=header)
    assert failure(graph).retry_after == pause


def test_the_pause_asked_for_wins_over_our_own(graph):
    graph.refuse(400, 131056, Retry_After="9")
    assert failure(graph).retry_after == 9.0
    graph.refuse(400, 131056, Retry_After="nan")
    assert failure(graph).retry_after == 4.0


# -- answers that leave a doubt --------------------------------------------------


@pytest.mark.parametrize("content", [{"messages": [{"id": None}]}, {"messages": []}, {"messages": {}}, [], {}, b"{"])
def test_a_success_that_names_no_message_is_an_unknown_outcome(graph, content):
    graph.content = content
    assert type(failure(graph)) is OutcomeUnknown


def test_an_unreadable_answer_is_an_unknown_outcome(graph):
    graph.headers = {"Content-Encoding": "gzip"}
    assert type(failure(graph)) is OutcomeUnknown


def test_a_connection_dropped_after_the_request_is_an_unknown_outcome(graph):
    graph.hangs_up = True
    assert type(failure(graph)) is OutcomeUnknown
    assert len(graph.paths) == 1


# -- our own side ----------------------------------------------------------------


def test_a_token_that_fits_no_header_calls_a_person_and_sends_nothing(graph):
    assert type(failure(graph, token="token\n")) is ChannelDown
    assert graph.paths == []


def test_a_token_with_odd_characters_is_metas_to_refuse(graph):
    graph.refuse(401, 190)
    assert type(failure(graph, token="tókën")) is ChannelDown
    assert graph.tokens == ["Bearer tókën".encode()]


def test_an_account_stays_one_part_of_the_path(graph):
    odd = Message(user="1", id="m", text="", phone="1", account="7/../8\n")
    whatsapp(graph).send(odd, Part("oi"), callback="")
    assert graph.paths == ["/v26.0/7%2F..%2F8%0A/messages"]


def test_calls_share_a_connection_and_a_closed_channel_opens_a_new_one(graph):
    channel = whatsapp(graph)
    channel.close()
    for _ in range(3):
        assert channel.send(TO, Part("oi"), callback="") == "wamid.out"
    assert len(graph.callers) == 1
    channel.close()
    channel.close()
    assert channel.send(TO, Part("oi"), callback="") == "wamid.out"
    assert len(graph.callers) == 2
    channel.close()
