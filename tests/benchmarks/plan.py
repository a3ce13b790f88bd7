"""How many machines a number of users needs, from what was measured: ``python -m tests.benchmarks.plan``.

``--users`` a day, who write ``--messages`` each. The costs are those of ``COSTS``, each with the
command that measures it; ``check`` compares the plan with points that were measured as a whole.
What people do is an assumption and stands in ``Load``.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields

from tests.benchmarks.bench import table


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured, on one core of the machine that README names, unless said otherwise."""

    webhook_cpu_ms: float = 2.8  # a message's POST, by web (`ONLY=webhook`: 2 cores ÷ requests/s)
    turn_cpu_ms: float = 12.0  # a turn with CrewAI, by worker (`ONLY=llm_bound`)
    send_cpu_ms: float = 8.0  # a reply of one part, by sender
    broker_cpu_ms: float = 0.6  # a message through the broker, both ways
    worker_session_kib: float = 10.0  # `ONLY=scale`
    broker_session_kib: float = 50.0  # `ONLY=scale`
    worker_mib: float = 180.0  # a worker's own, CrewAI in it (`ONLY=start`)
    conversation_kib: float = 12.0  # in Redis, 20 turns of 200 characters
    redis_commands: float = 14.0  # of a message, from webhook to delivered (tests/integration/test_turn_costs.py)
    broker_sessions: int = 20_000  # live on one broker, all subscribed again in time (`ONLY=scale`)


@dataclass(frozen=True, slots=True)
class Load:
    """What people do, and what one unit takes."""

    users: int
    messages: int = 10
    busiest_hour: float = 0.10  # of the day's messages
    seconds_between: float = 30.0  # two messages of one visit
    idle_timeout: float = 1800.0
    llm_seconds: float = 2.0
    threads: int = 32  # of a worker
    busy: float = 0.7  # of a core, at most
    redis_commands_per_second: float = 100_000.0  # of one Redis
    number_per_second: float = 80.0  # replies a WhatsApp number may send (Meta; up to 1,000 on request)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is needed in the busiest hour; GiB of memory."""

    messages_per_second: float
    live_sessions: int
    web_cores: int
    workers: int
    worker_cores: int
    worker_gib: float
    sender_cores: int
    brokers: int
    broker_cores: int
    broker_gib: float
    redis: int
    redis_gib: float
    numbers: int

    @property
    def first(self) -> str:
        """Say what breaks first where there is one of each."""
        need = {
            "the WhatsApp number's rate": self.numbers,
            "a worker's threads": self.workers,
            "the broker's sessions": self.brokers,
            "Redis's commands": self.redis,
        }
        most = max(need.values())
        return ", ".join(name for name, count in need.items() if count == most) if most > 1 else "nothing"


def plan(load: Load, costs: Costs) -> Plan:
    """Return what ``load`` needs at ``costs``."""
    visits = load.users * load.busiest_hour / 3600
    rate = visits * load.messages
    live = math.ceil(visits * ((load.messages - 1) * load.seconds_between + load.idle_timeout))
    worker_cores = _cores(rate * costs.turn_cpu_ms, load)
    workers = max(math.ceil(rate * load.llm_seconds / (load.busy * load.threads)), worker_cores)
    return Plan(
        messages_per_second=rate,
        live_sessions=live,
        web_cores=_cores(rate * costs.webhook_cpu_ms, load),
        workers=workers,
        worker_cores=worker_cores,
        worker_gib=(workers * costs.worker_mib + live * costs.worker_session_kib / 1024) / 1024,
        sender_cores=_cores(rate * costs.send_cpu_ms, load),
        brokers=max(1, math.ceil(live / costs.broker_sessions)),
        broker_cores=_cores(rate * costs.broker_cpu_ms, load),
        broker_gib=live * costs.broker_session_kib / 1024**2,
        redis=max(1, math.ceil(rate * costs.redis_commands / (load.busy * load.redis_commands_per_second))),
        redis_gib=load.users * costs.conversation_kib / 1024**2,
        numbers=max(1, math.ceil(rate / load.number_per_second)),
    )


def _cores(milliseconds_per_second: float, load: Load) -> int:
    return max(1, math.ceil(milliseconds_per_second / 1000 / load.busy))


def main() -> None:
    """Print the plan for one number of users, or for three."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--users", type=int, nargs="*", default=[10_000, 1_000_000, 100_000_000])
    options.add_argument("--messages", type=int, default=Load(users=0).messages)
    asked = options.parse_args()
    plans = [plan(Load(users, asked.messages), Costs()) for users in asked.users]
    rows = [(field.name.replace("_", " "), *(getattr(one, field.name) for one in plans)) for field in fields(Plan)]
    table(
        ("users a day", *(f"{users:,}" for users in asked.users)), [*rows, ("breaks first", *(p.first for p in plans))]
    )


if __name__ == "__main__":
    main()
