"""What a conversation takes of Redis: memory of what is kept, and the processor's time of a call.

Turns are committed and delivered as in ``conversation.py`` and ``delivery.py``, without agent and
channel; texts of 60 and replies of 200 characters. Users with many turns against users with one
tell what a user keeps and what each message adds (kept for days, so that it is known when it is
delivered again or quoted).
"""

from __future__ import annotations

import time

import redis

from chatbot.config import Settings
from chatbot.messages import Message
from chatbot.store import Store, connect
from tests.benchmarks.bench import Bench, Figures, table

SHORT, LONG = 21, 61
TEXT, REPLY = "p" * 60, "r" * 200


def run(bench: Bench) -> Figures:
    """Return KiB a user and a message, and milliseconds of Redis's CPU a call; there is no goal."""
    client = connect(bench.redis.url)
    history = Settings.model_fields["history_turns"].default
    store = Store(client, history_turns=history, retention=1e6, clock=time.time)
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
    calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    call = 1000 * bench.redis.cpu_seconds / calls
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
        claimed = store.claim_delivery(user, holder="bench", seconds=60)
        assert claimed
        store.settle_done(claimed, sent=f"wamid.out.{user}.{n:040}")


def _memory(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])
