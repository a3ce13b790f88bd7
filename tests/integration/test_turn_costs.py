"""What a message costs on the way: AMQP methods and Redis commands, counted on real servers.

Every step stands here with what it sends and what it waits for: whoever adds a round trip
changes a line of this file. ``make bench ONLY=turn`` prints the same as a table.
"""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from chatbot.broker import topology
from chatbot.broker.router import REPORTED_TOGETHER, UNREAD
from chatbot.demo import embedded
from chatbot.errors import BrokerUnavailable
from chatbot.sessions import bootstep
from chatbot.sessions.steps import SLICE
from tests.benchmarks.turn import LIVE, NEW, STATUS, Cost, message, watched, written
from tests.servers import held, wait_until
from tests.system import statuses_body

SERVED = "5511944440003"


@pytest.fixture(scope="module")
def way(rabbitmq, redis_server):
    with watched(rabbitmq, redis_server) as way:
        yield way


def test_the_webhook_of_a_message_is_two_round_trips_to_the_broker_on_a_live_session(way):
    assert way.cost(lambda: way.post(written())) == Cost(broker=(["basic.publish", "queue.declare"], 2))


def test_a_batch_of_one_user_costs_what_its_messages_cost(way):
    batch = [written() for _ in range(10)]
    assert way.cost(lambda: way.post(*batch)) == Cost(broker=(["basic.publish", "queue.declare"] * 10, 20))


def test_a_batch_of_several_users_shares_its_round_trips(way, rabbitmq):
    users = [f"551194446{n:04}" for n in range(10)]
    for user in users:
        way.serve(user)
    batch = [written(user) for _ in range(2) for user in users]
    wave = ["basic.publish"] * 10 + ["queue.declare"] * 10
    way.broker.clear()
    with ThreadPoolExecutor(1) as pool:
        with held([rabbitmq.process]):
            posted = pool.submit(way.post, *batch)
            wait_until(lambda: way.broker.asked == wave[:10], what="the first message of each, unconfirmed")
        posted.result()
    assert way.broker.asked == wave * 2


def test_the_first_message_of_a_session_opens_it(way):
    # It comes back, and once more from where its queue would be if it were being closed. Declared and
    # bound without waiting, published anew and looked after. Only then a worker is asked for.
    asked = [*["basic.publish"] * 2, "queue.declare", "queue.bind", "basic.publish", "queue.declare", "basic.publish"]
    assert way.cost(lambda: way.bot.router.route(message(NEW))) == Cost(broker=(asked, 5))


def test_a_turn_is_two_round_trips_to_redis_and_two_messages(way):
    cost = way.cost(lambda: way.bot.conversation.answer(message()))
    assert cost.broker[0] == ["basic.publish", "basic.publish"]  # "read", and the sender's wake-up
    assert cost.redis == (["begin_turn", "commit_turn"], 2)


def test_a_read_mark_is_asked_for_without_waiting_for_the_broker_but_not_for_ever(way, rabbitmq):
    router = way.bot.router
    router.wake_sender(LIVE, 0)  # from here on nothing is unconfirmed
    now = way.bot.store.now()
    with held([rabbitmq.process]):
        for _ in range(UNREAD - 1):
            router.mark_read(message(), at=now)
        with pytest.raises(BrokerUnavailable):
            router.mark_read(message(), at=now)


def test_a_turn_that_was_taken_is_one_round_trip_to_each(way):
    way.deliver()  # behind a reply that waits, nobody is woken, and the "read" is not confirmed yet
    taken = message()
    way.bot.conversation.answer(taken)
    assert way.cost(lambda: way.bot.conversation.answer(taken)) == Cost((["basic.publish"], 1), (["begin_turn"], 1))


def test_a_reply_is_four_round_trips_to_redis(way):
    way.deliver()
    way.bot.conversation.answer(message())
    # The last one finds nothing more: what was committed meanwhile is delivered by this sender.
    asked = ["claim_delivery", "pace", "settle_delivery", "claim_delivery"]
    assert way.cost(way.deliver) == Cost(redis=(asked, 4))


def test_of_replies_that_wait_each_costs_three(way):
    way.deliver()
    for _ in range(5):
        way.bot.conversation.answer(message())
    way.bot.router.report(STATUS)  # from here on nothing is unconfirmed: a confirm that is late would be counted
    asked = ["claim_delivery", "pace", "settle_delivery"] * 5 + ["claim_delivery"]
    assert way.cost(way.deliver) == Cost(redis=(asked, 16))


def test_a_read_mark_is_one_round_trip_to_redis(way):
    now = way.bot.store.now()
    cost = way.cost(lambda: way.bot.delivery.mark_read(message(), asked_at=now))
    assert cost == Cost(redis=(["HMGET", "TIME"], 1))


def test_a_status_is_one_round_trip_to_each(way):
    assert way.cost(lambda: way.bot.router.report(STATUS)) == Cost(broker=(["basic.publish"], 1))
    assert way.cost(lambda: way.bot.delivery.report(STATUS)) == Cost(redis=(["report_part"], 1))


def test_statuses_of_one_post_are_confirmed_together(way, rabbitmq):
    several = REPORTED_TOGETHER + 10
    body = statuses_body((f"wamid.{n}", "delivered", f"{LIVE}:{n}:0") for n in range(several))
    way.bot.router.report(STATUS)  # from here on nothing is unconfirmed
    way.broker.clear()
    with ThreadPoolExecutor(1) as pool:
        with held([rabbitmq.process]):
            posted = pool.submit(way.post_body, body)
            together = ["basic.publish"] * REPORTED_TOGETHER
            wait_until(lambda: posted.done() or way.broker.asked == together, what="many, unconfirmed")
        posted.result()
    assert way.broker.asked == ["basic.publish"] * several


def test_a_worker_is_handed_each_message_and_acknowledges_it_once(way, monkeypatch):
    """The whole way through Celery."""
    bot, number = way.bot, 5
    for queue in (topology.OPEN, topology.SEND):
        way.uncounted.queue_purge(queue)  # what the other tests asked for
    monkeypatch.setattr(bot, "warm_up", lambda: None)
    bot.celery.conf.worker_send_task_events = False

    def acknowledged(times):
        wait_until(lambda: way.broker.asked.count("basic.ack") == times, what=f"{times} acknowledgements")

    with embedded.worker(bot, concurrency=4):
        way.broker.clear()
        bot.router.route(message(SERVED))
        acknowledged(3)
        way.broker.clear()
        for n in range(1, number + 1):
            bot.router.route(message(SERVED))
            acknowledged(3 * n)
        asked = Counter(method for method in way.broker.asked if method.startswith("basic."))
        delivered = way.broker.heard.count("basic.deliver")
    # All three times: for the message, its read mark and its sender's wake-up.
    assert asked == {"basic.publish": 3 * number, "basic.ack": 3 * number}
    assert delivered == 3 * number


def test_requests_that_come_together_share_their_round_trips(way, monkeypatch):
    """As after a broker's restart, or when a worker dies and leaves its users to the others."""
    bot, number, slices = way.bot, SLICE + 10, [SLICE, 10]

    class Together(bootstep.Subscriptions):
        def _subscribe_asked(self):
            if not self.sessions and len(self._asked) < number:
                self._steps.add(self._subscribe_asked)
                return
            if not self.sessions:
                way.broker.clear()
            super()._subscribe_asked()

    for queue in (topology.OPEN, topology.SEND):
        way.uncounted.queue_purge(queue)
    monkeypatch.setattr(bot, "warm_up", lambda: None)
    bot.celery.amqp.queues.select_add(topology.OPEN_QUEUE)  # the worker of another test has deselected it
    steps = bot.celery.steps["consumer"]
    monkeypatch.setitem(bot.celery.steps, "consumer", {*(steps - {bootstep.Subscriptions}), Together})
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
