"""The webhook answers 200 only once the broker confirmed, and needs nothing but the broker."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time

import pytest

from tests.servers import RabbitMQ, Redis, wait_until
from tests.system import VERIFY_TOKEN, System, statuses_body

ONE = ("5511966660001", "wamid.a", "oi")


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """A broker of this module's own: these tests stop it."""
    broker = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    yield broker.start()
    broker.close()


@pytest.fixture(scope="module")
def system(tmp_path_factory, broker):
    """Only the web process; its Redis was never started."""
    with System(tmp_path_factory.mktemp("web"), broker, Redis(tmp_path_factory.mktemp("redis")), None) as system:
        yield system.start("web")


@pytest.fixture(autouse=True)
def clean(broker, system):
    yield
    for queue in broker.queues(system.vhost):
        broker.ctl("delete_queue", "-p", system.vhost, queue)


def url(system, path=""):
    return f"http://127.0.0.1:{system.port}{path}"


def test_a_message_is_on_the_broker_when_200_is_answered(system, broker):
    answer = system.post(ONE, ("5511966660002", "wamid.b", "oi"), ("5511966660001", "wamid.c", "tchau"))
    assert (answer.status_code, answer.json()) == (200, {"messages": 3, "statuses": 0, "refused": 0})
    queues = broker.queues(system.vhost)
    assert queues["chat.5511966660001"] == (2, 0)
    assert queues["chat.5511966660002"] == (1, 0)
    assert queues["chat.open"][0] >= 2
    bindings = broker.ctl("list_bindings", "-p", system.vhost, "source_name", "routing_key")
    assert "chat\tchat.5511966660001" in bindings
    arguments = broker.ctl("list_queues", "-p", system.vhost, "name", "durable", "arguments")
    [line] = [line for line in arguments.splitlines() if "5511966660001" in line]
    assert "\ttrue\t" in line
    assert '{"x-single-active-consumer",true}' in line


def test_messages_survive_a_broker_restart(system, broker):
    assert system.post(ONE).status_code == 200
    broker.kill()
    broker.start()
    assert broker.queues(system.vhost)["chat.5511966660001"] == (1, 0)


def test_wrong_signatures_and_bodies_are_refused(system, broker):
    client = system._client
    assert system.post(ONE, secret="wrong").status_code == 401
    assert client.post(url(system, "/webhook/whatsapp"), content=b"{}").status_code == 401
    assert system.post_body(b"not json").status_code == 400
    assert system.post_body(b"[]").status_code == 400
    assert system.post_body(b" " * (3 * 1024 * 1024 + 1)).status_code == 413
    assert system.post_body(b"{}" + b" " * (3 * 1024 * 1024 - 2)).status_code == 200
    assert client.put(url(system, "/webhook/whatsapp")).status_code == 405
    assert [q for q in broker.queues(system.vhost) if q.startswith("chat.55")] == []


def test_a_body_too_large_leaves_its_connection_usable(system):
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=10)
    for _ in range(5):
        connection.request("POST", "/webhook/whatsapp", body=b" " * (9 * 1024 * 1024))
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Connection")) == (413, "keep-alive")
        answer.read()
        ours = connection.sock
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        assert connection.sock is ours
    connection.close()


def test_verification(system):
    asked = {"hub.mode": "subscribe", "hub.verify_token": VERIFY_TOKEN, "hub.challenge": "42"}
    answer = system._client.get(url(system, "/webhook/whatsapp"), params=asked)
    assert (answer.status_code, answer.text) == (200, "42")
    asked["hub.verify_token"] = "wrong"
    assert system._client.get(url(system, "/webhook/whatsapp"), params=asked).status_code == 403


def test_statuses_are_taken(system):
    body = (
        b'{"object":"whatsapp_business_account","entry":[{"changes":[{"field":"messages","value":'
        b'{"statuses":[{"id":"wamid.x","status":"failed","errors":[{"code":131026}]}, 7]}}]}]}'
    )
    answer = system.post_body(body)
    assert (answer.status_code, answer.json()) == (200, {"messages": 0, "statuses": 1, "refused": 0})


def test_thousands_of_statuses_in_one_post_are_taken_each_as_its_own_message(system, broker):
    body = statuses_body((f"wamid.s{n}", "delivered", f"55119999{n:05}:{n}:0") for n in range(3000))
    answer = system.post_body(body)
    assert (answer.status_code, answer.json()) == (200, {"messages": 0, "statuses": 3000, "refused": 0})
    assert broker.queues(system.vhost)["send"][0] == 3000


def test_an_unroutable_user_costs_no_neighbour(system, broker):
    answer = system.post(("é" * 150, "wamid.long", "oi"), ONE)  # 900 bytes as a routing key
    assert (answer.status_code, answer.json()) == (200, {"messages": 2, "statuses": 0, "refused": 1})
    assert broker.queues(system.vhost)["chat.5511966660001"] == (1, 0)


def test_a_broker_that_is_down_is_503_within_the_timeout_and_back_by_itself(system, broker):
    assert system.post(ONE).status_code == 200
    assert system._client.get(url(system, "/ready")).status_code == 200
    broker.kill()
    began = time.monotonic()
    assert system.post(ONE).status_code == 503
    took = time.monotonic() - began
    assert took < 7, "5 s are promised; the rest is this machine's"
    assert system._client.get(url(system, "/health")).status_code == 200
    assert system._client.get(url(system, "/ready")).status_code == 503
    broker.start()
    wait_until(lambda: system.post(ONE).status_code == 200, what="200 again")
    assert system._client.get(url(system, "/ready")).status_code == 200


def test_a_broker_that_blocks_publishers_is_503(system, broker):
    assert system.post(ONE).status_code == 200
    broker.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        for _ in range(3):
            began = time.monotonic()
            assert system.post(ONE).status_code == 503
            assert time.monotonic() - began < 7
    finally:
        broker.ctl("set_vm_memory_high_watermark", "0.4")
    wait_until(lambda: system.post(ONE).status_code == 200, what="200 again")


def test_the_web_process_imports_nothing_that_it_does_not_use():
    script = (
        "import sys, chatbot.web.webhook, chatbot.app, chatbot.config\n"
        "bot = chatbot.app.Chatbot(chatbot.config.Settings(_env_file=None, broker_url='memory://'))\n"
        "chatbot.web.webhook.create_app(bot); bot.router; bot.channels\n"
        "print([m for m in ('crewai', 'openai', 'redis', 'httpx', 'fakeredis') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
