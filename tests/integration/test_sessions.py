"""Sessions on a real broker: opened on demand, closed when idle, handed over, never deaf."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from types import SimpleNamespace

import pytest
from amqp.exceptions import MessageNacked, PreconditionFailed

from chatbot.app import Chatbot
from chatbot.broker import router as chatbot_router
from chatbot.broker import topology
from chatbot.broker.group_commit import GroupCommit
from chatbot.broker.router import Router, declare_user_queue
from chatbot.config import Settings
from chatbot.demo import embedded
from chatbot.errors import BrokerUnavailable, CircuitOpen, QueueFull
from chatbot.messages import Message
from chatbot.resilience.breaker import Breaker
from chatbot.sessions import bootstep
from chatbot.sessions.bootstep import Subscriptions
from chatbot.sessions.housekeeping import Sessions
from tests.servers import wait_until
from tests.system import System

pytestmark = pytest.mark.usefixtures("no_queue_left")
fresh = itertools.count(1)


@pytest.fixture
def no_queue_left(rabbitmq):
    """A leaked queue of a user fails the test that leaked it."""
    yield
    queues = rabbitmq.queues()
    left = [q for q in queues if q.startswith("chat.") and q not in {"chat.open", "chat.dead"}]
    for queue in queues.keys() & {*left, "chat.open"}:
        rabbitmq.ctl("delete_queue", queue)
    assert left == []


class Echo:
    """An agent that repeats, and may be held."""

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.seen: list[str] = []

    def reply(self, message, history):
        self.seen.append(message.text)
        assert self.go.wait(30)
        return f"{len(history) + 1}: {message.text}"


def chatbot(rabbitmq, redis_server, **settings) -> Chatbot:
    values = {
        "broker_url": rabbitmq.url,
        "redis_url": redis_server.url,
        "env": "test",
        "idle_timeout": 1800,
        "housekeeping_interval": 3600,
        **settings,
    }
    bot = Chatbot(Settings(_env_file=None, **values))
    bot.agent = Echo()
    bot.warm_up = lambda: None
    return bot


@pytest.fixture
def bot(rabbitmq, redis_server):
    bot = chatbot(rabbitmq, redis_server)
    bot.store._redis.flushdb()
    yield bot
    bot.close()


@contextmanager
def serving(bot, step: type[Subscriptions] = Subscriptions):
    """A worker in this process; its sessions are closed before it stops."""
    bot.celery.steps["consumer"].clear()
    bot.celery.steps["consumer"].add(step)
    with embedded.worker(bot, concurrency=8):
        yield
        bot.agent.go.set()
        close_all(bot)


def close_idle(bot, seconds):
    bot.celery.control.broadcast("close_idle_sessions", arguments={"idle_timeout": seconds})


def close_all(bot):
    """Close every session; one whose turn is just ending is not idle yet, so ask again."""

    def closed():
        close_idle(bot, 0)
        return not bot.sessions.live()

    wait_until(closed, what="all sessions closed")


def say(bot, text, user="ana"):
    bot.router.route(Message(user=user, id=f"{next(fresh)}-{text}", text=text))


def replies(bot, user="ana"):
    return [turn.reply for turn in bot.store.history(user)]


def test_a_session_opens_closes_and_remembers(rabbitmq, bot):
    with serving(bot):
        say(bot, "oi")
        wait_until(lambda: replies(bot) == ["1: oi"])
        assert rabbitmq.queues()["chat.ana"] == (0, 1)
        close_idle(bot, 3600)
        assert "ana" in bot.sessions.live(), "it is not idle for that long"
        close_all(bot)
        assert "chat.ana" not in rabbitmq.queues()
        say(bot, "voltei")
        wait_until(lambda: replies(bot) == ["1: oi", "2: voltei"], what="the user is remembered")


def test_a_session_with_a_turn_under_way_is_not_closed(rabbitmq, bot):
    with serving(bot):
        bot.agent.go.clear()
        say(bot, "oi")
        wait_until(lambda: bot.agent.seen)
        close_idle(bot, 0)
        assert bot.sessions.live()["ana"]["busy"]
        assert rabbitmq.queues()["chat.ana"] == (1, 1)
        bot.agent.go.set()
        wait_until(lambda: replies(bot) == ["1: oi"])


def test_a_message_that_finds_its_session_just_closed_is_answered(rabbitmq, bot):
    """The queue is deleted after the router opened it and before the message reaches it."""

    class Slow(Router):
        raced = 0

        def _open(self, publisher, queue, as_it_is):
            super()._open(publisher, queue, as_it_is)
            if not self.raced:
                self.raced = 1
                bot.router.request_subscriber(queue)
                wait_until(bot.sessions.live, what="subscribed")
                close_all(bot)

    with serving(bot):
        say(bot, "oi")
        wait_until(lambda: replies(bot) == ["1: oi"])
        close_all(bot)
        router = Slow(bot.celery, timeout=20, queue_arguments=bot.queue_arguments)
        router.route(Message(user="ana", id="raced", text="bem na hora"))
        router.close()
        wait_until(lambda: replies(bot) == ["1: oi", "2: bem na hora"])
        assert router.raced


def slip_in(bot, text):
    """Publish a message as a router does that has just seen a consumer."""
    with bot.celery.connection_for_write() as connection:
        bot.celery.send_task(
            "chatbot.answer", ("ana", text), {"id": text}, producer=bot.celery.amqp.Producer(connection),
            exchange="chat", routing_key="chat.ana",
        )  # fmt: skip


def test_a_message_between_cancel_and_delete_is_answered(rabbitmq, bot):
    """A message slips into the queue after its consumer was cancelled."""
    raced = []

    class Racing(Subscriptions):
        def _unbind(self, session, ours):
            if not raced:
                raced.append(session.queue)
                slip_in(bot, "bem na hora")
            super()._unbind(session, ours)

    with serving(bot, Racing):
        say(bot, "oi")
        wait_until(lambda: replies(bot) == ["1: oi"])
        close_all(bot)
        wait_until(lambda: replies(bot) == ["1: oi", "2: bem na hora"])
    assert raced == ["chat.ana"]


def test_a_message_that_meets_the_cancelling_of_its_consumer_stays_in_its_queue(rabbitmq, bot):
    """Delivered at that moment, it could be overtaken by the next one, which goes to another worker."""
    held_here = []

    class Racing(Subscriptions):
        def _on_leave(self, session, ours):
            if not held_here:
                slip_in(bot, "bem na hora")
                wait_until(lambda: rabbitmq.queues()["chat.ana"] == (2, 1), what="the message behind ours")
            super()._on_leave(session, ours)
            held_here.append(session.is_busy())

    with serving(bot, Racing):
        say(bot, "oi")
        wait_until(lambda: replies(bot) == ["1: oi"])
        close_all(bot)
        wait_until(lambda: replies(bot) == ["1: oi", "2: bem na hora"])
    assert held_here[0] is False


def test_a_worker_that_stops_cancels_no_consumer_that_may_be_handed_a_message(rabbitmq, redis_server, bot):
    """The same on a warm shutdown: the message stays, for whoever comes next."""
    held_here = []

    class Racing(Subscriptions):
        def _on_leave(self, session, ours):
            slip_in(bot, "bem na hora")
            wait_until(lambda: rabbitmq.queues()["chat.ana"] == (2, 1), what="the message behind ours")
            super()._on_leave(session, ours)
            held_here.append(session.is_busy())

    bot.celery.steps["consumer"].clear()
    bot.celery.steps["consumer"].add(Racing)
    with embedded.worker(bot, concurrency=8):
        say(bot, "oi")
        wait_until(lambda: replies(bot) == ["1: oi"])
        wait_until(lambda: not bot.sessions.live()["ana"]["busy"], what="idle")
    assert held_here == [False]
    assert replies(bot) == ["1: oi"]
    another = chatbot(rabbitmq, redis_server)
    with serving(another):
        wait_until(lambda: replies(bot) == ["1: oi", "2: bem na hora"], what="the next worker answers it")
    another.close()


@contextmanager
def another_worker(bot):
    """Consume a user's queue as a second worker would; gives what arrives, and what takes events from the broker."""
    arrived = []
    with bot.celery.connection_for_read() as connection:
        amqp_channel = connection.channel()
        amqp_channel.basic_qos(0, 1, False)

        def consume(queue):
            amqp_channel.basic_consume(
                queue, callback=lambda raw: arrived.append(amqp_channel.message_to_python(raw))
            )  # fmt: skip

        def heard(what):
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.05)
            return what()

        yield SimpleNamespace(arrived=arrived, consume=consume, heard=heard, amqp_channel=amqp_channel)


@contextmanager
def stopping(bot, step=Subscriptions):
    """A worker that is told to stop as the block ends, in a thread of its own; ``bot.agent.go`` lets it."""
    bot.celery.steps["consumer"].clear()
    bot.celery.steps["consumer"].add(step)
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        stack.enter_context(embedded.worker(bot, concurrency=8))
        yield lambda: pool.submit(stack.close)


def test_who_consumes_beside_a_worker_that_stops_is_handed_the_next_message(rabbitmq, bot):
    """RabbitMQ 3.10 delivers nothing to a consumer that it promotes, and the next message ends the queue's process."""
    over = threading.Event()

    class Lingering(Subscriptions):
        def _finish_turns(self, hub):
            super()._finish_turns(hub)
            over.wait(30)  # its connection stays: the end of that would have the queue deliver

    with stopping(bot, Lingering) as stop, another_worker(bot) as other:
        bot.agent.go.clear()
        say(bot, "em curso")
        wait_until(lambda: bot.agent.seen)
        other.consume("chat.ana")
        say(bot, "depois")
        stopped = stop()
        bot.agent.go.set()
        wait_until(lambda: other.heard(lambda: other.arrived), what="the message that waited")
        say(bot, "por fim")
        other.arrived[0].ack()
        wait_until(lambda: other.heard(lambda: len(other.arrived) == 2), what="the next message")
        over.set()
        stopped.result(30)
        other.arrived[1].ack()
        assert [message.payload[0][1] for message in other.arrived] == ["depois", "por fim"]
        assert replies(bot) == ["1: em curso"]
        other.amqp_channel.queue_delete("chat.ana")


def test_what_a_worker_gives_back_as_it_stops_is_not_overtaken(rabbitmq, bot):
    """Who consumes beside it must not be handed the next message first."""

    class Down(Echo):
        def reply(self, message, history):
            super().reply(message, history)
            raise CircuitOpen("down")

    bot.agent = Down()
    with stopping(bot) as stop, another_worker(bot) as other:
        say(bot, "a primeira")
        wait_until(lambda: bot.agent.seen)
        other.consume("chat.ana")
        say(bot, "a segunda")
        stopped = stop()
        wait_until(lambda: other.heard(lambda: other.arrived), what="what was given back")
        other.arrived[0].ack()
        wait_until(lambda: other.heard(lambda: len(other.arrived) == 2), what="the next message")
        other.arrived[1].ack()
        stopped.result(30)
        assert [message.payload[0][1] for message in other.arrived] == ["a primeira", "a segunda"]
        other.amqp_channel.queue_delete("chat.ana")


def test_a_worker_that_stops_hands_a_user_on_once_it_no_longer_consumes(rabbitmq, bot):
    """Two that consume at a time are what RabbitMQ 3.10 does not bear."""
    consumers = []
    with stopping(bot) as stop, another_worker(bot) as other:
        bot.agent.go.clear()
        say(bot, "em curso")
        wait_until(lambda: bot.agent.seen)
        other.consume(topology.OPEN)

        def asked():
            other.heard(lambda: None)
            if other.arrived:
                consumers.append(other.amqp_channel.queue_declare("chat.ana", passive=True).consumer_count)
            return bool(other.arrived)

        stopped = stop()
        wait_until(
            lambda: "open" not in rabbitmq.ctl("list_consumers", "consumer_tag"), what="it takes nobody any more"
        )
        assert not asked()
        bot.agent.go.set()
        wait_until(asked, what="the user is handed on")
        stopped.result(30)
        assert consumers == [0]
        other.arrived[0].ack()
        other.amqp_channel.queue_delete("chat.ana")


def test_a_session_that_closes_is_unbound_before_its_queue_is_deleted(rabbitmq, bot, monkeypatch):
    """RabbitMQ confirms, and loses, what reaches a queue that is being deleted."""
    monkeypatch.setattr(topology, "UNBOUND_SECONDS", 12.0)  # time to look at the broker, twice
    with serving(bot):
        say(bot, "oi")
        wait_until(lambda: replies(bot) == ["1: oi"] and not bot.sessions.live()["ana"]["busy"], what="idle")
        close_idle(bot, 0)
        wait_until(lambda: "chat\texchange\tchat.ana" not in rabbitmq.ctl("list_bindings"), what="unbound")
        assert rabbitmq.queues()["chat.ana"] == (1, 0), "not consumed; our own message is still here"
        say(bot, "de novo")
        wait_until(lambda: replies(bot) == ["1: oi", "2: de novo"], what="the session opened anew")
        monkeypatch.setattr(topology, "UNBOUND_SECONDS", 0.1)


def test_messages_that_meet_the_closing_of_their_session_are_all_answered(rabbitmq, bot):
    """Sessions are closed as fast as they open, while 20 people write."""
    over = threading.Event()

    def close_for_ever():
        while not over.is_set():
            close_idle(bot, 0)
            over.wait(0.02)

    with serving(bot):
        closing = threading.Thread(target=close_for_ever)
        closing.start()
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda n: [say(bot, f"m{k}", user=f"u{n}") for k in range(40)], range(20)))
        for n in range(20):
            wait_until(lambda n=n: bot.store.history(f"u{n}")[-1].number == 40, what=f"every answer to u{n}")
            answered = [(turn.number, turn.message.text) for turn in bot.store.history(f"u{n}")]
            assert answered == [(k + 1, f"m{k}") for k in range(20, 40)]
        over.set()
        closing.join()


def test_a_refusal_for_a_queue_that_was_just_deleted_is_not_taken_for_a_full_one(rabbitmq, bot):
    class Refused(Router):
        refusals = 2

        def _publish_together(self, *_):
            pass  # refused: left without a result

        def _publish(self, publisher, *arguments, **options):
            if self.refusals:
                self.refusals -= 1
                raise MessageNacked
            return super()._publish(publisher, *arguments, **options)

    with serving(bot):
        router = Refused(bot.celery, timeout=20, queue_arguments=bot.queue_arguments)
        router.route(Message(user="ana", id="nacked", text="oi"))
        router.close()
        assert router.refusals == 0
        wait_until(lambda: replies(bot) == ["1: oi"])


@pytest.mark.parametrize("before", [[], ["antes"]], ids=["opened anew", "open"])
def test_a_message_whose_queue_goes_after_the_confirm_is_published_again(rabbitmq, bot, before):
    """RabbitMQ confirms, and loses, what reaches a queue that is being deleted or is shut down."""

    class Raced(Router):
        deleted = False

        def _look(self, publisher, queues, deadline):
            if queues and not self.deleted:
                self.deleted = True
                rabbitmq.ctl("delete_queue", "chat.ana")
            return super()._look(publisher, queues, deadline)

    for text in before:
        say(bot, text)
    router = Raced(bot.celery, timeout=20, queue_arguments=bot.queue_arguments)
    router.route(Message(user="ana", id="raced", text="oi"))
    router.close()
    assert router.deleted
    with serving(bot):
        wait_until(lambda: replies(bot) == ["1: oi"])


def test_a_message_lost_with_a_closing_queue_is_not_hidden_by_the_next_queue(rabbitmq, bot):
    """Its queue is deleted under it, and another publisher of that user declares the queue anew before the look."""

    class Raced(Router):
        met = False

        def _publish(self, publisher, *arguments, **options):
            result = super()._publish(publisher, *arguments, **options)
            if not self.met and not publisher.returned:
                self.met = True
                rabbitmq.ctl("delete_queue", "chat.ana")
                say(bot, "ao lado")
            return result

    with bot.celery.connection_for_write() as connection:  # unbound, not yet deleted: a session that closes
        declare_user_queue(connection.default_channel, "chat.ana", bot.queue_arguments)
    router = Raced(bot.celery, timeout=20, queue_arguments=bot.queue_arguments)
    router.route(Message(user="ana", id="raced", text="bem na hora"))
    router.close()
    with serving(bot):
        wait_until(lambda: replies(bot) == ["1: ao lado", "2: bem na hora"])


def test_a_message_finds_the_queue_of_a_session_that_closes_and_keeps_it(rabbitmq, bot):
    with bot.celery.connection_for_write() as connection:
        declare_user_queue(connection.default_channel, "chat.ana", bot.queue_arguments)
        say(bot, "oi")
        with pytest.raises(PreconditionFailed, match="not empty"):
            connection.default_channel.queue_delete("chat.ana", if_unused=True, if_empty=True)
    with serving(bot):
        wait_until(lambda: replies(bot) == ["1: oi"])
        say(bot, "de novo")
        wait_until(lambda: replies(bot) == ["1: oi", "2: de novo"])


def test_a_queue_is_bound_only_once_it_is_consumed(rabbitmq, bot):
    """Another worker may be about to delete it, and what is routed to it then would be lost."""
    bound = []

    class Watched(Subscriptions):
        def _consume(self, session):
            super()._consume(session)
            bound.append("chat\texchange\tchat.ana" in rabbitmq.ctl("list_bindings"))

    with serving(bot, Watched):
        bot.router.request_subscriber("chat.ana")
        wait_until(lambda: "chat\texchange\tchat.ana" in rabbitmq.ctl("list_bindings"), what="bound")
    assert bound == [False]


def test_a_worker_at_its_cap_makes_room_for_new_users(rabbitmq, redis_server):
    """The least recently active idle session goes first; a busy one never does."""
    bot = chatbot(rabbitmq, redis_server, max_sessions=3)
    bot.store._redis.flushdb()
    with serving(bot):
        for user in ("a", "b", "c"):
            say(bot, "oi", user=user)
            wait_until(lambda user=user: replies(bot, user) == ["1: oi"])
        bot.agent.go.clear()
        say(bot, "de novo", user="a")  # the oldest is busy now
        wait_until(lambda: len(bot.agent.seen) == 4)
        say(bot, "oi", user="d")
        wait_until(lambda: len(bot.agent.seen) == 5, what="room for one more")
        assert set(bot.sessions.live()) == {"a", "c", "d"}
        assert "chat.b" not in rabbitmq.queues()
        bot.agent.go.set()
        wait_until(lambda: replies(bot, "d") == ["1: oi"] and len(replies(bot, "a")) == 2)
    bot.close()


def test_a_worker_at_its_cap_leaves_new_users_to_others(tmp_path, rabbitmq, redis_server):
    with System(tmp_path, rabbitmq, redis_server, None, llm_model="offline", max_sessions=5) as system:
        system.start("worker.1", "worker.2")
        bot = Chatbot(Settings(_env_file=None, broker_url=system.env["CHATBOT_BROKER_URL"], redis_url=redis_server.url))
        for n in range(10):
            bot.router.request_subscriber(f"chat.u{n}")
        wait_until(lambda: len(system.user_queues()) == 10, what="every session open")
        served = Counter(state["worker"] for state in bot.sessions.live().values())
        assert sorted(served.values()) == [5, 5]
        close_idle(bot, 0)
        wait_until(lambda: not system.user_queues(), what="idle queues gone")
        bot.close()


def test_a_message_given_back_pauses_without_a_thread_and_longer_each_time(rabbitmq, bot, monkeypatch):
    """Eight threads, twenty users whose turns cannot be taken: a further user is answered all the same."""
    monkeypatch.setattr(bootstep, "PUT_BACK_SECONDS", (0.2, 10.0))
    seen = defaultdict(list)

    class Down(Echo):
        def reply(self, message, history):
            seen[message.user].append(time.monotonic())
            if message.user != "ana":
                raise CircuitOpen("down")
            return super().reply(message, history)

    bot.agent = Down()
    bot.conversation._breaker = Breaker(failures=10_000, rest=1)
    with serving(bot):
        for n in range(20):
            say(bot, "oi", user=f"u{n}")
        wait_until(lambda: all(len(seen[f"u{n}"]) >= 4 for n in range(20)), what="each tried again")
        say(bot, "oi")
        wait_until(lambda: replies(bot) == ["1: oi"])
        for times in list(seen.values()):
            pauses = [after - before for before, after in pairwise(times[:4])]
            assert all(pause >= 0.5 * 0.2 * bootstep.PUT_BACK_GROWTH**n for n, pause in enumerate(pauses))
        bot.agent = Echo()
        for n in range(20):
            wait_until(lambda n=n: replies(bot, f"u{n}") == ["1: oi"], what="answered once the model is back")


def test_two_requests_make_one_subscription(rabbitmq, bot):
    with serving(bot):
        for _ in range(3):
            bot.router.request_subscriber("chat.ana")
        say(bot, "oi")
        wait_until(lambda: replies(bot) == ["1: oi"])
        assert rabbitmq.queues()["chat.ana"] == (0, 1)


def test_an_unreadable_request_costs_nobody_anything(rabbitmq, bot):
    with serving(bot):
        with bot.celery.connection_for_write() as connection:
            bot.celery.amqp.Producer(connection).publish("?", exchange="chat", routing_key="chat.open")
            bot.celery.amqp.Producer(connection).publish({"queue": 7}, exchange="chat", routing_key="chat.open")
        say(bot, "oi")
        wait_until(lambda: replies(bot) == ["1: oi"])


def test_a_settings_change_uses_the_live_queue_as_it_is(rabbitmq, redis_server, bot):
    with bot.celery.connection_for_write() as connection:
        topology.CHAT.bind(connection.default_channel).declare()
        connection.default_channel.queue_declare(
            "chat.ana", durable=True, auto_delete=False, arguments={"x-max-length": 7}
        )
    with serving(bot):
        say(bot, "oi")
        say(bot, "de novo")
        wait_until(lambda: replies(bot) == ["1: oi", "2: de novo"])


def test_one_queue_with_other_settings_stops_none_of_those_asked_for_with_it(rabbitmq, bot):
    """A worker declares many in one round trip, and the first that differs ends that."""
    users = [f"u{n}" for n in range(7)]
    with bot.celery.connection_for_write() as connection:
        topology.CHAT.bind(connection.default_channel).declare()
        connection.default_channel.queue_declare("chat.u3", durable=True, auto_delete=False, arguments={})
    for user in users:
        say(bot, "oi", user=user)
    with serving(bot):
        wait_until(lambda: all(replies(bot, user) == ["1: oi"] for user in users), what="everybody answered")
        assert sorted(bot.sessions.live()) == users


def test_what_expires_goes_to_the_dead_letters(rabbitmq, redis_server):
    bot = chatbot(rabbitmq, redis_server, reply_window=0.5)
    bot.store._redis.flushdb()
    before = rabbitmq.queues().get("chat.dead", (0, 0))[0]
    with serving(bot):
        bot.agent.go.clear()
        say(bot, "respondida")
        wait_until(lambda: bot.agent.seen)
        say(bot, "velha")
        wait_until(lambda: rabbitmq.queues()["chat.dead"][0] == before + 1, what="the old message is set aside")
        bot.agent.go.set()
        wait_until(lambda: replies(bot) == ["1: respondida"])
    bot.close()


def test_rescue_reopens_what_nobody_consumes(rabbitmq, bot):
    """A request can only be lost by hand; rescue finds the queue all the same."""
    say(bot, "oi")
    bot.store.begin_turn(Message(user="ana", id="x", text="x"), seconds=0)  # the session is known
    wait_until(lambda: rabbitmq.queues()["chat.open"][0] == 1)
    rabbitmq.ctl("purge_queue", "chat.open")
    with serving(bot):
        assert bot.sessions.rescue() == {"reopened": 1, "outboxes": 0}
        wait_until(lambda: replies(bot) == ["1: oi"])


def test_messages_that_come_together_are_answered_in_each_users_order(bot):
    users = ["ana", "bia", "caio", "davi"]
    together = [Message(user=user, id=f"{user}{n}", text=f"{n}") for n in range(5) for user in users]
    with serving(bot):
        for user in users[:2]:  # the sessions of the others are opened by what comes
            say(bot, "antes", user)
        assert bot.router.route_all(together) == []
        for user in users:
            numbers = [f"{n}" for n in range(5)]
            said = ["antes", *numbers] if user in users[:2] else numbers
            wanted = [f"{n + 1}: {text}" for n, text in enumerate(said)]
            wait_until(lambda user=user, wanted=wanted: replies(bot, user) == wanted, what=f"every answer to {user}")


def test_of_messages_that_come_together_only_what_has_no_room_is_refused(rabbitmq, redis_server):
    bot = chatbot(rabbitmq, redis_server, max_waiting=2)
    bot.store._redis.flushdb()
    with serving(bot):
        bot.agent.go.clear()
        say(bot, "em curso")
        say(bot, "oi", user="bia")
        wait_until(lambda: len(bot.agent.seen) == 2)
        said = [("ana", "1"), ("bia", "1"), ("", "1"), ("ana", "2"), ("ana", "3"), ("bia", "2")]
        refused = bot.router.route_all([Message(user=user, id=f"{user}{text}", text=text) for user, text in said])
        assert [(of.user, of.text, type(why)) for of, why in refused] == [
            ("", "1", ValueError),
            ("ana", "3", QueueFull),
        ]
        # A queue that is full among others that are not
        refused = bot.router.route_all([Message(user=user, id=f"{user}4", text="4") for user in ("ana", "caio", "bia")])
        assert [(of.user, type(why)) for of, why in refused] == [("ana", QueueFull), ("bia", QueueFull)]
        bot.agent.go.set()
        wait_until(lambda: replies(bot) == ["1: em curso", "2: 1", "3: 2"])
        wait_until(lambda: replies(bot, "bia") == ["1: oi", "2: 1", "3: 2"])
        wait_until(lambda: replies(bot, "caio") == ["1: 4"])
    bot.close()


def test_of_messages_that_come_together_one_whose_queue_goes_is_published_again(rabbitmq, bot, monkeypatch):
    """As ``test_a_message_whose_queue_goes_after_the_confirm_is_published_again``; nobody is answered twice."""
    look, deleted = chatbot_router.declare_user_queues, []

    def raced(channel, queues, *arguments, **options):
        if not deleted:
            deleted.append(queues)
            rabbitmq.ctl("delete_queue", "chat.ana")
        return look(channel, queues, *arguments, **options)

    for user in ("ana", "bia"):
        say(bot, "antes", user)
    monkeypatch.setattr(chatbot_router, "declare_user_queues", raced)
    router = Router(bot.celery, timeout=20, queue_arguments=bot.queue_arguments)
    assert router.route_all([Message(user=user, id=f"{user}!", text="oi") for user in ("ana", "bia")]) == []
    router.close()
    monkeypatch.undo()
    assert deleted == [["chat.ana", "chat.bia"]]
    with serving(bot):
        wait_until(lambda: replies(bot) == ["1: oi"])
        wait_until(lambda: replies(bot, "bia") == ["1: antes", "2: oi"])
        close_all(bot)
        assert replies(bot, "bia") == ["1: antes", "2: oi"]


def test_for_messages_that_come_together_a_worker_is_asked_where_none_consumes(rabbitmq, bot):
    for user in ("ana", "bia"):
        say(bot, "antes", user)
    rabbitmq.ctl("purge_queue", "chat.open")
    assert bot.router.route_all([Message(user=user, id=f"{user}!", text="oi") for user in ("ana", "bia")]) == []
    assert rabbitmq.queues()["chat.open"][0] == 2
    with serving(bot):
        for user in ("ana", "bia"):
            wait_until(lambda user=user: replies(bot, user) == ["1: antes", "2: oi"])


def test_what_threads_publish_at_once_goes_out_together_and_each_hears_of_its_own(rabbitmq, redis_server):
    """One is in a live session, one opens a session, one finds its queue full."""
    bot = chatbot(rabbitmq, redis_server, max_waiting=2)
    bot.store._redis.flushdb()
    router = Router(bot.celery, timeout=20, queue_arguments=bot.queue_arguments)
    groups, began, may_write = [], threading.Event(), threading.Event()

    def write(calls):
        groups.append([wanted.routing_key for group in calls for wanted in group])
        began.set()
        assert may_write.wait(30)
        router._write(calls)

    def route(user):
        return pool.submit(router.route, Message(user=user, id=f"{user}!", text="oi"))

    with serving(bot), ThreadPoolExecutor(4) as pool:
        bot.agent.go.clear()
        say(bot, "antes", "bia")
        say(bot, "em curso", "caio")
        wait_until(lambda: len(bot.agent.seen) == 2)
        say(bot, "1", "caio")
        say(bot, "2", "caio")
        router._group = GroupCommit(write)
        first = route("ana")
        assert began.wait(30)
        others = [route(user) for user in ("bia", "caio", "davi")]
        wait_until(lambda: len(router._group._waiting) == 3, what="three that wait for the first")
        may_write.set()
        for routed in (first, others[0], others[2]):
            assert routed.result(30).id
        with pytest.raises(QueueFull):
            others[1].result(30)
        assert [sorted(group) for group in groups] == [["chat.ana"], ["chat.bia", "chat.caio", "chat.davi"]]
        bot.agent.go.set()
        for user, answers in {
            "ana": ["1: oi"], "bia": ["1: antes", "2: oi"], "caio": ["1: em curso", "2: 1", "3: 2"], "davi": ["1: oi"],
        }.items():  # fmt: skip
            wait_until(lambda user=user, answers=answers: replies(bot, user) == answers, what=f"answers to {user}")
    router.close()
    bot.close()


@pytest.mark.parametrize("queue", ["send", "chat.dead", "chat.open"])
def test_a_queue_that_is_deleted_by_hand_is_declared_by_the_next_who_needs_it(rabbitmq, bot, queue):
    message = Message(user="ana", id="x", text="oi")
    publish = {
        "send": lambda: bot.router.wake_sender("ana", 1),
        "chat.dead": lambda: bot.router.bury(message, "why"),
        "chat.open": lambda: bot.router.route(message),
    }[queue]
    publish()
    rabbitmq.ctl("delete_queue", queue)
    publish()
    wait_until(lambda: rabbitmq.queues().get(queue, (0,))[0] == 1, what=f"what was published into {queue}")
    rabbitmq.ctl("purge_queue", "chat.dead")
    with serving(bot):
        bot.router.route(message)
        wait_until(lambda: replies(bot) == ["1: oi"])


def test_confirms_are_counted_where_celery_waits_for_its_own(bot):
    """A common setting of Celery's; with it py-amqp takes in each confirm itself."""
    bot.celery.conf.broker_transport_options = {"confirm_publish": True}
    router = Router(bot.celery, timeout=5, queue_arguments=bot.queue_arguments)
    with serving(bot):
        router.route(Message(user="ana", id="counted", text="oi"))
        wait_until(lambda: replies(bot) == ["1: oi"])
    router.close()


def test_rescue_leaves_alone_what_is_being_closed(rabbitmq, bot):
    """A closing session has no consumer for a moment; reopened each time, it would never end."""
    bot.store.begin_turn(Message(user="ana", id="x", text="x"), seconds=0)
    bot.store.begin_turn(Message(user="bia", id="x", text="x"), seconds=0)
    with bot.celery.connection_for_write() as connection:
        amqp_channel = connection.default_channel
        for user in ("ana", "bia"):
            declare_user_queue(amqp_channel, topology.queue_name(user), bot.queue_arguments)
        pauses = []

        def sleep(seconds):
            pauses.append(seconds)
            amqp_channel.queue_delete("chat.ana")

        sessions = Sessions(bot.celery, bot.store, bot.router, idle_timeout=1800, sleep=sleep)
        assert sessions.rescue() == {"reopened": 1, "outboxes": 0}
        assert pauses == [2 * topology.UNBOUND_SECONDS]
        wait_until(lambda: rabbitmq.queues()["chat.open"][0] == 1, what="a request for the queue that stayed")
        amqp_channel.queue_delete("chat.bia")


def test_a_queue_that_refuses_and_is_not_full_does_not_refuse_the_user(bot):
    """A queue whose process ended refuses what was on its way, until it is started again."""

    class Refused(Router):
        refusals = 0

        def _publish_together(self, *_):
            pass

        def _publish(self, publisher, *arguments, **options):
            self.refusals += 1
            raise MessageNacked

    bot.router.request_subscriber("chat.ana")
    with serving(bot):
        wait_until(bot.sessions.live, what="a queue that is there")
        router = Refused(bot.celery, timeout=20, queue_arguments=bot.queue_arguments)
        with pytest.raises(BrokerUnavailable, match="was away 5 times"):
            router.route(Message(user="ana", id="nacked", text="oi"))
        router.close()
        assert router.refusals == 5


def test_a_full_queue_refuses_and_the_message_is_kept(rabbitmq, redis_server):
    bot = chatbot(rabbitmq, redis_server, max_waiting=2)
    bot.store._redis.flushdb()
    with serving(bot):
        bot.agent.go.clear()
        say(bot, "em curso")
        wait_until(lambda: bot.agent.seen)
        say(bot, "1")
        say(bot, "2")
        with pytest.raises(QueueFull):
            say(bot, "3")
        say(bot, "oi", user="beto")
        bot.agent.go.set()
        wait_until(lambda: replies(bot) == ["1: em curso", "2: 1", "3: 2"] and replies(bot, "beto") == ["1: oi"])
    bot.close()


def test_a_session_another_worker_serves_too_is_let_go_and_not_handed_to_and_fro(rabbitmq, bot):
    with serving(bot):
        say(bot, "oi")
        wait_until(lambda: replies(bot) == ["1: oi"])
        with bot.celery.connection_for_read() as connection:
            other = connection.channel()
            other.basic_consume("chat.ana", no_ack=False, callback=lambda _: None, consumer_tag="other")
            close_all(bot)
            assert rabbitmq.queues()["chat.ana"] == (0, 1), "only the other consumer is left"
            assert rabbitmq.queues()["chat.open"][0] == 0, "and no lease goes round"
            other.basic_cancel("other")
            other.queue_delete("chat.ana")


def test_a_lease_is_handed_back_in_time_idle_or_busy(bot, monkeypatch):
    """Before RabbitMQ's ``consumer_timeout`` ends it. Whoever has room takes it anew; nothing is lost or overtaken."""
    taken_anew, steps = [], []

    class Watched(Subscriptions):
        def start(self, consumer):
            steps.append(self)
            super().start(consumer)

        def _subscribe(self, lease, queue, *, served):
            taken_anew.append(lease.delivery_info.get("redelivered"))
            return super()._subscribe(lease, queue, served=served)

    with serving(bot, Watched):
        monkeypatch.setattr(bootstep, "LEASE_SECONDS", 0.2)
        say(bot, "0")
        wait_until(lambda: taken_anew.count(True) >= 2, what="the lease of an idle session, twice")
        for n in range(1, 10):
            say(bot, str(n))
        wait_until(lambda: len(replies(bot)) == 10, what="every message answered")
        assert replies(bot) == [f"{n + 1}: {n}" for n in range(10)]
        monkeypatch.undo()
        [step] = steps
        wait_until(
            lambda: step.sessions and not step._steps.work and not any(s.leaving for s in step.sessions.values()),
            what="the session stays where it is",
        )


def test_sessions_spread_over_a_worker_that_joins(tmp_path, rabbitmq, redis_server, monkeypatch):
    """Nothing is configured for it, and their users notice nothing."""
    from tests.stub_llm import StubLLM

    users = [f"55118888{n:05}" for n in range(12)]
    with StubLLM() as llm, System(tmp_path, rabbitmq, redis_server, llm) as system:
        urls = {name: system.env[f"CHATBOT_{name.upper()}"] for name in ("broker_url", "redis_url")}
        bot = chatbot(rabbitmq, redis_server, **urls)
        bot.store._redis.flushdb()

        def served_by():
            return Counter(session["worker"] for session in bot.sessions.live().values())

        def all_answered(count):
            return all(len(replies(bot, user)) == count for user in users)

        with serving(bot):
            for user in users:
                say(bot, "oi", user)
            wait_until(lambda: all_answered(1))
            [(first, sessions)] = served_by().items()
            assert sessions == len(users)
            system.start("worker")
            with monkeypatch.context() as patched:
                patched.setattr(bootstep, "LEASE_SECONDS", 0.2)  # of the first worker's, which is in this process
                wait_until(lambda: served_by().keys() - {first}, what="sessions at the second worker")
            for user in users:
                say(bot, "voltei", user)
            wait_until(lambda: all_answered(2), what="everybody answered once more")
        bot.close()


def test_sessions_move_on_a_warm_shutdown_and_after_a_kill(tmp_path, rabbitmq, redis_server):
    """Waiting messages go on at another worker, without a new message."""
    from tests.stub_llm import StubLLM

    with StubLLM(delay=1.0) as llm, System(tmp_path, rabbitmq, redis_server, llm, idle_timeout=5) as system:
        system.start("web", "sender", "worker.1", "beat")
        users = [f"55119999{n:05}" for n in range(8)]
        texts = [f"m{n}" for n in range(30)]
        for user in users:
            assert system.post(*((user, f"wamid.{user}.{text}", text) for text in texts)).status_code == 200
        wait_until(lambda: len(llm.calls) >= 8)
        system.start("worker.2")
        system.processes["worker.1"].terminate()
        done = len(llm.calls)
        wait_until(lambda: len(llm.calls) > done + 8, what="the second worker goes on")
        system.start("worker.3")
        system.processes["worker.2"].kill()
        for user in users:
            assert system.wait_replies(user, len(texts)) == [f"eco: {text}" for text in texts]
        wait_until(lambda: not system.user_queues(), seconds=40, what="idle queues gone")
