"""Work of a worker's event loop, done in slices so that heartbeats and acks keep flowing.

In come functions, *steps*, that may wait for the broker; each is called on the loop's thread.
Promise: in the order they were added, never inside the call that added them, and none any
more once closed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amqp.exceptions import RecoverableConnectionError

#: Steps taken in one go before the event loop gets its turn again.
SLICE = 20
PAUSE_SECONDS = 0.001


@dataclass(slots=True)
class Steps:
    """Steps waiting for the event loop; ``later`` calls a function on it after so many seconds.

    Kombu's loop runs ten due timers and then waits for an event, up to a second, even where
    more are due. So one timer stands for any number of steps, and between two slices there is
    a real, short pause. Whatever of ``channel_errors`` a step raises ends the connection.
    """

    later: Callable[[float, Callable[[], None]], Any]
    channel_errors: tuple[type[Exception], ...]
    work: deque[Callable[[], None]] = field(default_factory=deque)
    delayed: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)
    awake: bool = False
    closed: bool = False

    def close(self) -> None:
        """Do nothing more: what is left belongs to a connection that is gone."""
        self.closed = True
        self.work.clear()
        self.delayed.clear()

    def add_later(self, seconds: float, step: Callable[[], None]) -> None:
        """Add a step ``seconds`` from now, which are the same for all steps."""
        self.delayed.append((time.monotonic() + seconds, step))
        if len(self.delayed) == 1:
            self.later(seconds, self._add_due)

    def _add_due(self) -> None:
        now = time.monotonic()
        while self.delayed and self.delayed[0][0] <= now:
            self.add(self.delayed.popleft()[1])
        if self.delayed:
            self.later(self.delayed[0][0] - now, self._add_due)

    def add(self, step: Callable[[], None]) -> None:
        """Add a step, which runs after all that were added before."""
        if self.closed:
            return
        # Broker calls wait for their answers and meanwhile receive deliveries, which
        # add work: never do it right there, or thousands of frames pile up.
        self.work.append(step)
        if not self.awake:
            self.awake = True
            self.later(0.0, self._run)

    def _run(self) -> None:
        try:
            for _ in range(min(SLICE, len(self.work))):
                self.work.popleft()()
        except self.channel_errors as err:
            # The users of that channel are no longer heard here: let go of everything,
            # and the broker hands the leases out anew.
            raise RecoverableConnectionError(f"a channel was closed: {err}") from err
        finally:
            self.awake = False
            if self.work:
                self.awake = True
                self.later(PAUSE_SECONDS, self._run)
