"""Outboxes whose wake-ups are lost, and sessions that are over, on a real RabbitMQ; and senders that are killed."""

from __future__ import annotations

import itertools
import time

import pytest

from chatbot.app import Chatbot
from chatbot.broker import topology
from chatbot.config import Settings
from chatbot.demo import embedded
from chatbot.errors import BrokerUnavailable
from chatbot.messages import Message
from chatbot.sessions import housekeeping
from chatbot.sessions.housekeeping import MOST_WAITING, WAKE_AGAIN_SECONDS, Sessions
from chatbot.store.outbox import OVERDUE_SECONDS
from chatbot.store.store import Store
from tests.proxy import TcpProxy
from tests.servers import wait_until
from tests.system import PHONE_NUMBER_ID, System

NOTHING = {"reopened": 0, "outboxes": 0}


class Clock:
    """A clock the test moves."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def bot(rabbitmq, redis_server):
    bot = Chatbot(
        Settings(
            _env_file=None, env="test", housekeeping_interval=3600,
            broker_url=rabbitmq.url.removesuffix("/") + rabbitmq.add_vhost(), redis_url=redis_server.url,
        )
    )  # fmt: skip
    bot.redis.flushdb()
    bot.warm_up = lambda: None
    yield bot
    bot.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(bot, clock):
    return Store(bot.redis, history_turns=5, retention=10**6, clock=clock)


def rescuer(bot, store, router=None, **options):
    """Return what beat calls; sessions are soon over."""
    return Sessions(bot.celery, store, router or bot.router, idle_timeout=5, **options)


class Gone:
    """A broker whose connection is lost while it is used."""

    def __init__(self) -> None:
        self.control = self

    def broadcast(self, *_, **__):
        raise BrokenPipeError


def test_a_connection_that_is_lost_during_a_pass_is_foreseen(rabbitmq, bot, store):
    """The next pass is a moment away: nothing is raised that nobody foresaw, and no traceback logged."""
    broker = bot.settings.broker_url
    with TcpProxy(rabbitmq.port) as proxy:
        celery = Chatbot(
            bot.settings.model_copy(update={"broker_url": broker.replace(f":{rabbitmq.port}/", f":{proxy.port}/")})
        ).celery
        commit(store, "ana")
        beat = Sessions(celery, store, bot.router, idle_timeout=5, clock=lambda: proxy.cut() or time.monotonic())
        with pytest.raises(BrokerUnavailable):
            beat.rescue()
    with pytest.raises(BrokerUnavailable):
        Sessions(Gone(), store, bot.router, idle_timeout=5).close_idle()


def commit(store, user):
    """Have a reply wait for a user whose sender is not woken."""
    begun = store.begin_turn(Message(user=user, id=f"q-{user}", text="?"), seconds=60)
    assert store.commit_turn(begun, f"re {user}")


def waiting(bot):
    with bot.celery.connection_for_read() as connection:
        return connection.default_channel.queue_declare(topology.SEND, passive=True).message_count


def test_an_hour_without_senders_leaves_one_wake_up_a_user_and_then_all_is_delivered(bot, store, clock):
    users = [f"u{n}" for n in range(200)]
    for user in users:
        commit(store, user)
        bot.router.wake_sender(user, 1)
    beat = rescuer(bot, store)
    for _ in range(360):
        clock.now += 10
        assert beat.rescue() == NOTHING
    assert waiting(bot) == len(users)
    assert set(store.due_outboxes(before=clock.now)) == set(users), "they stay overdue"
    with embedded.worker(bot, concurrency=8):
        wait_until(lambda: not bot.redis.keys("chatbot:*:outbox"), what="every reply delivered")
    assert store.due_outboxes(before=float("inf")) == []


def test_senders_that_are_there_and_take_nothing_get_no_more_than_they_may_take_soon(bot, store, clock):
    for n in range(MOST_WAITING + 100):
        commit(store, f"u{n}")
    beat = rescuer(bot, store)
    clock.now += OVERDUE_SECONDS
    bot.router.wake_sender("first", 0)  # there is the queue now
    with bot.celery.connection_for_read() as connection:
        connection.default_channel.basic_qos(0, 1, False)
        connection.default_channel.basic_consume(topology.SEND, callback=lambda _: None)
        wait_until(lambda: waiting(bot) == 0, what="the first one handed out")
        assert beat.rescue()["outboxes"] == MOST_WAITING
        for _ in range(100):
            clock.now += 40
            beat.rescue()
        assert waiting(bot) == MOST_WAITING


def test_a_lost_wake_up_is_made_up_for_once_and_again_only_later(bot, store, clock):
    beat = rescuer(bot, store)
    bot.router.wake_sender("ana", 0)
    with bot.celery.connection_for_read() as connection:
        connection.default_channel.basic_consume(topology.SEND, callback=lambda _: None)
        commit(store, "ana")
        woken = []
        for _ in range(8):
            woken.append(beat.rescue()["outboxes"])
            clock.now += 10
    assert OVERDUE_SECONDS == WAKE_AGAIN_SECONDS == 30
    assert woken == [0, 0, 0, 1, 0, 0, 1, 0]


def test_a_rescue_takes_nobody_from_another_broker(bot, store, clock):
    class Half:
        """The router of one broker out of two."""

        def __init__(self):
            self.woken = []

        def serves(self, user):
            return user.startswith("ours")

        def wake_sender(self, user, number):
            self.woken.append(user)

    users = [f"{whose}-{n:03}" for whose in ("theirs", "ours") for n in range(150)]
    for user in users:
        commit(store, user)
        clock.now += 0.001
    clock.now += OVERDUE_SECONDS
    bot.router.wake_sender("first", 0)
    router = Half()
    with bot.celery.connection_for_read() as connection:
        connection.default_channel.basic_consume(topology.SEND, callback=lambda _: None)
        rescuer(bot, store, router).rescue()
    assert router.woken == users[150:]
    assert store.due_outboxes(before=clock.now) == users[:150]


def test_a_pass_over_the_sessions_ends_in_time_and_the_next_one_goes_on(bot, store, clock, monkeypatch):
    """Each session that is over costs a closed channel: 10,000 of them took 44 s, every 10 s."""
    monkeypatch.setattr(housekeeping, "PAGE", 4)
    for n in range(30):
        commit(store, f"u{n:02}")
        clock.now += 1
    clock.now += 5
    ticks = itertools.count()
    beat = rescuer(bot, store, clock=lambda: next(ticks) * housekeeping.LOOK_SECONDS / 10)
    left = [30]
    while left[-1]:
        beat.rescue()
        left.append(len(store.sessions()))
    steps = [before - after for before, after in itertools.pairwise(left)]
    assert max(steps) <= 10
    assert min(steps) >= 1, "each goes on where the last one ended"
    commit(store, "again")
    clock.now += 10
    while store.sessions():
        beat.rescue()


def test_two_rescues_never_run_at_once(bot, store, clock):
    bot.router.request_subscriber("chat.nobody")  # there is the exchange
    commit(store, "ana")
    with bot.celery.connection_for_read() as connection:
        connection.default_channel.queue_declare("chat.ana")
        seen = []
        beat = rescuer(bot, store, sleep=lambda _: seen.append(rescuer(bot, store).rescue()))
        assert beat.rescue() == {"reopened": 1, "outboxes": 0}
        assert seen == [NOTHING]
        assert beat.rescue()["reopened"] == 1, "and the next one may"
        connection.default_channel.queue_delete("chat.ana")


def test_a_killed_sender_is_replaced_without_beat(tmp_path, rabbitmq, redis_server):
    """Its wake-up comes back at once, finds the claim of a process that seems to live, and looks again."""
    with System(tmp_path, rabbitmq, redis_server, None, settle_timeout=1) as system:
        settings = Settings(
            _env_file=None, env="test", broker_url=system.env["CHATBOT_BROKER_URL"],
            redis_url=system.env["CHATBOT_REDIS_URL"],
        )  # fmt: skip
        bot = Chatbot(settings)
        user = "5511955550000"
        system.start("sender.1")
        system.stand_in.fail(kind="drop_all", delay=60, to=user)
        for n in range(3):
            message = Message(
                user=user, id=f"wamid.{n}", text="?", channel="whatsapp", account=PHONE_NUMBER_ID, phone=user,
                sent_at=time.time(),
            )  # fmt: skip
            assert bot.store.commit_turn(bot.store.begin_turn(message), f"re {n}")
        bot.router.wake_sender(user, 1)
        wait_until(lambda: len(system.replies(user)) == 1, what="a call whose answer does not come")
        system.start("sender.2")
        system.processes["sender.1"].kill()
        assert system.wait_replies(user, 4) == ["re 0", "re 0", "re 1", "re 2"], "what nobody knew of is sent again"
        assert system.store_counts()["unknown_resent"] == 1
        bot.close()
