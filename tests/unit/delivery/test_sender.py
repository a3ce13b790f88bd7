"""Replies in order, each once: delivery against a channel that fails on command."""

from __future__ import annotations

import itertools
import random
import threading

import pytest
from structlog.testing import capture_logs

from chatbot.delivery import sender as delivery_module
from chatbot.delivery.sender import (
    HEADROOM,
    LONGEST_COUNTDOWN_SECONDS,
    LOOK_AGAIN_SECONDS,
    MARK_READ_SECONDS,
    MOST_RUNS,
    NUMBER_HEADROOM,
    PLAIN_RUNS,
    REST_SECONDS,
    Delivery,
)
from chatbot.errors import (
    BrokerUnavailable,
    ChannelDown,
    Discard,
    OutcomeUnknown,
    Permanent,
    TooFast,
    Transient,
    WindowClosed,
)
from chatbot.messages import Limits, Message, Part, Status
from chatbot.store.client import connect
from chatbot.store.outbox import LOOK_SECONDS, Noted
from chatbot.store.pacing import LONGEST_REST_SECONDS, WARM_UP_SLOWER
from chatbot.store.presence import CLAIM_SECONDS, Runs
from chatbot.store.store import Store

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

    def plain(self, reply):
        return [Part(f"plain {reply}")]

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


class Liveness(set):
    """The processes that are known to be gone."""

    def is_gone(self, process):
        return process in self


@pytest.fixture
def gone():
    return Liveness()


@pytest.fixture
def start(store, provider, outbound, gone):
    """Start a sender's process."""

    def start(name="here", **options):
        values = {"tries": 3, "settle_seconds": 60, "clock": store.now, "sleep": lambda _: None, **options}
        return Delivery(store, {"whatsapp": provider}, outbound, runs=Runs(name, gone), **values)

    return start


@pytest.fixture
def delivery(start):
    return start()


def commit(store, *replies, user="ana"):
    for reply in replies:
        begun = store.begin_turn(Message(user=user, id=f"q-{reply}", text="?", channel="whatsapp"), seconds=60)
        assert store.commit_turn(begun, reply)


def test_everything_that_waits_goes_out_in_order(store, provider, delivery):
    commit(store, "a", "b1|b2", "c")
    assert delivery.deliver("ana") == 3
    assert provider.sent == ["a", "b1", "b2", "c"]
    assert delivery.deliver("ana") == 0
    assert provider.sent == ["a", "b1", "b2", "c"]


def test_a_transient_failure_is_tried_again_in_place(store, provider, delivery):
    commit(store, "a", "b")
    provider.script = [Transient("busy"), Transient("busy"), None]
    assert delivery.deliver("ana") == 2
    assert provider.sent == ["a", "b"]


def test_a_lasting_failure_postpones_and_overtakes_nothing(store, provider, delivery):
    commit(store, "a1|a2", "b")
    provider.script = [None, *[Transient("away")] * 3]
    assert delivery.deliver("ana") == 0
    assert provider.sent == ["a1"]
    assert store.due_outboxes(before=1059.0) == []
    assert store.due_outboxes(before=1060.0) == ["ana"]
    assert delivery.deliver("ana") == 0, "it rests, whoever asks"
    store.move(60)
    assert delivery.deliver("ana") == 2
    assert provider.sent == ["a1", "a2", "b"]


def test_a_refused_reply_is_kept_and_the_next_follows(store, provider, delivery, buried):
    commit(store, "a", "b")
    provider.script = [Permanent("131047: the window is closed")]
    assert delivery.deliver("ana") == 2
    assert provider.sent == ["b"]
    assert buried == [("q-a", "reply not delivered: 131047: the window is closed")]


def test_an_unknown_channel_is_kept_as_a_dead_letter(store, provider, outbound, buried):
    runs = Runs("here", Liveness())
    delivery = Delivery(store, {}, outbound, runs=runs, tries=1, settle_seconds=60, sleep=lambda _: None)
    commit(store, "a")
    assert delivery.deliver("ana") == 1
    assert buried == [("q-a", "reply not delivered: no channel 'whatsapp' is configured")]


def test_an_unknown_outcome_is_not_repeated_while_a_status_may_come(store, provider, delivery):
    commit(store, "a1|a2", "b")
    provider.script = [OutcomeUnknown("no answer")]
    assert delivery.deliver("ana") == 0
    assert delivery.deliver("ana") == 0
    assert provider.sent == [], "nothing overtakes it, and it is not sent again"
    assert delivery.report(Status("wamid.x", "sent", callback="ana:1:0")) == "ana"
    assert delivery.deliver("ana") == 2
    assert provider.sent == ["a2", "b"]
    assert store.counts() == {}


def test_an_unknown_outcome_without_a_status_is_repeated_once_and_counted(store, provider, delivery):
    commit(store, "a", "b")
    provider.script = [OutcomeUnknown("no answer")]
    delivery.deliver("ana")
    store.move(59)
    assert delivery.deliver("ana") == 0
    assert store.due_outboxes(before=store.now() + 1) == ["ana"]
    store.move(1)
    assert delivery.deliver("ana") == 2
    assert provider.sent == ["a", "b"]
    assert store.counts() == {"unknown_resent": 1}


def test_a_sender_that_dies_while_calling_leaves_a_doubt_and_no_second_call(store, provider, delivery, gone):
    commit(store, "a")
    store.claim_delivery("ana", fence="dead/1")  # and was never heard of again
    assert delivery.deliver("ana") == 0, "its own wake-up comes back"
    gone.add("dead")
    assert delivery.deliver("ana") == 0, "taken over, its status may still come"
    assert provider.sent == []
    delivery.report(Status("wamid.x", "delivered", callback="ana:1:0"))
    assert delivery.deliver("ana") == 1
    assert provider.sent == []


def test_a_status_of_what_is_settled_or_foreign_changes_nothing(store, provider, delivery):
    commit(store, "a", "b")
    delivery.deliver("ana")
    for callback in ("ana:1:0", "ana:2:0", "ana:3:0", "nobody:1:0", "", "x", "a:b:c"):
        assert delivery.report(Status("wamid.x", "sent", callback=callback)) is None
    commit(store, "c")
    assert delivery.deliver("ana") == 1
    assert provider.sent == ["a", "b", "c"]


def test_typing_is_shown_only_while_the_turn_runs(store, provider, delivery):
    message = Message(user="ana", id="new", text="?", channel="whatsapp")
    delivery.mark_read(message, asked_at=store.now())  # not begun
    begun = store.begin_turn(message, seconds=60)
    delivery.mark_read(message, asked_at=store.now())
    store.commit_turn(begun, "a")
    delivery.mark_read(message, asked_at=store.now())  # answered
    assert provider.read == [("new", False), ("new", True), ("new", False)]


def test_a_message_is_marked_as_read_soon_or_never_by_the_clock_of_redis(store, provider, delivery):
    message = Message(user="ana", id="new", text="?", channel="whatsapp")
    delivery.mark_read(message, asked_at=store.now() - MARK_READ_SECONDS)
    with pytest.raises(Discard):
        delivery.mark_read(message, asked_at=store.now() - MARK_READ_SECONDS - 1)
    assert provider.read == [("new", False)]


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
            delivery.deliver(wake_up[0])

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
        delivery.deliver("ana")
    monkeypatch.undo()
    delivery.deliver("ana")
    assert provider.sent == ["a"], "its status may still come"


def test_each_try_of_a_part_starts_the_wait_for_its_status_anew(store, provider, delivery, monkeypatch):
    commit(store, "a")
    monkeypatch.setattr(delivery, "_sleep", store.move)
    slow_down = Transient("slow down", retry_after=50)
    provider.script = [slow_down, slow_down, OutcomeUnknown("no answer")]
    delivery.deliver("ana")
    delivery.deliver("ana")
    assert store.counts() == {}


def test_a_sender_that_lost_its_claim_tries_no_further(store, provider, delivery):
    commit(store, "a")

    def stuck(*_, **__):
        store.move(CLAIM_SECONDS + 1)
        provider.send = send
        assert delivery.deliver("ana") == 1
        raise Transient("no connection")

    send, provider.send = provider.send, stuck
    assert delivery.deliver("ana") == 0
    assert provider.sent == ["a"]


# -- how fast, and how late -----------------------------------------------------


def test_one_number_and_one_person_keep_their_pace_together(store, provider, delivery, outbound):
    """The channel never sees more than it allows, whoever sends; what is early comes back on time."""
    provider.limits = Limits(per_second=10.0, pair_seconds=6.0, pair_burst=3)
    slept = []
    delivery._sleep = lambda seconds: (slept.append(seconds), store.move(seconds))
    commit(store, "1", "2", "3", "4")
    began = store.now()
    assert delivery.deliver("ana") == 3
    assert provider.sent == ["1", "2", "3"]
    apart = WARM_UP_SLOWER * 0.1 / NUMBER_HEADROOM
    assert slept == pytest.approx([apart] * 2, abs=1e-5), "the number's pace is slept through"
    [(user, number, pause)] = outbound.woken
    assert (user, number) == ("ana", 4)
    assert store.now() + pause == pytest.approx(began + 6 / HEADROOM, abs=0.01), "then one every 6 s"
    assert delivery.deliver("ana") == 0, "woken early, it is still not time"
    store.move(pause + 0.001)
    assert delivery.deliver("ana") == 1
    assert provider.sent == ["1", "2", "3", "4"]


def test_whoever_comes_late_to_its_place_takes_another(store, provider, delivery):
    provider.limits = Limits(per_second=10.0, pair_seconds=6.0, pair_burst=45)
    oversleeps = [0.3, 0.0]
    slept = []
    delivery._sleep = lambda seconds: (slept.append(seconds), store.move(seconds + oversleeps.pop(0)))
    commit(store, "1", "2")
    assert delivery.deliver("ana") == 2
    assert len(slept) == 1, "late, it finds the next place free at once"
    assert store.pace("bia", "whatsapp:", delivery._limits(Message("bia", "x", "", channel="whatsapp")), longest=1) == (
        True, pytest.approx(WARM_UP_SLOWER * 0.1 / NUMBER_HEADROOM, abs=1e-4),
    )  # fmt: skip


def test_a_number_with_a_backlog_is_not_slept_for(store, provider, delivery, outbound):
    provider.limits = Limits(per_second=1.0, pair_seconds=6.0, pair_burst=45)
    for user in ("ana", "bia", "caio", "dora"):
        commit(store, f"{user}!", user=user)
        delivery.deliver(user)
    assert provider.sent == ["ana!", "bia!"]
    assert [user for user, _, _ in outbound.woken] == ["caio", "dora"]


@pytest.mark.parametrize(("whole_number", "held"), [(False, "ana"), (True, "bia")])
def test_a_channel_that_says_too_fast_is_left_alone_by_all(store, provider, delivery, outbound, whole_number, held):
    provider.limits = Limits(per_second=80.0, pair_seconds=6.0, pair_burst=45)
    provider.script = [TooFast("131056", retry_after=4.0, whole_number=whole_number)]
    commit(store, "a", user="ana")
    commit(store, "b", user="bia")
    assert delivery.deliver("ana") == 0, "not tried again in place"
    store.move(1.0)
    delivery.deliver(held)
    assert provider.sent == []
    store.move(3.1)
    delivery.deliver(held)
    assert provider.sent == [held[0]]
    assert store.counts()["too_fast"] == 1


def test_a_pair_that_is_refused_again_waits_four_times_as_long(store, provider, delivery, outbound):
    provider.limits = Limits(per_second=80.0, pair_seconds=6.0, pair_burst=45)
    provider.script = [TooFast("131056", retry_after=4.0)] * 3
    commit(store, "a")
    for pause in (4.0, 16.0, 64.0):
        delivery.deliver("ana")
        assert outbound.woken.pop() == ("ana", 1, pause)
        store.move(pause + 0.01)
    assert delivery.deliver("ana") == 1


def test_a_number_that_is_down_sends_nothing_and_somebody_is_called(store, provider, delivery, outbound, caplog):
    provider.limits = Limits(per_second=80.0, pair_seconds=6.0, pair_burst=45)
    provider.script = [ChannelDown("190")] * 2
    for user in ("ana", "bia"):
        commit(store, user[0], user=user)
        delivery.deliver(user)
    assert len(provider.script) == 1, "asked once, and not for the next user either"
    assert store.counts()["channel_down"] == 1
    assert [pause for _, _, pause in outbound.woken] == pytest.approx([60.0, 60.0], abs=0.1)
    store.move(60.1)
    delivery.deliver("ana")
    assert provider.sent == [], "still down"
    store.move(60.1)
    delivery.deliver("bia")
    delivery.deliver("ana")
    assert provider.sent == ["b", "a"]


def test_a_spam_limit_slows_the_number_and_calls_a_person_once_an_hour(store, provider, delivery, outbound, caplog):
    provider.limits = Limits(per_second=80.0, pair_seconds=6.0, pair_burst=45)
    provider.script = [TooFast("131048", retry_after=300.0, whole_number=True, alert=True)]
    for user in ("ana", "bia"):
        commit(store, user[0], user=user)
        delivery.deliver(user)
    assert provider.sent == [], "nobody else is written to meanwhile"
    provider.failures = {131048: TooFast("131048", retry_after=300.0, whole_number=True, alert=True)}
    delivery.report(Status("wamid.a", "failed", callback="ana:1:0", error_code=131048))
    assert caplog.text.count("channel.restricted") == 1


def test_a_status_that_says_too_fast_slows_the_number_too(store, provider, delivery, buried):
    provider.limits = Limits(per_second=80.0, pair_seconds=6.0, pair_burst=45)
    commit(store, "a")
    assert delivery.deliver("ana") == 1
    provider.failures = {131064: TooFast("131064", retry_after=300.0, whole_number=True)}
    delivery.report(Status("wamid.a", "failed", callback="ana:1:0", error_code=131064))
    assert len(buried) == 1
    commit(store, "b", user="bia")
    delivery.deliver("bia")
    assert provider.sent == ["a"]
    store.move(300.1)
    delivery.deliver("bia")
    assert provider.sent == ["a", "b"]


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
    assert delivery.deliver("ana") == 1
    assert (provider.sent, len(buried)) == (sent, dead)


def test_late_replies_are_one_template_a_day(store, provider, delivery, buried):
    store.move(10**8)
    provider.reopening = Part("template")
    for day in range(2):
        for n in range(3):
            late(store, hours=25, id_=f"{day}{n}")
        assert delivery.deliver("ana") == 3
        store._redis.delete("chatbot:{ana}:told:reopening")  # a day goes by
    assert (provider.sent, buried) == (["template"] * 2, [])
    assert store.counts()["reopened"] == 2


@pytest.mark.parametrize("template", [True, False])
def test_a_window_the_channel_finds_closed_is_reopened_by_the_template(store, provider, delivery, buried, template):
    provider.reopening = Part("template") if template else None
    provider.script = [WindowClosed("131047")]
    commit(store, "a")
    assert delivery.deliver("ana") == 1
    assert provider.sent == (["template"] if template else [])
    assert len(buried) == (0 if template else 1)


def test_a_later_message_keeps_the_window_open(store, provider, delivery, buried):
    store.move(10**8)
    late(store, hours=25)
    newer = Message(user="ana", id="newer", text="?", channel="whatsapp", sent_at=store.now() - 60)
    assert store.commit_turn(store.begin_turn(newer, seconds=60), "já")
    assert delivery.deliver("ana") == 2
    assert (provider.sent, buried) == (["tarde", "já"], [])


@pytest.mark.parametrize("template", [True, False])
def test_a_reply_that_failed_later_is_acted_on_once(store, provider, delivery, buried, template):
    provider.failures = {131047: WindowClosed("131047"), 131026: Permanent("131026")}
    provider.reopening = Part("template") if template else None
    commit(store, "a", "b")
    delivery.deliver("ana")
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
    delivery.deliver("ana")
    assert [store.quoted("ana", f"wamid.ana:{part}") for part in ("1:0", "1:1", "2:0")] == ["a1|a2", "a1|a2", "b"]
    assert store.quoted("ana", "q-b") == "?"
    assert store.quoted("ana", "wamid.of somebody else") == ""


# -- a sender that ends, breaks, or stands still ----------------------------------


class Crash(BaseException):
    """The process ended, right here."""


def crash(sender, gone, name, user="ana"):
    """Have a process deliver and end under it; that is known at once."""
    with pytest.raises(Crash):
        sender.deliver(user)
    gone.add(name)


def test_whoever_finds_a_claim_looks_again_and_only_one_at_a_time(store, provider, delivery, outbound, gone):
    """A killed sender's wake-up comes back at once, before anybody knows that it is gone."""
    commit(store, "a")
    store.claim_delivery("ana", fence="dead/1")
    for _ in range(5):
        assert delivery.deliver("ana") == 0
    assert outbound.woken == [("ana", 0, LOOK_AGAIN_SECONDS)]
    store.move(LOOK_SECONDS + 0.1)
    delivery.deliver("ana")
    assert outbound.woken == [("ana", 0, LOOK_AGAIN_SECONDS)] * 2, "as long as it is claimed, somebody looks"
    gone.add("dead")
    store.report_part("ana", 1, 0)
    assert delivery.deliver("ana") == 1


def test_a_reply_that_cannot_be_formatted_goes_out_plainly_at_once(store, provider, delivery, buried):
    def compose(reply):
        if reply == "secret":
            raise IndexError("secret")
        return [Part(reply)]

    provider.compose = compose
    commit(store, "secret", "b")
    with capture_logs() as logged:
        assert delivery.deliver("ana") == 2
    assert provider.sent == ["plain secret", "b"]
    assert buried == []
    [line] = [line for line in logged if line["event"] == "delivery.not_formatted"]
    assert line["error"] == "IndexError"
    assert "secret" not in str(logged), "neither what the model wrote nor what the error says of it"


def test_a_reply_that_ends_its_senders_goes_out_plainly(store, provider, start, gone, buried):
    """As a pattern that backtracks for ever does, until somebody ends the process."""

    def compose(reply):
        if reply == "deadly":
            raise Crash
        return [Part(reply)]

    provider.compose = compose
    commit(store, "deadly", "b")
    crash(start("one"), gone, "one")
    assert start("two").deliver("ana") == 0, "it may have been sent: its status may come"
    store.move(60)
    crash(start("three"), gone, "three")
    assert start("four").deliver("ana") == 2
    assert provider.sent == ["plain deadly", "b"]
    assert buried == []


def test_a_reply_that_ends_its_senders_plain_too_is_given_up(store, provider, start, gone, buried):
    def compose(reply):
        if reply == "deadly":
            raise Crash
        return [Part(reply)]

    provider.compose = provider.plain = compose
    commit(store, "deadly", "b")
    for name in range(MOST_RUNS):
        crash(start(str(name)), gone, str(name))
        store.move(60)
    assert start("last").deliver("ana") == 2
    assert provider.sent == ["b"]
    assert buried == [("q-deadly", f"reply not delivered: given up: {MOST_RUNS} runs of it never ended")]


def test_a_reply_that_went_out_in_part_does_not_become_plain(store, provider, start, gone, buried):
    commit(store, "a1|a2", "b")

    def send(to, part, *, callback):
        if part.text == "a2":
            raise Crash
        return whole(to, part, callback=callback)

    whole, provider.send = provider.send, send
    for name in range(PLAIN_RUNS):
        crash(start(str(name)), gone, str(name))
        store.move(60)
    assert start("last").deliver("ana") == 2
    assert provider.sent == ["a1", "b"]
    assert [id_ for id_, _ in buried] == ["q-a1|a2"]


@pytest.mark.parametrize("reply", ["a", "a1|a2"])
def test_a_reply_of_which_nothing_is_left_is_no_dead_letter_whatever_became_of_its_senders(
    store, provider, start, gone, buried, reply
):
    """They may have been ended by the reply of somebody else; that all of it was sent, statuses told."""
    commit(store, reply, "b")
    compose, provider.compose = provider.compose, Crashing()
    for name in range(PLAIN_RUNS):
        crash(start(str(name)), gone, str(name))
        if name < len(reply.split("|")):
            assert store.report_part("ana", 1, name)
        store.move(60)
    provider.compose = compose
    assert start("last").deliver("ana") == 2
    assert provider.sent == ["b"]
    assert buried == []


class Crashing:
    """What ends the process that calls it."""

    def __call__(self, *_, **__):
        raise Crash


def test_what_nobody_foresaw_rests_and_is_given_up_after_three_runs(store, provider, delivery, outbound):
    """It leaves no claim behind, and the next reply follows."""
    commit(store, "a", "b")
    provider.script = [KeyError("secret")] * 3
    for _ in range(2):
        with capture_logs() as logged:
            assert delivery.deliver("ana") == 0
        [broke] = [line for line in logged if line["event"] == "delivery.broke"]
        assert (broke["error"], "secret" in str(logged)) == ("KeyError", False)
        assert "in send" in broke["traceback"]
        assert "sender" not in store._redis.hgetall("chatbot:{ana}:conversation")
        assert store.due_outboxes(before=store.now() + REST_SECONDS) == ["ana"]
        store.move(REST_SECONDS)
    assert delivery.deliver("ana") == 2
    assert provider.sent == ["b"]
    assert outbound.buried == [("q-a", "reply not delivered: given up: 3 runs of it broke (KeyError)")]


def test_a_reply_that_cannot_be_read_holds_nobody_up(store, provider, delivery):
    commit(store, "a", "b")
    store._redis.hset("chatbot:{ana}:outbox", "1", "not json")
    for _ in range(2):
        assert delivery.deliver("ana") == 0
        store.move(REST_SECONDS)
    assert delivery.deliver("ana") == 2
    assert provider.sent == ["b"]


def test_a_refused_reply_whose_dead_letter_has_to_wait_is_not_in_doubt(store, provider, delivery, outbound, buried):
    def away(*_):
        outbound.bury = bury
        raise BrokerUnavailable("away")

    bury, outbound.bury = outbound.bury, away
    provider.script = [Permanent("131026")] * 2
    commit(store, "a", "b")
    assert delivery.deliver("ana") == 0
    store.move(REST_SECONDS)
    assert delivery.deliver("ana") == 2
    assert buried == [("q-a", "reply not delivered: 131026")]
    assert store.counts() == {}, "nothing was in doubt"


def test_a_long_rest_is_no_countdown_and_has_an_end(store, provider, delivery, outbound):
    """A countdown waits unacknowledged, and RabbitMQ closes a channel for that after 30 minutes."""
    commit(store, "a")
    for asked, rest in (
        (LONGEST_COUNTDOWN_SECONDS, 600),
        (601, 601),
        (1e9, LONGEST_REST_SECONDS),
        (float("nan"), 3600),
    ):
        provider.script = [ChannelDown("131064", retry_after=asked)]
        assert delivery.deliver("ana") == 0
        assert store.due_outboxes(before=store.now() + rest - 1) == []
        assert store.due_outboxes(before=store.now() + rest) == ["ana"]
        store.move(rest)
    assert [pause for *_, pause in outbound.woken] == [600]


@pytest.mark.parametrize("parts", [1, 2])
def test_what_went_out_is_written_down_by_whoever_lost_the_claim(store, provider, start, gone, parts, monkeypatch):
    """The one that took over goes on behind it, and what was sent can be quoted; also if Redis is away for a moment."""

    report_part, blips = store.report_part, [Transient("Redis cannot be used")]

    def report(*part):
        if blips:
            raise blips.pop()
        return report_part(*part)

    monkeypatch.setattr(store, "report_part", report)
    commit(store, "|".join(f"a{n}" for n in range(parts)), "b")

    def stuck(to, part, *, callback):
        provider.send = send
        gone.add("one")
        assert start("two").deliver("ana") == 0, "in doubt"
        return send(to, part, callback=callback)

    send, provider.send = provider.send, stuck
    assert start("one").deliver("ana") == 2, "whoever took over rests, so this run goes on itself"
    assert provider.sent == [*(f"a{n}" for n in range(parts)), "b"]
    assert store.counts() == {}, "none is sent again"
    assert store.quoted("ana", "wamid.ana:1:0")


def test_what_was_refused_is_written_down_by_whoever_lost_the_claim(store, provider, start, gone, buried):
    commit(store, "a", "b")

    def stuck(to, part, *, callback):
        provider.send = send
        gone.add("one")
        assert start("two").deliver("ana") == 0, "in doubt"
        raise Permanent("131026")

    send, provider.send = provider.send, stuck
    assert start("one").deliver("ana") == 1
    assert provider.sent == ["b"]
    assert buried == [("q-a", "reply not delivered: 131026")]


def test_a_sender_that_stood_still_sends_nothing_that_another_one_sent(store, provider, start, gone, outbound):
    provider.limits = Limits(per_second=1.0, pair_seconds=6.0, pair_burst=45)

    def stand_still(seconds):
        one._sleep = store.move
        store.move(seconds + 70)
        gone.add("one")
        two.deliver("ana")

    one, two = start("one", sleep=stand_still), start("two", sleep=store.move)
    commit(store, "before", user="bia")
    two.deliver("bia")  # the number's next place is to be waited for
    commit(store, "a", "b")
    one.deliver("ana")
    assert provider.sent == ["before", "a", "b"]
    assert store.counts()["unknown_resent"] == 1, "the other one did not know whether it was sent"


def test_before_a_part_is_sent_again_a_status_is_looked_for(store, provider, start, outbound):
    provider.limits = Limits(per_second=1.0, pair_seconds=6.0, pair_burst=45)
    told = []

    def sleep(seconds):
        store.move(seconds)
        told.append(delivery.report(Status("wamid.x", "sent", callback="ana:1:0")))

    delivery = start(sleep=sleep)
    commit(store, "a1|a2")
    provider.script = [OutcomeUnknown("504")]
    delivery.deliver("ana")
    store.move(60)
    commit(store, "before", user="bia")
    delivery.deliver("bia")
    assert delivery.deliver("ana") == 1
    assert told[0] == "ana", "it came while its place was waited for"
    assert provider.sent == ["before", "a2"]
    assert "unknown_resent" not in store.counts()


def test_a_part_in_doubt_stays_in_doubt_over_a_rest(store, provider, delivery):
    """Put off before it was sent again, it is not sent once a status says that it was there."""
    commit(store, "a", "b")
    provider.script = [OutcomeUnknown("504"), TooFast("131056", retry_after=4.0)]
    delivery.deliver("ana")
    store.move(60)
    assert delivery.deliver("ana") == 0
    store.move(4)
    assert delivery.report(Status("wamid.x", "sent", callback="ana:1:0")) == "ana"
    assert delivery.deliver("ana") == 2
    assert provider.sent == ["b"]


def test_a_run_over_a_redis_that_was_set_back_settles_nothing_that_is_not_next(store, provider, delivery):
    """It would take replies that are yet to be committed for delivered."""
    commit(store, "a", "b")
    claimed = store.claim_delivery("ana", fence="here/0")
    keys = {key: store._redis.dump(key) for key in store._redis.scan_iter()}
    assert store.settle_done(claimed)
    later = store.claim_delivery("ana", fence="here/0")
    for key, kept in keys.items():
        store._redis.restore(key, 0, kept, replace=True)
    assert not store.settle_done(later)
    assert not store.settle_part(later, 1)
    assert store.settle_calling(later, 0) != Noted.WRITTEN
    assert delivery.deliver("ana") == 0, "in doubt"
    store.move(60)
    assert delivery.deliver("ana") == 2
    assert provider.sent == ["a", "b"]


def test_a_message_is_one_dead_letter_whatever_of_its_reply_fails(store, provider, delivery, buried):
    provider.failures = {131026: Permanent("131026")}
    commit(store, "a1|a2")
    delivery.deliver("ana")
    for part in range(2):
        delivery.report(Status(f"wamid.{part}", "failed", callback=f"ana:1:{part}", error_code=131026))
    assert buried == [("q-a1|a2", "reply not delivered: 131026")]


@pytest.mark.parametrize("error", [Permanent("132001"), ChannelDown("190"), Transient("503")])
def test_an_invitation_that_cannot_be_sent_is_not_asked_for_again_and_again(store, provider, delivery, buried, error):
    provider.failures = {131047: WindowClosed("131047")}
    provider.reopening = Part("template")
    commit(store, "a")
    delivery.deliver("ana")
    provider.script = [error]
    delivery.report(Status("wamid.a", "failed", callback="ana:1:0", error_code=131047))
    assert len(buried) == 1


@pytest.mark.parametrize("written", [True, False])
def test_what_could_not_be_noted_is_written_down_as_soon_as_redis_is_back(
    store, provider, delivery, outbound, monkeypatch, written
):
    """Whether the note was lost, or only the answer to it: nothing is in doubt, and nothing is sent again."""
    commit(store, "a", "b")
    settle_done = store.settle_done

    def away(claimed, *, sent=""):
        if claimed.number == 1:
            if written:
                settle_done(claimed, sent=sent)
            raise Transient("Redis cannot be used")
        return settle_done(claimed, sent=sent)

    monkeypatch.setattr(store, "settle_done", away)
    monkeypatch.setattr(delivery_module, "NOTE_SECONDS", 0.0)
    delivery.deliver("ana")
    assert (provider.sent, outbound.woken) == ((["a", "b"], []) if written else (["a"], [("ana", 1, 0.0)]))
    monkeypatch.setattr(store, "settle_done", settle_done)
    delivery.deliver("ana")
    assert provider.sent == ["a", "b"]
    assert store.counts() == {}


def test_a_wake_up_that_finds_a_rest_comes_back_when_that_is_over(store, provider, delivery, outbound):
    """Of two that wait under one name only the sooner is kept: it may be all there is."""
    commit(store, "a")
    provider.script = [TooFast("131056", retry_after=10.0), TooFast("131056", retry_after=1000.0)]
    delivery.deliver("ana")
    outbound.woken.clear()
    store.move(4)
    for _ in range(3):
        assert delivery.deliver("ana") == 0
    assert outbound.woken == [("ana", 0, 6.0)] * 3, "in this process they are one"
    store.move(6)
    delivery.deliver("ana")
    outbound.woken.clear()
    assert delivery.deliver("ana") == 0
    assert outbound.woken == [], "a long rest is left to rescue"
