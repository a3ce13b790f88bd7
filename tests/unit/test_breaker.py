"""The circuit breaker: opens after failures in a row, lets one call through after each rest."""

from __future__ import annotations

import threading

import pytest

from chatbot.breaker import LONGEST_REST, Breaker
from chatbot.errors import CircuitOpen, Permanent, Transient


class Model:
    """A service that fails while it is told to, and counts who asks."""

    def __init__(self):
        self.now = 0.0
        self.error: Exception | None = None
        self.asked = 0
        self.breaker = Breaker(failures=3, rest=5, clock=lambda: self.now)

    def ask(self):
        self.asked += 1
        if self.error:
            raise self.error
        return "oi"

    def call(self):
        try:
            return self.breaker.call(self.ask)
        except (Transient, Permanent) as err:
            return type(err)


@pytest.fixture
def model():
    return Model()


def test_it_opens_after_failures_in_a_row_and_asks_no_more(model):
    model.error = Transient("down")
    assert [model.call() for _ in range(5)] == [Transient] * 3 + [CircuitOpen] * 2
    assert model.asked == 3


def test_a_success_or_a_refusal_in_between_starts_the_count_anew(model):
    for between in (None, Permanent("no such model")):
        model.error = Transient("busy")
        model.call(), model.call()
        model.error = between
        model.call()
    model.error = Transient("busy")
    assert [model.call() for _ in range(3)] == [Transient] * 3


def test_after_a_rest_one_call_goes_through_and_its_failure_doubles_the_rest(model):
    model.error = Transient("down")
    for _ in range(3):
        model.call()
    for rest in (5, 10, 20, 40, LONGEST_REST, LONGEST_REST):
        model.now += rest - 0.1
        assert model.call() is CircuitOpen
        model.now += 0.1
        assert [model.call(), model.call()] == [Transient, CircuitOpen]


def test_a_success_closes_it(model):
    model.error = Transient("down")
    for _ in range(3):
        model.call()
    model.now, model.error = 5.0, None
    assert [model.call(), model.call()] == ["oi", "oi"]
    model.error = Transient("down again")
    assert [model.call() for _ in range(4)] == [Transient] * 3 + [CircuitOpen]


def test_the_pause_asked_for_is_kept(model):
    model.error = Transient("429", retry_after=30)
    for _ in range(3):
        model.call()
    model.now = 29.0
    assert model.call() is CircuitOpen


def test_only_one_caller_tries_while_the_others_wait(model):
    model.error = Transient("down")
    for _ in range(3):
        model.call()
    model.now = 5.0
    asked, go = threading.Event(), threading.Event()

    def slow():
        asked.set()
        assert go.wait(10)
        return "oi"

    trial = threading.Thread(target=lambda: model.breaker.call(slow))
    trial.start()
    assert asked.wait(10)
    assert model.call() is CircuitOpen
    go.set()
    trial.join(10)
    model.error = None
    assert model.call() == "oi"
