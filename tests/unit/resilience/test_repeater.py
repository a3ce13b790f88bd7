"""Calls that are made again and again, and no longer than their block lasts."""

from __future__ import annotations

from chatbot.resilience.repeater import Repeater
from tests.servers import wait_until


def calling(repeater, shown, who):
    return repeater.repeating(lambda: shown.append(who))


def test_it_is_shown_again_and_again_until_the_turn_ends():
    shown = []
    indicator = Repeater(seconds=0.01, name="test")
    with calling(indicator, shown, "bia"):
        thread = indicator._thread
        with calling(indicator, shown, "ana"):
            assert indicator._thread is thread, "one for all"
            wait_until(lambda: shown.count("ana") >= 3 and shown.count("bia") >= 3, what="each three times")
        ended = shown.count("ana")
        more = shown.count("bia") + 5
        wait_until(lambda: shown.count("bia") >= more, what="who still is being answered")
    assert shown.count("ana") <= ended + 1, "one may have been on its way"


def test_a_turn_that_has_ended_shows_nothing():
    shown = []
    indicator = Repeater(seconds=0.05, name="test")
    for n in range(100):
        with calling(indicator, shown, f"quick{n}"):
            pass
    before = len(shown) + 1  # one may be on its way, on a machine that stood still
    with calling(indicator, shown, "ana"):
        wait_until(lambda: len(shown) >= before + 2, what="shown twice")
    assert set(shown[before:]) == {"ana"}


def test_one_that_cannot_be_shown_stops_no_other():
    shown = []

    def show(user):
        shown.append(user)
        raise ValueError("a bug")

    indicator = Repeater(seconds=0.01, name="test")
    with indicator.repeating(lambda: show("ana")), indicator.repeating(lambda: show("bia")):
        wait_until(lambda: shown.count("ana") >= 2 and shown.count("bia") >= 2, what="each twice")


def test_its_thread_ends_when_nobody_is_answered_and_comes_back():
    shown = []
    indicator = Repeater(seconds=0.01, name="test")
    for user in ("ana", "bia"):
        with calling(indicator, shown, user):
            wait_until(lambda user=user: user in shown, what="shown")
        wait_until(lambda: indicator._thread is None, what="its thread gone")
