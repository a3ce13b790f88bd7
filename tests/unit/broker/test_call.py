"""What a call of a task travels as."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.worker.request import Request

from chatbot.broker.call import Call


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


def test_a_worker_is_called_as_it_was_said_and_is_shown_no_more_than_that(celery):
    request = received(celery, Call("say", ("ana", "text"), {"sent_at": 2.5}, shown="('ana', 4)").message(celery))
    assert (request.name, request.args, request.kwargs) == ("say", ["ana", "text"], {"sent_at": 2.5})
    assert (request.argsrepr, request.kwargsrepr) == ("('ana', 4)", "{}")
    assert (request.eta, request.expires, request.parent_id, request.root_id) == (None, None, None, request.id)


def test_each_message_has_an_id_of_its_own(celery):
    """Two of one ``send`` may be on their way, and its id is who holds the outbox."""
    call = Call("say", (), {}, shown="()")
    assert call.message(celery).headers["id"] != call.message(celery).headers["id"]


def test_a_call_during_a_task_names_it_as_its_parent_whoever_writes_the_message(celery):
    calls = []

    @celery.task(bind=True, shared=False)
    def first(_):
        calls.append(Call("say", (), {}, shown="()"))

    @celery.task(bind=True, shared=False)
    def another(_):
        return calls[0].message(celery)

    done = first.apply()
    request = received(celery, another.apply().result)
    assert (request.root_id, request.parent_id) == (done.id, done.id)
    assert request.id != done.id
