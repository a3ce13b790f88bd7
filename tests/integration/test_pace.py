"""The pace of a number and of a pair, kept by two senders before Meta complains.

``make pace`` does the same with Meta's own rates, and prints what the schedule cost.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.messages import Message
from tests.system import PHONE_NUMBER_ID, System

ONE = "5511988880000"


@dataclass(frozen=True)
class Plan:
    """How much is sent, and how fast the stand-in takes it."""

    to_one: int
    to_many: int
    per_second: float
    pair_seconds: float
    pair_burst: int

    @property
    def rates(self) -> dict[str, float]:
        return {k: v for k, v in asdict(self).items() if not k.startswith("to_")}

    @property
    def best_seconds(self) -> float:
        """Return how long the best possible schedule takes."""
        pair = max(0, self.to_one - self.pair_burst) * self.pair_seconds
        return max(pair, (self.to_one + self.to_many) / self.per_second)


def commit(system: System, user: str, reply: str) -> None:
    """Have a reply wait in the user's outbox, as a turn leaves it, and wake a sender."""
    settings = {name.removeprefix("CHATBOT_").lower(): value for name, value in system.env.items() if name in WANTED}
    bot = Chatbot(Settings(_env_file=None, **settings))
    try:
        message = Message(
            user=user, id=f"wamid.{reply}", text="?", channel="whatsapp", account=PHONE_NUMBER_ID, phone=user,
            sent_at=time.time(),
        )  # fmt: skip
        turn = bot.store.commit_turn(bot.store.begin_turn(message, seconds=60), reply)
        assert turn
        bot.router.wake_sender(user, turn.number)
    finally:
        bot.close()


WANTED = {"CHATBOT_BROKER_URL", "CHATBOT_REDIS_URL", "CHATBOT_ENV"}
