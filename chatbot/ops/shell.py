"""For developers: call the running system from a Python shell.

Both functions are Celery tasks too, so that ``celery -A chatbot shell`` offers them
beside ``answer``; called like functions they run right here.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from celery import shared_task

from chatbot.messages import Message

WAIT_SECONDS = 120.0


@shared_task(name="chatbot.chat", bind=True)
def chat(self: Any, user: str, text: str, *, timeout: float = WAIT_SECONDS) -> str:
    """Say ``text`` as ``user`` and return the reply.

    The message travels like any other, through the user's queue and conversation; only
    the channel is this shell. Raises ``TimeoutError`` after ``timeout`` seconds, and
    what ``Router.route`` raises.
    """
    bot = self.app.chatbot
    message = Message(user=user, id=f"shell.{uuid.uuid4().hex}", text=text, sent_at=time.time())
    bot.router.route(message)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        turn = bot.store.turn_of(message)
        if turn is not None:
            return str(turn.reply)
        time.sleep(0.02)
    raise TimeoutError(f"no reply within {timeout:g} s: is a worker running (-Q chat.open)?")


@shared_task(name="chatbot.sessions", bind=True)
def sessions(self: Any) -> dict[str, dict[str, object]]:
    """Return who is being served right now: user → worker, seconds idle, busy."""
    live: dict[str, dict[str, object]] = self.app.chatbot.sessions.live()
    return live


@shared_task(name="chatbot.counts", bind=True)
def counts(self: Any) -> dict[str, int]:
    """Return how often each thing happened that should stay rare (README.md, "Counts")."""
    counted: dict[str, int] = self.app.chatbot.store.counts()
    return counted


@shared_task(name="chatbot.history", bind=True)
def history(self: Any, user: str) -> list[tuple[str, str]]:
    """Return what ``user`` said and heard, oldest first."""
    return [(turn.message.text, turn.reply) for turn in self.app.chatbot.store.history(user)]
