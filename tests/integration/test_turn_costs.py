"""What a message costs on the way: AMQP methods and Redis commands, counted on real servers.

A timing says little on a busy machine; a count is exact, so here every step stands with what
it sends and what it waits for. Whoever adds a round trip changes a line of this file.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import kombu
import pytest

from chatbot import embedded, subscriptions, topology
from chatbot.app import Chatbot
from chatbot.channels.whatsapp import WhatsApp
from chatbot.config import Settings
from chatbot.messages import Message, Status
from chatbot.router import bind_user_queue, declare_user_queue
from chatbot.webhook import create_app
from tests.proxy import TcpProxy
from tests.servers import held, wait_until
from tests.system import APP_SECRET, PHONE_NUMBER_ID, VERIFY_TOKEN, sign, webhook_body
from tests.wire import Amqp, Resp

LIVE, NEW, SERVED = "5511944440001", "5511944440002", "5511944440003"
STATUS = Status(message_id="wamid.out", status="delivered", callback=f"{LIVE}:1:0")
fresh = itertools.count(1)


class Phone(WhatsApp):
    """WhatsApp as it is, but for the calls."""

    def send(self, to, part, *, callback):
        return f"wamid.out{next(fresh)}"

    def mark_read(self, to, *, typing):
        pass


class Echo:
    """An agent that repeats."""

    def reply(self, message, history):
        return message.text


@pytest.fixture(scope="module")
def way(rabbitmq, redis_server):
    """A chatbot whose connections are watched, with one session live, and everything used once."""
    broker, redis, vhost = Amqp(), Resp(), rabbitmq.add_vhost()
    with ExitStack() as stack:
        broker_proxy = stack.enter_context(TcpProxy(rabbitmq.port, watch=broker.watch))
        redis_proxy = stack.enter_context(TcpProxy(redis_server.port, watch=redis.watch))
        settings = Settings(
            _env_file=None, env="test",
            broker_url=f"amqp://guest:guest@127.0.0.1:{broker_proxy.port}/{vhost}",
            redis_url=f"redis://127.0.0.1:{redis_proxy.port}/8",
            whatsapp_app_secret=APP_SECRET, whatsapp_verify_token=VERIFY_TOKEN,
            whatsapp_phone_number_id=PHONE_NUMBER_ID, whatsapp_pair_burst=10_000, whatsapp_rate=100_000,
        )  # fmt: skip
        bot = Chatbot(settings)
        stack.callback(bot.close)
        bot.agent = Echo()
        bot.channels = {"whatsapp": Phone.from_settings(settings)}
        bot.store._redis.flushdb()
        redis.scripts = {script.sha: name for name, script in bot.store._script.items()}
        direct = stack.enter_context(kombu.Connection(rabbitmq.url.removesuffix("/") + vhost))
        channel = direct.default_channel
        queue = topology.queue_name(LIVE)
        bot.router.ping()  # declares what is no user's
        declare_user_queue(channel, queue, bot.queue_arguments)
        bind_user_queue(channel, queue)
        channel.basic_qos(0, 1, False)
        channel.basic_consume(queue, callback=lambda _: None)
        web = create_app(bot).test_client()
        written = message()
        bot.router.route(written)
        bot.conversation.answer(written)
        bot.delivery.deliver(LIVE, holder="a")
        bot.delivery.report(STATUS)
        yield SimpleNamespace(bot=bot, broker=broker, redis=redis, direct=channel, post=lambda body: post(web, body))


def post(web, body):
    answer = web.post("/webhook/whatsapp", data=body, headers={"X-Hub-Signature-256": sign(body)})
    assert answer.status_code == 200


def message(user=LIVE, text="oi"):
    return Message(
        user=user, id=f"wamid.in{next(fresh)}", text=text, channel="whatsapp", account=PHONE_NUMBER_ID, phone=user,
        sent_at=time.time(),
    )  # fmt: skip


def cost(way, act):
    """Return what ``act`` sends to the broker and to Redis, and how often it waits for each."""
    way.broker.clear()
    way.redis.clear()
    act()
    return {
        "broker": ([*way.broker.asked], way.broker.round_trips),
        "redis": ([*way.redis.asked], way.redis.round_trips),
    }


NOTHING = ([], 0)


def test_the_webhook_of_a_message_is_two_round_trips_to_the_broker_on_a_live_session(way):
    body = webhook_body([(LIVE, f"wamid.w{next(fresh)}", "oi")])
    assert cost(way, lambda: way.post(body)) == {
        "broker": (["basic.publish", "queue.declare"], 2),
        "redis": NOTHING,
    }


def test_a_batch_of_one_user_costs_what_its_messages_cost(way):
    body = webhook_body([(LIVE, f"wamid.w{next(fresh)}", "oi") for _ in range(10)])
    assert cost(way, lambda: way.post(body)) == {
        "broker": (["basic.publish", "queue.declare"] * 10, 20),
        "redis": NOTHING,
    }


def test_a_batch_of_several_users_shares_its_round_trips(way, rabbitmq):
    users = [f"551194446{n:04}" for n in range(10)]
    for queue in map(topology.queue_name, users):
        declare_user_queue(way.direct, queue, way.bot.queue_arguments)
        bind_user_queue(way.direct, queue)
        way.direct.basic_consume(queue, callback=lambda _: None)
    body = webhook_body([(user, f"wamid.w{next(fresh)}", "oi") for _ in range(2) for user in users])
    wave = ["basic.publish"] * 10 + ["queue.declare"] * 10
    way.broker.clear()
    with ThreadPoolExecutor(1) as pool:
        with held([rabbitmq.process]):
            posted = pool.submit(way.post, body)
            wait_until(lambda: way.broker.asked == wave[:10], what="the first message of each, unconfirmed")
        posted.result()
    assert way.broker.asked == wave * 2


def test_the_first_message_of_a_session_opens_it(way):
    assert cost(way, lambda: way.bot.router.route(message(NEW))) == {
        # It comes back, and once more from where its queue would be if it were being closed. Declared and
        # bound without waiting, published anew and looked after. Only then a worker is asked for.
        "broker": (
            [*["basic.publish"] * 2, "queue.declare", "queue.bind", "basic.publish", "queue.declare", "basic.publish"],
            5,
        ),
        "redis": NOTHING,
    }


def test_a_turn_is_two_round_trips_to_redis_and_two_to_the_broker(way):
    assert cost(way, lambda: way.bot.conversation.answer(message())) == {
        "broker": (["basic.publish", "basic.publish"], 2),  # "read", and the sender's wake-up
        "redis": (["begin_turn", "commit_turn"], 2),
    }


def test_a_turn_that_was_taken_is_one_round_trip_to_each(way):
    taken = message()
    way.bot.conversation.answer(taken)
    assert cost(way, lambda: way.bot.conversation.answer(taken)) == {
        "broker": (["basic.publish"], 1),
        "redis": (["begin_turn"], 1),
    }


def test_a_reply_is_four_round_trips_to_redis(way):
    deliver(way)
    way.bot.conversation.answer(message())
    assert cost(way, lambda: deliver(way)) == {
        "broker": NOTHING,
        # The last one finds nothing more: what was committed meanwhile is delivered by this sender.
        "redis": (["claim_delivery", "pace", "settle_delivery", "claim_delivery"], 4),
    }


def test_of_replies_that_wait_each_costs_three(way):
    deliver(way)
    for _ in range(5):
        way.bot.conversation.answer(message())
    assert cost(way, lambda: deliver(way)) == {
        "broker": NOTHING,
        "redis": (["claim_delivery", "pace", "settle_delivery"] * 5 + ["claim_delivery"], 16),
    }


def deliver(way):
    return way.bot.delivery.deliver(LIVE, holder="a")


def test_a_read_mark_is_one_round_trip_to_redis(way):
    assert cost(way, lambda: way.bot.delivery.mark_read(message())) == {
        "broker": NOTHING,
        "redis": (["HMGET"], 1),
    }


def test_a_status_is_one_round_trip_to_each(way):
    assert cost(way, lambda: way.bot.router.report(STATUS)) == {"broker": (["basic.publish"], 1), "redis": NOTHING}
    assert cost(way, lambda: way.bot.delivery.report(STATUS)) == {"broker": NOTHING, "redis": (["report_part"], 1)}


def test_a_worker_is_handed_each_message_and_acknowledges_it_once(way, monkeypatch):
    """The whole way through Celery, without the read mark: it comes again while a turn is under way."""
    bot, number = way.bot, 5
    for queue in (topology.OPEN, topology.SEND):
        way.direct.queue_purge(queue)  # what the other tests asked for
    monkeypatch.setattr(bot.router, "mark_read", lambda _: None)
    monkeypatch.setattr(bot, "warm_up", lambda: None)
    bot.celery.conf.worker_send_task_events = False

    def acknowledged(times):
        wait_until(lambda: way.broker.asked.count("basic.ack") == times, what=f"{times} acknowledgements")

    with embedded.worker(bot, concurrency=4):
        way.broker.clear()
        bot.router.route(message(SERVED))
        acknowledged(2)
        way.broker.clear()
        for n in range(1, number + 1):
            bot.router.route(message(SERVED))
            acknowledged(2 * n)
        asked = Counter(method for method in way.broker.asked if method.startswith("basic."))
        delivered = way.broker.heard.count("basic.deliver")
    # All twice: for the message, and for its sender's wake-up.
    assert asked == {"basic.publish": 2 * number, "basic.ack": 2 * number}
    assert delivered == 2 * number


def test_requests_that_come_together_share_their_round_trips(way, monkeypatch):
    """As after a broker's restart, or when a worker dies and leaves its users to the others."""
    bot, number, slices = way.bot, subscriptions.SLICE + 10, [subscriptions.SLICE, 10]

    class Together(subscriptions.Subscriptions):
        def _subscribe_asked(self):
            if not self.sessions and len(self._asked) < number:
                self._loop.add(self._subscribe_asked)
                return
            if not self.sessions:
                way.broker.clear()
            super()._subscribe_asked()

    for queue in (topology.OPEN, topology.SEND):
        way.direct.queue_purge(queue)
    monkeypatch.setattr(bot, "warm_up", lambda: None)
    bot.celery.amqp.queues.select_add(topology.OPEN_QUEUE)  # the worker of another test has deselected it
    steps = bot.celery.steps["consumer"]
    monkeypatch.setitem(bot.celery.steps, "consumer", {*(steps - {subscriptions.Subscriptions}), Together})
    for n in range(number):
        bot.router.request_subscriber(topology.queue_name(f"551194445{n:04}"))
    with embedded.worker(bot, concurrency=1):
        wait_until(lambda: way.broker.heard.count("queue.bind-ok") == len(slices), what="everybody served")
        asked = [method for method in way.broker.asked if method in {"queue.declare", "basic.consume", "queue.bind"}]
        heard = list(way.broker.heard)  # to leave, as the worker does next, takes answers of its own
    each = [["queue.declare"] * of + ["basic.consume"] * of + ["queue.bind"] * of for of in slices]
    assert asked == list(itertools.chain(*each))
    assert heard.count("queue.declare-ok") == number
    assert heard.count("basic.consume-ok") == 0
    assert heard.count("queue.bind-ok") == len(slices)
