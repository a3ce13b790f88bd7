"""Replies in order, each once: delivery against a channel that fails on command."""

from __future__ import annotations

import itertools
import random
import threading

import pytest

from chatbot import delivery as delivery_module
from chatbot.delivery import CLAIM_SECONDS, HEADROOM, NUMBER_HEADROOM, Delivery
from chatbot.errors import ChannelDown, OutcomeUnknown, Permanent, TooFast, Transient, WindowClosed
from chatbot.messages import Limits, Message, Part, Status
from chatbot.store import WARM_UP_SLOWER, Store, connect

fresh = itertools.count()


class Provider:
    """A channel that keeps what it sent and raises what the script says."""

    window = 86_400.0

    def __init__(self) -> None:
        self.limits = None
        self.reopening = None
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

    def failed(self, status):
        return self.failures[status.error_code]

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


class Outbound:
    """Keeps what the sender publishes."""

    def __init__(self) -> None:
        self.buried: list[tuple[str, str]] = []
        self.woken: list[tuple[str, int, float]] = []

    def bury(self, message, reason):
        self.buried.append((message.id, reason))

    def wake_sender(self, user, number, *, countdown):
        self.woken.append((user, number, countdown))


@pytest.fixture
def outbound():
    return Outbound()


@pytest.fixture
def buried(outbound):
    return outbound.buried


@pytest.fixture
def delivery(store, provider, outbound):
    return Delivery(
        store,
        {"whatsapp": provider},
        outbound,
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


def test_an_unknown_channel_is_kept_as_a_dead_letter(store, provider, outbound, buried):
    delivery = Delivery(
        store,
        {},
        outbound,
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


def test_typing_is_shown_only_while_the_turn_runs(store, provider, delivery):
    message = Message(user="ana", id="new", text="?", channel="whatsapp")
    delivery.mark_read(message)  # not begun
    begun = store.begin_turn(message, seconds=60)
    delivery.mark_read(message)
    store.commit_turn(begun, "a")
    delivery.mark_read(message)  # answered
    assert provider.read == [("new", False), ("new", True), ("new", False)]


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


# -- how fast, and how late -----------------------------------------------------


def test_one_number_and_one_person_keep_their_pace_together(store, provider, delivery, outbound):
    """The channel never sees more than it allows, whoever sends; what is early comes back on time."""
    provider.limits = Limits(per_second=10.0, pair_seconds=6.0, pair_burst=3)
    slept = []
    delivery._sleep = lambda seconds: (slept.append(seconds), store.move(seconds))
    commit(store, "1", "2", "3", "4")
    began = store.now()
    assert delivery.deliver("ana", holder="w1") == 3
    assert provider.sent == ["1", "2", "3"]
    apart = WARM_UP_SLOWER * 0.1 / NUMBER_HEADROOM
    assert slept == pytest.approx([apart] * 2, abs=1e-5), "the number's pace is slept through"
    [(user, number, pause)] = outbound.woken
    assert (user, number) == ("ana", 4)
    assert store.now() + pause == pytest.approx(began + 6 / HEADROOM, abs=0.01), "then one every 6 s"
    assert delivery.deliver("ana", holder="w2") == 0, "woken early, it is still not time"
    store.move(pause + 0.001)
    assert delivery.deliver("ana", holder="w3") == 1
    assert provider.sent == ["1", "2", "3", "4"]


def test_whoever_comes_late_to_its_place_takes_another(store, provider, delivery):
    provider.limits = Limits(per_second=10.0, pair_seconds=6.0, pair_burst=45)
    oversleeps = [0.3, 0.0]
    slept = []
    delivery._sleep = lambda seconds: (slept.append(seconds), store.move(seconds + oversleeps.pop(0)))
    commit(store, "1", "2")
    assert delivery.deliver("ana", holder="w") == 2
    assert len(slept) == 1, "late, it finds the next place free at once"
    assert store.pace("bia", "whatsapp:", delivery._limits(Message("bia", "x", "", channel="whatsapp")), longest=1) == (
        True, pytest.approx(WARM_UP_SLOWER * 0.1 / NUMBER_HEADROOM, abs=1e-4),
    )  # fmt: skip


def test_a_number_with_a_backlog_is_not_slept_for(store, provider, delivery, outbound):
    provider.limits = Limits(per_second=1.0, pair_seconds=6.0, pair_burst=45)
    for user in ("ana", "bia", "caio", "dora"):
        commit(store, f"{user}!", user=user)
        delivery.deliver(user, holder="w")
    assert provider.sent == ["ana!", "bia!"]
    assert [user for user, _, _ in outbound.woken] == ["caio", "dora"]


@pytest.mark.parametrize(("whole_number", "held"), [(False, "ana"), (True, "bia")])
def test_a_channel_that_says_too_fast_is_left_alone_by_all(store, provider, delivery, outbound, whole_number, held):
    provider.limits = Limits(per_second=80.0, pair_seconds=6.0, pair_burst=45)
    provider.script = [TooFast("131056", retry_after=4.0, whole_number=whole_number)]
    commit(store, "a", user="ana")
    commit(store, "b", user="bia")
    assert delivery.deliver("ana", holder="w1") == 0, "not tried again in place"
    store.move(1.0)
    delivery.deliver(held, holder="w2")
    assert provider.sent == []
    store.move(3.1)
    delivery.deliver(held, holder="w3")
    assert provider.sent == [held[0]]
    assert store.counts()["too_fast"] == 1


def test_a_pair_that_is_refused_again_waits_four_times_as_long(store, provider, delivery, outbound):
    provider.limits = Limits(per_second=80.0, pair_seconds=6.0, pair_burst=45)
    provider.script = [TooFast("131056", retry_after=4.0)] * 3
    commit(store, "a")
    for pause in (4.0, 16.0, 64.0):
        delivery.deliver("ana", holder="w")
        assert outbound.woken.pop() == ("ana", 1, pause)
        store.move(pause + 0.01)
    assert delivery.deliver("ana", holder="w") == 1


def test_a_number_that_is_down_sends_nothing_and_somebody_is_called(store, provider, delivery, outbound, caplog):
    provider.limits = Limits(per_second=80.0, pair_seconds=6.0, pair_burst=45)
    provider.script = [ChannelDown("190")] * 2
    for user in ("ana", "bia"):
        commit(store, user[0], user=user)
        delivery.deliver(user, holder="w")
    assert len(provider.script) == 1, "asked once, and not for the next user either"
    assert store.counts()["channel_down"] == 1
    assert [pause for _, _, pause in outbound.woken] == pytest.approx([60.0, 60.0], abs=0.1)
    store.move(60.1)
    delivery.deliver("ana", holder="w")
    assert provider.sent == [], "still down"
    store.move(60.1)
    delivery.deliver("bia", holder="w")
    delivery.deliver("ana", holder="w")
    assert provider.sent == ["b", "a"]


def late(store, *, hours, user="ana", id_="late"):
    message = Message(user=user, id=id_, text="?", channel="whatsapp", sent_at=store.now() - hours * 3600)
    assert store.commit_turn(store.begin_turn(message, seconds=60), "tarde")


@pytest.mark.parametrize(
    ("hours", "template", "sent", "dead"),
    [(23, False, ["tarde"], 0), (25, False, [], 1), (25, True, ["template"], 0), (24 * 300, False, ["tarde"], 0)],
)
def test_the_window_of_24_hours(store, provider, delivery, buried, hours, template, sent, dead):
    store.move(10**8)
    provider.reopening = Part("template") if template else None
    late(store, hours=hours)
    assert delivery.deliver("ana", holder="w") == 1
    assert (provider.sent, len(buried)) == (sent, dead)


def test_late_replies_are_one_template_a_day(store, provider, delivery, buried):
    store.move(10**8)
    provider.reopening = Part("template")
    for day in range(2):
        for n in range(3):
            late(store, hours=25, id_=f"{day}{n}")
        assert delivery.deliver("ana", holder="w") == 3
        store._redis.delete("chatbot:{ana}:told:reopening")  # a day goes by
    assert (provider.sent, buried) == (["template"] * 2, [])
    assert store.counts()["reopened"] == 2


@pytest.mark.parametrize("template", [True, False])
def test_a_window_the_channel_finds_closed_is_reopened_by_the_template(store, provider, delivery, buried, template):
    provider.reopening = Part("template") if template else None
    provider.script = [WindowClosed("131047")]
    commit(store, "a")
    assert delivery.deliver("ana", holder="w") == 1
    assert provider.sent == (["template"] if template else [])
    assert len(buried) == (0 if template else 1)


def test_a_later_message_keeps_the_window_open(store, provider, delivery, buried):
    store.move(10**8)
    late(store, hours=25)
    newer = Message(user="ana", id="newer", text="?", channel="whatsapp", sent_at=store.now() - 60)
    assert store.commit_turn(store.begin_turn(newer, seconds=60), "já")
    assert delivery.deliver("ana", holder="w") == 2
    assert (provider.sent, buried) == (["tarde", "já"], [])


@pytest.mark.parametrize("template", [True, False])
def test_a_reply_that_failed_later_is_acted_on_once(store, provider, delivery, buried, template):
    provider.failures = {131047: WindowClosed("131047"), 131026: Permanent("131026")}
    provider.reopening = Part("template") if template else None
    commit(store, "a", "b")
    delivery.deliver("ana", holder="w")
    failed = [
        Status("wamid.a", "failed", callback="ana:1:0", error_code=131047),
        Status("wamid.b", "failed", callback="ana:2:0", error_code=131026),
    ]
    for status in (*failed, *failed):
        delivery.report(status)
    undelivered = [("q-b", "reply not delivered: 131026")]
    assert buried == (undelivered if template else [("q-a", "reply not delivered: 131047"), *undelivered])
    assert provider.sent == ["a", "b", *(["template"] if template else [])]
    assert store.counts()["reply_failed"] == 2


def test_what_we_sent_can_be_quoted(store, provider, delivery):
    commit(store, "a1|a2", "b")
    delivery.deliver("ana", holder="w")
    assert [store.quoted("ana", f"wamid.ana:{part}") for part in ("1:0", "1:1", "2:0")] == ["a1|a2", "a1|a2", "b"]
    assert store.quoted("ana", "q-b") == "?"
    assert store.quoted("ana", "wamid.of somebody else") == ""
