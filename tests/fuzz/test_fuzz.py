"""Whatever a signed body holds, the webhook answers 200 or 4xx, and good messages come out; replies go out whole.

``make fuzz`` does this at length; the bodies in ``corpus`` are those that once broke something.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot.channels.cloud.notices import FIELDS
from chatbot.channels.evolution.channel import Evolution
from chatbot.messages import Part
from chatbot.web.webhook import MAX_BODY_BYTES
from tests.fuzz import replies
from tests.fuzz.fuzz import Target, check, check_messages, run_replies
from tests.fuzz.grammar import ODD, RAW, Body, good_entry, with_raw
from tests.payloads import FIXTURES, body_of, places, put
from tests.system import sign

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
TYPES = [
    "text", "image", "video", "audio", "voice", "document", "sticker", "location", "contacts", "interactive", "button",
    "reaction", "order", "system", "edit", "revoke", "unsupported", "ephemeral", "request_welcome", "hologram",
    "pin", "payment",
]  # fmt: skip
KEYS = [
    "id", "from", "from_user_id", "timestamp", "context", "referral", "group_id", "errors", "body", "caption", "url",
    "latitude", "longitude", "name", "button_reply", "nfm_reply", "product_items", "wa_id", "new_wa_id", "user_id",
    "customer", "emoji", "message_id", "original_message_id", "message", "phones", "voice", "mime_type", "code",
    "type", "product", "payment_method", "reference_id", "amount", "offset", "value", "previous_user_id", "ctwa_clid",
    "event", "alert_info", "direction", "to", "text", "sender", "recipient", "category", "pricing_model",
]  # fmt: skip


@pytest.fixture(scope="module")
def target() -> Target:
    return Target()


# -- the grammar of a body of Meta's, each place of which may hold anything ----------------

raw = st.integers(0, len(RAW) - 1).map(lambda number: f"@raw{number}@")
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6)
    | st.sampled_from(ODD) | raw,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner),
    max_leaves=8,
)  # fmt: skip


def or_odd(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, odd)


def shape(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with any of these keys and perhaps one more."""
    usual = st.fixed_dictionaries({}, optional={name: or_odd(part) for name, part in parts.items()})
    return st.builds(lambda told, more: {**more, **told}, usual, st.dictionaries(st.text(max_size=4), odd, max_size=1))


ids = st.text("0123456789.BRwamid", max_size=12)
content = st.dictionaries(st.sampled_from(KEYS), odd, max_size=4)
message = st.builds(
    lambda item, kind, held: {"type": kind, kind: held, **item},
    shape(**{"from": ids}, id=ids, from_user_id=ids, timestamp=ids, context=content, referral=content, group_id=ids),
    st.sampled_from(TYPES),
    or_odd(content | st.lists(content, max_size=2)),
)
status = shape(
    id=ids, status=st.sampled_from(["sent", "failed", "captured"]), type=st.sampled_from(["payment", "message"]),
    recipient_id=ids, errors=st.lists(content), payment=content, pricing=content,
)  # fmt: skip
value = shape(
    metadata=content, contacts=st.lists(content, max_size=2), messages=st.lists(or_odd(message), max_size=3),
    statuses=st.lists(or_odd(status), max_size=2), errors=st.lists(content, max_size=2),
    message_echoes=st.lists(or_odd(message), max_size=2), calls=st.lists(content, max_size=2), standby=content,
    user_preferences=st.lists(content, max_size=2), event=st.text(max_size=4), alert_info=content,
)  # fmt: skip
change = shape(field=st.sampled_from(["messages", "history", *sorted(FIELDS)]), value=value)
entry = shape(id=ids, changes=st.lists(or_odd(change), max_size=2))


def encoded(body: Any) -> bytes:
    """Return the JSON of ``body``, with what only bytes can say where it is stood for."""
    return with_raw(json.dumps(body).encode())


@settings(max_examples=150, deadline=None)
@given(before=st.lists(or_odd(entry), max_size=2), between=or_odd(message), after=st.lists(or_odd(entry), max_size=2))
def test_good_messages_come_out_whatever_stands_beside_them(target, before, between, after):
    good = good_entry(0, 1)
    good["changes"][0]["value"]["messages"].insert(1, between)
    assert target.check_app(Body(encoded({"entry": [*before, good, *after]}), ("good-0", "good-1"))) == 200


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), odd.map(lambda held: json.dumps(held).encode())))
def test_any_other_body_is_taken_or_refused(target, content):
    assert target.check_app(Body(content)) in (200, 400)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda more: b"sha256=" + more))
def test_any_other_signature_is_refused(target, header):
    assert target.post(body_of(FIXTURES / "text_quoted.json"), header.decode("latin-1")) == 401


def test_no_signature_is_refused(target):
    assert target.post(b"{}", None) == 401


def test_what_is_too_large_is_refused_whoever_signed_it(target):
    assert target.check_forged(Body(b" " * (MAX_BODY_BYTES + 1)), b"sha256=") == 413


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_once_broke_something(target, path):
    content = path.read_bytes()
    assert target.post(content, sign(content)) == 200
    check_messages([m for m in target.router.messages if m.user], ("good-0",))


def test_seeded_bodies(target):
    for number in range(1000):
        check(target, 20_260, number)


def test_seeded_replies():
    counts, wrong = run_replies(20_260, range(1500))
    assert wrong == []
    assert not any(counts.values())


def test_a_reply_that_loses_a_word_or_breaks_a_limit_is_counted(monkeypatch):
    channel = replies.CHANNELS["whatsapp"]
    monkeypatch.setattr(type(channel), "compose", lambda _self, reply: [Part(""), Part("x" * 5000)])
    counts, wrong = run_replies(1, range(20))
    assert counts["lost_words"] > 20
    assert counts["broken_limits"] == 2 * 20
    assert len(wrong) == 20

    def broken(_self, reply):
        raise IndexError

    monkeypatch.setattr(type(channel), "compose", broken)
    assert run_replies(1, range(20))[0]["reply_exceptions"] == 20


# -- the same for Evolution API's ---------------------------------------------------

GATEWAY = Evolution(url="http://127.0.0.1:1", api_key="k", instance="loja", webhook_secret="s", jwt_key="", timeout=1)
#: A message of every type, with everything that is read of one.
GATEWAY_ITEMS: list[Any] = [
    {
        "key": {
            "id": "x", "remoteJid": "1@lid", "fromMe": False, "remoteJidAlt": "5511900000001@s.whatsapp.net",
            "senderPn": "5511900000001", "senderLid": "1@lid",
        },
        "pushName": "Ana", "messageTimestamp": {"low": 1_700_000_000, "high": 0},
        "contextInfo": {"stanzaId": "y"}, "message": message,
    }
    for message in (
        {"conversation": "oi"},
        {"extendedTextMessage": {"text": "oi", "contextInfo": {"stanzaId": "y"}}},
        {"ephemeralMessage": {"message": {"viewOnceMessage": {"message": {"conversation": "oi"}}}}},
        {"imageMessage": {"caption": "olha", "mimetype": "image/jpeg", "fileName": "a.jpg"}},
        {"audioMessage": {"ptt": True, "mimetype": "audio/ogg"}},
        {"documentWithCaptionMessage": {"message": {"documentMessage": {"caption": "nota"}}}},
        {"locationMessage": {"degreesLatitude": -23.5, "degreesLongitude": -46.6, "name": "Loja", "address": "Rua"}},
        {"contactMessage": {"displayName": "João"}},
        {"contactsArrayMessage": {"contacts": [{"displayName": "João"}]}},
        {"buttonsResponseMessage": {"selectedDisplayText": "Sim", "selectedButtonId": "1"}},
        {"listResponseMessage": {"title": "Azul"}},
        {"interactiveResponseMessage": {"body": {"text": "Verde"}}},
        {"reactionMessage": {"text": "👍", "key": {"id": "y"}}},
        {"protocolMessage": {"type": "REVOKE", "key": {"id": "y"}}},
        {"pollUpdateMessage": {}},
        {"associatedChildMessage": {"message": {"imageMessage": {"caption": "olha"}, "messageContextInfo": {}}}},
        {"viewOnceMessageV2Extension": {"message": {"audioMessage": {"ptt": True}}}},
        {"lottieStickerMessage": {"message": {"stickerMessage": {"mimetype": "application/was"}}}},
        {"ptvMessage": {"mimetype": "video/mp4"}},
        {"secretEncryptedMessage": {"targetMessageKey": {"id": "y"}}},
        {"senderKeyDistributionMessage": {}, "messageContextInfo": {}},
    )
]  # fmt: skip
GATEWAY_STATE = {"state": "close", "statusReason": 401}
GATEWAY_STATUS = {"keyId": "x", "key": {"id": "x"}, "status": "READ"}
GATEWAY_GOOD = {
    "key": {"id": "good-0", "remoteJid": "5511900000000@s.whatsapp.net", "fromMe": False},
    "message": {"conversation": "oi 0"},
}


def each_oddly(whole: Any) -> Iterator[Any]:
    """Yield ``whole`` with each odd value in each place inside, one at a time."""
    for where in places(whole):
        for value in [*ODD, *(f"@raw{number}@" for number in range(len(RAW)))]:
            yield put(whole, where, value)


@pytest.mark.parametrize("item", GATEWAY_ITEMS, ids=lambda item: next(iter(item["message"])))
def test_good_messages_of_the_gateway_come_out_whatever_stands_beside_them(item):
    for changed in each_oddly([item]):
        content = encoded({"event": "messages.upsert", "instance": "loja", "data": [*changed, GATEWAY_GOOD]})
        check_messages(list(GATEWAY.parse(content).messages), ("good-0",))


def test_whatever_else_the_gateway_posts_is_read_without_an_error():
    posted = [
        ("messages.upsert", GATEWAY_ITEMS[0]),
        ("messages.update", GATEWAY_STATUS),
        ("connection.update", GATEWAY_STATE),
    ]
    for event, item in posted:
        for changed in each_oddly({"event": event, "instance": "loja", "data": item, "date_time": "2026-01-01T00:00Z"}):
            inbound = GATEWAY.parse(encoded(changed))
            check_messages(list(inbound.messages), ())
            for told in (*inbound.statuses, *inbound.notices):
                json.dumps(told.to_dict(), allow_nan=False).encode()
