"""What a message costs the sender: its processor's time to mark it read, to reply, and to note what became of it.

One sender as in the Procfile works for users who have one message each: it marks what they wrote
as read, delivers a reply of one part to the stand-in, which takes it as fast as it comes, and
settles what is reported of it, as many a second as ``plan.py`` says. There is nothing to compare
it with.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import closing

from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.messages import Message, Status
from tests.benchmarks.bench import Bench, Figures, table
from tests.benchmarks.plan import CALLS_A_SECOND
from tests.servers import wait_until
from tests.system import PHONE_NUMBER_ID, System

SENDER = "sender"


def run(bench: Bench) -> Figures:
    """Return the milliseconds of the sender's CPU for each kind of its work; there is no goal."""
    count = bench.scaled(600, quick=200)
    with System(bench.folder, bench.rabbitmq, bench.redis, None) as system:
        system.start(SENDER)
        settings = {name: system.env[f"CHATBOT_{name.upper()}"] for name in ("broker_url", "redis_url")}
        with closing(Chatbot(Settings(_env_file=None, env="test", **settings))) as bot:
            rounds = [_measure(system, bot, turn, count) for turn in range(bench.rounds + 1)][1:]
    cpu = {what: statistics.median(one[what] for one in rounds) for what in rounds[0]}
    table(("the sender's CPU ms", ""), list(cpu.items()))
    return {"cpu_ms": cpu}


def _measure(system: System, bot: Chatbot, turn: int, count: int) -> dict[str, float]:
    sender = system.processes[SENDER]
    messages = [_message(f"55219{turn}{n:07}") for n in range(count)]

    def spent(give: Callable[[Message], None], *, then: Callable[[], object] = lambda: True) -> float:
        used, began = sender.cpu_seconds, time.monotonic()
        for n, message in enumerate(messages):
            time.sleep(max(0.0, began + n / CALLS_A_SECOND - time.monotonic()))
            give(message)
        wait_until(lambda: not system.waiting("send"), seconds=120, what="nothing to send", every=0.5)
        wait_until(then, seconds=120, what="everything settled")
        return 1000 * (sender.cpu_seconds - used) / count

    def reply(message: Message) -> None:
        assert bot.store.commit_turn(bot.store.begin_turn(message, seconds=60), "Olá! Como posso ajudar?")
        bot.router.wake_sender(message.user, 1)

    return {
        "mark read": spent(lambda message: bot.router.mark_read(message, at=time.time())),
        "reply": spent(reply, then=lambda: not bot.store.due_outboxes(before=time.time() + 3600)),
        "report": spent(lambda message: bot.router.report(_delivered(message))),
    }


def _message(user: str) -> Message:
    return Message(
        user=user, id=f"wamid.{user}", text="?", channel="whatsapp", account=PHONE_NUMBER_ID, phone=user,
        sent_at=time.time(),
    )  # fmt: skip


def _delivered(message: Message) -> Status:
    return Status(
        message_id=f"wamid.out.{message.id}", status="delivered", recipient=message.user,
        callback=f"{message.user}:1:0",
    )  # fmt: skip
