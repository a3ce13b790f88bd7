"""Places for calls in flight: as many as there are, first come first served, back after a crash."""

from __future__ import annotations

import threading

import fakeredis
import pytest

from chatbot.errors import NoRoom
from chatbot.store.client import connect
from chatbot.store.keys import SLOTS_SECONDS
from chatbot.store.slots import LEASE_SECONDS, SEEN_SECONDS, Slots


class Clock:
    """Redis' time, for a fake Redis and for who waits; waiting moves it."""

    def __init__(self):
        self.now = 1_000.0
        self.waited = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.waited.append(seconds)
        self.now += seconds


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.server)])
def client(request):
    if request.param == "fake":
        yield fakeredis.FakeRedis(version=(7,), decode_responses=True)
        return
    client = connect(request.getfixturevalue("redis_server").url)
    client.flushdb()
    yield client
    client.flushdb()


def slots(client, places, **settings):
    return Slots(client, "llm", places, **settings)


def test_a_place_is_free_again_after_its_call(client):
    two = slots(client, 2)
    with two.held(wait=0), two.held(wait=0), pytest.raises(NoRoom), two.held(wait=0):
        pass
    with two.held(wait=0), two.held(wait=0):
        pass
    assert [client.zcard(key) for key in two._keys[:3]] == [0, 0, 0], "nobody is left in the line"


def test_a_call_that_fails_gives_its_place_back(client):
    one = slots(client, 1)
    with pytest.raises(ValueError), one.held(wait=0):
        raise ValueError
    with one.held(wait=0):
        pass


def test_all_processes_share_the_places(client):
    with slots(client, 1).held(wait=0), pytest.raises(NoRoom), slots(client, 1).held(wait=0):
        pass
    with slots(client, 1).held(wait=0), Slots(client, "another", 1).held(wait=0):
        pass


def test_a_place_whose_holder_crashed_comes_back_within_seconds(client):
    """Whoever waits comes back to a later time of Redis: the clock is moved in the scripts' own argument."""
    one = slots(client, 1)
    now = 5_000.0
    take = lambda who, at: one._take_slot(keys=one._keys, args=[at, who, 1, LEASE_SECONDS, SEEN_SECONDS, SLOTS_SECONDS])  # noqa: E731
    assert take("crashed", now) == 0
    assert take("waits", now + LEASE_SECONDS - 1) == 1
    assert take("waits", now + LEASE_SECONDS) == 0


def test_a_place_that_is_renewed_is_kept_and_one_that_was_lost_is_not_taken_back(client):
    one = slots(client, 1)
    take = lambda who, at: one._take_slot(keys=one._keys, args=[at, who, 1, LEASE_SECONDS, SEEN_SECONDS, SLOTS_SECONDS])  # noqa: E731
    renew = lambda who, at: one._renew_slot(keys=one._keys[:1], args=[at, who, LEASE_SECONDS, SLOTS_SECONDS])  # noqa: E731
    assert take("ana", 100.0) == 0
    renew("ana", 105.0)
    assert take("beto", 110.0) == 1
    assert take("beto", 114.0) == 0
    renew("ana", 115.0)
    assert client.zcard(one._keys[0]) == 1


def test_first_come_first_served(client):
    one = slots(client, 1)
    take = lambda who, at: one._take_slot(keys=one._keys, args=[at, who, 1, LEASE_SECONDS, SEEN_SECONDS, SLOTS_SECONDS])  # noqa: E731
    assert [take(who, 100.0) for who in ("a", "b", "c")] == [0, 1, 2]
    client.zrem(one._keys[0], "a")
    assert take("c", 101.0) == 2, "b was here before"
    assert take("d", 101.0) == 3
    assert take("b", 101.0) == 0


def test_who_crashes_while_waiting_holds_nobody_up(client):
    one = slots(client, 1)
    take = lambda who, at: one._take_slot(keys=one._keys, args=[at, who, 1, LEASE_SECONDS, SEEN_SECONDS, SLOTS_SECONDS])  # noqa: E731
    assert [take("a", 100.0), take("gone", 100.0), take("c", 100.0)] == [0, 1, 2]
    client.zrem(one._keys[0], "a")
    assert take("c", 104.0) == 2
    assert take("c", 105.0) == 0


def test_the_wait_is_bounded_and_leaves_the_line(client):
    clock = Clock()
    one = slots(client, 1, sleep=clock.sleep, clock=clock)
    with one.held(wait=0), pytest.raises(NoRoom), one.held(wait=10):
        pass
    assert clock.now == pytest.approx(1_010)
    assert client.zcard(one._keys[1]) == 0


def test_who_stands_further_back_asks_less_often(client):
    clock = Clock()
    one = slots(client, 1, sleep=clock.sleep, clock=clock)
    with one.held(wait=0):
        for n in range(10):
            one._place(f"waits {n}")
        with pytest.raises(NoRoom), one.held(wait=2):
            pass
    assert len(clock.waited) <= 5


def test_twelve_threads_are_never_more_than_three_at_once(client):
    three, at_once, most, lock = slots(client, 3), 0, 0, threading.Lock()

    def work():
        nonlocal at_once, most
        with three.held(wait=60):
            with lock:
                at_once += 1
                most = max(most, at_once)
            with lock:
                at_once -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert 1 <= most <= 3
    assert client.zcard(three._keys[0]) == 0


def test_without_redis_nobody_takes_a_place():
    with pytest.raises(NoRoom), slots(connect("redis://127.0.0.1:1/0"), 1).held(wait=0):
        pass
