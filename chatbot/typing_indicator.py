"""The typing indicator of turns that take long.

WhatsApp shows it for 25 s. In come messages whose turns are under way; out goes, for as long
as one is, a call of ``show`` every ``seconds``. Promise: one thread for all turns, none where there
are none for long, and no call for a turn that ends before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from chatbot.messages import Message

log = structlog.get_logger(__name__)


class TypingIndicator:
    """Shows people whose turns take long that they are being answered; safe to use from many threads.

    ``show`` is called on the thread of all; what it raises is logged, for it is a courtesy.
    """

    def __init__(self, show: Callable[[Message], None], *, seconds: float) -> None:
        self._show = show
        self._seconds = seconds
        # When each is due, soonest first: what is put in goes to the end.
        self._due: dict[object, tuple[float, Message]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def shown(self, message: Message) -> Iterator[None]:
        """Show it to the author of ``message`` again and again, until the block ends."""
        turn = object()
        with self._changed:
            self._due[turn] = (time.monotonic() + self._seconds, message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="typing-indicator", daemon=True)
                self._thread.start()
            if len(self._due) == 1:  # else it waits for one that is due sooner
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._due[turn]

    def _run(self) -> None:
        while message := self._next():
            try:
                self._show(message)
            except Exception:
                log.exception("typing.not_shown", message_id=message.id)

    def _next(self) -> Message | None:
        """Return the next message once it is due, and have it come again; ``None``: nobody is answered any more."""
        with self._changed:
            while self._changed.wait_for(lambda: self._due, self._seconds):
                turn, (due, message) = next(iter(self._due.items()))
                left = due - time.monotonic()
                if left <= 0:
                    del self._due[turn]
                    self._due[turn] = (time.monotonic() + self._seconds, message)
                    return message
                self._changed.wait(left)
            self._thread = None
            return None
