"""What Celery, kombu and py-amqp log comes out as one line an event."""

from __future__ import annotations

import logging

import pytest
from amqp.exceptions import RecoverableConnectionError
from celery.exceptions import Reject
from celery.worker.consumer import consumer
from kombu.exceptions import DecodeError

from chatbot.errors import BrokerRefused, Transient
from chatbot.observability.library_logs import OneLine

SECRET = "segredo do cliente"


def logged(name, error=None, *, cause=None, text="it broke: %r", arguments=None):
    """Return the record as it is logged, ``None`` where it is not."""
    info = None
    if error is not None:
        try:
            raise error from cause
        except BaseException as err:
            info = (type(err), err, err.__traceback__)
    arguments = (error,) if arguments is None else arguments
    record = logging.LogRecord(name, logging.ERROR, __file__, 1, text, arguments, info)
    return record if OneLine().filter(record) else None


@pytest.mark.parametrize(
    "error", [OSError("reset"), RecoverableConnectionError("gone"), EOFError(), BrokerRefused("no"), TimeoutError()]
)
@pytest.mark.parametrize("name", ["celery.worker.consumer.consumer", "kombu.connection", "amqp"])
def test_a_lost_connection_has_no_traceback(name, error):
    assert logged(name, error).exc_info is None


def test_what_nobody_foresaw_keeps_its_traceback():
    assert logged("celery.worker.consumer.consumer", KeyError("x")).exc_info
    assert logged("celery.app.trace", OSError("the disk of a task")).exc_info
    assert logged("chatbot.tasks", OSError("ours")).exc_info


def test_a_message_that_was_put_back_is_logged_by_its_task_alone():
    assert logged("celery.app.trace", Reject("away", requeue=True), cause=Transient("away")) is None
    assert logged("celery.app.trace", Reject("other", requeue=False)).exc_info is None


def test_a_refusal_is_its_own_text():
    assert logged("celery.apps.beat", BrokerRefused("set CHATBOT_X")).getMessage() == "set CHATBOT_X"


def test_advice_stacks_and_line_breaks_are_left_out():
    record = logged("celery.beat", text="Message Error: %s\n%s", arguments=("gone", ["a stack"]))
    assert record.getMessage() == "Message Error: gone"
    record = logged("celery.worker", text="one %s", arguments=("two\nthree",))
    assert record.getMessage() == "one two three"
    record = logged(
        "celery.worker.consumer.consumer", text=consumer.CONNECTION_ERROR, arguments=("amqp://", "refused", "again")
    )  # fmt: skip
    assert record.getMessage() == "consumer: Cannot connect to amqp://: refused."


def test_a_warning_of_a_setting_that_was_chosen_is_left_out_and_others_are_one_line():
    text = f"consumer.py:427: CPendingDeprecationWarning: {consumer.CANCEL_TASKS_BY_DEFAULT}"
    assert logged("py.warnings", text="%s", arguments=(text,)) is None
    assert logged("py.warnings", text="%s", arguments=("x.py:1: W: a\n  b()\n",)).getMessage() == "x.py:1: W: a b()"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (consumer.UNKNOWN_FORMAT, (SECRET,)),
        (consumer.UNKNOWN_TASK_ERROR, ("x", SECRET, {"args": SECRET}, {})),
        (consumer.INVALID_TASK_ERROR, ("missing argument", SECRET)),
        (consumer.MESSAGE_DECODE_ERROR, (DecodeError(SECRET), "t", "e", {"args": SECRET}, SECRET)),
    ],
)
def test_the_body_of_a_message_that_cannot_be_used_is_not_logged(text, arguments):
    message = logged("celery.worker.consumer.consumer", text=text, arguments=arguments).getMessage()
    assert message
    assert SECRET not in message
    assert "\n" not in message
