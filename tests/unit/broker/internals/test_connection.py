"""Connecting again to a broker that is away."""

from __future__ import annotations

import pytest
from kombu.exceptions import OperationalError

from chatbot.app import Chatbot
from chatbot.config import Settings, SettingsError, load
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


def connections(**settings):
    """Return a connection and one of a pool, as whoever publishes has them."""
    bot = Chatbot(Settings(_env_file=None, env="test", **settings))
    connection = bot.celery.connection_for_write()
    return connection, connection.Pool(1).new()


def test_each_connection_checks_the_name_of_its_own_host_and_writes_into_no_others_options():
    url, other = "amqps://one.example:5671//", "amqps://two.example:5671//"
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url=url))
    one, two = bot.celery.connection_for_write(), bot.celery.connection_for_write(other)
    assert (one.ssl["server_hostname"], two.ssl["server_hostname"]) == ("one.example", "two.example")
    assert two.Pool(1).new().ssl["server_hostname"] == "two.example"
    assert bot.celery.conf.broker_use_ssl["server_hostname"] is None


def test_localhost_is_checked_by_that_name():
    """Kombu connects to 127.0.0.1 instead, which no certificate need name."""
    for connection in connections(broker_url="amqps://localhost:5671//"):
        assert connection.ssl["server_hostname"] == "localhost"


def test_an_address_without_tls_has_none():
    for connection in connections(broker_url="amqp://localhost//"):
        assert connection.ssl is False


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"broker_tls_ca": __file__}, "CHATBOT_BROKER_URL=amqps://"),
        ({"redis_tls_ca": __file__}, "CHATBOT_REDIS_URL=rediss://"),
        ({"broker_url": "amqps://h//", "broker_tls_cert": __file__}, "CHATBOT_BROKER_TLS_KEY go together"),
        ({"redis_url": "rediss://h", "redis_tls_key": __file__}, "CHATBOT_REDIS_TLS_CERT"),
        ({"broker_url": "amqps://h//", "broker_tls_ca": "/nowhere"}, "CHATBOT_BROKER_TLS_CA: /nowhere is not a file"),
    ],
)
def test_tls_settings_that_cannot_work_are_named(settings, says):
    with pytest.raises(SettingsError, match=says):
        load(**settings)
