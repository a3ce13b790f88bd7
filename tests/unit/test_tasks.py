"""What tasks do beyond handing their arguments to a stage."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.messages import Status


@pytest.fixture
def bot():
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url="memory://"))
    woken = []
    bot.router = SimpleNamespace(wake_sender=lambda user, number: woken.append(user), close=lambda: None, woken=woken)
    yield bot
    bot.close()


@pytest.mark.parametrize(("waiting", "woken"), [("ana", ["ana"]), (None, [])])
def test_a_status_wakes_the_sender_and_claims_nothing_itself(bot, waiting, woken):
    """A worker killed here would leave a claim that nobody takes up again: the part is settled by then."""
    bot.delivery = SimpleNamespace(report=lambda status: waiting)  # and nothing to deliver with
    bot.celery.tasks["chatbot.report"]("wamid.x", "sent", Status("wamid.x", "sent").to_dict())
    assert bot.router.woken == woken
