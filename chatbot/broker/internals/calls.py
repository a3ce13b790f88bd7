"""A call of a task, and the message it travels as.

In comes a ``Call``; out goes what ``celery.amqp.send_task_message`` publishes: Celery's
protocol 2 without the headers that only say that there is nothing to say. Promise: every
message has an id of its own, and what a worker or Flower reads is there. ``send_task``
takes more than twice as long: it looks up what is known here, and writes nineteen headers.

Source: Celery, "Message Protocol", version 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from celery import current_task
from celery.app.amqp import task_message

#: What follows the call of a task; for us, nothing does.
_FOLLOWED_BY = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def _caller() -> tuple[str, str]:
    """Return the task that runs in this thread, behind the one that all began with; ``""`` twice outside of any."""
    if not current_task:
        return "", ""
    request = current_task.request
    return request.root_id or request.id, request.id


@dataclass(frozen=True, slots=True)
class Call:
    """A task by its name, and what it is called with, JSON-ready.

    It has no ``eta``: that is a time of one host's clock, compared with another's, and would wait
    unacknowledged in whoever it was delivered to.
    ``shown`` is what Flower shows in the place of the arguments, which may say too much.
    ``caller`` is who calls; the message may be written by another thread, for many.
    """

    task: str
    arguments: tuple[Any, ...]
    kwargs: dict[str, Any]
    shown: str
    caller: tuple[str, str] = field(default_factory=_caller)

    def message(self) -> task_message:
        """Return a new message that calls the task."""
        id_ = str(uuid4())
        root, parent = self.caller
        headers = {
            "lang": "py",
            "task": self.task,
            "id": id_,
            "root_id": root or id_,
            "argsrepr": self.shown,
            "kwargsrepr": "{}",
        }
        if parent:
            headers["parent_id"] = parent
        return task_message(
            headers, {"correlation_id": id_}, body=(self.arguments, self.kwargs, _FOLLOWED_BY), sent_event=None
        )
