"""The model as it misbehaves: it refuses, hangs, talks nonsense, is slow, and says what is hard to format.

In come the stub's calls, out goes what it answers instead of an echo. What it said that was not just the echo is
kept (``said``), so that the verdict can look for every word of it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.faults import replies
from tests.stub_llm import Call, HangUp, completion

#: What kills whoever asks: a message that holds this word.
POISON = "VENENO"
#: Longer than a call to the model may take (``chaos.SETTINGS``), and than a slow answer.
HANG_SECONDS = 10.0
SLOW_SECONDS = (2.0, 6.0)


def texts_of(call: Call) -> list[str]:
    """Return what the person wrote, as the model was shown it: what has no answer stands in one with what follows."""
    return [text for said in call.said for text in said.split("\n\n")]


def asked(call: Call) -> str:
    """Return the message that is to be answered."""
    return texts_of(call)[-1]


class Model:
    """What the stub is asked first (``StubLLM.script``).

    ``on_answer`` is told of each message that is answered, ``on_poison`` of each call that asks for poison.
    """

    def __init__(
        self, dice: random.Random, *, on_answer: Callable[[str], None], on_poison: Callable[[Call], None]
    ) -> None:  # fmt: skip
        self.mode = ""
        self.asked = 0
        self.said: dict[int, str] = {}
        self.hunted: set[str] = set()
        self._dice = dice
        self._on_answer, self._on_poison = on_answer, on_poison
        self._lock = threading.Lock()
        self._slow = 0
        self._hostile = 0
        self._traps: list[list[str]] = []

    def be_hostile(self, times: int) -> None:
        """Say something that is hard to format in so many of the next answers."""
        with self._lock:
            self._hostile += times

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Take seconds for each answer until the block ends."""
        with self._lock:
            self._slow += 1
        try:
            yield
        finally:
            with self._lock:
                self._slow -= 1

    def trap(self) -> list[str]:
        """Answer the next message at such length that formatting takes a while; the list will hold it then."""
        caught: list[str] = []
        with self._lock:
            self._traps.append(caught)
        return caught

    def __call__(self, call: Call) -> Any:
        """Return what is answered: an echo, unless it misbehaves. Raises ``HangUp``."""
        with self._lock:
            self.asked += 1
        if any(POISON in text for text in call.said):
            self._on_poison(call)
            raise HangUp
        if self._slow:
            with self._lock:
                seconds = self._dice.uniform(*SLOW_SECONDS)
            time.sleep(seconds)
        if (answer := self._broken()) is not None:
            return answer
        text = asked(call)
        reply = self._reply(call, text)
        self._on_answer(text)
        return 200, completion(reply)

    def _broken(self) -> Any:
        match self.mode:
            case "429":
                return 429, {"error": {"message": "slow down", "type": "rate_limit"}}, {"Retry-After": "1"}
            case "500":
                return 500, {"error": {"message": "broken", "type": "server_error"}}
            case "hang":
                time.sleep(HANG_SECONDS)
                raise HangUp
            case "refuse":
                raise HangUp
            case "empty":
                return 200, completion("")
            case "garbage":
                return 200, b"<html>bad gateway</html>"
        return None

    def _reply(self, call: Call, text: str) -> str:
        head = f"eco: {text} #{call.number}"
        with self._lock:
            if self._traps and text not in self.hunted:
                self.hunted.add(text)
                self._traps.pop(0).append(text)
            if text in self.hunted:
                reply = replies.heavy(head)
            elif self._hostile:
                self._hostile -= 1
                reply = replies.hostile(self._dice, head)
            else:
                return head
            self.said[call.number] = reply
            return reply
