"""The worker's work for its event loop is done without waiting for events, on kombu's own loop."""

from __future__ import annotations

import os

import pytest
from kombu.asynchronous import Hub

from chatbot.sessions.steps import SLICE, Steps


@pytest.fixture
def hub():
    """A loop on which nothing happens; ``waits`` are for how long it would have waited for an event."""
    hub = Hub()
    read, write = os.pipe()
    hub.waits = []
    hub.add_reader(read, lambda: None)
    poll = hub.poller.poll
    hub.poller.poll = lambda timeout: (hub.waits.append(timeout), poll(min(timeout, 0.01)))[1]
    yield hub
    hub.close()
    os.close(read)
    os.close(write)


def run_until(hub, holds):
    loop = hub.create_loop()
    for _ in range(10_000):
        if holds():
            return
        next(loop)
    raise AssertionError("the work was not done")


def test_work_is_done_in_slices_that_wait_for_no_event(hub):
    done = []
    steps = Steps(hub.call_later, ())
    for n in range(50 * SLICE):
        steps.add(lambda n=n: done.append(n))
    run_until(hub, lambda: len(done) == 50 * SLICE)
    assert done == list(range(50 * SLICE))
    *waits, _ = hub.waits  # the last one found nothing left to do
    assert max(waits) < 0.01, "the loop never slept on work"
    assert len(waits) >= 49, "between two slices it looked for events"


def test_any_number_of_delayed_steps_is_one_timer(hub):
    done = []
    steps = Steps(hub.call_later, ())
    for n in range(500):
        steps.add_later(0.02, lambda n=n: done.append(n))
    assert len(hub.timer) == 1
    run_until(hub, lambda: len(done) == 500)
    assert done == list(range(500))
    assert max(hub.waits[:-1]) < 0.1, "nor here"


def test_once_closed_nothing_more_is_done(hub):
    done = []
    steps = Steps(hub.call_later, ())
    steps.add(lambda: done.append("now"))
    steps.add_later(0.01, lambda: done.append("later"))
    steps.close()
    steps.add(lambda: done.append("after"))
    run_until(hub, lambda: not len(hub.timer))
    assert done == []
