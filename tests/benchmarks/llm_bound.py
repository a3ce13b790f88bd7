"""Turns that wait for the model: 256 users talking at once to one that takes 2 s, on ever more workers.

The chatbot's workers as the Procfile starts them, of 32 threads and with CrewAI, against the ideal
(slots ÷ latency) and against a plain Celery task that calls ``openai`` on as many, with as many
messages of the past in its request. The ideal counts up to the processors' limit: where as many
turns need more of them than there is, more slots help nobody, and a turn's own CPU decides.

Everybody's messages are there before the first worker begins, and a model that always takes as
long would answer what came at one moment at one moment, again and again. People do not write like
that, so the first call of each slot takes a part of the time only (``slow_llm.py``).
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx

from chatbot.broker import topology
from chatbot.config import DEFAULT_BACKSTORY, DEFAULT_GOAL, DEFAULT_ROLE, Settings
from chatbot.messages import Message
from tests.benchmarks import slow_llm
from tests.benchmarks.asking import ASK, publisher
from tests.benchmarks.bench import Bench, Figures, ratio, table
from tests.benchmarks.workers import STATIC, THREADS, Workers

GOAL, GOAL_CPU = 0.9, 1.5
PUBLISHER_THREADS = 8
OURS, BARE = "ours", "bare"
TEXT, REPLY = "Olá, tudo bem? Onde está o meu pedido?", "Claro! Pode me dizer o número do seu pedido?"
SYSTEM = f"You are {DEFAULT_ROLE}. {DEFAULT_BACKSTORY}\nYour personal goal is: {DEFAULT_GOAL}"


@dataclass(frozen=True, slots=True)
class _Load:
    """Who talks, how long the model takes (seconds), and for how many times that long is measured."""

    users: list[str]
    latency: float
    waves: int

    def backlog(self, slots: int) -> int:
        """Return how many messages of each user keep all slots busy until the measuring has ended."""
        return math.ceil(slots * (self.waves + 1) / len(self.users)) + 1


def run(bench: Bench) -> Figures:
    """Return our share of the ideal, and what a turn's CPU is to the bare client's, at several numbers of slots."""
    load = _Load(
        users=[f"55114444{n:05}" for n in range(bench.scaled(256, quick=32))],
        latency=0.5 if bench.quick else 2.0,
        waves=bench.scaled(6, quick=1),
    )
    levels = [32] if bench.quick else [64, 256]
    with _ways(bench, load, levels) as ways:
        rates = bench.interleave(
            {f"{name} on {slots} slots": way.turns for (name, slots), way in ways.items()}, what="turns/s"
        )
    rounds = {key: way.rounds[-bench.rounds :] for key, way in ways.items()}
    share = {key: statistics.median(rates[f"{key[0]} on {key[1]} slots"]) * load.latency / key[1] for key in ways}
    cpu = {key: statistics.median(figures.cpu for figures in measured) for key, measured in rounds.items()}
    busy = {key: statistics.median(figures.busy for figures in measured) for key, measured in rounds.items()}
    more = {
        slots: ratio([r.cpu for r in rounds[OURS, slots]], [r.cpu for r in rounds[BARE, slots]]) for slots in levels
    }
    table(
        ("slots", "", "turns/s", "of the ideal", "CPU ms a turn", "of the machine's CPU"),
        [
            (slots, name, share[name, slots] * slots / load.latency, share[name, slots], 1000 * cpu[name, slots],
             busy[name, slots])
            for name, slots in ways
        ],
    )  # fmt: skip
    # Busy / share is what the ideal rate would need of the machine, which has 1.
    free = [slots for slots in levels if busy[OURS, slots] <= share[OURS, slots]] or levels[:1]
    worst = min(share[OURS, slots] for slots in free)
    most = statistics.median(more.values())
    table(
        ("", "ratio", "goal"),
        [
            (f"ours / ideal, up to {free[-1]} slots", worst, f">= {GOAL}"),
            ("CPU of a turn, ours / bare", most, f"<= {GOAL_CPU}"),
        ],
    )
    return {
        "ratio": worst,
        "goal": GOAL,
        "cpu_ratio": most,
        "cpu_goal": GOAL_CPU,
        "up_to_slots": free[-1],
        "share_of_ideal": {f"{name} {slots}": figure for (name, slots), figure in share.items()},
        "cpu_ms": {f"{name} {slots}": 1000 * figure for (name, slots), figure in cpu.items()},
        "cpu_ratios": {str(slots): figure for slots, figure in more.items()},
        "machine_busy": {f"{name} {slots}": figure for (name, slots), figure in busy.items()},
    }


class _Round(NamedTuple):
    """Seconds of the workers' CPU a turn; share of the machine's CPU that was used, by whomever."""

    cpu: float
    busy: float


class _Way:
    """One kind of worker with so many slots; ``rounds`` is what each round cost."""

    def __init__(
        self, workers: Workers, slots: int, load: _Load, calls: str, publish: Callable[[str, int], object]
    ) -> None:
        self._workers, self._slots, self._load, self._calls, self._publish = workers, slots, load, calls, publish
        self._done, self._said = 0, 0
        self.rounds: list[_Round] = []

    def turns(self) -> float:
        """Have everybody write more than can be answered; return the turns a second once all slots are busy."""
        each = self._load.backlog(self._slots)
        with self._workers.held():
            self._write(each)
            cpu, machine = self._workers.cpu_seconds, _machine()
        self._done += each * len(self._load.users)
        self._workers.wait_done(self._done)
        used, (busy, whole) = self._workers.cpu_seconds - cpu, _machine()
        turns = each * len(self._load.users)
        self.rounds.append(_Round(used / turns, (busy - machine[0]) / (whole - machine[1])))
        return self._rate([(began, ended) for began, ended in httpx.get(self._calls, timeout=30).json()])

    def _write(self, each: int) -> None:
        past, self._said = self._said, self._said + each
        with ThreadPoolExecutor(PUBLISHER_THREADS) as pool:
            for n in range(past, self._said):
                list(pool.map(lambda user, n=n: self._publish(user, n), self._load.users))

    def _rate(self, calls: list[tuple[float, float]]) -> float:
        """Return the calls a second from one latency after the first began, by the time they were under way."""
        start = min(began for began, _ in calls) + self._load.latency
        end = start + self._load.waves * self._load.latency
        under_way = sum(max(0.0, min(ended, end) - max(began, start)) for began, ended in calls)
        return under_way / self._load.latency / (end - start)


@contextmanager
def _ways(bench: Bench, load: _Load, levels: list[int]) -> Iterator[dict[tuple[str, int], _Way]]:
    """Start the model and both kinds of worker with each number of slots; each has a virtual host of its own."""
    with ExitStack() as stack:
        llm = stack.enter_context(slow_llm.started(bench.folder, load.latency))
        kinds: dict[str, tuple[str, Callable[[Workers], Callable[[str, int], object]]]] = {
            OURS: (f"{topology.OPEN},{topology.HOUSEKEEPING}", _router),
            BARE: (STATIC, partial(_sender, stack)),
        }
        started: dict[tuple[str, int], Workers] = {}
        for db, (slots, name) in enumerate((slots, name) for slots in levels for name in kinds):
            started[name, slots] = workers = Workers(
                f"{name}-{slots}", bench.folder, bench.rabbitmq, bench.redis, kinds[name][0], db=db,
                count=slots // THREADS, app=f"tests.benchmarks.asking:{name}", options=("--loglevel=INFO",),
                broker_url=bench.rabbitmq.url.removesuffix("/") + bench.rabbitmq.add_vhost(), log_level="INFO",
                llm_model="stub", llm_base_url=f"{llm}/{name}/{slots}/v1",
            )  # fmt: skip
            stack.enter_context(workers)
        yield {
            (name, slots): _Way(workers, slots, load, f"{llm}/{name}/{slots}", kinds[name][1](workers))
            for (name, slots), workers in started.items()
        }


def _router(workers: Workers) -> Callable[[str, int], object]:
    return lambda user, n: workers.write(Message(user, f"{user}.{n}", TEXT, sent_at=time.time()))


def _sender(stack: ExitStack, workers: Workers) -> Callable[[str, int], object]:
    """Return what asks the bare task the same that a chatbot asks after ``n`` turns."""
    app = stack.enter_context(publisher(str(workers.settings["broker_url"])))
    shown = Settings.model_fields["history_turns"].default

    def send(user: str, n: int) -> object:
        past = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": REPLY}] * min(n, shown)
        messages = [{"role": "system", "content": SYSTEM}, *past, {"role": "user", "content": TEXT}]
        return app.send_task(ASK, (messages,), delivery_mode="persistent")

    return send


def _machine() -> tuple[float, float]:
    """Return the seconds all processors worked since the machine started, and those that there were."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    waited = ticks[3] + ticks[4]
    return (sum(ticks) - waited) / os.sysconf("SC_CLK_TCK"), sum(ticks) / os.sysconf("SC_CLK_TCK")
