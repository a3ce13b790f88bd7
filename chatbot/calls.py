"""A call of a task, and the message it travels as.

In comes a ``Call``; out goes what ``celery.amqp.send_task_message`` publishes: Celery's
protocol 2 without the headers that only say that there is nothing to say. Promise: every
message has an id of its own, and what a worker or Flower reads is there. ``send_task``
takes more than twice as long: it looks up what is known here, and writes nineteen headers.

Source: Celery, "Message Protocol", version 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.app.amqp import task_message

#: What follows the call of a task; for us, nothing does.
_FOLLOWED_BY = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


@dataclass(frozen=True, slots=True)
class Call:
    """A task by its name, and what it is called with, JSON-ready, in ``countdown`` seconds.

    ``shown`` is what Flower shows in the place of the arguments, which may say too much.
    """

    task: str
    arguments: tuple[Any, ...]
    kwargs: dict[str, Any]
    shown: str
    countdown: float = 0.0

    def message(self, celery: Celery) -> task_message:
        """Return a new message that calls the task; one published during another names that one as its parent."""
        id_ = str(uuid4())
        headers = {
            "lang": "py",
            "task": self.task,
            "id": id_,
            "root_id": id_,
            "argsrepr": self.shown,
            "kwargsrepr": "{}",
        }
        parent = celery.current_worker_task
        if parent:
            headers["root_id"] = parent.request.root_id or parent.request.id
            headers["parent_id"] = parent.request.id
        if self.countdown:
            headers["eta"] = (datetime.now(UTC) + timedelta(seconds=self.countdown)).isoformat()
        return task_message(
            headers, {"correlation_id": id_}, body=(self.arguments, self.kwargs, _FOLLOWED_BY), sent_event=None
        )
