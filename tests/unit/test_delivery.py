"""Replies in order, each once: delivery against a channel that fails on command."""

from __future__ import annotations

import itertools
import random
import threading

import pytest

from chatbot import delivery as delivery_module
from chatbot.delivery import CLAIM_SECONDS, Delivery
from chatbot.errors import OutcomeUnknown, Permanent, Transient
from chatbot.messages import Message, Part, Status
from chatbot.store import Store, connect

fresh = itertools.count()


class Provider:
    """A channel that keeps what it sent and raises what the script says."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.read: list[tuple[str, bool]] = []
        self.script: list[Exception | None] = []

    def compose(self, reply):
        return [Part(text) for text in reply.split("|")]

    def send(self, to, part, *, callback):
        error = self.script.pop(0) if self.script else None
        if error:
            raise error
        self.sent.append(part.text)
        return f"wamid.{callback}"

    def mark_read(self, to, *, typing):
        self.read.append((to.id, typing))


@pytest.fixture
def store():
    clock = [1000.0]
    store = Store(
        connect(f"fakeredis://delivery-{next(fresh)}"), history_turns=5, retention=100, clock=lambda: clock[0]
    )
    store.now = lambda: clock[0]
    store.move = lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    return store


@pytest.fixture
def provider():
    return Provider()


@pytest.fixture
def buried():
    return []


@pytest.fixture
def delivery(store, provider, buried):
    return Delivery(
        store,
        {"whatsapp": provider},
        bury=lambda m, reason: buried.append((m.id, reason)),
        tries=3,
        settle_seconds=60,
        clock=store.now,
        sleep=lambda _: None,
    )


def commit(store, *replies, user="ana"):
    for reply in replies:
        begun = store.begin_turn(Message(user=user, id=f"q-{reply}", text="?", channel="whatsapp"), seconds=60)
        assert store.commit_turn(begun, reply)


def test_everything_that_waits_goes_out_in_order(store, provider, delivery):
    commit(store, "a", "b1|b2", "c")
    assert delivery.deliver("ana", holder="w1") == 3
    assert provider.sent == ["a", "b1", "b2", "c"]
    assert delivery.deliver("ana", holder="w2") == 0
    assert provider.sent == ["a", "b1", "b2", "c"]


def test_a_transient_failure_is_tried_again_in_place(store, provider, delivery):
    commit(store, "a", "b")
    provider.script = [Transient("busy"), Transient("busy"), None]
    assert delivery.deliver("ana", holder="w") == 2
    assert provider.sent == ["a", "b"]


def test_a_lasting_failure_postpones_and_overtakes_nothing(store, provider, delivery):
    commit(store, "a1|a2", "b")
    provider.script = [None, *[Transient("away")] * 3]
    assert delivery.deliver("ana", holder="w1") == 0
    assert provider.sent == ["a1"]
    assert store.due_outboxes(before=1059.0) == []
    assert store.due_outboxes(before=1060.0) == ["ana"]
    assert delivery.deliver("ana", holder="w2") == 2
    assert provider.sent == ["a1", "a2", "b"]


def test_a_refused_reply_is_kept_and_the_next_follows(store, provider, delivery, buried):
    commit(store, "a", "b")
    provider.script = [Permanent("131047: the window is closed")]
    assert delivery.deliver("ana", holder="w") == 2
    assert provider.sent == ["b"]
    assert buried == [("q-a", "reply not delivered: 131047: the window is closed")]


def test_an_unknown_channel_is_kept_as_a_dead_letter(store, provider, buried):
    delivery = Delivery(
        store,
        {},
        bury=lambda m, reason: buried.append((m.id, reason)),
        tries=1,
        settle_seconds=60,
        sleep=lambda _: None,
    )
    commit(store, "a")
    assert delivery.deliver("ana", holder="w") == 1
    assert buried == [("q-a", "reply not delivered: no channel 'whatsapp' is configured")]


def test_an_unknown_outcome_is_not_repeated_while_a_status_may_come(store, provider, delivery):
    commit(store, "a1|a2", "b")
    provider.script = [OutcomeUnknown("no answer")]
    assert delivery.deliver("ana", holder="w1") == 0
    assert delivery.deliver("ana", holder="w2") == 0
    assert provider.sent == [], "nothing overtakes it, and it is not sent again"
    assert delivery.report(Status("wamid.x", "sent", callback="ana:1:0")) == "ana"
    assert delivery.deliver("ana", holder="w3") == 2
    assert provider.sent == ["a2", "b"]
    assert store.counts() == {}


def test_an_unknown_outcome_without_a_status_is_repeated_once_and_counted(store, provider, delivery):
    commit(store, "a", "b")
    provider.script = [OutcomeUnknown("no answer")]
    delivery.deliver("ana", holder="w1")
    store.move(59)
    assert delivery.deliver("ana", holder="w2") == 0
    assert store.due_outboxes(before=store.now() + 1) == ["ana"]
    store.move(1)
    assert delivery.deliver("ana", holder="w3") == 2
    assert provider.sent == ["a", "b"]
    assert store.counts() == {"unknown_resent": 1}


def test_a_sender_that_dies_while_calling_leaves_a_doubt_and_no_second_call(store, provider, delivery):
    commit(store, "a")
    store.claim_delivery("ana", holder="w1", seconds=900)  # and was never heard of again
    assert delivery.deliver("ana", holder="w1") == 0, "its own wake-up comes back"
    assert provider.sent == []
    delivery.report(Status("wamid.x", "delivered", callback="ana:1:0"))
    assert delivery.deliver("ana", holder="w2") == 1
    assert provider.sent == []


def test_a_status_of_what_is_settled_or_foreign_changes_nothing(store, provider, delivery):
    commit(store, "a", "b")
    delivery.deliver("ana", holder="w")
    for callback in ("ana:1:0", "ana:2:0", "ana:3:0", "nobody:1:0", "", "x", "a:b:c"):
        assert delivery.report(Status("wamid.x", "sent", callback=callback)) is None
    commit(store, "c")
    assert delivery.deliver("ana", holder="w2") == 1
    assert provider.sent == ["a", "b", "c"]


def test_typing_is_shown_only_before_the_answer(store, provider, delivery):
    waiting = Message(user="ana", id="new", text="?", channel="whatsapp")
    delivery.mark_read(waiting)
    commit(store, "a")
    delivery.mark_read(Message(user="ana", id="q-a", text="?", channel="whatsapp"))
    assert provider.read == [("new", True), ("q-a", False)]


def test_many_senders_and_shuffled_wake_ups_keep_order(store, provider, delivery):
    users = [f"u{n}" for n in range(5)]
    wake_ups = [(user, n) for user in users for n in range(20)]
    for user, n in wake_ups:
        commit(store, f"{user}-{n:02}", user=user)
    random.Random(7).shuffle(wake_ups)
    todo = iter(wake_ups)
    lock = threading.Lock()

    def sender():
        while True:
            with lock:
                wake_up = next(todo, None)
            if wake_up is None:
                return
            delivery.deliver(wake_up[0], holder=str(wake_up))

    threads = [threading.Thread(target=sender) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(provider.sent) == 100
    for user in users:
        assert [s for s in provider.sent if s.startswith(user + "-")] == [f"{user}-{n:02}" for n in range(20)]


def test_a_notice_is_said_once_an_hour_whatever_asks_for_it(store, provider, delivery):
    message = Message(user="ana", id="q", text="?", channel="whatsapp")
    assert [delivery.notify(message, "waiting", "wait") for _ in range(3)] == [True, False, False]
    assert delivery.notify(message, "too_many", "too many") is True
    assert provider.sent == ["wait", "too many"]
    assert store.counts() == {"notice_waiting": 3, "notice_too_many": 1}


def _away(*_, **__):
    raise Transient("Redis cannot be used")


def test_redis_away_after_a_part_went_out_leaves_it_in_doubt_and_not_unsent(store, provider, delivery, monkeypatch):
    commit(store, "a")
    monkeypatch.setattr(delivery_module, "NOTE_SECONDS", 0.0)
    for settle in ("settle_done", "settle_doubt"):
        monkeypatch.setattr(store, settle, _away)
    with pytest.raises(Transient):
        delivery.deliver("ana", holder="w1")
    monkeypatch.undo()
    delivery.deliver("ana", holder="w1")
    assert provider.sent == ["a"], "its status may still come"


def test_each_try_of_a_part_starts_the_wait_for_its_status_anew(store, provider, delivery, monkeypatch):
    commit(store, "a")
    monkeypatch.setattr(delivery, "_sleep", store.move)
    slow_down = Transient("slow down", retry_after=50)
    provider.script = [slow_down, slow_down, OutcomeUnknown("no answer")]
    delivery.deliver("ana", holder="w1")
    delivery.deliver("ana", holder="w2")
    assert store.counts() == {}


def test_a_sender_that_lost_its_claim_tries_no_further(store, provider, delivery):
    commit(store, "a")

    def stuck(*_, **__):
        store.move(CLAIM_SECONDS + 1)
        provider.send = send
        assert delivery.deliver("ana", holder="w2") == 1
        raise Transient("no connection")

    send, provider.send = provider.send, stuck
    assert delivery.deliver("ana", holder="w1") == 0
    assert provider.sent == ["a"]
