"""Webhook bodies that are not as documented: what is readable is read, and can travel on."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatbot.channels.cloud_payload import parse
from chatbot.errors import BadPayload
from chatbot.messages import Inbound, Message, Status

FROM = {"from": "5511999990001"}
FINE = {**FROM, "id": "fine", "type": "text", "text": {"body": "oi"}}

#: One message of each type that is read, and what stands in it.
RICH: list[dict[str, Any]] = [
    {**FROM, "from_user_id": "BR.1", "id": "m1", "timestamp": "1700000000", "type": "text", "text": {"body": "oi"}},
    {**FROM, "id": "m2", "type": "image", "image": {"id": "9", "caption": "olha"}},
    {**FROM, "id": "m3", "type": "button", "button": {"text": "Sim", "payload": "y"}},
    {**FROM, "id": "m4", "type": "interactive",
     "interactive": {"type": "button_reply", "button_reply": {"id": "1", "title": "Sim"}}},
    {**FROM, "id": "m5", "type": "interactive",
     "interactive": {"type": "nfm_reply", "nfm_reply": {"name": "flow", "response_json": '{"nota":5}'}}},
    {**FROM, "id": "m6", "type": "location",
     "location": {"name": "Casa", "address": "Rua A", "latitude": -23.5, "longitude": -46.6}},
    {**FROM, "id": "m7", "type": "contacts",
     "contacts": [{"name": {"formatted_name": "Beto"}, "phones": [{"phone": "+55 1"}]}]},
    {**FROM, "id": "m8", "type": "order",
     "order": {"text": "já", "product_items": [{"product_retailer_id": "S", "quantity": 2}]}},
]  # fmt: skip
STATUS = {"id": "w1", "status": "failed", "recipient_id": "551", "errors": [{"code": 131047}]}


def read(messages: list[Any], *, contacts: Any = (), statuses: Any = ()) -> Inbound:
    value = {"metadata": {"phone_number_id": "77"}, "messages": messages, "contacts": contacts, "statuses": statuses}
    return parse(json.dumps({"entry": [{"changes": [{"field": "messages", "value": value}]}]}).encode())


def read_one(item: dict[str, Any], **more: Any) -> Message:
    [message] = read([{**FROM, "id": "m", **item}], **more).messages
    return message


# -- what a person sent ----------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ({"latitude": -23.561414, "longitude": -46.0}, "Enviei minha localização: latitude -23.561414, longitude -46"),
        ({"name": "Casa", "address": "Rua A"}, "Enviei minha localização: Casa, Rua A"),
        ({"name": "Casa", "latitude": float("nan"), "longitude": 1}, "Enviei minha localização: Casa"),
        ({"latitude": float("inf"), "longitude": 1}, ""),
        ({"latitude": {"a": 1}, "longitude": [1]}, ""),
        ({"latitude": 0, "longitude": 0.0}, "Enviei minha localização: latitude 0, longitude 0"),
        ({}, ""),
    ],
)
def test_a_location_says_only_what_it_holds(location, expected):
    assert read_one({"type": "location", "location": location}).text == expected


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([{"product_retailer_id": "S", "quantity": 2.0}], "Fiz um pedido: 2 × S"),
        ([{"product_retailer_id": "S"}, {"product_retailer_id": "T", "quantity": "3"}], "Fiz um pedido: S, 3 × T"),
        ([None, {"quantity": 3}, {"product_retailer_id": 7, "quantity": 1}], "Fiz um pedido: 1 × 7"),
        ([None], ""),
    ],
)
def test_an_order_invents_no_item_and_no_quantity(items, expected):
    assert read_one({"type": "order", "order": {"product_items": items}}).text == expected


def test_a_form_is_read_with_its_name():
    assert read_one(RICH[4]).text == 'flow: {"nota":5}'


def test_an_emoji_written_as_a_surrogate_pair_is_kept():
    assert read_one({"type": "text", "text": {"body": "\ud83d\ude00"}}).text == "😀"


# -- who and when ----------------------------------------------------------------


def test_each_message_finds_its_sender_among_several_contacts():
    contacts = [
        {"wa_id": "551", "user_id": "BR.1", "profile": {"name": "Ana"}},
        {"user_id": "BR.2", "profile": {"name": "Bia"}},
    ]
    text = {"type": "text", "text": {"body": "oi"}}
    inbound = read(
        [
            {"id": "a", "from_user_id": "BR.2", **text},
            {"id": "b", "from": "551", **text},
            {"id": "c", "from": "559", **text},
            {"id": "d", **text},
        ],
        contacts=contacts,
    )
    assert [(m.id, m.user, m.phone, m.bsuid, m.name) for m in inbound.messages] == [
        ("a", "BR.2", "", "BR.2", "Bia"),
        ("b", "551", "551", "BR.1", "Ana"),
        ("c", "559", "559", "", ""),
    ]


def test_a_lone_contact_never_gives_its_number_to_somebody_else():
    message = {"id": "a", "from_user_id": "BR.2", "type": "text", "text": {"body": "oi"}}
    [read_message] = read([message], contacts=[{"wa_id": "551"}]).messages
    assert (read_message.user, read_message.phone) == ("BR.2", "")


@pytest.mark.parametrize("written", ["5511999990001", "+5511999990001", " 5511999990001 ", 5511999990001])
def test_one_number_is_one_user_however_it_is_written(written):
    assert read_one({"from": written}).user == "5511999990001"


@pytest.mark.parametrize("nobody", [" ", "+", None, True, 1.5, [], {}])
def test_a_message_from_nobody_is_skipped(nobody):
    assert [m.id for m in read([{**FINE, "from": nobody, "id": "x"}, FINE]).messages] == ["fine"]


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        ("1700000000", 1.7e9), (1700000000, 1.7e9), (1700000000.5, 1700000000.5),
        (None, 0.0), ("soon", 0.0), ([], 0.0), (-1, 0.0), (float("nan"), 0.0), ("inf", 0.0), (10**400, 0.0),
    ],
)  # fmt: skip
def test_a_time_is_read_where_there_is_one(timestamp, seconds):
    assert read_one({"timestamp": timestamp}).sent_at == seconds


# -- statuses --------------------------------------------------------------------


def test_a_status_for_a_person_without_a_phone_names_the_bsuid():
    status = {"id": "w", "status": "sent", "recipient_user_id": "BR.1"}
    assert read([], statuses=[status]).statuses == (Status("w", "sent", recipient="BR.1"),)


@pytest.mark.parametrize("code", [True, None, "x", 1.5, float("nan"), [], {}])
def test_an_error_code_is_a_number_or_none(code):
    [status] = read([], statuses=[{**STATUS, "errors": [{"code": code}]}]).statuses
    assert status.error_code == 0
    assert type(status.error_code) is int


# -- whatever else may come ------------------------------------------------------


@pytest.mark.parametrize("depth", [100, 500])
def test_nesting_inside_one_item_costs_no_neighbour(depth):
    broken = {**FROM, "id": "m", "type": "location", "location": {"latitude": "@", "longitude": 1}}
    value = {"messages": [broken, FINE]}
    body = json.dumps({"entry": [{"changes": [{"field": "messages", "value": value}]}]})
    inbound = parse(body.replace('"@"', "[" * depth + "]" * depth).encode())
    assert [(m.id, m.text) for m in inbound.messages] == [("m", ""), ("fine", "oi")]


def test_nesting_without_end_is_refused():
    with pytest.raises(BadPayload):
        parse(b'{"entry":' + b"[" * 200_000 + b"]" * 200_000 + b"}")


@pytest.mark.parametrize("wrong", [b"\xef\xbb\xbf[]", '{"entry": []}'.encode("utf-16"), b'{"entry": []} x', b"NaN"])
def test_other_encodings_and_other_shapes_are_refused(wrong):
    with pytest.raises(BadPayload):
        parse(wrong)


def places(inside: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in ``inside``."""
    items = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def put(inside: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return ``inside`` with ``value`` at ``path``."""
    changed = copy.deepcopy(inside)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["\ud800", "\0", "", " ", "\udfff é", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(where=st.sampled_from(list(places(RICH))), value=odd)
@example(where=(5, "location", "latitude"), value="\ud800")
@example(where=(7, "order", "product_items", 0, "quantity"), value="\ud800")
def test_whatever_one_place_holds_everything_else_arrives_and_can_travel(where, value):
    inbound = read([*put(RICH, where, value), FINE], contacts=[{"wa_id": FROM["from"], "profile": {"name": "Ana"}}])
    touched = where[0]
    expected = [item["id"] for index, item in enumerate(RICH) if index != touched] + ["fine"]
    untouched = [m for m in inbound.messages if m.id in expected]
    assert [m.id for m in untouched] == expected
    assert all(m.text for m in untouched)
    for message in inbound.messages:
        assert Message.from_json(message.to_json().encode().decode()) == message


@settings(max_examples=100, deadline=None)
@given(where=st.sampled_from(list(places([STATUS]))), value=odd)
def test_whatever_one_status_holds_the_next_one_arrives(where, value):
    inbound = read([], statuses=[*put([STATUS], where, value), {"id": "w2", "status": "sent"}])
    assert inbound.statuses[-1] == Status("w2", "sent")
    for status in inbound.statuses:
        assert Status.from_json(status.to_json().encode().decode()) == status
