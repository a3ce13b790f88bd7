"""The typing indicator of turns that take long: again and again, and no longer than they take."""

from __future__ import annotations

from chatbot.messages import Message
from chatbot.typing_indicator import TypingIndicator
from tests.servers import wait_until


def message(user):
    return Message(user=user, id=f"wamid.{user}", text="?")


def test_it_is_shown_again_and_again_until_the_turn_ends():
    shown = []
    indicator = TypingIndicator(lambda message: shown.append(message.user), seconds=0.01)
    with indicator.shown(message("bia")):
        thread = indicator._thread
        with indicator.shown(message("ana")):
            assert indicator._thread is thread, "one for all"
            wait_until(lambda: shown.count("ana") >= 3 and shown.count("bia") >= 3, what="each three times")
        ended = shown.count("ana")
        more = shown.count("bia") + 5
        wait_until(lambda: shown.count("bia") >= more, what="who still is being answered")
    assert shown.count("ana") <= ended + 1, "one may have been on its way"


def test_a_turn_that_has_ended_shows_nothing():
    shown = []
    indicator = TypingIndicator(lambda message: shown.append(message.user), seconds=0.05)
    for n in range(100):
        with indicator.shown(message(f"quick{n}")):
            pass
    before = len(shown) + 1  # one may be on its way, on a machine that stood still
    with indicator.shown(message("ana")):
        wait_until(lambda: len(shown) >= before + 2, what="shown twice")
    assert set(shown[before:]) == {"ana"}


def test_one_that_cannot_be_shown_stops_no_other():
    shown = []

    def show(message):
        shown.append(message.user)
        raise ValueError("a bug")

    indicator = TypingIndicator(show, seconds=0.01)
    with indicator.shown(message("ana")), indicator.shown(message("bia")):
        wait_until(lambda: shown.count("ana") >= 2 and shown.count("bia") >= 2, what="each twice")


def test_its_thread_ends_when_nobody_is_answered_and_comes_back():
    shown = []
    indicator = TypingIndicator(lambda message: shown.append(message.user), seconds=0.01)
    for user in ("ana", "bia"):
        with indicator.shown(message(user)):
            wait_until(lambda user=user: user in shown, what="shown")
        wait_until(lambda: indicator._thread is None, what="its thread gone")
