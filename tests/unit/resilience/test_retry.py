"""Trying again in place: growing, jittered pauses, and the pause the other side asked for."""

from __future__ import annotations

import pytest

from chatbot.errors import CircuitOpen, OutcomeUnknown, Permanent, Transient
from chatbot.resilience.retry import in_place


def pauses_of(*errors, tries=20):
    """Return how long each pause was before ``errors`` were through."""
    left, pauses = list(errors), []

    def call():
        if left:
            raise left.pop(0)
        return "ok"

    assert in_place(call, tries=tries, sleep=pauses.append) == "ok"
    return pauses


def test_pauses_grow_and_differ():
    runs = [pauses_of(*[Transient("busy")] * 8) for _ in range(40)]
    means = [sum(run[n] for run in runs) / len(runs) for n in range(8)]
    assert means[0] < means[3] < means[6] <= 20
    assert len({run[3] for run in runs}) > 1, "jitter"


@pytest.mark.parametrize(("asked", "kept"), [(25.0, 25.0), (3600.0, 60.0)])
def test_the_pause_asked_for_is_kept_up_to_a_minute(asked, kept):
    assert pauses_of(Transient("429", retry_after=asked)) == [kept]


@pytest.mark.parametrize("error", [OutcomeUnknown("?"), CircuitOpen("down"), Permanent("no"), ValueError("bug")])
def test_what_trying_again_cannot_help_is_raised_at_once(error):
    pauses = []
    with pytest.raises(type(error)):
        in_place(_raises(error), tries=5, sleep=pauses.append)
    assert pauses == []


def test_the_last_error_is_raised_as_it_is():
    with pytest.raises(Transient, match="busy"):
        in_place(_raises(Transient("busy")), tries=3, sleep=lambda _: None)


def _raises(error):
    def call():
        raise error

    return call
