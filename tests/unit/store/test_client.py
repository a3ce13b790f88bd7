"""The version of the store: set once, looked at once, and another one is refused."""

from __future__ import annotations

import itertools

import pytest

from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.errors import StoreRefused, Transient
from chatbot.messages import Message
from chatbot.ops import redis_checks
from chatbot.store import keys
from chatbot.store.client import VERSION, connect
from chatbot.store.store import Store

fresh = itertools.count()
KEY = keys.VERSION.of()


@pytest.fixture(params=["fakeredis", "redis"])
def url(request):
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
        connect(url).flushall()
        return url
    return f"fakeredis://version-{next(fresh)}"


@pytest.fixture
def other(url):
    """A client that found the version to be its own, before the test puts another one."""
    client = connect(url)
    client.ping()
    client.flushall()
    yield client
    client.flushall()
    client.close()


def test_an_empty_redis_becomes_one_of_ours(url, other):
    connect(url).ping()
    assert other.get(KEY) == VERSION


def test_a_store_of_another_version_is_refused_and_left_as_it_is(url, other):
    other.set(KEY, "99")
    store = Store(connect(url), history_turns=3, retention=1000)
    for use in (
        lambda: store.begin_turn(Message("ana", "1", "oi")),
        lambda: store.answering(Message("ana", "1", "oi")),  # a pipeline
        lambda: store.move(Message("ana", "1", "", moved_to="5511999990002")),
        store.counts,
    ):
        with pytest.raises(StoreRefused, match="version 99.*version 1.*CHATBOT_REDIS_URL"):
            use()
    assert other.keys() == [KEY]
    assert other.get(KEY) == "99"


def test_who_was_refused_goes_on_once_a_person_acted(url, other):
    other.set(KEY, "99")
    client = connect(url)
    with pytest.raises(StoreRefused):
        client.ping()
    other.set(KEY, VERSION)
    assert client.ping()


def test_the_version_is_looked_at_once(redis_server):
    client = connect(redis_server.url)
    client.flushall()
    client.config_resetstat()
    for _ in range(5):
        client.ping()
        client.pipeline(transaction=False).ping().execute()
    stats = client.info("commandstats")
    assert not {"cmdstat_get", "cmdstat_set"} & stats.keys()
    assert stats["cmdstat_ping"]["calls"] == 10


def test_a_redis_that_is_away_is_no_store_of_another_version():
    with pytest.raises(Transient, match="cannot be used") as raised:
        Store(connect("redis://127.0.0.1:1/0", timeout=0.5), history_turns=3, retention=10).ping()
    assert not isinstance(raised.value, StoreRefused)


def test_the_doctor_says_what_to_do(redis_server):
    client = connect(redis_server.url)
    client.flushall()
    client.set(KEY, "99")
    finding = redis_checks.redis(
        Chatbot(Settings(_env_file=None, env="test", broker_url="memory://", redis_url=redis_server.url))
    )
    client.flushall()
    client.close()
    assert not finding.ok
    assert "start the release that wrote it" in finding.says
