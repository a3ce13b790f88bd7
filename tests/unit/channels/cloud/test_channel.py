"""The WhatsApp channel: lenient in, strict out, and every failure has its class."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot.channels.cloud.channel import WhatsApp
from chatbot.channels.formatting import split
from chatbot.errors import (
    BadPayload,
    BadSignature,
    ChannelDown,
    OutcomeUnknown,
    Permanent,
    TooFast,
    Transient,
    WindowClosed,
)
from chatbot.messages import Message, Part
from tests.system import sign, webhook_body

TO = Message(user="5511999990001", id="wamid.in", text="oi", channel="whatsapp", account="77", phone="5511999990001")


def whatsapp(url="http://127.0.0.1:1/v26.0", timeout=5.0):
    return WhatsApp(
        graph_url=url, phone_number_id="42", access_token="tok", app_secret="sec", verify_token="vt", timeout=timeout
    )


def value(**parts):
    return {"metadata": {"phone_number_id": "77"}, "contacts": [{"wa_id": "551", "profile": {"name": "Ana"}}], **parts}


def body(*values, field="messages"):
    entry = [{"changes": [{"field": field, "value": v}]} for v in values]
    return json.dumps({"object": "whatsapp_business_account", "entry": entry}).encode()


def text(id_="m1", **parts):
    return {"from": "551", "id": id_, "timestamp": "1700000000", "type": "text", "text": {"body": "oi"}, **parts}


def parse(*values, **options):
    return whatsapp().parse(body(*values, **options))


# -- inbound ---------------------------------------------------------------------


def test_every_message_of_every_change_in_order():
    inbound = parse(value(messages=[text("a"), text("b")]), value(messages=[text("c", **{"from": "552"})]))
    assert [(m.id, m.user, m.name) for m in inbound.messages] == [
        ("a", "551", "Ana"),
        ("b", "551", "Ana"),
        ("c", "552", ""),
    ]
    assert inbound.messages[0] == Message(
        user="551", id="a", text="oi", channel="whatsapp", account="77", phone="551", name="Ana", sent_at=1.7e9
    )


def test_a_sender_without_a_phone_number_is_named_by_the_bsuid():
    nobody = text()
    del nobody["from"]
    inbound = parse(value(contacts=[{"user_id": "BR.1"}], messages=[nobody, {**nobody, "from_user_id": "BR.2"}]))
    assert [(m.user, m.phone, m.bsuid) for m in inbound.messages] == [("BR.1", "", "BR.1"), ("BR.2", "", "BR.2")]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"type": "image", "image": {"id": "1", "caption": "olha"}}, "olha"),
        ({"type": "sticker", "sticker": {"id": "1"}}, ""),
        ({"type": "audio", "audio": {"id": "1"}}, ""),
        ({"type": "button", "button": {"text": "Sim", "payload": "y"}}, "Sim"),
        ({"type": "interactive", "interactive": {"type": "list_reply", "list_reply": {"title": "A"}}}, "A"),
        ({"type": "location", "location": {"latitude": 1, "longitude": 2, "name": "Casa"}},
         "Enviei minha localização: Casa (latitude 1, longitude 2)"),
        ({"type": "contacts", "contacts": [{"name": {"formatted_name": "Beto"}, "phones": [{"phone": "+55 1"}]}]},
         "Enviei um contato: Beto +55 1"),
        ({"type": "order", "order": {"product_items": [{"product_retailer_id": "S", "quantity": 2}], "text": "já"}},
         "Fiz um pedido: 2 × S. já"),
        ({"type": "hologram", "hologram": {}}, ""),
    ],
)  # fmt: skip
def test_each_type_becomes_what_an_agent_can_read(item, expected):
    [message] = parse(value(messages=[{"from": "551", "id": "x", **item}])).messages
    assert (message.kind, message.text) == (item["type"], expected)


@pytest.mark.parametrize("kind", ["reaction", "system", "edit", "revoke"])
def test_what_asks_for_no_reply_starts_no_turn(kind):
    silent, written = parse(value(messages=[text("a", type=kind), text("b")])).messages
    assert (silent.kind, silent.starts_turn) == (kind, False)
    assert (written.kind, written.starts_turn) == ("text", True)


def test_statuses_are_read():
    status = {
        "id": "w",
        "status": "failed",
        "recipient_id": "551",
        "errors": [{"code": 131047}],
        "biz_opaque_callback_data": "c",
    }
    [read] = parse(value(statuses=[status, {"id": 3}, None])).statuses
    assert (read.message_id, read.status, read.recipient, read.error_code, read.callback) == (
        "w",
        "failed",
        "551",
        131047,
        "c",
    )


def test_other_fields_hold_no_messages():
    assert parse(value(messages=[text()]), field="smb_message_echoes").messages == ()


@pytest.mark.parametrize("wrong", [b"", b"{", b"[]", b"\xff", b'"x"', b"[" * 100_000, b"null"])
def test_what_is_not_a_json_object_is_refused(wrong):
    with pytest.raises(BadPayload):
        whatsapp().parse(wrong)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_broken_item_costs_no_neighbour(data):
    """Whatever one place of one item holds, the item beside it arrives as it was."""
    broken = text("broken")
    keys = st.sampled_from([*broken, "context", "image", "interactive"])
    for key in data.draw(st.lists(keys, max_size=4)):
        broken[key] = data.draw(json_values)
    shape = value(messages=[broken, text("fine")], statuses=[data.draw(json_values), {"id": "s", "status": "sent"}])
    shape["contacts"] = data.draw(json_values)
    inbound = whatsapp().parse(body(data.draw(json_values), shape))
    assert [m.id for m in inbound.messages][-1] == "fine"
    assert [s.message_id for s in inbound.statuses][-1] == "s"
    for message in inbound.messages:
        Message.from_json(message.to_json())  # and it can travel
        message.to_json().encode()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(json_values)
def test_any_object_is_taken(anything):
    whatsapp().parse(json.dumps({"entry": anything}).encode())


# -- signature and verification --------------------------------------------------


def test_a_signature_is_checked_over_the_raw_body():
    raw = webhook_body([("551", "a", "oi")])
    whatsapp().verify(raw, {"X-Hub-Signature-256": sign(raw, "sec")}.get)
    for wrong in (
        None,
        "",
        "sha256=",
        "sha256=é\udc80",
        sign(raw, "other"),
        sign(raw + b" ", "sec"),
        sign(raw, "sec")[7:],
    ):
        with pytest.raises(BadSignature):
            whatsapp().verify(raw, {"X-Hub-Signature-256": wrong}.get)


def test_without_an_app_secret_nothing_is_taken():
    open_door = WhatsApp(
        graph_url="http://x", phone_number_id="", access_token="", app_secret="", verify_token="", timeout=1
    )
    with pytest.raises(BadSignature):
        open_door.verify(b"{}", {"X-Hub-Signature-256": sign(b"{}", "")}.get)
    with pytest.raises(BadSignature):
        open_door.challenge({"hub.mode": "subscribe", "hub.verify_token": "", "hub.challenge": "1"})


def test_the_challenge_is_answered_for_our_token_only():
    asked = {"hub.mode": "subscribe", "hub.verify_token": "vt", "hub.challenge": "123"}
    assert whatsapp().challenge(asked) == "123"
    for wrong in ({**asked, "hub.verify_token": "é"}, {**asked, "hub.mode": "x"}, {}):
        with pytest.raises(BadSignature):
            whatsapp().challenge(wrong)


# -- outbound --------------------------------------------------------------------


@pytest.fixture
def graph():
    """A server that answers what the test says and keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        asked, answer, held = [], (200, {"messages": [{"id": "wamid.out"}]}, {}), None

        def do_POST(self):
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            Handler.asked.append((self.path, self.headers["Authorization"], sent))
            if Handler.held is not None:
                Handler.held.wait(10)
                return
            status, content, headers = Handler.answer
            payload = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, header in headers.items():
                self.send_header(name, header)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.url = f"http://127.0.0.1:{server.server_port}/v26.0"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Handler
    if Handler.held:
        Handler.held.set()
    server.shutdown()
    server.server_close()


def test_a_text_is_sent_as_the_api_wants_it(graph):
    assert whatsapp(graph.url).send(TO, Part("olá https://x.br"), callback="cb") == "wamid.out"
    path, auth, sent = graph.asked[0]
    assert (path, auth) == ("/v26.0/77/messages", "Bearer tok")
    assert sent == {
        "messaging_product": "whatsapp", "recipient_type": "individual", "to": "5511999990001", "type": "text",
        "text": {"body": "olá https://x.br", "preview_url": True}, "biz_opaque_callback_data": "cb",
    }  # fmt: skip


def test_a_person_without_a_phone_is_reached_by_the_bsuid(graph):
    whatsapp(graph.url).send(Message(user="BR.1", id="m", text="", bsuid="BR.1"), Part("oi"), callback="")
    path, _, sent = graph.asked[0]
    assert path == "/v26.0/42/messages"
    assert sent["recipient"] == "BR.1"
    assert "to" not in sent


def test_a_payment_is_nothing_that_can_be_read(graph):
    whatsapp(graph.url).mark_read(replace(TO, kind="payment"), typing=True)
    assert graph.asked == []


def test_read_and_typing_are_one_call(graph):
    graph.answer = (200, {"success": True}, {})
    whatsapp(graph.url).mark_read(TO, typing=True)
    assert graph.asked[0][2] == {
        "messaging_product": "whatsapp", "status": "read", "message_id": "wamid.in",
        "typing_indicator": {"type": "text"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "code", "kind", "pause"),
    [
        (400, 131056, TooFast, 4.0),
        (429, 130429, TooFast, 1.0),
        (400, 131047, WindowClosed, None),
        (500, 131026, Permanent, None),
        (401, 190, ChannelDown, None),
        (403, 200, ChannelDown, None),
        (500, None, OutcomeUnknown, None),
        (429, None, Transient, None),
        (404, None, Permanent, None),
    ],
)
def test_the_code_decides_what_a_failure_means(graph, status, code, kind, pause):
    graph.answer = (status, {"error": {"code": code, "message": "x"}}, {})
    with pytest.raises(kind) as error:
        whatsapp(graph.url).send(TO, Part("oi"), callback="")
    assert type(error.value) is kind
    assert getattr(error.value, "retry_after", None) == pause


def test_retry_after_is_honoured(graph):
    graph.answer = (429, b"<html>", {"Retry-After": "7"})
    with pytest.raises(Transient) as error:
        whatsapp(graph.url).send(TO, Part("oi"), callback="")
    assert error.value.retry_after == 7.0


def test_no_answer_is_an_unknown_outcome_and_no_connection_is_not(graph):
    graph.held = threading.Event()
    with pytest.raises(OutcomeUnknown):
        whatsapp(graph.url, timeout=0.3).send(TO, Part("oi"), callback="")
    with pytest.raises(Transient) as error:
        whatsapp().send(TO, Part("oi"), callback="")
    assert type(error.value) is Transient


def test_an_acceptance_without_an_id_is_an_unknown_outcome(graph):
    graph.answer = (200, b"ok", {})
    with pytest.raises(OutcomeUnknown):
        whatsapp(graph.url).send(TO, Part("oi"), callback="")


def test_two_app_secrets_are_valid_during_a_rotation():
    raw = b"{}"
    rotating = WhatsApp(
        graph_url="http://127.0.0.1:1", phone_number_id="42", access_token="t", app_secret="new", verify_token="v",
        timeout=1.0, previous_app_secret="old",
    )  # fmt: skip
    for known in ("new", "old"):
        rotating.verify(raw, {"X-Hub-Signature-256": sign(raw, known)}.get)
    for wrong in ("", "older"):
        with pytest.raises(BadSignature):
            rotating.verify(raw, {"X-Hub-Signature-256": sign(raw, wrong)}.get)


# -- splitting -------------------------------------------------------------------


@given(st.text(max_size=300), st.integers(5, 60))
def test_nothing_but_white_space_is_lost(original, limit):
    parts = split(original, limit)
    assert "".join("".join(parts).split()) == "".join(original.split())
    assert all(0 < len(part) <= limit for part in parts)


def test_parts_end_at_the_best_border():
    assert split("a" * 30 + "\n\n" + "b" * 20 + ". " + "c" * 20, 50) == ["a" * 30, "b" * 20 + ". " + "c" * 20]
    assert split("Uma frase. Outra frase. Mais uma.", 25) == ["Uma frase. Outra frase.", "Mais uma."]
    link = "https://exemplo.com.br/" + "x" * 20
    assert split(f"Veja aqui agora: {link}", 45) == ["Veja aqui agora:", link]
    assert [len(part) for part in split("x" * 10_000)] == [4096, 4096, 1808]
    assert split("") == []
