"""Who is a user: names, links, moves, and pseudonyms that show no number."""

from __future__ import annotations

import base64
import itertools
import json
import logging
from types import SimpleNamespace

import pytest
import structlog

from chatbot.app import Chatbot
from chatbot.broker.publisher import Publishers
from chatbot.broker.router import Router
from chatbot.config import Settings
from chatbot.errors import TurnUnderWay
from chatbot.identity import Contact, Names, canonical
from chatbot.messages import Message, Status
from chatbot.observability.logging import configure_logging
from chatbot.ops import dead_letters
from chatbot.store.client import connect
from chatbot.store.store import Store
from chatbot.store.turns import Answered, Moved
from chatbot.web.webhook import create_app
from tests.system import APP_SECRET, sign, webhook_body

fresh = itertools.count()

PHONE = "5511988887777"
NEW_PHONE = "5521977770003"
BSUID = "BR.90000000000000000001"
KEY = "a key of 16 chars"
#: As Meta makes them: the number stands in it, in base64.
WAMID = "wamid." + base64.b64encode(b"\x1d\x08\x0d" + PHONE.encode() + b"\x15\x02\x00").decode()


@pytest.mark.parametrize(
    ("given", "one"),
    [
        ("551188887777", "5511988887777"),  # Brazil: a mobile without its ninth digit
        ("556281234567", "5562981234567"),
        ("5511988887777", "5511988887777"),
        ("551133334444", "551133334444"),  # a landline
        ("551023456789", "551023456789"),  # no area has a 0
        ("5215512345678", "525512345678"),  # Mexico
        ("525512345678", "525512345678"),
        ("15550001111", "15550001111"),
        (BSUID, BSUID),
    ],
)
def test_one_person_has_one_number(given, one):
    assert canonical(given) == one
    assert canonical(one) == one


def said(text="oi", *, phone=PHONE, bsuid="", id_="", account="", sent_at=1000.0, moved_to="", names=None):
    message = Message(
        user=phone or bsuid, id=id_ or f"id-{text}", text=text, channel="whatsapp", account=account, phone=phone,
        bsuid=bsuid, sent_at=sent_at, moved_to=moved_to, kind="system" if moved_to else "text",
    )  # fmt: skip
    return (names or Names()).name(message)


def test_a_user_is_a_contact_at_one_of_our_numbers():
    names = Names(home="77")
    assert said(phone="551188887777", account="77", names=names).user == PHONE
    assert said(phone="551188887777", account="77", names=names).phone == "551188887777", (
        "a reply goes where it came from"
    )
    assert said(account="78", names=names).user == f"{PHONE}@78"
    assert said(phone="", bsuid=BSUID, account="78", names=names).user == f"{BSUID}@78"
    assert Names().name(Message(user="", id="m", text="oi")).user == "", "nobody stays nobody"


# -- pseudonyms ------------------------------------------------------------------


def test_with_a_key_users_and_ids_are_pseudonyms():
    names = Names(home="77", key=KEY)
    message = said(id_=WAMID, account="77", names=names)
    assert len(message.user) == len(message.id) == 26
    assert message.user == names.user("551188887777", "77"), "the same person, however the number is written"
    assert message.user != names.user(PHONE, "78") != Names(key=KEY + "!").user(PHONE, "78")
    assert (message.id_at_provider, message.phone) == (WAMID, PHONE)
    status = names.status(Status(WAMID, "sent", recipient=PHONE, callback=f"{message.user}:1:0"))
    assert (status.message_id, status.recipient) == (message.id, "")


def test_without_a_key_all_is_shown_as_it_is():
    assert said(id_=WAMID).id == said(id_=WAMID).id_at_provider == WAMID
    status = Status(WAMID, "sent", recipient=PHONE)
    assert Names().status(status) == status


class Published:
    """Keeps what Celery would send."""

    def __init__(self, monkeypatch):
        self.sent = []
        monkeypatch.setattr(Publishers, "run", lambda _, deadline, publish: publish(self))
        monkeypatch.setattr(Router, "_open", lambda *_: None)
        monkeypatch.setattr(Router, "_look", lambda *_, **__: None)
        monkeypatch.setattr(Router, "_give", self._give)
        self.returned = []
        self.unconfirmed = ()
        self.channel = SimpleNamespace(queue_declare=lambda *_, **__: SimpleNamespace(message_count=0))

    def forget(self):
        pass

    def confirm(self, deadline):
        pass

    def _give(self, publisher, deadline, call, **where):
        self.sent.append((call, where))


def hidden(text):
    """Return what of the number can be found in ``text``, in clear or in base64 at any offset."""
    forms = [PHONE, PHONE[2:], WAMID.removeprefix("wamid.")]
    forms += [base64.b64encode(b"\0" * n + PHONE.encode())[4:-4].decode() for n in range(3)]
    return [form for form in forms if form in text]


def test_no_phone_number_is_shown_anywhere(monkeypatch, capfd):
    """Logs at DEBUG, queue names, routing keys, headers, and the arguments Flower shows."""
    settings = Settings(
        _env_file=None, env="test", broker_url="memory://", redis_url=f"fakeredis://contacts-{next(fresh)}",
        whatsapp_app_secret=APP_SECRET, whatsapp_access_token="t", whatsapp_phone_number_id="77",
        pseudonym_key=KEY, log_level="DEBUG",
    )  # fmt: skip
    before = logging.getLogger().handlers[:], logging.getLogger().level, structlog.get_config()
    configure_logging(settings)
    structlog.configure(cache_logger_on_first_use=False)
    published = Published(monkeypatch)
    bot = Chatbot(settings)
    bot.agent = type("Echo", (), {"reply": lambda self, message, history: "eco"})()
    try:
        client = create_app(bot).test_client()
        body = json.loads(webhook_body([(PHONE, WAMID, "oi")], "77"))
        value = body["entry"][0]["changes"][0]["value"]
        reaction = {"from": PHONE, "id": WAMID + "A", "type": "reaction", "errors": [{"code": 1}]}
        value["messages"].append({**reaction, "reaction": {"message_id": WAMID, "emoji": "👍"}})
        user = bot.names.user(PHONE)
        value["statuses"] = [
            {"id": WAMID, "status": "sent", "recipient_id": PHONE, "biz_opaque_callback_data": f"{user}:1:0"}
        ]
        raw = json.dumps(body).encode()
        answer = client.post("/webhook/whatsapp", data=raw, headers={"X-Hub-Signature-256": sign(raw)})
        assert answer.status_code == 200
        (answers, _), (reports, _) = published.sent
        named, text = answers.arguments
        message = Message.from_dict({"user": named, "text": text, **answers.kwargs})
        bot.conversation.answer(message)
        bot.router.bury(message, "why")
        bot.router.notify(message, "too_many", "calma")
        bot.delivery.report(Status.from_dict(reports.kwargs["status"]))
        shown = repr([(call.message(bot.celery).headers, where) for call, where in published.sent])
        assert not hidden(shown)
        assert not hidden(answer.text)
        logged = capfd.readouterr().err
        assert "turn.committed" in logged
        assert "status.received" in logged
        assert not hidden(logged)
        assert message.id_at_provider == WAMID, "what the provider is told to mark as read"
    finally:
        logging.getLogger().handlers[:], level, config = before
        logging.getLogger().setLevel(level)
        structlog.configure(**config)


def test_a_dead_letter_hides_the_number_too():
    message = said(id_=WAMID, names=Names(key=KEY))
    body = json.dumps([[message.user, message.id], {"message": message.to_dict(), "asked_at": 1.0}, {}])
    raw = type("Raw", (), {
        "headers": {"task": "chatbot.mark_read"}, "body": body, "properties": {}, "delivery_tag": 1,
    })()  # fmt: skip
    assert not hidden(dead_letters.page(dead_letters._read(raw)))


# -- links and moves -------------------------------------------------------------


@pytest.fixture(params=["fakeredis", pytest.param("redis", marks=pytest.mark.server)])
def store(request):
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
    else:
        url = f"fakeredis://contacts-{next(fresh)}"
    client = connect(url)
    client.flushall()
    yield Store(client, history_turns=5, retention=1000, clock=lambda: 2000.0)
    client.close()


def turn(store, message):
    return store.commit_turn(store.begin_turn(message, seconds=60), f"re: {message.text}").turn


def past(store, user):
    return [t.message.text for t in store.history(user)]


def deliver(store, user):
    claimed = store.claim_delivery(user, fence="a")
    if claimed:
        store.settle_done(claimed)
    return claimed and claimed.turn


def test_a_bsuid_and_a_phone_that_come_together_are_one_person(store):
    turn(store, said("um", phone="", bsuid=BSUID))
    turn(store, said("dois"))
    begun = store.begin_turn(said("três", bsuid=BSUID), seconds=60)
    assert [t.message.text for t in begun.history] == ["um", "dois"]
    assert begun.number == 3, "what was not delivered under the other name took a number"
    with pytest.raises(Moved) as moved:
        store.begin_turn(said("quatro", phone="", bsuid=BSUID), seconds=60)
    assert moved.value.to == Contact(PHONE, PHONE, BSUID)
    assert past(store, BSUID) == []


def test_who_moves_takes_the_conversation_along(store):
    for text in ("um", "dois"):
        turn(store, said(text))
    assert deliver(store, PHONE).reply == "re: um"
    turn(store, said("novo", phone=NEW_PHONE))
    notice = said("", id_="notice", moved_to=NEW_PHONE, sent_at=1500.0)
    assert store.move(notice) == store.move(notice) == NEW_PHONE, "done twice it is done once"
    assert past(store, NEW_PHONE) == ["um", "dois", "novo"]
    first, second = deliver(store, NEW_PHONE), deliver(store, NEW_PHONE)
    assert [(t.number, t.reply) for t in (first, second)] == [(1, "re: novo"), (2, "re: dois")]
    assert (second.message.user, second.message.phone) == (NEW_PHONE, NEW_PHONE), "where they are now"
    assert deliver(store, PHONE) is deliver(store, NEW_PHONE) is None
    assert store.due_outboxes(before=1e12) == []
    assert store.begin_turn(said("três", phone=NEW_PHONE), seconds=60).number == 3


def test_a_message_answered_under_the_old_name_stays_answered(store):
    first = turn(store, said("um"))
    deliver(store, PHONE)
    store.move(said("", id_="notice", moved_to=NEW_PHONE))
    assert store.begin_turn(said("um"), seconds=60) == Answered(first)
    assert store.turn_numbered(PHONE, 1).message.text == "um", "its status may still come"


def test_what_was_forwarded_and_answered_is_known_by_the_name_it_came_in_as(store):
    store.move(said("", id_="notice", moved_to=NEW_PHONE, sent_at=1500.0))
    with pytest.raises(Moved) as moved:
        store.begin_turn(said("um"), seconds=60)
    forwarded = moved.value.to.take_over(said("um"))
    assert (forwarded.user, forwarded.phone, forwarded.origin) == (NEW_PHONE, NEW_PHONE, PHONE)
    answered = turn(store, forwarded)
    assert store.begin_turn(said("um"), seconds=60) == Answered(answered)
    assert store.turn_of(said("um")) == answered


def test_whoever_is_given_a_number_that_somebody_gave_up_is_somebody_else(store):
    turn(store, said("segredo"))
    store.move(said("", id_="notice", moved_to=NEW_PHONE, sent_at=1500.0))
    begun = store.begin_turn(said("oi", sent_at=1501.0), seconds=60)
    assert (begun.history, begun.number) == ((), 2), "a number of a turn is never given twice"
    with pytest.raises(Moved):
        store.begin_turn(said("atrasada", sent_at=1499.0), seconds=60)


def test_a_notice_that_comes_again_takes_nothing_from_who_has_the_number_now(store):
    notice = said("", id_="notice", moved_to=NEW_PHONE, sent_at=1500.0)
    store.move(notice)
    turn(store, said("segredo", bsuid="BR.2", sent_at=1501.0))
    store.move(notice)
    assert past(store, NEW_PHONE) == []
    assert past(store, PHONE) == ["segredo"]
    with pytest.raises(Moved) as moved:
        store.begin_turn(said("oi", phone="", bsuid="BR.2", sent_at=1502.0), seconds=60)
    assert moved.value.to.user == PHONE


@pytest.mark.parametrize("backwards", [False, True])
def test_of_several_moves_the_newest_wins_in_whatever_order_they_come(store, backwards):
    turn(store, said("um"))
    there = said("", id_="there", moved_to=NEW_PHONE, sent_at=1500.0)
    back = said("", id_="back", phone=NEW_PHONE, moved_to=PHONE, sent_at=1600.0)
    for notice in [back, there, back, there] if backwards else [there, back, there]:
        store.move(notice)
    assert past(store, PHONE) == ["um"]
    assert store.begin_turn(said("dois", sent_at=1601.0), seconds=60).number == 2 + (not backwards)
    with pytest.raises(Moved) as moved:
        store.begin_turn(said("três", phone=NEW_PHONE, sent_at=1599.0), seconds=60)
    assert moved.value.to.user == PHONE


def test_a_move_of_a_move_is_followed(store):
    turn(store, said("um", bsuid=BSUID))
    store.move(said("", id_="first", moved_to=NEW_PHONE, sent_at=1500.0))
    store.move(said("", id_="second", phone=NEW_PHONE, moved_to="351912345678", sent_at=1600.0))
    assert past(store, "351912345678") == ["um"]
    with pytest.raises(Moved) as moved:
        store.begin_turn(said("dois", phone="", bsuid=BSUID, sent_at=1700.0), seconds=60)
    assert moved.value.to.user == "351912345678", "the BSUID moved along"


def test_a_new_bsuid_of_a_known_phone_is_one_more_name(store):
    turn(store, said("um", bsuid=BSUID))
    assert store.move(said("", id_="notice", bsuid=BSUID, moved_to="BR.2")) == PHONE
    for bsuid in (BSUID, "BR.2"):
        with pytest.raises(Moved) as moved:
            store.begin_turn(said("dois", phone="", bsuid=bsuid), seconds=60)
        assert moved.value.to.user == PHONE


def test_nothing_moves_while_a_turn_or_a_send_is_under_way(store):
    notice = said("", id_="notice", moved_to=NEW_PHONE)
    begun = store.begin_turn(said("um"), seconds=60)
    with pytest.raises(TurnUnderWay):
        store.move(notice)
    store.commit_turn(begun, "re: um")
    claimed = store.claim_delivery(PHONE, fence="a")
    with pytest.raises(TurnUnderWay):
        store.move(notice)
    store.settle_later(claimed, pause=60)
    assert store.move(notice) == NEW_PHONE
    assert not store.settle_done(claimed), "a sender that was overtaken writes nothing"
    assert deliver(store, NEW_PHONE).reply == "re: um"


def test_a_run_under_the_old_name_commits_nothing_after_the_move(store):
    zombie = store.begin_turn(said("um"), seconds=-1)
    store.move(said("", id_="notice", moved_to=NEW_PHONE))
    assert store.commit_turn(zombie, "from the zombie") is None
