"""The plan against the whole system: what all processes of the Procfile use at a steady rate.

People write one message each at a time, as signed webhooks, and get their replies from the stand-in,
which reports them sent, delivered and read. ``plan.py`` adds up what the other benchmarks
measured of each part alone; here the sum is compared with what the parts use together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context

from chatbot.app import Chatbot
from chatbot.config import Settings
from tests.benchmarks import slow_llm
from tests.benchmarks.bench import Bench, Figures, note, table
from tests.benchmarks.plan import RATE, Costs
from tests.benchmarks.posts import post_at, prepared
from tests.servers import wait_until
from tests.system import System, webhook_body

#: The plan may be off by this much, either way.
GOAL = 1.25
LATENCY, CONNECTIONS = 0.5, 16
USERS = [f"55117777{n:05}" for n in range(200)]
#: What the plan takes from here, so that there is nothing to compare.
MEASURED_HERE = "RabbitMQ"
WORKERS = ("worker.1", "worker.2")


def run(bench: Bench) -> Figures:
    """Return the milliseconds of CPU a message of each kind of process, and what the plan says of it."""
    count = bench.scaled(600, quick=90)
    with ExitStack() as stack:
        llm = stack.enter_context(slow_llm.started(bench.folder, LATENCY))
        system = stack.enter_context(
            System(bench.folder, bench.rabbitmq, bench.redis, None, llm_model="stub", llm_base_url=f"{llm}/whole/1/v1")
        )
        system.start("web", *WORKERS, "sender", "beat")
        settings = {name: system.env[f"CHATBOT_{name.upper()}"] for name in ("broker_url", "redis_url")}
        bot = Chatbot(Settings(_env_file=None, env="test", **settings))
        stack.callback(bot.close)
        load = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        used: dict[str, Callable[[], float]] = {
            "web": lambda: system.processes["web"].cpu_seconds,
            "workers": lambda: sum(system.processes[name].cpu_seconds for name in WORKERS),
            "sender": lambda: system.processes["sender"].cpu_seconds,
            "Redis": lambda: bench.redis.cpu_seconds,
            "RabbitMQ": lambda: bench.rabbitmq.cpu_seconds,
        }

        def measure(turn: int) -> dict[str, float]:
            posts = [prepared(_body(turn, n)) for n in range(count)]
            before = {name: seconds() for name, seconds in used.items()}
            load.submit(post_at, system.port, posts, CONNECTIONS, RATE).result()
            wait_until(lambda: len(system.stand_in.sent()) >= (turn + 1) * count, what="every reply", every=0.5)
            wait_until(lambda: not bot.store.due_outboxes(before=time.time() + 3600), what="every outbox settled")
            spent = {name: 1000 * (seconds() - before[name]) / count for name, seconds in used.items()}
            note(f"  CPU ms a message, {f'round {turn}' if turn else 'warm-up'}: {spent}")
            return spent

        rounds = [measure(turn) for turn in range(bench.rounds + 1)][1:]
    measured = {name: statistics.median(one[name] for one in rounds) for name in used}
    said = Costs().of_a_message
    compared = [kind for kind in measured if kind != MEASURED_HERE]
    sums = {name: sum(one[kind] for kind in compared) for name, one in (("measured", measured), ("said", said))}
    table(
        ("CPU ms a message", "measured", "the plan says", "measured / plan"),
        [(kind, measured[kind], said[kind], measured[kind] / said[kind]) for kind in measured],
    )
    off = sums["measured"] / sums["said"]
    table(("", "ratio", "goal"), [(f"all but {MEASURED_HERE}, measured / plan", off, f"{1 / GOAL:g} to {GOAL:g}")])
    return {"ratio": off, "goal": GOAL, "cpu_ms": measured, "plan_cpu_ms": said}


def _body(turn: int, n: int) -> bytes:
    return webhook_body([(USERS[n % len(USERS)], f"wamid.{turn}.{n}", "Olá, tudo bem? Onde está o meu pedido?")])
