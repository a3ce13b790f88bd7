"""Webhook bodies that are not as documented: what is readable is read, and can travel on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from chatbot.channels.cloud.notices import FIELDS
from chatbot.channels.cloud.payload import parse
from chatbot.errors import BadPayload
from chatbot.messages import Inbound, Media, Message, Notice, Pricing, Status
from tests.payloads import FIXTURES, PAYLOADS, body_of, counts, places, put

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


def fixture(name: str) -> Inbound:
    return parse(body_of(FIXTURES / f"{name}.json"))


# -- bodies of other projects ----------------------------------------------------


@pytest.mark.skipif(not PAYLOADS.is_dir(), reason="no CHATBOT_TEST_PAYLOADS and no ../shared/payloads/cloud_api")
@pytest.mark.parametrize("row", counts(), ids=lambda row: row.file)
def test_a_body_yields_exactly_the_messages_and_statuses_it_holds(row):
    inbound = parse(body_of(PAYLOADS / row.file))
    assert [m.id for m in inbound.messages] == row.ids
    assert [m.text if m.kind == "text" else None for m in inbound.messages] == row.texts
    assert (len(inbound.messages), len(inbound.statuses)) == (row.messages, row.statuses)
    for message in inbound.messages:
        assert Message.from_json(message.to_json()) == message


@pytest.mark.skipif(not PAYLOADS.is_dir(), reason="no CHATBOT_TEST_PAYLOADS and no ../shared/payloads/cloud_api")
def test_every_body_was_counted():
    assert sorted(path.name for path in PAYLOADS.glob("*.json")) == sorted(row.file for row in counts())


# -- what each type means --------------------------------------------------------


def test_every_type_reads_as_documented():
    read = {m.id: m.text for path in FIXTURES.glob("*.json") for m in parse(body_of(path)).messages}
    assert read == {
        "wamid.text": "Quero esse aí ☕",
        "wamid.image": "É este?",
        "wamid.video": "",
        "wamid.audio": "",
        "wamid.voice": "",
        "wamid.document": "Segue o boleto",
        "wamid.sticker": "",
        "wamid.location": "Enviei minha localização: MASP, Av. Paulista, 1578 "
        "(latitude -23.561414, longitude -46.655881)",
        "wamid.contacts": "Enviei um contato: Beto Lima +55 11 98888-0002",
        "wamid.button": "Sim",
        "wamid.button_reply": "Confirmar",
        "wamid.list_reply": "Manhã: das 8h às 12h",
        "wamid.form": 'flow: {"nota":5}',
        "wamid.call": "",
        "wamid.order": "Fiz um pedido: 2 × BOLO-1, 10 × PAO-9. Para sábado",
        "wamid.product": "Ainda tem?",
        "wamid.product_asked": "Pergunto sobre o produto BOLO-1. Tem para hoje?",
        "wamid.paying": "Escolhi pagar com offsite_card_pay, cartão final 4242, pedido PED-7.",
        "wamid.ad": "Olá, vi o anúncio",
        "wamid.forward": "olha isso",
        "wamid.reaction": "👍",
        "wamid.unreaction": "",
        "wamid.edit": "Quero dois",
        "wamid.unsupported_edit": "",
        "wamid.unsupported_pin": "",
        "wamid.unsupported_keep_in_chat": "",
        "wamid.unsupported_poll_update": "",
        "wamid.unsupported_reaction": "",
        "wamid.revoke": "",
        "wamid.welcome": "",
        "wamid.ephemeral": "",
        "wamid.number": "",
        "wamid.bsuid": "",
        "wamid.customer": "",
        "wamid.from_new": "",
        "wamid.sentence": "",
        "wamid.identity": "",
        "wamid.unsupported": "",
        "wamid.unknown": "",
        "wamid.poll": "",
        "wamid.typeless": "",
        "wamid.group_invite": "",
        "wamid.username": "oi",
        "wamid.bsuid_from": "oi",
        "wamid.group": "oi, grupo",
        "wamid.person": "oi",
        "wamid.beside": "e eu?",
    }


def test_only_what_asks_for_an_answer_starts_a_turn():
    messages = [m for path in FIXTURES.glob("*.json") for m in parse(body_of(path)).messages]
    silent = {m.id.removeprefix("wamid.") for m in messages if not m.starts_turn}
    assert silent == {
        "reaction", "unreaction", "edit", "revoke", "welcome", "ephemeral", "call", "group",
        "unsupported_edit", "unsupported_pin", "unsupported_keep_in_chat", "unsupported_poll_update",
        "unsupported_reaction", "number", "bsuid", "customer", "from_new", "identity", "sentence",
    }  # fmt: skip


def test_files_are_named_and_not_fetched():
    assert {m.id: m.media for m in fixture("media").messages} == {
        "wamid.image": Media("901", "image/jpeg", url="https://lookaside.example/901"),
        "wamid.video": Media("902", "video/mp4"),
        "wamid.audio": Media("903", "audio/mpeg"),
        "wamid.voice": Media("904", "audio/ogg; codecs=opus", voice=True),
        "wamid.document": Media("905", "application/pdf", filename="boleto.pdf"),
        "wamid.sticker": Media("906", "image/webp"),
    }


def test_a_file_without_id_and_address_is_no_file():
    assert read_one({"type": "image", "image": {"mime_type": "image/png"}}).media is None


def test_a_message_names_the_one_it_is_about():
    quoted = {m.id: m.quoted for name in ("text_quoted", "choices", "silent") for m in fixture(name).messages}
    assert {id_: other for id_, other in quoted.items() if other} == {
        "wamid.text": "wamid.ours",
        "wamid.button": "wamid.template",
        "wamid.reaction": "wamid.ours",
        "wamid.unreaction": "wamid.ours",
        "wamid.edit": "wamid.text",
        "wamid.revoke": "wamid.text",
    }


def test_what_led_to_a_message_is_told_to_the_agent():
    product = fixture("order_and_product").messages[1]
    ad, forwarded = fixture("ad_and_forward").messages
    assert product.context == "Pergunto sobre o produto BOLO-1."
    assert ad.context == "Cheguei pelo anúncio: Bolos da Aurora — Encomende o seu — https://fb.me/abc."
    assert forwarded.context == "Encaminhei esta mensagem."
    assert product.told == "[Pergunto sobre o produto BOLO-1.]\nAinda tem?"
    assert fixture("text_quoted").messages[0].told == "Quero esse aí ☕"


def test_who_changed_number_or_id_is_named_by_the_old_one_from_fields_and_never_from_the_sentence():
    """The sentence holds the profile's name: "changed from <another's number> to …" would take their conversation."""
    moves = {m.id: (m.user, m.phone, m.bsuid, m.moved_to) for m in fixture("moved").messages}
    old, bsuid = "5511999990001", "BR.90000000000000000001"
    assert moves == {
        "wamid.number": (old, old, "BR.90000000000000000003", "5511977770003"),
        "wamid.bsuid": (bsuid, "", bsuid, "BR.90000000000000000002"),
        "wamid.customer": (old, old, "", "5511977770004"),
        "wamid.from_new": ("", "", "", "5511977770005"),
        "wamid.identity": (old, old, "", ""),
        "wamid.sentence": ("", "", "", "BR.90000000000000000005"),
    }


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"system": {"wa_id": "552", "user_id": "BR.2", "previous_user_id": "BR.1"}}, ("BR.1", "", "BR.1", "552")),
        ({"from": "551", "system": {"wa_id": "552", "user_id": "BR.2", "previous_user_id": "BR.1"}},
         ("551", "551", "BR.1", "552")),
        ({"from": "552", "system": {"wa_id": "552", "user_id": "BR.2", "previous_user_id": "BR.1"}},
         ("BR.1", "", "BR.1", "552")),
        ({"from": "BR.1", "system": {"user_id": "BR.2"}}, ("BR.1", "", "BR.1", "BR.2")),
        ({"from_user_id": "BR.2", "system": {"user_id": "BR.2", "previous_user_id": "BR.1"}},
         ("BR.1", "", "BR.1", "BR.2")),
    ],
)  # fmt: skip
def test_a_mover_is_who_the_fields_say(item, expected):
    system = {"type": "user_changed_user_id", **item["system"]}
    [moved] = read([{"id": "m", "type": "system", **item, "system": system}]).messages
    assert (moved.user, moved.phone, moved.bsuid, moved.moved_to) == expected


@pytest.mark.parametrize(
    "system",
    [{}, {"wa_id": "5511999990001"}, {"wa_id": "552", "type": []}, {"type": "user_changed_number"}, None, "x"],
)
def test_who_did_not_move_anywhere_stays(system):
    assert read_one({"type": "system", "system": system}).moved_to == ""


def test_a_mover_nobody_can_name_has_no_user():
    [moved] = read([{"id": "m", "type": "system", "system": {"type": "user_changed_number", "wa_id": "552"}}]).messages
    assert (moved.user, moved.moved_to, moved.starts_turn) == ("", "552", False)


def test_a_group_is_named_and_not_served():
    group, person = fixture("group").messages
    assert (group.group, group.starts_turn) == ("120363000000000001", False)
    assert (person.group, person.starts_turn) == ("", True)


def test_statuses_say_what_became_of_our_messages_and_what_it_costs():
    free = Pricing("service", "free_customer_service", "PMP")
    assert fixture("statuses").statuses == (
        Status("wamid.out1", "sent", recipient="5511999990001", callback="5511999990001:7:0", pricing=free),
        Status("wamid.out2", "failed", recipient="5511999990001", error_code=131047),
        Status("wamid.out3", "read", recipient="BR.90000000000000000007"),
        Status("wamid.out4", "invented_next"),
    )


def test_an_ad_leaves_its_click():
    ad, forwarded = fixture("ad_and_forward").messages
    assert (ad.ctwa_clid, forwarded.ctwa_clid) == ("ARA", "")
    assert read_one({"referral": {"ctwa_clid": "x" * 513}}).ctwa_clid == "", "half of one says nothing"


def test_what_can_not_be_shown_to_us_is_answered_and_what_was_done_to_a_message_is_not():
    kinds = {m.id: m.kind for name in ("silent", "unsupported") for m in fixture(name).messages}
    assert kinds["wamid.unsupported_edit"] == "edit"
    assert kinds["wamid.unsupported_poll_update"] == "poll_update"
    assert kinds["wamid.group_invite"] == kinds["wamid.unsupported"] == "unsupported"


# -- payments --------------------------------------------------------------------

PAID = {
    "id": "wamid.details", "status": "captured", "type": "payment", "recipient_id": "5511999990001",
    "timestamp": "1700000000", "biz_opaque_callback_data": "5511999990001:7:0",
    "payment": {"reference_id": "PED-7", "amount": {"value": 21000, "offset": 100}, "currency": "BRL"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("captured", "O pagamento do pedido PED-7 (BRL 210.00) foi confirmado."),
        ("failed", "O pagamento do pedido PED-7 (BRL 210.00) não foi concluído."),
        ("pending", ""),
    ],
)
def test_a_payment_is_said_to_the_agent_and_is_no_status_of_a_message(status, text):
    """Read as a status, a payment that failed would be a reply that failed."""
    inbound = read([], statuses=[{**PAID, "status": status}, STATUS])
    [paid] = inbound.messages
    assert (paid.user, paid.text, paid.starts_turn, paid.sent_at) == ("5511999990001", text, bool(text), 1.7e9)
    assert paid.id == f"payment.{status}.wamid.details", "each state is a message of its own"
    assert [s.message_id for s in inbound.statuses] == ["w1"]


@pytest.mark.parametrize("payment", [None, [], {}, {"amount": 7}, {"amount": {"value": 1, "offset": 0}}])
def test_a_payment_without_details_is_one_all_the_same(payment):
    [paid] = read([], statuses=[{**PAID, "payment": payment}]).messages
    assert paid.text == "O pagamento foi confirmado."


def test_the_stored_card_of_a_person_is_kept_from_the_agent():
    paying = next(m for m in fixture("order_and_product").messages if m.id == "wamid.paying")
    assert "cred-secret" not in paying.to_json()
    assert (paying.starts_turn, paying.quoted) == (True, "wamid.details")


# -- notices ---------------------------------------------------------------------


def test_what_an_operator_must_hear_of_is_a_notice():
    waba, number, at = "200000000000001", "100000000000001", 1767225600.0
    told = [(n.kind, n.account, n.at, n.severity, n.summary) for n in fixture("notices").notices]
    assert told == [
        ("account_update", waba, at, "critical", "account_update ACCOUNT_RESTRICTION"),
        ("account_update", waba, at, "info", "account_update DISABLED_UPDATE"),
        ("account_alerts", waba, at, "warning", "account_alerts INCREASED_CAPABILITIES_ELIGIBILITY_DEFERRED"),
        ("phone_number_quality_update", waba, at, "info", "phone_number_quality_update THROUGHPUT_UPGRADE"),
        ("message_template_status_update", waba, at, "warning", "message_template_status_update REJECTED"),
        ("business_capability_update", waba, at, "info", "business_capability_update"),
        ("security", waba, at, "warning", "security PIN_RESET_REQUEST"),
        ("user_preferences", number, at, "info", "user_preferences stop"),
        ("user_preferences", number, at, "info", "user_preferences resume"),
        ("smb_message_echoes", number, at, "info", "smb_message_echoes echo text"),
        ("smb_message_echoes", number, at, "info", "smb_message_echoes echo edit"),
        ("standby", number, at, "info", "standby message text"),
        ("standby", number, at, "info", "standby echo text"),
        ("messaging_handovers", number, at, "info", "messaging_handovers control_passed"),
        ("calls", number, at, "info", "calls connect USER_INITIATED"),
        ("calls", number, at, "info", "calls terminate BUSINESS_INITIATED COMPLETED"),
    ]
    assert not fixture("notices").messages, "what goes to another is nothing to answer"


def test_a_notice_about_a_person_says_who_and_what():
    ana, bsuid = ("5511999990001", ""), ("", "BR.90000000000000000007")
    told = [(n.phone, n.bsuid, n.message_id, n.text) for n in fixture("notices").notices if n.phone or n.bsuid]
    assert told == [
        (*ana, "", ""),
        (*bsuid, "", ""),
        (*ana, "wamid.staff", "Aqui é o João"),
        (*bsuid, "wamid.staff_edit", "Aqui é a Ana"),
        ("5511999990001", "BR.90000000000000000001", "wamid.to_agent", "Têm bolo?"),
        (*ana, "wamid.by_agent", "Temos sim"),
        (*ana, "", ""),
        (*ana, "wacid.in", ""),
        (*ana, "wacid.out", ""),
    ]


def test_a_notice_keeps_what_an_operator_needs_to_know():
    details = {n.summary: n.details for n in fixture("notices").notices}
    assert details["account_update ACCOUNT_RESTRICTION"] == {
        "event": "ACCOUNT_RESTRICTION",
        "restriction_info.0.restriction_type": "RESTRICTED_BIZ_INITIATED_MESSAGING",
        "restriction_info.0.expiration": "1767312000",
    }
    assert details["message_template_status_update REJECTED"]["message_template_name"] == "voltamos"
    assert details["user_preferences stop"] == {"category": "marketing_messages", "value": "stop"}
    assert details["messaging_handovers control_passed"]["previous_owner_app_role"] == "meta_business_agent"
    assert details["smb_message_echoes echo edit"]["original_message_id"] == "wamid.staff"


def test_echoes_and_calls_come_among_messages_too():
    assert [(n.kind, n.message_id) for n in fixture("other_fields").notices] == [
        ("smb_message_echoes", "wamid.echo1"),
        ("account_alerts", ""),
        ("smb_message_echoes", "wamid.echo2"),
        ("calls", "wacid.1"),
    ]


def changes(*pairs: tuple[str, Any]) -> Inbound:
    body = {"entry": [{"id": "9", "changes": [{"field": field, "value": value} for field, value in pairs]}]}
    return parse(json.dumps(body).encode())


@pytest.mark.parametrize("field", sorted(FIELDS))
@pytest.mark.parametrize("value", [None, [], "x", {"event": 7}, {"message_echoes": [None, {}, {"id": []}], "calls": 1}])
def test_a_notice_that_is_not_as_documented_costs_no_neighbour(field, value):
    preference = {"user_preferences": [{"wa_id": "551", "value": "stop"}]}
    assert changes((field, value), ("user_preferences", preference)).notices[-1].phone == "551"


def test_a_notice_is_bounded_and_its_summary_holds_fixed_words_only():
    """A summary is logged: no number or text may come in by what Meta calls an event."""
    wide = {
        "event": "call +55 11 99999-0001",
        **{f"k{n}": "x" * 5000 for n in range(500)},
        "deep": {"a": {"b": {"c": {}}}},
    }
    echo = {"id": "e", "to": "551", "type": "text", "text": {"body": "y" * 100_000}}
    account, written = changes(("account_update", wide), ("smb_message_echoes", {"message_echoes": [echo]})).notices
    assert account.summary == "account_update"
    assert len(account.to_json()) < 12_000
    assert len(written.text) == 4096


def test_errors_and_unread_fields_are_logged_by_code_and_name():
    with capture_logs() as logged:
        fixture("other_fields")
        fixture("unsupported")
        read([{"from": "1"}, 7], statuses=[{"id": "w"}])
    events = [(entry["event"], entry.get("fields") or entry.get("codes") or entry.get("items")) for entry in logged]
    assert events == [
        ("webhook.errors", [130429]),
        ("webhook.unread", ["history"]),
        ("message.errors", [131051]),
        ("message.errors", [131060]),
        ("webhook.skipped", 3),
    ]  # fmt: skip


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
        ("d", "", "", "", ""),
    ]


def test_a_lone_contact_never_gives_its_number_to_somebody_else():
    message = {"id": "a", "from_user_id": "BR.2", "type": "text", "text": {"body": "oi"}}
    [read_message] = read([message], contacts=[{"wa_id": "551"}]).messages
    assert (read_message.user, read_message.phone) == ("BR.2", "")


@pytest.mark.parametrize("written", ["5511999990001", "+5511999990001", " 5511999990001 ", 5511999990001])
def test_one_number_is_one_user_however_it_is_written(written):
    assert read_one({"from": written}).user == "5511999990001"


@pytest.mark.parametrize("written", ["BR.1234567890", "US.ENT.11815799212886844830", " BR.1234567890 "])
def test_a_bsuid_where_a_phone_number_used_to_be_is_a_bsuid(written):
    message = read_one({"from": written, "type": "text", "text": {"body": "oi"}})
    assert (message.user, message.phone, message.bsuid) == (written.strip(), "", written.strip())
    [known] = read([{**FINE, "from": written}], contacts=[{"wa_id": written, "profile": {"name": "Ana"}}]).messages
    assert (known.phone, known.bsuid, known.name) == ("", written.strip(), "Ana")


@pytest.mark.parametrize("nobody", [" ", "+", None, True, 1.5, [], {}])
def test_a_message_from_nobody_starts_no_turn(nobody):
    messages = read([{**FINE, "from": nobody, "id": "x"}, FINE]).messages
    assert [(m.id, m.user, m.starts_turn) for m in messages] == [("x", "", False), ("fine", FROM["from"], True)]


@pytest.mark.parametrize("id_", ["x" * 201, "a\nb", "", None, {}, 1.5])
def test_what_can_be_no_id_costs_only_its_own_item(id_):
    assert [m.id for m in read([{**FINE, "id": id_}, FINE]).messages] == ["fine"]
    assert [m.user for m in read([{**FINE, "from": id_}, FINE]).messages] == ["", FROM["from"]]


def test_a_body_of_many_contacts_and_messages_is_read_in_time():
    contacts = [{"wa_id": str(n)} for n in range(50_000)]
    assert len(read([{"id": "m", "from": "x"}] * 20_000, contacts=contacts).messages) == 20_000


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        ("1700000000", 1.7e9), (1700000000, 1.7e9), (1700000000.5, 1700000000.5),
        (None, 0.0), ("soon", 0.0), ([], 0.0), (-1, 0.0), (float("nan"), 0.0), ("inf", 0.0), (True, 0.0),
        (10**400, 0.0),
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


@pytest.mark.parametrize("depth", [100, 500, 100_000])
def test_nesting_inside_one_item_costs_no_neighbour(depth):
    broken = {**FROM, "id": "m", "type": "location", "location": {"latitude": "@", "longitude": 1}}
    value = {"messages": [broken, FINE]}
    body = json.dumps({"entry": [{"changes": [{"field": "messages", "value": value}]}]})
    inbound = parse(body.replace('"@"', "[" * depth + "]" * depth).encode())
    assert [(m.id, m.text) for m in inbound.messages] == [("m", ""), ("fine", "oi")]


@pytest.mark.parametrize(
    "odd",
    [
        b'"' + b"\\u0041" * 9 + b"]}" * 60_000 + b'"', b'{"]": ' * 60_000 + b'"}"' + b"}" * 60_000,
        b"9" * 5000, b"-" + b"9" * 5000, b"1" * 5000 + b".5", b"1e999", b"NaN", b"-Infinity",
        b'"\xff\xfe\xed\xa0\x80"', b'"a\nb\x00"', b'"\\ud800"', b'{"id": "a", "id": "b"}',
    ],
)  # fmt: skip
def test_what_json_decoders_choke_on_costs_no_neighbour(odd):
    item = b'{"from": "551", "id": "m", "odd": ' + odd + b', "type": "text", "text": {"body": ' + odd + b"}}"
    fine = json.dumps(FINE).encode()
    body = b'{"entry": [{"changes": [{"field": "messages", "value": {"messages": [' + item + b", " + fine + b"]}}]}]}"
    inbound = parse(body)
    assert [m.id for m in inbound.messages] == ["m", "fine"]
    assert inbound.messages[1].text == "oi"


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"entry":' + b"[" * 200_000, b'{"a":' + b'"\\"' * 200_000])
def test_a_body_cut_off_is_refused_in_time(body):
    with pytest.raises(BadPayload):
        parse(body)


@pytest.mark.parametrize("wrong", [b"\xef\xbb\xbf[]", '{"entry": []}'.encode("utf-16"), b'{"entry": []} x', b"NaN"])
def test_other_encodings_and_other_shapes_are_refused(wrong):
    with pytest.raises(BadPayload):
        parse(wrong)


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


@settings(max_examples=100, deadline=None)
@given(data=st.data(), value=odd)
def test_whatever_one_notice_holds_it_can_travel(data, value):
    body = json.loads(body_of(FIXTURES / "notices.json"))
    body = put(body, data.draw(st.sampled_from(list(places(body)))), value)
    for notice in parse(json.dumps(body).encode() if isinstance(body, dict) else b"{}").notices:
        assert Notice.from_json(notice.to_json().encode().decode()) == notice
