"""What a conversation takes of Redis: memory of what is kept, and the processor's time of a call.

Turns are committed and delivered as in ``conversation/turn.py`` and ``delivery/sender.py``, without agent and
channel; texts of 60 and replies of 200 characters. Users with many turns against users with one
tell what a user keeps and what each message adds (kept for days, so that it is known when it is
delivered again or quoted).
"""

from __future__ import annotations

import time

import redis

from chatbot.config import Settings
from chatbot.messages import Message
from chatbot.store.client import connect
from chatbot.store.store import Store
from tests.benchmarks.bench import Bench, Figures, table
from tests.benchmarks.plan import RATE, Costs

SHORT, LONG = 21, 61
CALLS_OF_A_TURN = 4
TEXT, REPLY = "p" * 60, "r" * 200


def run(bench: Bench) -> Figures:
    """Return KiB a user and a message, and milliseconds of Redis's CPU a call; there is no goal."""
    client = connect(bench.redis.url)
    history = Settings.model_fields["history_turns"].default
    store = Store(client, history_turns=history, retention=1e6)
    users = bench.scaled(200, quick=50)
    _talk(store, "warm up", 1)
    kib = {}
    for turns in (SHORT, LONG):  # both beyond the history that is kept, so that only messages differ
        before = _memory(client)
        for n in range(users):
            _talk(store, f"55119{turns}{n:06}", turns)
        kib[turns] = (_memory(client) - before) / users / 1024
    a_message = (kib[LONG] - kib[SHORT]) / (LONG - SHORT)
    a_user = kib[SHORT] - SHORT * a_message
    call = _cpu_of_a_call(bench, store, client)
    table(("", "KiB"), [("a user, without the messages", a_user), ("a message more", a_message)])
    table(("", "Redis's CPU ms"), [("a call", call)])
    return {"user_kib": a_user, "message_kib": a_message, "call_cpu_ms": call}


def _talk(store: Store, user: str, turns: int) -> None:
    for n in range(turns):
        message = Message(
            user=user, id=f"wamid.{user}.{n:040}", text=TEXT, channel="whatsapp", account="100000000000001",
            phone=user, sent_at=time.time(),
        )  # fmt: skip
        assert store.commit_turn(store.begin_turn(message, seconds=60), REPLY)
        claimed = store.claim_delivery(user, fence="bench")
        assert claimed
        store.settle_done(claimed, sent=f"wamid.out.{user}.{n:040}")


def _cpu_of_a_call(bench: Bench, store: Store, client: redis.Redis) -> float:
    """Return the milliseconds of a call, of as many a second as ``plan.py`` says."""
    turns_a_second = RATE * Costs().redis_calls / CALLS_OF_A_TURN
    used, calls, began = bench.redis.cpu_seconds, _calls(client), time.monotonic()
    for n in range(bench.scaled(1200, quick=300)):
        time.sleep(max(0.0, began + n / turns_a_second - time.monotonic()))
        _talk(store, f"55118{n:08}", 1)
    return 1000 * (bench.redis.cpu_seconds - used) / (_calls(client) - calls)


def _calls(client: redis.Redis) -> int:
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


def _memory(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])
