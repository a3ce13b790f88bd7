"""The broker as operators meet it: refused, away, and with queues of an older release."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from kombu.exceptions import OperationalError
from structlog.testing import capture_logs

from chatbot.app import Chatbot
from chatbot.broker import topology
from chatbot.config import Settings
from chatbot.errors import BrokerUnavailable
from chatbot.messages import Message, Status
from chatbot.web.webhook import create_app
from tests.integration.test_dead_letters import in_order
from tests.integration.test_sessions import chatbot
from tests.proxy import TcpProxy
from tests.servers import PYTHON, ROOT, Process, wait_until
from tests.system import PROCFILE, sign, webhook_body

SECRET = "sesame-open"
#: As this project declared them before it bounded them.
OLD_ARGUMENTS = {"x-dead-letter-exchange": "chat.dead"}
WORKER = shlex.split("-m celery -A chatbot worker -P threads -c 4 --without-gossip --without-mingle -n one@h -Q")


def env(**settings):
    ours = {f"CHATBOT_{name.upper()}": str(value) for name, value in settings.items()}
    outer = {name: value for name, value in os.environ.items() if not name.startswith("CHATBOT_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**outer, "PATH": path, "CHATBOT_ENV": "test", "C_FORCE_ROOT": "1", **ours}


@pytest.fixture
def vhost(rabbitmq):
    """A virtual host of the test's own."""
    name = rabbitmq.add_vhost()
    yield name
    rabbitmq.ctl("delete_vhost", name)


@pytest.fixture
def url(rabbitmq, vhost):
    return rabbitmq.url.removesuffix("/") + vhost


@pytest.fixture
def bot(rabbitmq, redis_server, url):
    bot = chatbot(rabbitmq, redis_server, broker_url=url)
    bot.redis.flushdb()
    yield bot
    bot.close()


@contextmanager
def running(folder, arguments, **settings):
    process = Process([PYTHON, *arguments], log=folder / "process.log", env=env(**settings)).start()
    try:
        yield process
    finally:
        process.kill()


def ready(process):
    assert process.alive, process.output()[-3000:]
    return " ready." in process.output()


def arguments_of(rabbitmq, vhost):
    lines = rabbitmq.ctl("list_queues", "-p", vhost, "name", "arguments", "--no-table-headers").splitlines()
    return dict(line.split("\t") for line in lines if "\t" in line)


# -- refused and away --------------------------------------------------------------


@pytest.fixture(params=["password", "virtual host"])
def refusing(request, rabbitmq):
    """An address that RabbitMQ refuses, and what the line about it says."""
    if request.param == "password":
        return f"amqp://guest:{SECRET}@127.0.0.1:{rabbitmq.port}//", "refuses the user or the password"
    return f"{rabbitmq.url.removesuffix('/')}nowhere", "virtual host 'nowhere'"


@pytest.mark.parametrize("process", ["worker", "sender", "beat"])
def test_a_process_that_the_broker_refuses_ends_with_one_line_that_names_the_setting(refusing, process, redis_server):
    address, says = refusing
    ended = subprocess.run(
        ["sh", "-c", f"exec {PROCFILE[process]}"], env=env(broker_url=address, redis_url=redis_server.url),
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = [line for line in ended.stderr.splitlines() if "CHATBOT_BROKER_URL" in line]
    assert len(lines) == 1, ended.stderr
    assert says in lines[0]
    assert ended.returncode not in {0, None}
    assert "Traceback" not in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr


def test_web_refuses_with_503_and_logs_the_setting(refusing):
    address, says = refusing
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url=address, whatsapp_app_secret="s"))
    client = create_app(bot).test_client()
    body = webhook_body([("5511955550001", "wamid.1", "oi")])
    with capture_logs() as logs:
        answer = client.post("/webhook/whatsapp", data=body, headers={"X-Hub-Signature-256": sign(body, "s")})
    assert answer.status_code == 503
    assert client.get("/ready").status_code == 503
    [refused] = [log for log in logs if log["event"] == "webhook.refused"]
    assert says in refused["reason"]
    assert "CHATBOT_BROKER_URL" in refused["reason"]
    assert SECRET not in str(logs) + answer.get_data(as_text=True)
    bot.close()


def test_a_limit_of_connections_passes_so_it_is_waited_for(rabbitmq, vhost, url):
    rabbitmq.ctl("set_vhost_limits", "-p", vhost, '{"max-connections": 0}')
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url=url))
    tries = []
    with bot.celery.connection_for_read() as connection, pytest.raises(OperationalError, match="limit"):
        connection.ensure_connection(lambda *_: tries.append(1), 1, interval_start=0, interval_max=0)
    assert tries
    bot.close()


def test_an_outage_leaves_one_line_an_event_and_no_traceback(tmp_path, rabbitmq, vhost, url, bot):
    """Redis is away, so messages are put back again and again; then the broker goes, twice, and comes back."""
    with TcpProxy(rabbitmq.port) as proxy:
        broker = url.replace(str(rabbitmq.port), str(proxy.port))
        with running(
            tmp_path, [*WORKER, "housekeeping,send"], broker_url=broker, redis_url="redis://127.0.0.1:1/0",
            housekeeping_interval=0.2,
        ) as worker:  # fmt: skip
            wait_until(lambda: ready(worker), what="worker ready")
            for number in range(11):
                bot.router.wake_sender(f"u{number}", 1)
            with running_beat(tmp_path, broker) as beat:
                wait_until(lambda: worker.output().count("task.put_back") >= 22, what="messages put back")
                for cuts in (1, 2):
                    proxy.cut()
                    wait_until(lambda n=cuts: worker.output().count("Connection to broker lost") >= n, what="cut seen")
                    wait_until(lambda n=cuts: worker.output().count("Connected to amqp") > n, what="connected again")
                before = worker.output().count("task.put_back")
                wait_until(lambda: worker.output().count("task.put_back") > before, what="going on")
                logs = {
                    "worker": worker.output().partition(" ready.")[2],
                    "beat": beat.output().partition("Starting")[2],
                }
    for name, text in logs.items():
        assert "Traceback" not in text, name
        rest = [line for line in text.splitlines()[1:] if line.strip() and not re.match(r"\d{4}-\d\d-\d\dT", line)]
        assert rest == [], name
    rejected = [line for line in logs["worker"].splitlines() if "rejected" in line]
    assert rejected == [], "task.put_back has said so"


@contextmanager
def running_beat(folder, broker):
    (folder / "beat").mkdir()
    with running(
        folder / "beat", ["-m", "celery", "-A", "chatbot", "beat"], broker_url=broker, housekeeping_interval=0.2
    ) as beat:
        yield beat


# -- beat --------------------------------------------------------------------------


def test_beat_keeps_no_file(tmp_path, rabbitmq, url, bot):
    """Its working directory holds its code only, and nothing is made in it or named on its command line."""
    assert PROCFILE["beat"] == "celery -A chatbot beat"
    bot.router.ping()
    with bot.celery.connection_for_read() as connection:
        topology.HOUSEKEEPING_QUEUE(connection.default_channel).declare()
        channel = connection.default_channel
        process = Process(
            [PYTHON, "-m", "celery", "-A", "chatbot", "beat"], log=tmp_path / "beat.log", cwd=(tmp_path / "here"),
            env={**env(broker_url=url, housekeeping_interval=0.2), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        (tmp_path / "here").mkdir()
        process.start()
        try:
            wait_until(lambda: channel.basic_get("housekeeping"), seconds=60, what="beat sent something")
        finally:
            process.terminate()
    assert list((tmp_path / "here").iterdir()) == []


def test_what_beat_asks_for_expires_by_the_brokers_clock(tmp_path, url, bot):
    bot.router.ping()
    with bot.celery.connection_for_read() as connection:
        channel = connection.default_channel
        topology.HOUSEKEEPING_QUEUE(channel).declare()
        with running(tmp_path, ["-m", "celery", "-A", "chatbot", "beat"], broker_url=url, housekeeping_interval=1):
            raw = wait_until(lambda: channel.basic_get("housekeeping"), seconds=60, what="beat sent something")
        assert raw.headers["expires"] is None
        assert raw.properties["expiration"] == "1000"
        channel.basic_reject(raw.delivery_tag, requeue=True)
        gone = lambda: channel.queue_declare("housekeeping", passive=True).message_count == 0  # noqa: E731
        wait_until(gone, what="expired by itself")


def test_a_beat_whose_clock_is_a_minute_behind_is_heard(tmp_path, url, bot):
    """The worker's clock is right; Celery would take an ``expires`` of that beat for long over."""
    from tests.integration.test_sessions import serving

    ran = []
    bot.sessions = SimpleNamespace(
        close_idle=lambda: ran.append("close_idle"), rescue=lambda: ran.append("rescue") or {}, live=dict
    )
    behind = (
        "import datetime, sys, celery; now = celery.Celery.now;"
        "celery.Celery.now = lambda app: now(app) - datetime.timedelta(seconds=60);"
        "from celery.__main__ import main; sys.argv = ['celery', '-A', 'chatbot', 'beat']; main()"
    )
    with serving(bot), running(tmp_path, ["-c", behind], broker_url=url, housekeeping_interval=0.5):
        wait_until(lambda: {"close_idle", "rescue"} <= set(ran), what="housekeeping done")


def test_housekeeping_that_ends_its_worker_is_not_delivered_again(tmp_path, rabbitmq, vhost, url, bot):
    hangs = (
        "import sys, threading; from chatbot.sessions.housekeeping import Sessions;"
        "Sessions.close_idle = lambda self: (print('HANGS', flush=True), threading.Event().wait());"
        "from celery.__main__ import main;"
        f"sys.argv = ['celery', *{[*WORKER[2:], 'housekeeping']!r}]; main()"
    )
    with running(tmp_path, ["-c", hangs], broker_url=url) as worker:
        wait_until(lambda: ready(worker), what="worker ready")
        bot.celery.send_task("chatbot.close_idle_sessions")
        wait_until(lambda: "HANGS" in worker.output(), what="task begun")
        wait_until(lambda: rabbitmq.queues(vhost)["housekeeping"] == (0, 1), what="used up")
        worker.kill()
        wait_until(lambda: rabbitmq.queues(vhost)["housekeeping"] == (0, 0), what="nothing is there again")


# -- bounds ------------------------------------------------------------------------


def test_the_fixed_queues_are_bounded(rabbitmq, vhost, redis_server, url):
    bot = chatbot(rabbitmq, redis_server, broker_url=url, dead_letters_max=7, dead_letters_max_bytes=9_000)
    bot.router.ping()
    found = arguments_of(rabbitmq, vhost)
    for part in ('"x-max-length",100000', '"x-overflow","reject-publish"'):
        assert part in found["send"].replace(" ", "")
    for part in ('"x-max-length",7', '"x-max-length-bytes",9000', '"x-overflow","drop-head"'):
        assert part in found["chat.dead"].replace(" ", "")
    bot.close()


@pytest.fixture
def full(bot):
    """A queue ``send`` that has no room left."""
    with bot.celery.connection_for_read() as connection:
        channel = connection.default_channel
        arguments = {**OLD_ARGUMENTS, "x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare("send", durable=True, auto_delete=False, arguments=arguments)
        bot.router.wake_sender("ana", 1)
        yield channel


def test_a_wake_up_that_finds_no_room_is_left_to_the_rescue(bot, full):
    with capture_logs() as logs:
        bot.router.wake_sender("beto", 1)
        bot.router.notify(Message(user="beto", id="1", text=""), "too_many", "…")
        bot.router.mark_read(Message(user="beto", id="1", text=""), at=0.0)
    assert [log["event"] for log in logs] == ["send.queue_full"], "said once a minute"
    bot.router.route(Message(user="beto", id="2", text="oi"))  # the broker is not taken for away
    bot.router.ping()
    full.queue_delete("chat.beto")


def test_a_status_that_finds_no_room_is_refused_so_that_it_comes_again(bot, full):
    status = Status(message_id="wamid.1", status="delivered", callback="ana:1:0")
    with pytest.raises(BrokerUnavailable, match="full"):
        bot.router.report(status)
    bot.router.ping()


def test_the_newest_dead_letters_are_kept_and_somebody_is_told(rabbitmq, redis_server, url):
    bot = chatbot(rabbitmq, redis_server, broker_url=url, dead_letters_max=5)
    with capture_logs() as logs:
        for number in range(7):
            bot.router._fill_level._silent_until = 0.0
            bot.router.bury(Message(user="ana", id=f"{number}", text="oi"), "no")
    assert [log["event"] for log in logs if log["event"].startswith("dead_letters")] == [
        "dead_letters.nearly_full", *["dead_letters.full"] * 3
    ]  # fmt: skip
    with bot.celery.connection_for_read() as connection:
        assert in_order(connection.channel()) == ["2", "3", "4", "5", "6"]
    bot.close()


# -- queues of an older release ------------------------------------------------------


@pytest.fixture
def old_queues(bot):
    """What an older release left: the same names, no bounds."""
    with bot.celery.connection_for_read() as connection:
        channel = connection.default_channel
        for queue in ("chat.open", "send"):
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=OLD_ARGUMENTS)
        for queue in ("chat.dead", "housekeeping"):
            channel.queue_declare(queue, durable=True, auto_delete=False)
        yield channel
    topology.Fixed.found_other = frozenset()


def test_queues_of_an_older_release_are_used_as_they_are(bot, old_queues):
    topology.Fixed.found_other = frozenset()
    with capture_logs() as logs:
        bot.router.route(Message(user="ana", id="1", text="oi"))
        bot.router.wake_sender("ana", 1)
        bot.router.bury(Message(user="ana", id="2", text="oi"), "no")
    for queue in ("send", "chat.dead", "chat.ana", "chat.open"):
        assert old_queues.queue_declare(queue, passive=True).message_count == 1, queue
    warned = {log["queue"]: log["advice"] for log in logs if log["event"] == "queue.has_other_arguments"}
    assert set(warned) == {"send", "chat.dead"}
    assert "rabbitmqctl delete_queue send" in warned["send"]
    old_queues.queue_delete("chat.ana")


def test_a_worker_consumes_queues_of_an_older_release(tmp_path, bot, old_queues, url, redis_server):
    """Celery itself declares what it consumes."""
    with running(tmp_path, [*WORKER, "send,housekeeping"], broker_url=url, redis_url=redis_server.url) as worker:
        wait_until(lambda: ready(worker), what="worker ready")
        bot.celery.send_task("chatbot.close_idle_sessions")
        bot.router.mark_read(Message(user="ana", id="1", text=""), at=0.0)
        empty = lambda queue: old_queues.queue_declare(queue, passive=True)  # noqa: E731
        for queue in ("send", "housekeeping"):
            wait_until(lambda q=queue: empty(q).message_count == 0 and empty(q).consumer_count == 1, what=queue)
        warnings = [line for line in worker.output().splitlines() if "queue.has_other_arguments" in line]
    assert len(warnings) == 1
    assert "rabbitmqctl delete_queue send" in warnings[0]
    assert "Traceback" not in worker.output()


def test_doctor_names_queues_of_an_older_release(bot, old_queues):
    from chatbot.ops import doctor

    found = {finding.part: finding for finding in doctor.examine(bot)}
    assert not found["queues"].ok
    assert "rabbitmqctl delete_queue chat.dead" in found["queues"].says
    assert json.dumps(found["queues"].to_dict())
