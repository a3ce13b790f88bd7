"""TLS to RabbitMQ and Redis: the right server is used, every other one is refused in one line."""

from __future__ import annotations

import subprocess

import pytest
import redis

from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.errors import BrokerRefused, BrokerUnavailable, Transient
from chatbot.messages import Message
from chatbot.ops import dead_letters, doctor
from chatbot.store.client import reachable
from tests.certificates import Authority
from tests.conftest import _missing
from tests.integration.test_broker_operations import WORKER, env, ready, running
from tests.servers import PYTHON, RABBITMQ, RABBITMQ_ROOT, ROOT, Process, RabbitMQ, free_port, wait_until
from tests.system import PROCFILE


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another authority, which nobody asked for."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def broker(tmp_path_factory, authority):
    """RabbitMQ with two TLS listeners of one certificate: that of ``localhost``, and none of 127.0.0.1."""
    if not (RABBITMQ_ROOT / RABBITMQ.relative_to("/") / "rabbitmq-server").exists():
        _missing("RabbitMQ")
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    certificate, key = authority.sign("localhost")
    server.tls_port = free_port()
    copies = {"cacertfile": authority.ca, "certfile": certificate, "keyfile": key}
    with (server.folder / "rabbitmq.conf").open("a") as conf:
        conf.write(f"listeners.ssl.default = 127.0.0.1:{server.tls_port}\n")
        for option, file in copies.items():
            (server.folder / file.name).write_bytes(file.read_bytes())  # its root may be another
            inside = server.env["HOME"]
            conf.write(f"ssl_options.{option} = {inside}/{file.name}\n")
        conf.write("ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false\n")
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def url(broker):
    """The address whose host is the certificate's."""
    return f"amqps://guest:guest@localhost:{broker.tls_port}//"


@pytest.fixture
def build():
    bots = []

    def build(**settings):
        bots.append(Chatbot(Settings(_env_file=None, env="test", **settings)))
        return bots[-1]

    yield build
    for bot in bots:
        bot.close()


# -- RabbitMQ ----------------------------------------------------------------------


def test_the_right_certificate_is_used_by_all_that_publishes_and_reads(authority, url, build):
    bot = build(broker_url=url, broker_tls_ca=authority.ca)
    bot.router.route(Message(user="ana", id="1", text="oi" * 50_000))
    bot.router.bury(Message(user="ana", id="2", text="oi"), "no")
    with dead_letters.hold(bot) as held:
        assert [letter.user for letter in dead_letters.choose(held)] == ["ana"]
    found = {finding.part: finding for finding in doctor.examine(bot)}
    assert found["broker"].ok
    assert found["chat.dead"].ok
    with bot.celery.connection_for_read() as connection:
        for queue in ("chat.ana", "chat.open", "chat.dead"):
            connection.default_channel.queue_delete(queue)


def test_a_worker_and_beat_work_over_tls(tmp_path, authority, url, build):
    settings = {"broker_url": url, "broker_tls_ca": authority.ca, "housekeeping_interval": 0.5}
    bot = build(**settings)
    (tmp_path / "beat").mkdir()
    ran = "chatbot.rescue_sessions"
    with (
        running(tmp_path, [*WORKER, "housekeeping"], redis_url="redis://127.0.0.1:1/0", **settings) as worker,
        running(tmp_path / "beat", ["-m", "celery", "-A", "chatbot", "beat"], **settings),
    ):
        wait_until(lambda: ready(worker), what="worker ready")
        wait_until(lambda: worker.output().count(f"task={ran}") >= 3, what="housekeeping, of which Redis is away")
    with bot.celery.connection_for_read() as connection:
        connection.default_channel.queue_delete("housekeeping")


@pytest.mark.parametrize("trouble", ["another host", "another authority", "an authority of the system"])
def test_another_certificate_is_refused_in_one_line(trouble, authority, stranger, broker, url, build):
    settings = {
        "another host": {"broker_url": url.replace("localhost", "127.0.0.1"), "broker_tls_ca": authority.ca},
        "another authority": {"broker_url": url, "broker_tls_ca": stranger.ca},
        "an authority of the system": {"broker_url": url},
    }[trouble]
    bot = build(**settings)
    with pytest.raises(BrokerRefused, match="CHATBOT_BROKER_TLS_CA"):
        bot.router.ping()
    with bot.celery.connection_for_read() as connection, pytest.raises(BrokerRefused):
        connection.ensure_connection()
    with pytest.raises(BrokerUnavailable), dead_letters.hold(bot):
        pass
    finding = doctor.examine(bot)[0]
    assert not finding.ok
    assert "certificate" in finding.says


@pytest.mark.parametrize("process", ["sender", "beat"])
def test_a_process_ends_with_one_line_where_the_host_is_another(process, authority, url):
    ended = subprocess.run(
        ["sh", "-c", f"exec {PROCFILE[process]}"],
        env=env(broker_url=url.replace("localhost", "127.0.0.1"), broker_tls_ca=authority.ca),
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = [line for line in ended.stderr.splitlines() if "CHATBOT_BROKER_TLS_CA" in line]
    assert len(lines) == 1, ended.stderr
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr


def test_the_name_is_not_checked_where_a_setting_says_so(authority, url, build):
    address = url.replace("localhost", "127.0.0.1")
    build(broker_url=address, broker_tls_ca=authority.ca, broker_tls_check_name=False).router.ping()


def test_each_of_several_brokers_is_checked_by_its_own_name(authority, url, build):
    other = url.replace("localhost", "127.0.0.1")
    bot = build(broker_url=url, broker_shards=(url, other), broker_tls_ca=authority.ca)
    right, wrong = bot.router._routers.values()
    for _ in range(2):
        right.ping()
        with pytest.raises(BrokerRefused, match=r"127\.0\.0\.1"):
            wrong.ping()


# -- Redis -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_tls(tmp_path_factory, authority):
    """The port of a Redis that speaks TLS only, to clients of this authority's only."""
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    certificate, key = authority.sign("localhost")
    server = Process(
        [
            "redis-server", "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--save", "", "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
            "--tls-ca-cert-file", str(authority.ca), "--tls-auth-clients", "yes",
        ], log=folder / "out.log", cwd=folder,
    ).start()  # fmt: skip
    try:
        wait_until(lambda: "Ready to accept connections" in server.output() or not server.alive, what="Redis up")
        if not server.alive:
            _missing("redis-server with TLS")
        yield port
    finally:
        server.kill()


def test_redis_is_reached_with_the_right_certificates(authority, redis_tls, build):
    certificate, key = authority.sign("client")
    settings = {"redis_tls_ca": authority.ca, "redis_tls_cert": certificate, "redis_tls_key": key}
    bot = build(redis_url=f"rediss://localhost:{redis_tls}/0", **settings)
    assert bot.redis.ping()
    other = f"rediss://127.0.0.1:{redis_tls}/0"
    with pytest.raises(Transient, match="certificate"), reachable():
        build(redis_url=other, **settings).redis.ping()
    assert build(redis_url=other, redis_tls_check_name=False, **settings).redis.ping()


def test_another_redis_and_an_unknown_client_are_refused(authority, stranger, redis_tls, build):
    certificate, key = authority.sign("client")
    url = f"rediss://localhost:{redis_tls}/0"
    own = {"redis_tls_cert": certificate, "redis_tls_key": key}
    with pytest.raises(Transient, match="certificate"), reachable():
        build(redis_url=url, redis_tls_ca=stranger.ca, **own).redis.ping()
    with pytest.raises(redis.exceptions.ConnectionError):
        build(redis_url=url, redis_tls_ca=authority.ca).redis.ping()


def test_doctor_says_in_one_line_what_is_wrong_with_redis(stranger, redis_tls):
    ended = subprocess.run(
        [PYTHON, "-m", "chatbot.cli", "doctor"],
        env=env(
            broker_url="amqp://127.0.0.1:1", redis_url=f"rediss://localhost:{redis_tls}/0", redis_tls_ca=stranger.ca,
            whatsapp_graph_url="http://127.0.0.1:1/v26.0",
        ),
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    [line] = [line for line in ended.stdout.splitlines() if " redis " in line]
    assert line.startswith("FIX")
    assert "certificate" in line
    assert ended.returncode == 1
