"""Calls some seconds from now: in their order, once, and no more of them than are kept."""

from __future__ import annotations

from chatbot.resilience import later
from chatbot.resilience.later import Later
from tests.servers import wait_until


def test_calls_are_made_in_the_order_of_their_times():
    made = []
    waiting = Later(name="test")
    for seconds, name in ((0.09, "c"), (0.03, "a"), (0.06, "b")):
        waiting.call(seconds, name, lambda name=name: made.append(name))
    wait_until(lambda: len(made) == 3, what="all made")
    assert made == ["a", "b", "c"]
    wait_until(lambda: waiting._thread is None, what="its thread gone")
    waiting.call(0.01, "d", lambda: made.append("d"))
    wait_until(lambda: made[-1] == "d", what="and back")


def test_of_one_name_only_the_sooner_is_made():
    made = []
    waiting = Later(name="test")
    waiting.call(0.2, "ana", lambda: made.append("late"))
    waiting.call(0.02, "ana", lambda: made.append("soon"))
    waiting.call(0.1, "ana", lambda: made.append("later"))
    wait_until(lambda: made, what="made")
    waiting.call(0.3, "last", lambda: made.append("last"))
    wait_until(lambda: made[-1] == "last", what="the last")
    assert made in (["soon", "last"], ["soon", "later", "last"]), "what was asked for after it was made is another one"
    assert made[0] == "soon"


def test_a_call_that_fails_stops_no_other():
    made = []

    def broken():
        raise ValueError("a bug")

    waiting = Later(name="test")
    waiting.call(0.01, "a", broken)
    waiting.call(0.02, "b", lambda: made.append("b"))
    wait_until(lambda: made == ["b"], what="made")


def test_only_so_many_wait(monkeypatch):
    monkeypatch.setattr(later, "MOST", 2)
    waiting = Later(name="test")
    assert [waiting.call(60, name, print) for name in "abc"] == [True, True, False]
    assert waiting.call(50, "a", print), "one that waits already may come sooner"
