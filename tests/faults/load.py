"""The people: hundreds of them, writing at once, as WhatsApp passes it on.

Each user's messages arrive one POST after another: the next is posted once the one before
was answered 200, so their order of arrival is known. A POST that fails is repeated until
it is taken, as WhatsApp does; some are delivered twice, at once or much later. Some hold
several messages of one user or of several, and some of these are shuffled (their
timestamps tell the order).
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from tests.system import System, sign, webhook_body

#: Messages on their way at most; a message counts for so many seconds.
MOST_ON_THEIR_WAY = 64
FORGOTTEN_SECONDS = 20.0
POSTERS = 16
#: A refusal that takes longer is shown: what is promised.
SLOW_SECONDS = 5.0


def text_of(user: int, number: int, *, poison: bool = False) -> str:
    """Return what a user writes: it names who wrote it, and the how manieth it is."""
    return f"u{user:05}-m{number:05} bom dia" + (" VENENO" if poison else "")


@dataclass
class Load:
    """Posts ``messages`` in all; ``accepted`` counts them as they are answered 200."""

    system: System
    messages: int
    users: int
    dice: random.Random
    poisons: frozenset[int] = frozenset()
    may_write: Callable[[], bool] = lambda: True
    accepted: dict[str, list[str]] = field(default_factory=dict)
    taken_at: dict[str, float] = field(default_factory=dict)
    refused: int = 0
    slowest_refusal: float = 0.0
    posts: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = deque(range(self.users))
        self._next = dict.fromkeys(range(self.users), 0)
        self._left = self.messages
        self._old: deque[bytes] = deque(maxlen=200)
        self._recent: deque[tuple[float, str]] = deque()
        self._done: set[str] = set()

    def phone(self, user: int) -> str:
        """Return the phone number of a user."""
        return f"55119{user:08}"

    def phone_of(self, text: str) -> str:
        """Return the phone number of whoever wrote a text."""
        return self.phone(int(text[1:6]))

    def poison_texts(self) -> frozenset[str]:
        """Return what was written to end the process that answers it."""
        return frozenset(text_of(user, 1, poison=True) for user in self.poisons)

    def count(self) -> int:
        """Return how many messages were taken so far."""
        return len(self.taken_at)

    def note_answer(self, text: str) -> None:
        """Be told that the model answered this text."""
        self._done.add(text)

    def run(self) -> None:
        """Post everything; returns once the last message is taken."""
        threads = [threading.Thread(target=self._post_all, args=(self.dice.random(),)) for _ in range(POSTERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _post_all(self, seed: float) -> None:
        dice = random.Random(seed)
        with httpx.Client(timeout=10) as client:
            while (batch := self._take(dice)) is not None:
                self._wait_for_room()
                self._post(client, dice, batch)
                with self._lock:
                    self._waiting.extend(batch)

    def _take(self, dice: random.Random) -> dict[int, list[int]] | None:
        """Return the numbers of the messages of each user of one POST; ``None`` when all are taken."""
        while True:
            with self._lock:
                if self._left == 0:
                    return None
                batch: dict[int, list[int]] = {}
                for _ in range(dice.choice((1, 1, 1, 2, 4))):
                    size = min(dice.choice((1, 1, 1, 1, 2, 3, 5)), self._left)
                    if not self._waiting or not size:
                        break
                    self._left -= size
                    user = self._waiting.popleft()
                    first = self._next[user]
                    self._next[user] += size
                    batch[user] = list(range(first, first + size))
                if batch:
                    return batch
            time.sleep(0.01)

    def _wait_for_room(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                while self._recent and (
                    self._recent[0][0] < now - FORGOTTEN_SECONDS or self._recent[0][1] in self._done
                ):
                    self._recent.popleft()
                on_their_way = sum(text not in self._done for _, text in self._recent)
            if on_their_way < MOST_ON_THEIR_WAY and self.may_write():
                return
            time.sleep(0.02)

    def _post(self, client: httpx.Client, dice: random.Random, batch: dict[int, list[int]]) -> None:
        texts = {
            self.phone(user): [text_of(user, n, poison=n == 1 and user in self.poisons) for n in numbers]
            for user, numbers in batch.items()
        }
        body = self._body(dice, texts)
        if dice.random() < 0.05:
            twin = threading.Thread(target=self._send_once, args=(body,))
            twin.start()
            self._send(client, body)
            twin.join()
        else:
            self._send(client, body)
        now = time.monotonic()
        with self._lock:
            for phone, written in texts.items():
                self.accepted.setdefault(phone, []).extend(written)
                self.taken_at |= dict.fromkeys(written, now)
                self._recent.extend((now, text) for text in written)
            self._old.append(body)
            late = dice.choice(self._old) if dice.random() < 0.05 else None
        if late:
            self._send(client, late)

    def _body(self, dice: random.Random, texts: dict[str, list[str]]) -> bytes:
        messages = [(phone, f"wamid.{text.split()[0]}", text) for phone, of_one in texts.items() for text in of_one]
        if len(messages) == 1 or dice.random() < 0.5:
            return webhook_body(messages)
        body = json.loads(webhook_body(messages))
        written = body["entry"][0]["changes"][0]["value"]["messages"]
        for seconds, message in enumerate(written):
            message["timestamp"] = str(int(message["timestamp"]) + seconds)
        dice.shuffle(written)
        return json.dumps(body).encode()

    def _send(self, client: httpx.Client, body: bytes) -> None:
        """Post until it is taken, as WhatsApp does."""
        while not self._sent(client, body):
            time.sleep(0.3)

    def _send_once(self, body: bytes) -> None:
        with httpx.Client(timeout=10) as client:
            self._sent(client, body)

    def _sent(self, client: httpx.Client, body: bytes) -> bool:
        headers = {"X-Hub-Signature-256": sign(body), "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.system.port}/webhook/whatsapp"
        began = time.monotonic()
        try:
            answer = client.post(url, content=body, headers=headers)
        except httpx.HTTPError:
            return False  # the web process is being killed or restarted
        seconds = time.monotonic() - began
        with self._lock:
            self.posts += 1
            if answer.status_code != 200:
                assert answer.status_code == 503, f"the webhook answered {answer.status_code}"
                self.refused += 1
                self.slowest_refusal = max(self.slowest_refusal, seconds)
                if seconds > SLOW_SECONDS:
                    print(f"503 after {seconds:.2f} s at {began:.1f}: {answer.text}", file=sys.stderr)
        return answer.status_code == 200
