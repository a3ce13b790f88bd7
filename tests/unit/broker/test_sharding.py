"""Users spread over several brokers: who is where, and what is wrong with the settings."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from chatbot import config
from chatbot.app import Chatbot
from chatbot.broker.sharding import ShardedRouter, choose, name_of
from chatbot.config import Settings
from chatbot.errors import BrokerUnavailable
from chatbot.messages import Notice, Status

BROKERS = ["a:5672/", "b:5672/", "c:5672/"]
USERS = [f"55119{n:08}" for n in range(3000)]


def test_a_user_stays_where_they_are_in_any_order_for_good():
    assert [choose(user, BROKERS) for user in USERS] == [choose(user, BROKERS[::-1]) for user in USERS]
    known = {"5511999990001": "c:5672/", "5521988880002": "b:5672/", "BR.123": "b:5672/"}
    assert {user: choose(user, BROKERS) for user in known} == known, "another answer moves everybody's users"


def test_every_broker_has_its_share_and_one_more_takes_only_its_own():
    before = {user: choose(user, BROKERS) for user in USERS}
    assert all(900 < count < 1100 for count in Counter(before.values()).values())
    after = {user: choose(user, [*BROKERS, "d:5672/"]) for user in USERS}
    moved = [user for user in USERS if before[user] != after[user]]
    assert all(after[user] == "d:5672/" for user in moved)
    assert 650 < len(moved) < 850


def test_a_broker_is_named_without_its_password():
    assert name_of("amqps://me:secret@rabbit.example/chat") == "rabbit.example:5672/chat"
    assert name_of("amqp://other@rabbit.example:5672/chat") == "rabbit.example:5672/chat"


@pytest.mark.parametrize(
    "shards",
    [
        "amqp://a//",
        "amqp://a//,amqp://a//",
        "amqp://b//,amqp://c//",
        "memory://,amqp://a//",
        "amqp://me:secret@,amqp://a//",
    ],
)
def test_wrong_shards_are_named_without_a_password(monkeypatch, tmp_path, shards):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHATBOT_BROKER_URL", "amqp://a//")
    monkeypatch.setenv("CHATBOT_BROKER_SHARDS", shards)
    with pytest.raises(config.SettingsError, match="CHATBOT_BROKER_SHARDS") as caught:
        config.load()
    assert "secret" not in str(caught.value)


class Recording:
    """A router that keeps which of its methods were called."""

    def __init__(self):
        self.called = []

    def __getattr__(self, name):
        return lambda *arguments, **_: self.called.append((name, *arguments))


def test_a_status_goes_where_its_reply_came_from():
    routers = {name: Recording() for name in BROKERS}
    router = ShardedRouter(routers, own="a:5672/")
    for user in USERS[:50]:
        status = Status("wamid.1", "sent", callback=f"{user}:3:0")
        router.report(status)
        router.wake_sender(user, 3)
        reported, woken = routers[choose(user, BROKERS)].called[-2:]
        assert (reported, woken) == (("report", status), ("wake_sender", user, 3))
        assert router.serves(user) == (choose(user, BROKERS) == "a:5672/")


def test_notices_go_by_the_own_broker():
    routers = {name: Recording() for name in BROKERS}
    notices = [Notice("calls", user=user) for user in USERS[:5]]
    ShardedRouter(routers, own="b:5672/").note_all(notices)
    assert {name: router.called for name, router in routers.items() if router.called} == {
        "b:5672/": [("note_all", notices)]
    }


def test_statuses_of_one_post_go_together_to_each_broker_that_is_there():
    class Away(Recording):
        def report_all(self, statuses, **_):
            raise BrokerUnavailable("away")

    routers = {name: Away() if name == "b:5672/" else Recording() for name in BROKERS}
    statuses = [Status(f"wamid.{user}", "sent", callback=f"{user}:3:0") for user in USERS[:50]]
    with pytest.raises(BrokerUnavailable):
        ShardedRouter(routers, own="a:5672/").report_all(statuses)
    for name in ("a:5672/", "c:5672/"):
        theirs = [status for status, user in zip(statuses, USERS, strict=False) if choose(user, BROKERS) == name]
        assert routers[name].called == [("report_all", theirs)]


def test_a_broker_that_is_away_shortens_no_others_time():
    untils = dict(zip(BROKERS, (1.0, 3.5, 3.4), strict=True))
    routers = {name: SimpleNamespace(deadline=lambda until=until: until) for name, until in untils.items()}
    assert ShardedRouter(routers, own="a:5672/").deadline() == 3.5


def test_one_broker_is_no_shard():
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url="memory://"))
    assert not isinstance(bot.router, ShardedRouter)
    assert bot.router.serves("anybody")
    bot.close()
