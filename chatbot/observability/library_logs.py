"""What Celery, kombu and py-amqp log: one line an event, and no traceback for what is foreseen.

In come log records of theirs, out go the same, shorter. Foreseen are a message that is put back,
and a broker that is away, was lost or refuses us. Promises: what nobody foresaw keeps its
traceback; the body of a message, which Celery shows where it cannot use it, is never logged.
"""

from __future__ import annotations

import logging

from amqp.exceptions import ConnectionError as ConnectionLost
from billiard.exceptions import RestartFreqExceeded
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from chatbot.errors import BrokerRefused, BrokerUnavailable, Transient

#: ``py`` is ``py.warnings``, where Python's own warnings go.
LIBRARIES = ("celery", "kombu", "amqp", "py")
#: Celery warns of the default of this setting at each lost connection; ours is set on purpose.
_CHOSEN = "worker_cancel_long_running_tasks_on_connection_loss"
#: Here an error is a task's own, so that none but ``Reject`` is foreseen.
_TASKS = "celery.app.trace"
_FORESEEN = (OSError, EOFError, ConnectionLost, OperationalError, BrokerUnavailable, RestartFreqExceeded)


class OneLine(logging.Filter):
    """Shortens the records of libraries; drops those of a message that was put back, which its task has logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be logged, after shortening it."""
        if record.name.split(".")[0] not in LIBRARIES:
            return True
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Reject) and isinstance(error.__cause__, Transient):
            return False
        if _foreseen(record.name, error):
            record.exc_info = record.exc_text = None
        if isinstance(error, BrokerRefused):
            record.msg, record.args = str(error), ()
        _shorten(record)
        return _CHOSEN not in record.getMessage()


def _foreseen(logger: str, error: BaseException | None) -> bool:
    return isinstance(error, Reject) or (logger != _TASKS and isinstance(error, _FORESEEN))


def _shorten(record: logging.LogRecord) -> None:
    """Keep the first line of a format: what follows is advice, a stack, or the body of a message."""
    if isinstance(record.msg, str) and isinstance(record.args, tuple):
        first, *rest = record.msg.strip().split("\n")
        if first.startswith("Can't decode message body") and record.args:  # the error's text shows some of it
            first, record.args = "Can't decode message body: %s", (type(record.args[0]).__name__,)
        if rest:
            record.msg = first
            record.args = record.args[: first.replace("%%", "").count("%")]
    text = record.getMessage()
    if "\n" in text:
        record.msg, record.args = " ".join(text.split()), ()
