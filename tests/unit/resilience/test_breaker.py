"""The circuit breaker: opens after failures in a row, lets one call through after each rest."""

from __future__ import annotations

import threading

import pytest

from chatbot.errors import CircuitOpen, ModelTimeout, NoRoom, Permanent, ServiceDown, Transient
from chatbot.resilience.breaker import LONGEST_REST, Breaker


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

    def call(self, key=None):
        try:
            return self.breaker.call(self.ask, key=key)
        except (Transient, Permanent) as err:
            return type(err)


@pytest.fixture
def model():
    return Model()


def test_it_opens_after_failures_in_a_row_and_asks_no_more(model):
    model.error = ServiceDown("down")
    assert [model.call() for _ in range(5)] == [ServiceDown] * 3 + [CircuitOpen] * 2
    assert model.asked == 3


def test_a_success_or_a_refusal_in_between_starts_the_count_anew(model):
    for between in (None, Permanent("no such model")):
        model.error = ServiceDown("busy")
        model.call(), model.call()
        model.error = between
        model.call()
    model.error = ServiceDown("busy")
    assert [model.call() for _ in range(3)] == [ServiceDown] * 3


def test_after_a_rest_one_call_goes_through_and_its_failure_doubles_the_rest(model):
    model.error = ServiceDown("down")
    for _ in range(3):
        model.call()
    for rest in (5, 10, 20, 40, LONGEST_REST, LONGEST_REST):
        model.now += rest - 0.1
        assert model.call() is CircuitOpen
        model.now += 0.1
        assert [model.call(), model.call()] == [ServiceDown, CircuitOpen]


def test_a_success_closes_it(model):
    model.error = ServiceDown("down")
    for _ in range(3):
        model.call()
    model.now, model.error = 5.0, None
    assert [model.call(), model.call()] == ["oi", "oi"]
    model.error = ServiceDown("down again")
    assert [model.call() for _ in range(4)] == [ServiceDown] * 3 + [CircuitOpen]


def test_the_pause_asked_for_is_kept(model):
    model.error = ServiceDown("503", retry_after=30)
    for _ in range(3):
        model.call()
    model.now = 29.0
    assert model.call() is CircuitOpen


def test_only_one_caller_tries_while_the_others_wait(model):
    model.error = ServiceDown("down")
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


@pytest.mark.parametrize("error", [Transient("429"), Transient("nothing"), Permanent("400")])
def test_what_is_one_persons_opens_nothing(model, error):
    model.error = error
    assert [model.call() for _ in range(10)] == [type(error)] * 10


@pytest.mark.parametrize("error", [ServiceDown("500"), ModelTimeout("too late")])
def test_one_person_alone_opens_nothing(model, error):
    model.error = error
    assert [model.call("ana") for _ in range(10)] == [type(error)] * 10
    assert [model.call("beto"), model.call("beto")] == [type(error), CircuitOpen]


def test_where_nothing_was_asked_nothing_is_known(model):
    model.error = ServiceDown("down")
    model.call(), model.call()
    model.error = NoRoom("every place is taken")
    model.call()
    model.error = ServiceDown("down")
    assert [model.call(), model.call()] == [ServiceDown, CircuitOpen]
    model.now, model.error = 5.0, NoRoom("every place is taken")
    assert [model.call(), model.call()] == [NoRoom, NoRoom], "the next one may try"
    assert not model.breaker.answers()


def test_busy_is_no_proof_that_it_answers(model):
    model.error = Transient("429")
    model.call()
    assert not model.breaker.answers()
    model.error = None
    model.call()
    assert model.breaker.answers()


def test_another_service_has_a_breaker_of_its_own_that_counts_what_it_is_told_to(model):
    other = model.breaker.another("what reads files", counts=(Transient,))
    for key in ("ana", "beto", "ana"):
        with pytest.raises(Transient):
            other.call(failing(Transient("503")), key=key)
    assert (other.is_open(), model.breaker.is_open()) == (True, False)
    with pytest.raises(CircuitOpen, match="what reads files"):
        other.check()
    with pytest.raises(NoRoom):
        model.breaker.another("files", counts=(Transient,)).call(failing(NoRoom("every place is taken")))


def failing(error):
    def ask():
        raise error

    return ask


def test_whoever_tried_in_vain_lets_another_one_try(model):
    model.error = ServiceDown("down")
    for key in ("ana", "beto", "caio"):
        model.call(key)
    model.now = 5.0
    assert [model.call("ana"), model.call("beto")] == [ServiceDown, CircuitOpen]
    model.now = 15.0
    assert model.call("ana") is CircuitOpen, "it may be her request that fails"
    model.error = None
    assert [model.call("beto"), model.call("ana")] == ["oi", "oi"]


def test_who_is_alone_tries_again(model):
    model.error = ServiceDown("down")
    for key in ("ana", "beto", "caio"):
        model.call(key)
    for model.now in (5.0, 15.0, 35.0):
        assert model.call("ana") is ServiceDown


def test_where_the_other_one_does_not_come_back_nobody_waits_for_them(model):
    model.error = ServiceDown("down")
    for key in ("ana", "beto", "caio"):
        model.call(key)
    model.now = 5.0
    model.call("ana"), model.call("beto")
    model.now, model.error = 25.0, None
    assert model.call("ana") == "oi"
