"""Publishing while the broker is away."""

from __future__ import annotations

import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from chatbot.app import Chatbot
from chatbot.broker.publisher import Publisher, Publishers
from chatbot.config import Settings
from chatbot.errors import BrokerUnavailable
from chatbot.messages import Message


@pytest.fixture
def publishers():
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url="memory://"))
    publishers = Publishers(bot.celery, timeout=5)
    yield publishers
    publishers.close()
    bot.close()


def test_once_a_call_has_waited_in_vain_one_at_a_time_asks_and_the_others_end_at_once(publishers):
    def broken(_publisher):
        raise OSError("gone")

    def ask(publisher):
        asking.set()
        assert back.wait(30)
        return publisher

    asking, back = threading.Event(), threading.Event()
    with pytest.raises(BrokerUnavailable, match="cannot be used"):
        publishers.run(publishers.deadline() - 3, broken)
    with ThreadPoolExecutor(1) as pool:
        asks = pool.submit(publishers.run, publishers.deadline() + 60, ask)
        assert asking.wait(30)
        with pytest.raises(BrokerUnavailable, match="another call"):
            publishers.run(publishers.deadline(), bool)
        back.set()
        assert asks.result(30)
    with ThreadPoolExecutor(1) as pool:
        asking.clear()
        back.clear()
        slow = pool.submit(publishers.run, publishers.deadline() + 60, ask)
        assert asking.wait(30)
        publishers.run(publishers.deadline(), bool)  # it is back: side by side again
        back.set()
        assert slow.result(30)


def test_while_the_broker_is_away_a_call_asks_for_a_step_and_no_longer():
    """A request that waited for a thread while others found out is to be refused in time, too."""
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url="memory://"))
    publishers = Publishers(bot.celery, timeout=5, clock=lambda: 100.0)

    def broken(_publisher):
        raise OSError("gone")

    assert publishers.deadline() == pytest.approx(103.5)
    with pytest.raises(BrokerUnavailable):
        publishers.run(100.5, broken)
    assert publishers.deadline() == pytest.approx(101)
    publishers.run(publishers.deadline(), bool)
    assert publishers.deadline() == pytest.approx(103.5)
    publishers.close()
    bot.close()


def test_what_several_calls_share_is_no_reason_to_ask_longer_while_the_broker_is_away(monkeypatch):
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url="memory://"))
    publishers, deadlines = bot.router._publishers, []
    publishers._clock = lambda: 100.0
    monkeypatch.setattr(publishers, "run", lambda deadline, _: deadlines.append(deadline) or "id")
    for publishers._away in (False, True):
        bot.router.route(Message(user="ana", id="1", text="oi"), deadline=102.0)
    assert deadlines == [pytest.approx(102), pytest.approx(101)]
    bot.close()


def test_what_becomes_of_a_message_that_nobody_waited_for_is_not_taken_for_the_next_ones():
    channel = SimpleNamespace(events=defaultdict(set), confirm_select=lambda: None)
    publisher = Publisher(channel, step=1.0, remaining=lambda _: 1.0)
    [confirmed], [refused] = channel.events["basic_ack"], channel.events["basic_nack"]
    publisher.unconfirmed |= {1, 2}
    publisher.forget()
    publisher.unconfirmed |= {3, 4, 5}
    refused(1, multiple=False)
    refused(2, multiple=True)
    assert (publisher.unconfirmed, publisher.nacked) == ({3, 4, 5}, set())
    refused(3, multiple=False)
    confirmed(5, multiple=True)
    assert (publisher.unconfirmed, publisher.nacked) == (set(), {3})


def test_a_confirm_that_takes_longer_than_a_step_is_waited_for_until_the_deadline():
    def read(timeout):
        limits.append(timeout)
        if len(limits) < 3:
            raise TimeoutError
        [confirmed] = channel.events["basic_ack"]
        confirmed(1, multiple=False)

    def remaining(deadline):
        if not left:
            raise BrokerUnavailable(f"not by {deadline}")
        return left.pop(0)

    limits, left = [], [2.5, 1.5, 0.5]
    channel = SimpleNamespace(
        events=defaultdict(set), confirm_select=lambda: None, connection=SimpleNamespace(drain_events=read)
    )
    publisher = Publisher(channel, step=1.0, remaining=remaining)
    publisher.unconfirmed.add(1)
    publisher.settle(9.0)
    assert limits == [None, None, 0.5], "only the last read has a limit of its own"
    publisher.unconfirmed.add(2)
    with pytest.raises(BrokerUnavailable, match="not by 9"):
        publisher.settle(9.0)
