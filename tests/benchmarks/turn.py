"""What a message costs on the way: AMQP methods and Redis commands, counted on real servers.

A timing says little on a busy machine; a count is exact. ``watched`` gives a chatbot whose every
byte to broker and Redis passes by; ``cost`` says what one step sends and how often it waits.
``tests/integration/test_turn_costs.py`` asserts each step, method by method.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import kombu

from chatbot.app import Chatbot
from chatbot.broker import topology
from chatbot.broker.router import bind_user_queue, declare_user_queue
from chatbot.channels.cloud.channel import WhatsApp
from chatbot.config import Settings
from chatbot.messages import Message, Status
from chatbot.web.webhook import create_app
from tests.benchmarks.bench import Bench, Figures, table
from tests.proxy import TcpProxy
from tests.servers import RabbitMQ, Redis
from tests.system import APP_SECRET, PHONE_NUMBER_ID, VERIFY_TOKEN, sign, webhook_body
from tests.wire import Amqp, Resp

GOAL_REDIS, GOAL_BROKER = 3, 2
LIVE, NEW = "5511944440001", "5511944440002"
STATUS = Status(message_id="wamid.out", status="delivered", callback=f"{LIVE}:1:0")
fresh = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Cost:
    """What was sent, in order, and how often somebody waited for an answer."""

    broker: tuple[list[str], int] = ([], 0)
    redis: tuple[list[str], int] = ([], 0)


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


@dataclass(frozen=True, slots=True)
class Way:
    """A chatbot, what its connections carry, and a channel to the same broker that nobody counts."""

    bot: Chatbot
    broker: Amqp
    redis: Resp
    uncounted: Any
    web: Any

    def cost(self, act: Callable[[], object]) -> Cost:
        """Return what ``act`` sends to the broker and to Redis, and how often it waits for each."""
        self.broker.clear()
        self.redis.clear()
        act()
        return Cost(
            broker=([*self.broker.asked], self.broker.round_trips), redis=([*self.redis.asked], self.redis.round_trips)
        )

    def post(self, *messages: tuple[str, str, str]) -> None:
        """Post a webhook with ``(user, message id, text)``."""
        self.post_body(webhook_body(messages))

    def post_body(self, body: bytes) -> None:
        """Post any body, signed."""
        answer = self.web.post("/webhook/whatsapp", data=body, headers={"X-Hub-Signature-256": sign(body)})
        assert answer.status_code == 200

    def deliver(self) -> int:
        """Empty the outbox of the live session."""
        return self.bot.delivery.deliver(LIVE)

    def serve(self, user: str) -> None:
        """Have somebody consume a user's queue who takes one message and keeps it."""
        queue = topology.queue_name(user)
        declare_user_queue(self.uncounted, queue, self.bot.queue_arguments)
        bind_user_queue(self.uncounted, queue)
        self.uncounted.basic_consume(queue, callback=lambda _: None)


def message(user: str = LIVE) -> Message:
    """Return a new message."""
    return Message(
        user=user, id=f"wamid.in{next(fresh)}", text="oi", channel="whatsapp", account=PHONE_NUMBER_ID, phone=user,
        sent_at=time.time(),
    )  # fmt: skip


def written(user: str = LIVE) -> tuple[str, str, str]:
    """Return a new message as ``Way.post`` takes it."""
    return user, f"wamid.w{next(fresh)}", "oi"


@contextmanager
def watched(rabbitmq: RabbitMQ, redis_server: Redis) -> Iterator[Way]:
    """Give a chatbot whose connections are watched, with one session live, and everything used once."""
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
        way = Way(bot, broker, redis, direct.default_channel, create_app(bot).test_client())
        bot.router.ping()  # declares what is no user's
        way.uncounted.basic_qos(0, 1, False)
        way.serve(LIVE)
        first = message()
        bot.router.route(first)
        bot.conversation.answer(first)
        way.deliver()
        bot.delivery.report(STATUS)
        yield way


def run(bench: Bench) -> Figures:
    """Return what each step of a message on a live session costs, and what the first message does."""
    with watched(bench.rabbitmq, bench.redis) as way:
        bot = way.bot
        steps = {
            "webhook and router": way.cost(lambda: way.post(written())),
            "the same, first of a session": way.cost(lambda: way.post(written(NEW))),
            "turn": way.cost(lambda: bot.conversation.answer(message())),
            "read mark": way.cost(lambda: bot.delivery.mark_read(message(), asked_at=time.time())),
            "send": way.cost(way.deliver),
            "status: webhook": way.cost(lambda: bot.router.report(STATUS)),
            "status: sender": way.cost(lambda: bot.delivery.report(STATUS)),
        }
    table(
        ("", "AMQP methods", "waits", "Redis commands", "waits"),
        [
            (step, _counted(of.broker[0]), of.broker[1], _counted(of.redis[0]), of.redis[1])
            for step, of in steps.items()
        ],
    )
    turn, publish = steps["turn"].redis[1], steps["webhook and router"].broker[1]
    table(
        ("", "is", "goal"),
        [
            ("waits for Redis, a turn", turn, f"<= {GOAL_REDIS}"),
            ("waits for the broker, a publish on a live session", publish, f"<= {GOAL_BROKER}"),
        ],
    )
    return {
        "redis_round_trips": turn,
        "redis_goal": GOAL_REDIS,
        "broker_round_trips": publish,
        "broker_goal": GOAL_BROKER,
        "round_trips": {step: {"broker": of.broker[1], "redis": of.redis[1]} for step, of in steps.items()},
    }


def _counted(names: list[str]) -> str:
    return ", ".join(f"{many} {name}" if many > 1 else name for name, many in Counter(names).items()) or "-"
