"""What a call of a task travels as."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.worker.request import Request

from chatbot.broker.internals.calls import Call


@pytest.fixture
def celery():
    with Celery("calls", broker="memory://", set_as_current=False) as app:

        @app.task(name="say", shared=False)
        def _(*_arguments, **_options):
            pass

        yield app


def received(celery, message):
    """Return the request that Celery's worker makes of a message."""
    return Request(
        SimpleNamespace(
            headers=message.headers, properties=message.properties, body=json.dumps(message.body), delivery_info={},
            content_type="application/json", content_encoding="utf-8", payload=json.loads(json.dumps(message.body)),
        ),
        app=celery,
    )  # fmt: skip


def test_a_worker_reads_all_that_celery_itself_would_have_sent(celery):
    ours = received(celery, Call("say", ("ana", 1), {"sent_at": 2.5}, shown="('ana',)").message())
    theirs = received(
        celery,
        celery.amqp.create_task_message(
            ours.id, "say", ("ana", 1), {"sent_at": 2.5}, argsrepr="('ana',)", kwargsrepr="{}", ignore_result=None
        ),
    )
    for what in (
        "id", "name", "args", "kwargs", "argsrepr", "kwargsrepr", "eta", "expires", "root_id",
        "parent_id", "group", "correlation_id", "ignore_result", "replaced_task_nesting", "stamps",
    ):  # fmt: skip
        assert getattr(ours, what) == getattr(theirs, what), what
    assert tuple(ours.time_limits) == tuple(theirs.time_limits)
    assert ours.info() == theirs.info()
    context, celerys = (request._context for request in (ours, theirs))
    for what in ("retries", "callbacks", "errbacks", "chain", "chord", "children", "headers", "expires", "is_eager"):
        assert getattr(context, what) == getattr(celerys, what), what


def test_each_message_has_an_id_of_its_own():
    """Two of one ``send`` may be on their way, and its id is who holds the outbox."""
    call = Call("say", (), {}, shown="()")
    assert call.message().headers["id"] != call.message().headers["id"]


def test_a_call_during_a_task_names_it_as_its_parent_whoever_writes_the_message(celery):
    calls = []

    @celery.task(bind=True, shared=False)
    def first(_):
        calls.append(Call("say", (), {}, shown="()"))

    @celery.task(bind=True, shared=False)
    def another(_):
        return calls[0].message()

    done = first.apply()
    request = received(celery, another.apply().result)
    assert (request.root_id, request.parent_id) == (done.id, done.id)
    assert request.id != done.id
