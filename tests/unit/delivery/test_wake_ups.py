"""Wake-ups that are put off: nothing travels before their time, and no clock of a host is compared."""

from __future__ import annotations

import pytest

from chatbot.app import Chatbot
from chatbot.broker.router import Router
from chatbot.config import Settings
from chatbot.errors import BrokerUnavailable
from tests.servers import wait_until


@pytest.fixture
def router(monkeypatch):
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url="memory://", redis_url="fakeredis://wake-ups"))
    router = bot.router
    router.told, router.celery = [], bot.celery
    monkeypatch.setattr(Router, "_commit", lambda self, wanted: self.told.append(wanted.call))
    return router


def test_a_wake_up_that_is_put_off_waits_here_and_travels_without_a_time(router):
    router.wake_sender("ana", 3, countdown=0.05)
    assert router.told == []
    wait_until(lambda: router.told, what="told")
    [call] = router.told
    assert call.arguments == ("ana", 3)
    headers = call.message(router.celery).headers
    assert (headers["eta"], headers["expires"]) == (None, None)


def test_of_one_users_wake_ups_the_soonest_is_enough(router):
    for _ in range(3):
        router.wake_sender("ana", 3, countdown=0.05)
    router.wake_sender("bia", 1, countdown=0.1)
    wait_until(lambda: len(router.told) == 2, what="told")
    assert [call.arguments for call in router.told] == [("ana", 3), ("bia", 1)]


def test_a_broker_that_is_away_then_leaves_it_to_rescue(router, monkeypatch):
    tried = []

    def away(self, wanted):
        tried.append(wanted)
        raise BrokerUnavailable("away")

    monkeypatch.setattr(Router, "_commit", away)
    router.wake_sender("ana", 3, countdown=0.01)
    wait_until(lambda: tried, what="tried")
    monkeypatch.undo()
    monkeypatch.setattr(Router, "_commit", lambda self, wanted: router.told.append(wanted.call))
    router.wake_sender("bia", 1, countdown=0.01)
    wait_until(lambda: router.told, what="and the next is told")
