"""How many machines a number of users needs, from what was measured: ``python -m tests.benchmarks.plan``.

``--users`` a day, who write ``--messages`` each. What things cost is measured and stands in
``Costs``, each with the benchmark that measures it; what people do and how full a machine may be
are assumptions and stand in ``Load``.

What comes alone costs a process more than what comes with others, so that one that is full takes
half as much for a call as one with little to do. Those of web, senders and Redis are at ``RATE``.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields

from chatbot.config import Settings
from chatbot.store.keys import DEDUPE_SECONDS, QUOTED_SECONDS
from tests.benchmarks.bench import table

GIB = 1024.0**2  # KiB in one
DAY = 86_400
#: Messages a second at which the costs of web, senders and Redis are measured.
RATE = 30.0
#: Of web (a message, three statuses) and of the sender (a read mark, a reply, two reports) at that rate.
CALLS_A_SECOND = 4 * RATE


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured on the machine that the manual names; CPU is milliseconds of one core."""

    webhook_cpu: float = 2.3  # a POST with one message (`ONLY=webhook`)
    status_cpu: float = 1.7  # a POST with a status (`ONLY=webhook`) …
    report_post_cpu: float = 2.1  # … and with one that is passed on to the sender (`ONLY=webhook`)
    statuses: int = 3  # of a reply: sent, delivered, read …
    reports: int = 2  # … of which these are passed on (`SETTLING` in chatbot/web/webhook.py)
    turn_cpu: float = 9.7  # a turn in the worker, with CrewAI (`ONLY=llm_bound`)
    read_cpu: float = 3.0  # to mark a message as read, in the sender (`ONLY=send`)
    send_cpu: float = 4.3  # a reply of one part (`ONLY=send`)
    report_cpu: float = 1.7  # to note what became of it (`ONLY=send`)
    broker_cpu: float = 6.4  # a message and its reply (`ONLY=whole`)
    worker_kib: float = 180.0 * 1024  # a worker without sessions (`ONLY=start`)
    worker_session_kib: float = 6.3  # (`ONLY=scale QUICK=1`, 1,000 sessions)
    broker_session_kib: float = 42.0  # (`ONLY=scale QUICK=1`, 1,000 sessions)
    redis_user_kib: float = 12.4  # (`ONLY=store`)
    redis_message_kib: float = 1.0  # as long as it is known when delivered again (`ONLY=store`)
    redis_sent_kib: float = 0.2  # after that, as long as it can be quoted
    redis_calls: int = 9  # of a message, until its statuses are in (tests/integration/test_turn_costs.py)
    redis_call_cpu: float = 0.27  # (`ONLY=store`)

    @property
    def of_a_message(self) -> dict[str, float]:
        """What a message takes until the statuses of its reply are in, by kind of process."""
        return {
            "web": self.webhook_cpu
            + self.reports * self.report_post_cpu
            + (self.statuses - self.reports) * self.status_cpu,
            "workers": self.turn_cpu,
            "sender": self.read_cpu + self.send_cpu + self.reports * self.report_cpu,
            "Redis": self.redis_calls * self.redis_call_cpu,
            "RabbitMQ": self.broker_cpu,
        }


@dataclass(frozen=True, slots=True)
class Load:
    """What people do, and how much one unit may be given to do."""

    users: int  # a day
    messages: int = 10  # each of them writes a day, in one visit
    busiest_hour: float = 0.10  # its share of a day's messages
    seconds_between: float = 30.0  # two messages of one visit
    idle_timeout: float = float(Settings.model_fields["idle_timeout"].default)
    llm_seconds: float = 2.0
    threads: int = 32  # of a worker (`Procfile`)
    full: float = 0.7  # of a core, or of a worker's threads
    broker_sessions: int = 10_000  # live on one broker; after a restart all of them have to be served again
    redis_gib: float = 64.0  # of one Redis
    number_per_second: float = 80.0  # replies of one WhatsApp number; Meta raises it to 1,000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is needed in the busiest hour; memory in GiB, of all together."""

    messages_per_second: float
    live_sessions: int
    web_cores: int
    workers: int
    worker_cores: int
    worker_memory: float
    sender_cores: int
    brokers: int
    broker_cores: int
    broker_memory: float
    redis_servers: int
    redis_memory: float
    whatsapp_numbers: int


def plan(load: Load, costs: Costs) -> Plan:
    """Return what ``load`` needs at ``costs``."""
    of = _needs(load, costs)
    workers = max(1, math.ceil(max(of["worker threads"], of["worker cores"])))
    return Plan(
        messages_per_second=of["messages"],
        live_sessions=math.ceil(of["sessions"]),
        web_cores=math.ceil(of["web cores"]),
        workers=workers,
        worker_cores=math.ceil(of["worker cores"]),
        worker_memory=(workers * costs.worker_kib + of["sessions"] * costs.worker_session_kib) / GIB,
        sender_cores=math.ceil(of["sender cores"]),
        brokers=math.ceil(of["brokers"]),
        broker_cores=math.ceil(of["broker cores"]),
        broker_memory=of["sessions"] * costs.broker_session_kib / GIB,
        redis_servers=math.ceil(max(of["redis memory"] / load.redis_gib, of["redis cores"])),
        redis_memory=of["redis memory"],
        whatsapp_numbers=math.ceil(of["numbers"]),
    )


def limits(costs: Costs, messages: int) -> list[tuple[str, int]]:
    """Return up to how many users a day one of each is enough, what breaks first first."""
    load = Load(users=1, messages=messages)
    of = _needs(load, costs)
    one = {
        f"a worker ({load.threads} threads)": max(of["worker threads"], of["worker cores"]),
        f"a WhatsApp number ({load.number_per_second:g} a second)": of["numbers"],
        f"a broker ({load.broker_sessions:,} live sessions)": of["brokers"],
        f"a Redis ({load.redis_gib:g} GiB)": max(of["redis memory"] / load.redis_gib, of["redis cores"]),
        "a core for web": of["web cores"],
        "a core for senders": of["sender cores"],
    }
    return sorted(((what, int(1 / share)) for what, share in one.items()), key=lambda limit: limit[1])


def _needs(load: Load, costs: Costs) -> dict[str, float]:
    """Return what the busiest hour takes, in units and parts of units."""
    visits = load.users * load.busiest_hour / 3600
    rate = visits * load.messages
    sessions = visits * ((load.messages - 1) * load.seconds_between + load.idle_timeout)
    known, quoted = DEDUPE_SECONDS / DAY, QUOTED_SECONDS / DAY
    a_message = costs.redis_message_kib * known + costs.redis_sent_kib * (quoted - known)

    cores = {kind: rate * cpu / 1000 / load.full for kind, cpu in costs.of_a_message.items()}

    return {
        "messages": rate,
        "sessions": sessions,
        "web cores": cores["web"],
        "worker threads": rate * load.llm_seconds / (load.full * load.threads),
        "worker cores": cores["workers"],
        "sender cores": cores["sender"],
        "brokers": sessions / load.broker_sessions,
        "broker cores": cores["RabbitMQ"],
        "redis cores": cores["Redis"],
        "redis memory": load.users * (costs.redis_user_kib + load.messages * a_message) / GIB,
        "numbers": rate / load.number_per_second,
    }


def main() -> None:
    """Print the plan for the numbers of users asked for, and up to how many one of each is enough."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--users", type=int, nargs="*", default=[10_000, 1_000_000, 100_000_000], help="a day")
    options.add_argument("--messages", type=int, default=Load(users=0).messages, help="of each, a day")
    asked = options.parse_args()
    plans = [plan(Load(users, asked.messages), Costs()) for users in asked.users]
    rows = [(field.name.replace("_", " "), *(getattr(one, field.name) for one in plans)) for field in fields(Plan)]
    heads = ("users a day", *(f"{users:,}" for users in asked.users))
    table(heads, rows)
    table(
        ("one is enough up to", "users a day"), [(what, f"{most:,}") for what, most in limits(Costs(), asked.messages)]
    )


if __name__ == "__main__":
    main()
