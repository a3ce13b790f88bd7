"""The webhook under gunicorn against the thinnest Flask view that checks the HMAC and publishes once.

Both under the settings of ``chatbot/web/serving.py``, with two processes of eight threads. Ours
has the sessions of 100 users live; whatever arrives, on either side, is taken off its queue
and thrown away. The load comes from one more process of this machine, the same for both. What the
plan (``plan.py``) needs of the processor's time is measured at a rate that web can take with ease.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path

import httpx
import kombu

from chatbot.broker import topology
from chatbot.broker.router import bind_user_queue, declare_user_queue
from chatbot.simulator.webhooks import status_body
from tests.benchmarks.bench import Bench, Figures, percentile, ratio, table
from tests.benchmarks.plan import CALLS_A_SECOND
from tests.benchmarks.posts import post_all, post_at, prepared
from tests.benchmarks.thin import QUEUE
from tests.benchmarks.workers import chatbot
from tests.servers import Process, free_port, wait_until
from tests.system import APP_SECRET, PHONE_NUMBER_ID, VERIFY_TOKEN, webhook_body

GOAL, GOAL_P99, GOAL_BATCH = 0.75, 0.050, 15.0
USERS = [f"55116666{n:05}" for n in range(100)]
CONNECTIONS = 16
OURS, THIN = "chatbot", "thin view"
fresh = itertools.count()


def run(bench: Bench) -> Figures:
    """Return the requests a second of both, our p99 at half our top rate, and what a POST with 100 messages costs."""
    count = bench.scaled(3000, quick=400)
    with webhooks(bench) as (ports, web), ProcessPoolExecutor(1, get_context("spawn")) as load:

        def rate(name: str) -> float:
            return count / load.submit(post_all, ports[name], requests(count), CONNECTIONS).result()

        def seconds(messages: int) -> float:
            posts = [prepared(_body(messages)) for _ in range(bench.scaled(40, quick=10))]
            return load.submit(post_all, ports[OURS], posts, 1).result() / len(posts)

        def cpu(body: Callable[[], bytes]) -> float:
            used, posts = web.cpu_seconds, [prepared(body()) for _ in range(count)]
            load.submit(post_at, ports[OURS], posts, CONNECTIONS, CALLS_A_SECOND).result()
            return 1000 * (web.cpu_seconds - used) / count

        rates = bench.interleave({name: lambda name=name: rate(name) for name in ports}, what="requests/s")
        half = statistics.median(rates[OURS]) / 2
        took = load.submit(post_at, ports[OURS], requests(count), CONNECTIONS, half).result()
        posts = bench.interleave({"1 message": lambda: seconds(1), "100 messages": lambda: seconds(100)}, what="s")
        cpus = {
            "a message": cpu(lambda: _body(1)),
            "a status": cpu(lambda: _status("read")),
            "a status that is passed on": cpu(lambda: _status("delivered")),
        }
    share, batch = ratio(rates[OURS], rates[THIN]), ratio(posts["100 messages"], posts["1 message"])
    table(
        ("", "figure", "goal"),
        [
            (f"{OURS}, requests/s", statistics.median(rates[OURS]), ""),
            (f"{THIN}, requests/s", statistics.median(rates[THIN]), ""),
            ("ratio", share, f">= {GOAL}"),
            ("p50 at half the top rate, ms", 1000 * percentile(took, 0.5), ""),
            ("p99 at half the top rate, ms", 1000 * percentile(took, 0.99), f"<= {1000 * GOAL_P99:g}"),
            ("a POST with 1 message, ms", 1000 * statistics.median(posts["1 message"]), ""),
            ("a POST with 100 messages / 1", batch, f"<= {GOAL_BATCH:g}"),
            *((f"CPU ms of a POST with {what}", milliseconds, "") for what, milliseconds in cpus.items()),
        ],
    )
    return {
        "ratio": share,
        "goal": GOAL,
        "requests_per_second": statistics.median(rates[OURS]),
        "thin_requests_per_second": statistics.median(rates[THIN]),
        "p99_seconds": percentile(took, 0.99),
        "p99_goal": GOAL_P99,
        "batch_ratio": batch,
        "batch_goal": GOAL_BATCH,
        "cpu_ms": cpus,
    }


def _body(messages: int) -> bytes:
    number = next(fresh)
    return webhook_body(
        (USERS[(number + n) % len(USERS)], f"wamid.{number}.{n}", "olá, tudo bem?") for n in range(messages)
    )


def _status(status: str) -> bytes:
    number = next(fresh)
    user = USERS[number % len(USERS)]
    id_, callback = f"wamid.out.{number}", f"{user}:{number}:0"
    return json.dumps(status_body(PHONE_NUMBER_ID, message_id=id_, status=status, to=user, callback=callback)).encode()


def requests(count: int) -> list[bytes]:
    """Return so many signed POSTs of one message each."""
    return [prepared(_body(1)) for _ in range(count)]


@contextmanager
def webhooks(bench: Bench) -> Iterator[tuple[dict[str, int], Process]]:
    """Serve both; give the port of each, and our web process."""
    with ExitStack() as stack:
        ports = {name: free_port() for name in (OURS, THIN)}
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHATBOT_")},
            "CHATBOT_ENV": "test",
            "CHATBOT_BROKER_URL": bench.rabbitmq.url,
            "CHATBOT_WHATSAPP_APP_SECRET": APP_SECRET,
            "CHATBOT_WHATSAPP_VERIFY_TOKEN": VERIFY_TOKEN,
            "CHATBOT_WHATSAPP_PHONE_NUMBER_ID": PHONE_NUMBER_ID,
        }
        bot = chatbot({"env": "test", "broker_url": bench.rabbitmq.url})
        stack.callback(bot.close)
        bot.router.ping()  # declares what is no user's
        with kombu.Connection(bench.rabbitmq.url) as connection:
            channel = connection.default_channel
            kombu.Queue(QUEUE, durable=True)(channel).declare()
            for user in USERS:
                declare_user_queue(channel, topology.queue_name(user), bot.queue_arguments)
                bind_user_queue(channel, topology.queue_name(user))
        queues = [QUEUE, topology.SEND, *map(topology.queue_name, USERS)]
        gunicorn = [str(Path(sys.executable).parent / "gunicorn"), "-c", "python:chatbot.web.serving"]
        drain = [sys.executable, "-m", "tests.benchmarks.drain", bench.rabbitmq.url]
        commands = {
            OURS: [*gunicorn, "chatbot.web.serving:application()"],
            THIN: [*gunicorn, "tests.benchmarks.thin:app"],
            "drain": [*drain, *queues],
        }
        processes = {
            name: Process(
                command, log=bench.folder / f"{name}.log", env={**env, "CHATBOT_PORT": str(ports.get(name, 0) or 1)}
            )
            for name, command in commands.items()
        }
        for process in processes.values():
            stack.callback(process.kill)
            process.start()
        for port in ports.values():
            wait_until(lambda port=port: _answers(port), seconds=60, what="webhook up")
        wait_until(lambda: _all_consumed(bench, queues), seconds=60, what="queues consumed", every=0.5)
        yield ports, processes[OURS]


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code in {200, 404}
    except httpx.HTTPError:
        return False


def _all_consumed(bench: Bench, queues: list[str]) -> bool:
    there = bench.rabbitmq.queues()
    return all(there[queue][1] for queue in queues)
