"""The pace of a number and of a pair, kept by two senders together before Meta complains.

``make pace`` does the same with Meta's own rates (16 minutes), and prints what it cost.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.messages import Message
from tests.servers import RabbitMQ, Redis, end_in_order, held, wait_until
from tests.system import PHONE_NUMBER_ID, System

ONE = "5511988880000"
SENDERS = ("sender.1", "sender.2")


@dataclass(frozen=True)
class Plan:
    """How many replies wait, and how fast the stand-in takes them."""

    to_one: int
    to_many: int
    per_second: float
    pair_seconds: float
    pair_burst: int

    @property
    def best(self) -> dict[str, float]:
        """The seconds that the best possible schedules take: the one person's, and that of all others."""
        return {
            "one": (self.to_one - self.pair_burst) * self.pair_seconds,
            "many": (self.to_one + self.to_many) / self.per_second,
        }


#: 200 replies to one person and 2,000 to 400 others, as Meta takes them.
META = Plan(to_one=200, to_many=2000, per_second=80, pair_seconds=6, pair_burst=45)
#: The same in a few seconds.
SHORT = Plan(to_one=60, to_many=300, per_second=100, pair_seconds=0.2, pair_burst=45)


def send_all(folder: Path, rabbitmq: RabbitMQ, redis: Redis, plan: Plan) -> dict[str, Any]:
    """Have two senders deliver everything; return what the stand-in saw."""
    many = [f"55219777{n:05}" for n in range(max(1, plan.to_many // 5))]
    with System(
        folder, rabbitmq, redis, None,
        whatsapp_rate=plan.per_second, whatsapp_pair_seconds=plan.pair_seconds, whatsapp_pair_burst=plan.pair_burst,
    ) as system:  # fmt: skip
        system.stand_in.keep_rates(
            per_second=plan.per_second, pair_seconds=plan.pair_seconds, pair_burst=plan.pair_burst
        )
        system.start(*SENDERS, "beat")
        with closing(Chatbot(Settings(
            _env_file=None, env="test",
            broker_url=system.env["CHATBOT_BROKER_URL"], redis_url=system.env["CHATBOT_REDIS_URL"],
        ))) as bot:  # fmt: skip
            waiting = [(ONE, n) for n in range(plan.to_one)]
            waiting += [(many[n % len(many)], n // len(many)) for n in range(plan.to_many)]
            for user, n in waiting:
                _commit(bot, user, f"{user}/{n}")
            with held(system.processes[name] for name in SENDERS):  # what publishing takes is not what is measured
                for user, n in waiting:
                    bot.router.wake_sender(user, n + 1)
            began = time.time()
        wait_until(
            lambda: len(system.stand_in.sent()) >= len(waiting), seconds=60 + 2 * max(plan.best.values()),
            what="every reply", every=0.5,
        )  # fmt: skip
        sent = system.stand_in.sent()
        took = {
            "one": max(item["time"] for item in sent if item["to"] == ONE) - began,
            "many": max(item["time"] for item in sent if item["to"] != ONE) - began,
        }
        for user in (ONE, *many):
            assert [item["text"] for item in sent if item["to"] == user] == [
                f"{u}/{n}" for u, n in waiting if u == user
            ]
        return {
            "sent": len(sent),
            "rejected": sum(call["status"] != 200 for call in system.stand_in.calls()),
            "seconds": {name: round(seconds, 2) for name, seconds in took.items()},
            "best": {name: round(seconds, 2) for name, seconds in plan.best.items()},
            "lost": {name: round(took[name] / best - 1, 3) for name, best in plan.best.items()},
        }


def _commit(bot: Chatbot, user: str, reply: str) -> None:
    message = Message(
        user=user, id=f"wamid.{reply}", text="?", channel="whatsapp", account=PHONE_NUMBER_ID, phone=user,
        sent_at=time.time(),
    )  # fmt: skip
    assert bot.store.commit_turn(bot.store.begin_turn(message, seconds=60), reply)


def test_two_senders_deliver_everything_in_order_at_the_pace_of_the_channel(tmp_path, rabbitmq, redis_server):
    """On a starved machine something may come late and be refused: it is sent again, in order."""
    assert send_all(tmp_path, rabbitmq, redis_server, SHORT)["sent"] == SHORT.to_one + SHORT.to_many


def main() -> None:
    """Send at Meta's rates; print the figures as one JSON line."""
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="chatbot-pace-") as name:
        folder = Path(name)
        with closing(RabbitMQ(folder / "rabbitmq")) as rabbitmq, closing(Redis(folder / "redis")) as redis:
            rabbitmq.start()
            redis.start()
            seen = send_all(folder, rabbitmq, redis, META)
    print(json.dumps(seen))
    sys.exit(1 if seen["rejected"] or max(seen["lost"].values()) > 0.1 else 0)


if __name__ == "__main__":
    main()
