"""Connecting again to a broker that is away."""

from __future__ import annotations

import pytest
from kombu.exceptions import OperationalError

from chatbot.app import Chatbot
from chatbot.config import Settings
from tests.servers import free_port


def test_a_broker_that_is_away_for_long_is_still_asked_every_two_seconds(monkeypatch):
    pauses = []
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _: None)
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url=f"amqp://127.0.0.1:{free_port()}"))
    with bot.celery.connection_for_read() as connection, pytest.raises(OperationalError):
        # As Celery's worker and beat call it, whose own pauses grow up to 30 s.
        connection.ensure_connection(lambda _, pause: pauses.append(pause), 40)
    assert len(pauses) == 40
    assert all(1 <= pause <= 2 for pause in pauses)
