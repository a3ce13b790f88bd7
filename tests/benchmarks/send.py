"""What a reply costs the sender: its processor's time, from the wake-up to the settled outbox.

One sender as in the Procfile delivers replies of one part to the stand-in, which takes them as
fast as they come, to users who have one waiting each. There is nothing to compare it with.
"""

from __future__ import annotations

import statistics
import time
from contextlib import closing

from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.messages import Message
from tests.benchmarks.bench import Bench, Figures, table
from tests.servers import held, wait_until
from tests.system import PHONE_NUMBER_ID, System

SENDER = "sender"


def run(bench: Bench) -> Figures:
    """Return the milliseconds of the sender's CPU a reply; there is no goal."""
    count = bench.scaled(1000, quick=200)
    with System(bench.folder, bench.rabbitmq, bench.redis, None) as system:
        system.start(SENDER)
        settings = {name: system.env[f"CHATBOT_{name.upper()}"] for name in ("broker_url", "redis_url")}
        with closing(Chatbot(Settings(_env_file=None, env="test", **settings))) as bot:
            rounds = [_measure(system, bot, turn, count) for turn in range(bench.rounds + 1)][1:]
    cpu = statistics.median(rounds)
    table(("", "CPU ms a reply"), [(SENDER, cpu)])
    return {"cpu_ms": cpu}


def _measure(system: System, bot: Chatbot, turn: int, count: int) -> float:
    sender, before = system.processes[SENDER], len(system.stand_in.sent())
    with held([sender]):
        for n in range(count):
            user = f"55219{turn}{n:07}"
            message = Message(
                user=user, id=f"wamid.{user}", text="?", channel="whatsapp", account=PHONE_NUMBER_ID, phone=user,
                sent_at=time.time(),
            )  # fmt: skip
            assert bot.store.commit_turn(bot.store.begin_turn(message, seconds=60), "Olá! Como posso ajudar?")
            bot.router.wake_sender(user, 1)
    used = sender.cpu_seconds
    wait_until(lambda: len(system.stand_in.sent()) >= before + count, seconds=120, what="every reply", every=0.5)
    wait_until(lambda: not bot.store.due_outboxes(before=time.time() + 3600), what="every outbox settled")
    return 1000 * (sender.cpu_seconds - used) / count
