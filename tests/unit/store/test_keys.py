"""The table of keys: each key that the stores write is one row of it, and is as the row says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import chatbot.store
from chatbot.identity import Names
from chatbot.messages import Limits, Message, Notice
from chatbot.store import keys
from chatbot.store.client import connect
from chatbot.store.keys import TABLE, Key, Ttl
from chatbot.store.notices import Notices
from chatbot.store.presence import Presence, Redeliveries, Runs
from chatbot.store.slots import Slots
from chatbot.store.store import Store

RETENTION = 1000
PHONE, NEW_PHONE, BSUID = "5511999990001", "5511999990002", "BR.1"
LIMITS = Limits(per_second=10, pair_seconds=6, pair_burst=2)


class Ledger:
    """A real Redis that is looked at again and again: ``seen`` are the rows of the table that it had keys of."""

    def __init__(self, url: str) -> None:
        self.client = connect(url)
        self.seen: set[Key] = set()

    def check(self) -> None:
        for key in self.client.scan_iter():
            row = keys.row_of(key)
            assert self.client.type(key) == row.type, key
            assert _is_as_said(row.ttl, self.client.ttl(key)), (key, row.ttl, self.client.ttl(key))
            self.seen.add(row)


def _is_as_said(ttl: int | Ttl, left: int) -> bool:
    if ttl is Ttl.FOREVER:
        return left == -1
    most = {Ttl.RETENTION: RETENTION, Ttl.GIVEN: float("inf")}.get(ttl, ttl)
    return 0 <= left <= most


@pytest.fixture
def ledger(redis_server):
    ledger = Ledger(redis_server.url)
    ledger.client.flushall()
    ledger.client.close()
    ledger = Ledger(redis_server.url)  # its first command finds an empty Redis
    yield ledger
    ledger.client.close()


@pytest.fixture
def store(ledger):
    return Store(ledger.client, history_turns=3, retention=RETENTION, names=Names(home="77", key=""))


def said(text: str, **more: object) -> Message:
    fields = {"user": PHONE, "id": f"wamid.{text}:{{1}}", "phone": PHONE, "account": "77", "channel": "whatsapp"}
    return Message(text=text, **(fields | more))


def test_each_key_is_of_one_row_and_as_the_row_says(ledger, store):
    for step in (_turns, _moves, _deliveries, _pace, _housekeeping, _notices, _slots, _processes):
        step(store, ledger)
        ledger.check()
    assert {row.pattern for row in set(TABLE) - ledger.seen} == set(), "rows that no key is of"


def _turns(store: Store, ledger: Ledger) -> None:
    store.release_turn(store.begin_turn(said("um")))
    begun = store.begin_turn(said("um"))
    ledger.check()
    store.renew_turn(PHONE, begun.fence)
    store.commit_turn(begun, "re: um")


def _moves(store: Store, ledger: Ledger) -> None:
    store.commit_turn(store.begin_turn(said("dois", bsuid=BSUID)), "re: dois")  # two names become one
    ledger.check()
    store.move(said("três", bsuid=BSUID, moved_to=NEW_PHONE))


def _deliveries(store: Store, ledger: Ledger) -> None:
    claimed = store.claim_delivery(NEW_PHONE, fence="a")
    store.settle_part(claimed, 1, sent="wamid.out:1")
    ledger.check()
    store.settle_plain(claimed)
    store.settle_later(claimed, pause=0)
    store.settle_done(store.claim_delivery(NEW_PHONE, fence="b"), sent="wamid.out:2")
    store.claim_delivery(NEW_PHONE, fence="b")
    store.report_refused(NEW_PHONE, 2, 0)
    store.claim_delivery(NEW_PHONE, fence="b")
    store.tell_once(NEW_PHONE, "failed:so:1:0", seconds=60)


def _pace(store: Store, ledger: Ledger) -> None:
    store.pace(PHONE, "whatsapp:77", LIMITS, longest=1.0)
    ledger.check()
    store.hold_pair(PHONE, LIMITS, pause=4)
    store.hold_number("whatsapp:77", pause=4)


def _housekeeping(store: Store, ledger: Ledger) -> None:
    store.count("turn_waits")
    store.alert_once("down:whatsapp:77", seconds=60)
    store.note_rescued("amqp://guest@host:5672//", 1.0)
    with store.alone("closing", seconds=60):
        ledger.check()


def _notices(store: Store, ledger: Ledger) -> None:
    Notices(ledger.client).keep(Notice("account_update", "200", 1000.0, "critical"))


def _slots(store: Store, ledger: Ledger) -> None:
    with Slots(ledger.client, "llm", 1).held(wait=1.0):
        waiting = Slots(ledger.client, "llm", 1)
        waiting._place("who waits")
        waiting._renew("who waits")
        ledger.check()


def _processes(store: Store, ledger: Ledger) -> None:
    presence = Presence(ledger.client)
    presence.beat()
    with Redeliveries(ledger.client, Runs(presence.id, presence)).counted("task"):
        ledger.check()


def test_a_key_without_a_row_is_found(ledger):
    ledger.client.set("chatbot:{ana}:another", 1)
    with pytest.raises(LookupError, match="0 rows"):
        ledger.check()


def test_names_that_a_user_chooses_lead_out_of_no_row():
    for user in ("1.0", "1}:x", "{1}", "a:b", "*", "chatbot:due"):
        for row in TABLE:
            if "<user>" in row.pattern:
                assert keys.row_of(row.of(user, *["x:{y}\n"] * (row.pattern.count("<") - 1))) is row


def test_as_many_names_as_places_are_given():
    for names in ((), ("ana",), ("ana", "wamid.1", "more")):
        with pytest.raises(ValueError):
            keys.TURN.of(*names)


def test_no_other_module_makes_the_name_of_a_key():
    found = [
        (path.name, node.value)
        for path in Path(chatbot.store.__file__).parent.glob("*.py")
        if path.name != "keys.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and str(node.value).startswith(("chatbot:", "{slots"))
    ]
    assert found == []
