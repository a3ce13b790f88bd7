"""Good webhooks at a steady rate, alone and beside 500 clients that never finish what they send."""

from __future__ import annotations

import statistics
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context

from tests.benchmarks.bench import Bench, Figures, percentile, ratio, table
from tests.benchmarks.plan import CALLS_A_SECOND
from tests.benchmarks.posts import post_at
from tests.benchmarks.webhook import CONNECTIONS, OURS, requests, webhooks
from tests.servers import PYTHON, Process, wait_until

SLOW, GOAL_P99 = 500, 0.100
QUIET, ATTACKED = "quiet", f"beside {SLOW} slow clients"


def run(bench: Bench) -> Figures:
    """Return the p99 of both, and their ratio."""
    count = bench.scaled(2000, quick=400)
    with webhooks(bench) as (ports, _), ProcessPoolExecutor(1, get_context("spawn")) as load:
        port = ports[OURS]
        p99 = bench.interleave(
            {QUIET: lambda: _p99(load, port, count), ATTACKED: lambda: _attacked(bench, load, port, count)}, what="s"
        )
    medians = {name: statistics.median(figures) for name, figures in p99.items()}
    times = ratio(p99[ATTACKED], p99[QUIET])
    table(
        ("", "figure", "goal"),
        [
            *((f"p99, {name}, ms", 1000 * seconds, f"<= {1000 * GOAL_P99:g}") for name, seconds in medians.items()),
            ("ratio", times, ""),
        ],
    )
    return {"ratio": times, "p99_seconds": medians[ATTACKED], "p99_goal": GOAL_P99, "quiet_p99_seconds": medians[QUIET]}


def _p99(load: Executor, port: int, count: int) -> float:
    return percentile(load.submit(post_at, port, requests(count), CONNECTIONS, CALLS_A_SECOND).result(), 0.99)


def _attacked(bench: Bench, load: Executor, port: int, count: int) -> float:
    command = [PYTHON, "-m", "tests.slow_clients", str(port), str(SLOW)]
    slow = Process(command, log=bench.folder / "slow.log").start()
    try:
        wait_until(lambda: "held" in slow.output(since_start=True), what="slow clients")
        return _p99(load, port, count)
    finally:
        slow.kill()
