"""The connection that workers, senders and beat consume and schedule on.

Promise: a broker that is away is asked for every one to two seconds. Celery asks ever more
seldom, up to every 30 s, and has no setting for that: after an outage whoever writes would
wait that long for a worker.
"""

from __future__ import annotations

import random
from typing import Any, Self

import kombu

#: Before the next try (seconds); each process draws its own, so that not all come at one moment.
RETRY_SECONDS = (1.0, 2.0)


class Connection(kombu.Connection):
    """A connection that is tried again every one to two seconds until it is there."""

    def ensure_connection(self, *arguments: Any, **options: Any) -> Self:
        """Return once connected, as kombu's does, which takes the pauses from here unless it is given others."""
        pause = random.uniform(*RETRY_SECONDS)  # noqa: S311  # jitter
        pauses = {"interval_start": pause, "interval_step": 0, "interval_max": pause}
        return super().ensure_connection(*arguments, **{**pauses, **options})  # type: ignore[no-any-return]
