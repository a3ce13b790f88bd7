"""Which processes live, and which of their runs, on fakeredis and on a real Redis alike."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys

import pytest

from chatbot.errors import Transient
from chatbot.store.client import connect
from chatbot.store.presence import ALIVE_SECONDS, Presence, Redeliveries, Runs
from tests.servers import ROOT, wait_until

fresh = itertools.count()


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["fakeredis", pytest.param("redis", marks=pytest.mark.server)])
def client(request):
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
    else:
        url = f"fakeredis://presence-{next(fresh)}"
    client = connect(url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def one(client, clock):
    return Presence(client, clock=clock)


@pytest.fixture
def other(client, clock):
    return Presence(client, clock=clock)


def live(clock, seconds, *processes):
    for _ in range(round(seconds)):
        clock.now += 1
        for process in processes:
            process.beat()


def test_a_process_is_gone_when_it_has_been_silent_and_not_before(one, other, clock):
    live(clock, 10, one, other)
    assert not one.is_gone(other.id)
    live(clock, ALIVE_SECONDS, one)
    assert not one.is_gone(other.id), "it may have said so a moment ago"
    live(clock, 1, one)
    assert one.is_gone(other.id)
    other.beat()
    assert not one.is_gone(other.id), "it stood still, and is back"


def test_a_process_that_ended_in_order_is_gone_at_once(one, other, clock):
    live(clock, 10, one, other)
    other.start()
    other.stop()
    assert one.is_gone(other.id)
    assert one.is_gone("never heard of")


def test_where_redis_was_away_nobody_is_gone_before_everybody_could_say_so(one, other, clock):
    live(clock, 10, one, other)
    clock.now += 60  # and nobody could reach it
    one.beat()
    assert not one.is_gone(other.id)
    live(clock, ALIVE_SECONDS + 1, one)
    assert one.is_gone(other.id)


def test_a_store_that_nobody_has_spoken_to_knows_of_nobody_who_is_gone(one):
    assert not one.is_gone("anybody")


def test_a_redis_that_was_set_back_takes_nobody_for_gone(one, other, client, clock):
    live(clock, 10, one, other)
    before = client.dump("chatbot:processes")
    live(clock, 3, one, other)
    client.restore("chatbot:processes", 0, before, replace=True)
    assert not one.is_gone(other.id)
    live(clock, 1, one, other)
    assert not one.is_gone(other.id)


def test_what_processes_say_of_themselves_is_seen_and_forgotten_in_time(one, other, clock):
    one.told |= {"kind": "worker", "sessions": 7}
    other.told |= {"kind": "sender"}
    live(clock, 2, one, other)
    live(clock, 10, one)
    seen = {process.id: process for process in one.look()}
    assert (seen[one.id].kind, seen[one.id].sessions, seen[one.id].lives) == ("worker", 7, True)
    assert (seen[other.id].kind, seen[other.id].silent, seen[other.id].lives) == ("sender", 10, False)
    live(clock, 3600, one)
    assert [process.id for process in one.look()] == [one.id]


def test_a_clock_that_is_off_is_seen(redis_server, monkeypatch):
    client = connect(redis_server.url)
    client.flushall()
    presence = Presence(client)
    real = __import__("time").time
    monkeypatch.setattr("chatbot.store.presence.time.time", lambda: real() + 25.0)
    presence.beat()
    presence.beat()
    [seen] = presence.look()
    assert seen.skew == pytest.approx(25.0, abs=1.0)
    client.close()


def test_runs_of_this_process_live_while_their_block_lasts(one):
    runs = Runs("here", one)
    with runs.run(lambda _: None) as fence:
        assert not runs.is_gone(fence)
        with runs.run(lambda _: None) as another:
            assert another != fence
    assert runs.is_gone(fence)
    assert runs.is_gone(another)


def test_a_task_that_ends_its_process_again_and_again_is_counted(one, other, client, clock):
    here = Redeliveries(client, Runs(one.id, one))
    live(clock, 10, one, other)
    with here.counted("task") as ended:
        assert ended == 0
        with here.counted("task") as beside:
            assert beside == 0, "a cut connection delivers it again beside itself"
    client.sadd("chatbot:redelivered:task", other.id)  # the other process runs it, and is killed
    live(clock, 1, one)
    with here.counted("task") as ended:
        assert ended == 0, "it may live"
    live(clock, ALIVE_SECONDS + 1, one)
    with here.counted("task") as ended:
        assert ended == 1
    with here.counted("another task") as ended:
        assert ended == 0


def test_without_redis_nobody_is_said_to_be_gone():
    presence = Presence(connect("redis://127.0.0.1:1/0", timeout=0.5))
    with pytest.raises(Transient):
        presence.is_gone("there")


_PROCESS = """
import sys
from chatbot.store.presence import Presence
from chatbot.store.client import connect
presence = Presence(connect(sys.argv[1]))
presence.start(kind="worker")
print(presence.id, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_stands_still_is_gone_soon(redis_server, number):
    client = connect(redis_server.url)
    client.flushall()
    here = Presence(client)
    here.start()
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, redis_server.url], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        there = process.stdout.readline().decode().strip()
        wait_until(lambda: any(seen.id == there and seen.lives for seen in here.look()), what="it speaks")
        wait_until(lambda: client.hget("chatbot:processes", ":quiet_until") is not None, what="everybody spoke")
        assert not here.is_gone(there)
        os.kill(process.pid, number)
        wait_until(lambda: here.is_gone(there), seconds=30, what="gone")
    finally:
        process.kill()
        process.communicate()
        here.stop()
        client.close()


def test_a_main_loop_that_does_not_come_round_is_seen(one, clock, monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr("chatbot.store.presence.time.monotonic", lambda: seconds[0])
    one.pulse()
    seconds[0] += 40
    one.beat()
    assert one.look()[0].stuck == 40
    one.pulse()
    one.beat()
    assert one.look()[0].stuck == 0
    seconds[0] += 40
    one.no_pulse()
    one.beat()
    assert one.look()[0].stuck == 0, "it waits for the broker"
