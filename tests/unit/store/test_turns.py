"""The promises of the store, on fakeredis and on a real Redis alike."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from chatbot.errors import Transient, TurnUnderWay
from chatbot.messages import Limits, Message
from chatbot.store.client import connect
from chatbot.store.keys import DEDUPE_SECONDS
from chatbot.store.outbox import OVERDUE_SECONDS, Busy, Noted, Rests
from chatbot.store.pacing import FIRST_AGAIN_SECONDS, WARM_UP_SECONDS, WARM_UP_SLOWER
from chatbot.store.store import Store
from chatbot.store.turns import Answered

fresh = itertools.count()


class Clock:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["fakeredis", pytest.param("redis", marks=pytest.mark.server)])
def store(request, clock):
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
    else:
        url = f"fakeredis://test-{next(fresh)}"
    client = connect(url)
    client.flushall()
    yield Store(client, history_turns=3, retention=1000, clock=clock)
    client.close()


def said(text: str, user: str = "ana", id_: str | None = None) -> Message:
    return Message(user=user, id=id_ or f"id-{text}", text=text)


def turn(store: Store, text: str, user: str = "ana"):
    begun = store.begin_turn(said(text, user), seconds=60)
    return store.commit_turn(begun, f"re: {text}").turn


def test_a_turn_is_remembered_in_order(store):
    for text in ("um", "dois"):
        turn(store, text)
    begun = store.begin_turn(said("três"), seconds=60)
    assert begun.number == 3
    assert [(t.number, t.message.text, t.reply) for t in begun.history] == [
        (1, "um", "re: um"),
        (2, "dois", "re: dois"),
    ]


def test_only_the_last_turns_are_kept(store):
    for text in "abcde":
        turn(store, text)
    begun = store.begin_turn(said("f"), seconds=60)
    assert [t.message.text for t in begun.history] == ["c", "d", "e"]
    assert begun.number == 6


def test_an_answered_message_has_its_turn_already(store):
    first = turn(store, "oi")
    again = store.begin_turn(said("oi"), seconds=60)
    assert again == Answered(first)


def test_a_zombie_commits_nothing(store):
    zombie = store.begin_turn(said("oi"), seconds=60)
    alive = store.begin_turn(said("oi"), seconds=60, gone=zombie.fence)
    assert store.commit_turn(zombie, "from the zombie") is None
    assert store.turn_of(said("oi")) is None
    assert store.commit_turn(alive, "from the living").turn.reply == "from the living"
    assert store.commit_turn(zombie, "from the zombie") is None
    assert [t.reply for t in store.history("ana")] == ["from the living"]


def test_the_same_run_cannot_commit_twice(store):
    begun = store.begin_turn(said("oi"), seconds=60)
    assert store.commit_turn(begun, "a")
    assert store.commit_turn(begun, "b") is None


def test_attempts_at_one_message_are_counted(store):
    assert [store.begin_turn(said("oi"), seconds=0).attempts for _ in range(3)] == [1, 2, 3]
    assert store.begin_turn(said("outra"), seconds=60).attempts == 1


def test_users_do_not_share_anything(store):
    turn(store, "segredo", "1")
    begun = store.begin_turn(said("oi", "10"), seconds=60)
    assert (begun.number, begun.history) == (1, ())
    # Names that AMQP or Redis might read as patterns or parts of others.
    for user in ("1.0", "1%2E0", "*", "#", "1}:x", "{1}"):
        assert store.begin_turn(said("oi", user), seconds=0).history == ()
        turn(store, f"de {user}", user)
    for user in ("1.0", "1%2E0", "*", "#", "1}:x", "{1}"):
        assert [t.message.text for t in store.history(user)] == [f"de {user}"]


def test_replies_are_claimed_in_order_and_once(store):
    turn(store, "um")
    turn(store, "dois")
    first = store.claim_delivery("ana", fence="a")
    assert (first.number, first.turn.reply, first.parts) == (1, "re: um", 0)
    assert store.settle_done(first)
    second = store.claim_delivery("ana", fence="a")
    assert (second.number, second.turn.reply) == (2, "re: dois")
    assert store.settle_done(second)
    assert store.claim_delivery("ana", fence="a") is None
    assert store.due_outboxes(before=1e12) == []


def test_one_sender_at_a_time_for_as_long_as_it_says_that_it_lives(store, clock):
    turn(store, "um")
    store.claim_delivery("ana", fence="a", seconds=60)
    for _ in range(3):
        clock.now += 59
        assert store.renew_delivery("ana", "a")
        with pytest.raises(Busy) as busy:
            store.claim_delivery("ana", fence="b")
        assert busy.value.fence == "a"
    clock.now += 61
    assert store.claim_delivery("ana", fence="b").number == 1
    assert not store.renew_delivery("ana", "a")


def test_what_a_sender_held_that_is_gone_is_taken_at_once(store):
    turn(store, "um")
    gone = store.claim_delivery("ana", fence="a")
    taken = store.claim_delivery("ana", fence="b", gone="a")
    assert (taken.number, taken.runs) == (1, 2), "a run that never ended is counted"
    assert not store.settle_done(gone)


def test_the_last_look_gives_the_claim_back(store):
    turn(store, "um")
    store.settle_done(store.claim_delivery("ana", fence="a"))
    assert store.claim_delivery("ana", fence="a") is None
    turn(store, "dois")
    assert store.claim_delivery("ana", fence="b").number == 2


def test_a_delivery_goes_on_where_the_one_before_stopped(store):
    turn(store, "um")
    before = store.claim_delivery("ana", fence="a")
    assert store.settle_part(before, 2)
    after = store.claim_delivery("ana", fence="b", gone="a")
    assert (after.number, after.parts) == (1, 2)
    assert not store.settle_done(before), "the run that was cut off may write nothing"
    assert store.settle_done(after)


def test_a_postponed_reply_is_due_later_and_counts_as_no_run_that_never_ended(store, clock):
    turn(store, "um")
    claimed = store.claim_delivery("ana", fence="a")
    assert store.settle_part(claimed, 1)
    assert store.settle_later(claimed, pause=30)
    assert store.due_outboxes(before=clock.now + 29) == []
    assert store.due_outboxes(before=clock.now + 30) == ["ana"]
    with pytest.raises(Rests) as rests:
        store.claim_delivery("ana", fence="b")
    assert rests.value.seconds == 30, "whoever asks"
    clock.now += 30
    again = store.claim_delivery("ana", fence="b")
    assert (again.parts, again.doubt_since, again.runs) == (1, None, 1), "it was surely not sent"


def test_runs_of_a_delivery_that_break_are_counted_until_the_turn_is_done(store):
    turn(store, "um")
    turn(store, "dois")
    for runs in (1, 2, 3):
        claimed = store.claim_delivery("ana", fence=f"run {runs}")
        assert claimed.runs == runs
        assert store.settle_failed(claimed, pause=0)
    assert store.settle_done(store.claim_delivery("ana", fence="last"))
    assert store.claim_delivery("ana", fence="last").runs == 1


def test_a_part_that_a_status_settled_is_not_called_again(store):
    turn(store, "um")
    claimed = store.claim_delivery("ana", fence="a")
    assert store.settle_calling(claimed, 0) == Noted.WRITTEN
    assert store.report_part("ana", 1, 0)
    assert store.settle_calling(claimed, 0) == Noted.KNOWN
    store.claim_delivery("ana", fence="b", gone="a")
    assert store.settle_calling(claimed, 0) == Noted.LOST


def test_a_turn_goes_out_plainly_whoever_goes_on_with_it(store):
    turn(store, "um")
    turn(store, "dois")
    claimed = store.claim_delivery("ana", fence="a")
    assert not claimed.plain
    assert store.settle_plain(claimed)
    again = store.claim_delivery("ana", fence="b", gone="a")
    assert again.plain
    store.settle_done(again)
    assert not store.claim_delivery("ana", fence="b").plain, "the next one has its formatting"


def test_overdue_users_are_taken_and_moved_on(store, clock):
    for user in ("ana", "bia", "caio"):
        turn(store, "um", user)
        clock.now += 1
    everybody = ["ana", "bia", "caio", "nobody"]
    assert store.take_due(everybody, seconds=60) == []
    clock.now += OVERDUE_SECONDS
    assert store.due_outboxes(before=clock.now, most=2) == ["ana", "bia"]
    assert store.due_outboxes(before=clock.now, skip=2, most=2) == ["caio"]
    assert store.take_due(everybody[:2], seconds=60) == ["ana", "bia"]
    assert store.take_due(everybody, seconds=60) == ["caio"], "each by one"
    assert store.due_outboxes(before=clock.now) == []
    clock.now += 60
    assert store.take_due(everybody, seconds=60) == ["ana", "bia", "caio"]


def test_sessions_are_looked_at_from_where_the_last_look_ended(store, clock):
    for user in ("ana", "bia", "caio"):
        turn(store, "um", user)
        clock.now += 1
    assert store.rescued_until("amqp://one") == float("-inf")
    assert store.sessions_after(float("-inf"), most=2) == [("ana", 1000.0), ("bia", 1001.0)]
    store.note_rescued("amqp://one", 1001.0)
    assert store.sessions_after(store.rescued_until("amqp://one"), most=2) == [("caio", 1002.0)]
    assert store.rescued_until("amqp://another") == float("-inf")
    store.note_rescued("amqp://one", float("-inf"))
    assert len(store.sessions_after(store.rescued_until("amqp://one"), most=9)) == 3


def test_what_is_done_alone_is_done_by_one_at_a_time(store):
    with store.alone("that", seconds=60) as first, store.alone("that", seconds=60) as second:
        assert (first, second) == (True, False)
        with store.alone("this", seconds=60) as other:
            assert other
    with store.alone("that", seconds=60) as again:
        assert again
        store._redis.set("chatbot:lock:that", "somebody else's")  # it took longer than that
    assert store._redis.get("chatbot:lock:that") == "somebody else's"


def test_a_refusal_that_came_late_ends_the_turn_for_whoever_has_it(store):
    turn(store, "um")
    turn(store, "dois")
    store.claim_delivery("ana", fence="a")
    taken = store.claim_delivery("ana", fence="b", gone="a")
    assert not store.report_refused("ana", 1, 1)
    assert store.report_refused("ana", 1, 0)
    assert not store.report_refused("ana", 1, 0)
    assert not store.settle_part(taken, 1)
    assert store.claim_delivery("ana", fence="b").number == 2


def test_a_turn_that_is_done_may_be_settled_twice(store):
    """The first answer may be lost and the call repeated."""
    turn(store, "um")
    claimed = store.claim_delivery("ana", fence="a")
    assert store.settle_done(claimed)
    assert store.settle_done(claimed)


def test_sessions_end_unless_active(store, clock):
    turn(store, "um")
    assert store.sessions() == {"ana": 1000.0}
    store.end_session("ana", unless_active_since=999.0)
    assert store.sessions() == {"ana": 1000.0}
    store.end_session("ana", unless_active_since=1000.0)
    assert store.sessions() == {}


def test_unreadable_state_is_an_error_and_no_new_user(store):
    turn(store, "um")
    store._redis.rpush("chatbot:{ana}:history", "not json")
    with pytest.raises(ValueError):
        store.begin_turn(said("dois"), seconds=60)


def test_a_missing_redis_is_transient():
    store = Store(connect("redis://127.0.0.1:1/0", timeout=0.5), history_turns=3, retention=10, clock=Clock())
    with pytest.raises(Transient, match="Redis"):
        store.begin_turn(said("oi"), seconds=60)


def test_a_turn_under_way_is_overtaken_by_nobody_while_it_is_renewed(store, clock):
    begun = store.begin_turn(said("um"), seconds=60)
    for _ in range(3):
        clock.now += 59
        assert store.renew_turn("ana", begun.fence)
        for text in ("um", "dois"):
            with pytest.raises(TurnUnderWay) as under_way:
                store.begin_turn(said(text))
            assert under_way.value.fence == begun.fence
    assert store.commit_turn(begun, "re: um")
    assert store.begin_turn(said("dois")).number == 2
    assert not store.renew_turn("ana", begun.fence)


def test_a_claim_that_nobody_renews_lapses(store, clock):
    begun = store.begin_turn(said("um"), seconds=60)
    clock.now += 61
    assert store.begin_turn(said("dois")).number == 1
    assert store.commit_turn(begun, "zombie") is None


def test_only_the_same_message_takes_the_place_of_a_run_that_is_gone(store):
    gone = store.begin_turn(said("um")).fence
    with pytest.raises(TurnUnderWay):
        store.begin_turn(said("dois"), gone=gone)
    begun = store.begin_turn(said("um"), gone=gone)
    assert begun.attempts == 2
    with pytest.raises(TurnUnderWay):
        store.begin_turn(said("um"), gone=gone)


def test_a_turn_given_back_lets_the_next_message_begin(store):
    store.release_turn(store.begin_turn(said("um")))
    begun = store.begin_turn(said("dois"))
    assert store.commit_turn(begun, "re: dois")
    assert store.begin_turn(said("três")).number == 2


def test_a_turn_behind_replies_that_wait_needs_no_wake_up_of_its_own(store):
    def commit(text):
        return store.commit_turn(store.begin_turn(said(text)), "re").is_next

    assert [commit(text) for text in ("um", "dois", "três")] == [True, False, False]
    while claimed := store.claim_delivery("ana", fence="a"):
        store.settle_done(claimed)
    assert commit("quatro")


def test_a_run_that_ends_twice_takes_back_one_attempt(store):
    """The first answer may be lost and the call repeated; a poison message must not gain by it."""
    first = store.begin_turn(said("oi"))
    begun = store.begin_turn(said("oi"), gone=first.fence)
    assert begun.attempts == 2
    store.release_turn(begun)
    store.release_turn(begun)
    assert store.begin_turn(said("oi")).attempts == 2


def test_a_conversation_that_never_commits_is_forgotten_too(store):
    store.begin_turn(said("oi", user="bia"))
    assert 0 < store._redis.ttl("chatbot:{bia}:conversation") <= 1000


def test_without_a_clock_of_a_test_all_times_are_those_of_redis(redis_server):
    client = connect(redis_server.url)
    client.flushall()
    store = Store(client, history_turns=3, retention=1000)
    now = client.time()[0]
    begun = store.begin_turn(said("oi"))
    assert begun.at == pytest.approx(now, abs=5)
    assert store.commit_turn(begun, "re: oi").turn.committed_at == pytest.approx(now, abs=5)
    assert store.sessions()["ana"] == pytest.approx(now, abs=5)
    assert store.claim_delivery("ana", fence="a").at == pytest.approx(now, abs=5)
    client.close()


def test_places_of_a_number_are_apart_whoever_takes_them(store, clock):
    limits = Limits(per_second=10, pair_seconds=6, pair_burst=45)
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda n: store.pace(f"user {n}", "whatsapp:1", limits, longest=5.0), range(60)))
    waits = sorted(wait for taken, wait in places if taken)
    slow = 1 + int(WARM_UP_SECONDS * 10 / WARM_UP_SLOWER)
    warm = slow * WARM_UP_SLOWER / 10
    expected = [*(n * WARM_UP_SLOWER / 10 for n in range(slow)), *(warm + n / 10 for n in range(60))]
    expected = [wait for wait in expected if wait <= 5.0]
    assert waits == pytest.approx(expected, abs=1e-4), "one each, slower at first, as far as anybody sleeps"
    late = [wait for taken, wait in places if not taken]
    assert late == pytest.approx([expected[-1] + 0.1] * (60 - len(expected)), abs=1e-4), "the others come back"


def test_a_number_that_rested_warms_up_again(store, clock):
    limits = Limits(per_second=10, pair_seconds=6, pair_burst=45)
    steps = []
    for _ in range(2):
        places = [store.pace("ana", "whatsapp:1", limits, longest=5.0)[1] for _ in range(20)]
        steps.append([after - before for before, after in itertools.pairwise(places)])
        clock.now += 10
    assert steps[0] == pytest.approx(steps[1], abs=1e-4)
    assert steps[0][0] == pytest.approx(WARM_UP_SLOWER / 10, abs=1e-4)
    assert steps[0][-1] == pytest.approx(1 / 10, abs=1e-4)


def test_a_missed_place_costs_the_pair_nothing(store, clock):
    limits = Limits(per_second=10, pair_seconds=6, pair_burst=1)
    assert store.pace("ana", "whatsapp:1", limits, longest=1.0) == (True, 0.0)
    taken, wait = store.pace("ana", "whatsapp:1", limits, longest=1.0, missed=True)
    assert (taken, wait) == (True, pytest.approx(WARM_UP_SLOWER / 10))
    taken, wait = store.pace("ana", "whatsapp:1", limits, longest=1.0)
    assert (taken, wait) == (False, pytest.approx(6.0))


def test_a_refused_person_is_left_alone_longer_each_time_in_a_row(store):
    limits = Limits(per_second=80, pair_seconds=6, pair_burst=45)
    assert [store.hold_pair("ana", limits, pause=4) for _ in range(3)] == [4, 16, 64]
    assert 2 * 64 < store._redis.ttl("chatbot:{ana}:refused") <= 2 * 64 + FIRST_AGAIN_SECONDS
    assert store.hold_pair("beto", limits, pause=4) == 4, "each person's own"


def test_a_conversation_is_forgotten_after_its_retention_and_its_turns_when_no_webhook_comes_again(store):
    turn(store, "um")
    store.begin_turn(said("dois"), seconds=60)
    for what in ("conversation", "history", "outbox"):
        assert 0 < store._redis.ttl(f"chatbot:{{ana}}:{what}") <= 1000, what
    seven_days = 7 * 86_400
    assert seven_days < store._redis.ttl("chatbot:{ana}:turn:id-um") <= DEDUPE_SECONDS


def test_the_reply_that_waits_longest_is_known(store, clock):
    assert store.oldest_overdue() == 0
    turn(store, "um")
    clock.now += 10
    turn(store, "um", "bia")
    assert store.oldest_overdue() == 0, "it is not overdue yet"
    clock.now += OVERDUE_SECONDS + 5
    assert store.oldest_overdue() == 15
