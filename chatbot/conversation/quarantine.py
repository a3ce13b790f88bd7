"""Suspects: messages whose runs were never heard of again are answered in a process of their own.

In comes a message and the past, out go the message as it was read and the reply, as from
``Conversation.think``. Promises: a suspect that ends its process ends nothing else, and is then known
for certain to be what did it; suspects never hold up other messages; each has ``SECONDS`` at most.
A process serves one suspect at a time, is kept for the next one for a while, and ends with its parent.

Between the two processes go lines of JSON: settings first, then a suspect and its outcome in turn.
``python -m chatbot.isolated_turn`` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import SecretStr

from chatbot import errors
from chatbot.errors import EndsItsProcess, NoRoom, Transient
from chatbot.messages import Message, Turn

if TYPE_CHECKING:
    from chatbot.config import Settings

log = structlog.get_logger(__name__)

#: Suspects that are answered at once; others wait in their queues.
PROCESSES = 2
#: A suspect has this long, its process's start included; longer than the slowest model and its tries.
SECONDS = 600.0
#: An idle process is kept this long for the next suspect.
IDLE_SECONDS = 60.0
#: What one outcome may be long (bytes).
MOST_BYTES = 4 * 1024 * 1024


class Quarantine:
    """Answers suspects in processes of their own; safe to use from many threads.

    ``command`` is what starts one; a test gives another.
    """

    def __init__(
        self, settings: Settings, *, processes: int = PROCESSES, seconds: float = SECONDS,
        command: Sequence[str] = (sys.executable, "-m", "chatbot.isolated_turn"),
    ) -> None:  # fmt: skip
        self._settings = settings
        self._seconds = seconds
        self._command = list(command)
        self._places = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._idle: list[_Child] = []

    def think(self, message: Message, history: Sequence[Turn]) -> tuple[Message, str]:
        """Return what ``Conversation.think`` returns, or raise what it raises.

        Raises ``NoRoom`` where every process is busy, ``EndsItsProcess`` where the suspect ended its
        process or took longer than it may.
        """
        if not self._places.acquire(blocking=False):
            raise NoRoom("other suspects are being answered")
        try:
            child = self._child()
            asked = {"message": message.to_dict(), "history": [turn.to_dict() for turn in history]}
            try:
                outcome = child.ask(asked, seconds=self._seconds)
            except (EOFError, OSError, ValueError, TimeoutError) as err:
                child.end()
                log.error("quarantine.process_ended", message_id=message.id, error=type(err).__name__)  # foreseen
                raise EndsItsProcess(f"it ended the process that answered it ({type(err).__name__})") from err
            with self._lock:
                self._idle.append(child)
        finally:
            self._places.release()
        return _taken(outcome)

    def close(self) -> None:
        """End the idle processes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()

    def _child(self) -> _Child:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.lives():
                    return child
        return _Child(self._command, self._settings)


class _Child:
    """One process that answers suspects."""

    def __init__(self, command: list[str], settings: Settings) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # ourselves
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        self._read = bytearray()
        self._first = json.dumps(_plain(settings))

    def lives(self) -> bool:
        return self._process.poll() is None

    def ask(self, asked: dict[str, Any], *, seconds: float) -> dict[str, Any]:
        """Return the outcome of one suspect. Raises ``EOFError`` where the process ended, ``TimeoutError``."""
        assert self._process.stdin is not None
        lines = [line for line in (self._first, json.dumps(asked)) if line]
        self._first = ""
        self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        answer = json.loads(self._line(time.monotonic() + seconds))
        if not isinstance(answer, dict):
            raise ValueError("the outcome is no object")  # unreadable
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _line(self, until: float) -> bytes:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        while b"\n" not in self._read:
            left = until - time.monotonic()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                raise TimeoutError
            chunk = os.read(output, 65_536)
            if not chunk:
                raise EOFError
            self._read += chunk
            if len(self._read) > MOST_BYTES:
                raise ValueError("the outcome is too long")
        line, _, rest = bytes(self._read).partition(b"\n")
        self._read = bytearray(rest)
        return line


def _plain(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON takes them, secrets in clear: they go through a pipe to a process of ours."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {name: _as_written(value) for name, value in values.items() if value is not None}


def _as_written(value: Any) -> str:
    """Return a setting's value as it would stand in the environment."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _taken(outcome: dict[str, Any]) -> tuple[Message, str]:
    if "error" in outcome:
        kind = getattr(errors, str(outcome["error"]), Transient)
        error = kind(str(outcome.get("says", "")))
        if isinstance(error, Transient):
            error.retry_after = outcome.get("retry_after")
        raise error
    return Message.from_dict(outcome["message"]), str(outcome["reply"])
