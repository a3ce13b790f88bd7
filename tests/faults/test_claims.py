"""Claims end with the run that has them: processes that are killed, and connections that are only cut.

Real processes on a real RabbitMQ and Redis. What a run's death costs, and what it must not cost others.
"""

from __future__ import annotations

import os
import signal
import threading

from chatbot import texts
from tests.proxy import TcpProxy
from tests.servers import process_at, wait_until
from tests.stub_llm import StubLLM
from tests.system import System


def phones(prefix, number):
    return [f"55119{prefix:03}{n:05}" for n in range(number)]


def post(system, users, text):
    for user in users:
        assert system.post((user, f"wamid.{user}.{text}", text)).status_code == 200


def test_connections_that_are_cut_again_and_again_cost_nobody_an_answer(tmp_path, rabbitmq, redis_server):
    """A run that lives is no attempt: the model is asked once a message, and nobody hears an apology."""
    users = phones(1, 12)
    with (
        StubLLM(delay=6.0) as llm,
        TcpProxy(rabbitmq.port) as proxy,
        System(tmp_path, rabbitmq, redis_server, llm, env_of=lambda name: cut if name == "worker" else {}) as system,
    ):
        cut = {"CHATBOT_BROKER_URL": system.env["CHATBOT_BROKER_URL"].replace(f":{rabbitmq.port}/", f":{proxy.port}/")}
        system.start("web", "sender", "beat", "worker")
        asked = set()
        llm.script = lambda call: asked.add(call.asked)
        post(system, users, "oi")
        wait_until(lambda: len(asked) > 0, what="the model is asked")
        for n in range(5):
            proxy.cut()
            reconnected = f"cut {n}"
            wait_until(
                lambda n=n: system.processes["worker"].output().count("Connected to amqp") >= n + 2,
                seconds=30,
                what=reconnected,
            )
        for user in users:
            assert system.wait_replies(user, 1) == ["eco: oi"]
        assert len(llm.calls) == len(users), "nobody is asked for twice"
        assert system.waiting("chat.dead") == 0


def test_two_crashes_of_all_workers_freeze_nobody(tmp_path, rabbitmq, redis_server):
    """Innocent messages become suspects; they are answered apart, and nobody waits behind them."""
    users, others = phones(2, 8), phones(3, 8)
    with StubLLM() as llm, System(tmp_path, rabbitmq, redis_server, llm) as system:
        released = threading.Event()
        asked = []

        def hold(call):
            asked.append(call.asked)
            if call.asked == "oi":
                assert released.wait(120)

        llm.script = hold
        system.start("web", "sender", "beat", "worker")
        post(system, users, "oi")
        for crash in (1, 2):
            flying = crash * len(users)
            wait_until(lambda flying=flying: asked.count("oi") >= flying, seconds=60, what="all in flight")
            system.processes["worker"].kill()
            system.start("worker")
        wait_until(lambda: asked.count("oi") > 2 * len(users), seconds=60, what="suspects are answered again")
        post(system, others, "olá")
        for user in others:
            assert system.wait_replies(user, 1) == ["eco: olá"], "while every suspect still is held"
        released.set()
        for user in users:
            assert [text for text in system.wait_replies(user, 1) if text not in NOTICES] == ["eco: oi"]
        assert system.waiting("chat.dead") == 0


NOTICES = set(texts.WAITING.values())


def test_a_message_that_ends_its_process_ends_no_worker_for_ever(tmp_path, rabbitmq, redis_server):
    """Two workers it takes with it; the third time it runs apart, and is known for what it is."""
    poisoned, others = phones(4, 1)[0], phones(5, 6)
    with StubLLM(delay=0.2) as llm, System(tmp_path, rabbitmq, redis_server, llm) as system:
        killed = []

        def poison(call):
            if call.asked == "veneno":
                pid = process_at(call.port)
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

        llm.script = poison
        system.start("web", "sender", "beat", "worker")
        post(system, [poisoned], "veneno")
        for n in (1, 2):
            wait_until(lambda n=n: len(killed) >= n, seconds=60, what="a worker ended")
            wait_until(lambda: not system.processes["worker"].alive, what="it is gone")
            system.start("worker")
            post(system, others, f"oi {n}")
        [apology] = system.wait_replies(poisoned, 1)
        assert apology in texts.APOLOGY.values()
        assert len(set(killed)) == len(killed) == 3
        assert system.processes["worker"].alive, "the third process was none of its own"
        for user in others:
            assert system.wait_replies(user, 2) == ["eco: oi 1", "eco: oi 2"]
        assert system.waiting("chat.dead") == 1


def test_a_worker_that_joins_has_its_share_soon(tmp_path, rabbitmq, redis_server):
    """The first one up takes every session; one that comes later need not wait for leases to run out."""
    users = phones(6, 40)
    with StubLLM() as llm, System(tmp_path, rabbitmq, redis_server, llm) as system:
        system.start("web", "sender", "beat", "worker.1")
        post(system, users, "oi")
        for user in users:
            system.wait_replies(user, 1)
        system.start("worker.2")
        bot = _bot(system)
        wait_until(lambda: _least(bot) >= len(users) * 2 // 5, seconds=30, what="sessions at the second worker")
        bot.close()
        post(system, users, "de novo")
        for user in users:
            assert system.wait_replies(user, 2) == ["eco: oi", "eco: de novo"]


def _bot(system):
    from chatbot.app import Chatbot
    from chatbot.config import load

    urls = {name: system.env[f"CHATBOT_{name.upper()}"] for name in ("broker_url", "redis_url")}
    return Chatbot(load(**urls))


def _least(bot):
    """Return how many sessions the worker has that has the fewest; 0 while only one has any."""
    workers = [session["worker"] for session in bot.sessions.live().values()]
    return min(map(workers.count, set(workers))) if len(set(workers)) > 1 else 0
