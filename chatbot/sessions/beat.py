"""Beat as we run it: a schedule in memory, one line where something cannot be sent, and an end where it is refused.

In comes ``beat_schedule``, which is the same at each start, so nothing is kept between two runs:
no file, whose pickle whoever can write it could have run. Promise: a broker that is away is
asked for until it is there; one that refuses us ends the process with exit code 1.
"""

from __future__ import annotations

import sys
from typing import Any

import structlog
from celery import beat
from celery.apps.beat import Beat as CelerysBeat

from chatbot.errors import BrokerRefused
from chatbot.sessions.heartbeat import PULSE_SECONDS

log = structlog.get_logger(__name__)


class Scheduler(beat.Scheduler):
    """Sends what is due; what cannot be sent is not made up for: the next beat does the same.

    Says that it comes round (``sessions/heartbeat.py``).
    """

    def tick(self, *arguments: Any, **options: Any) -> float:
        """Send what is due; return the seconds until it is to be called again, a second at most."""
        self.app.chatbot.presence.pulse()
        return min(float(super().tick(*arguments, **options)), PULSE_SECONDS)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send one entry. Raises ``BrokerRefused``."""
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except beat.SchedulingError as err:
            if isinstance(err.__context__, BrokerRefused):
                raise err.__context__ from err
            log.error("beat.not_sent", entry=entry.name, error=str(err.__context__))
        else:
            log.debug("beat.sent", entry=entry.name)


class Beat(CelerysBeat):
    """``celery beat``, which logs why it ends; the exit code is all that is left to say."""

    def run(self) -> None:
        """Run until stopped. Exits with 1 where the broker refuses us."""
        try:
            super().run()
        except BrokerRefused:
            sys.exit(1)
