"""What developers and operators use: the shell, Flower, honcho, doctor."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import redis

from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.messages import Message
from chatbot.ops.doctor import examine
from chatbot.store.presence import Presence
from tests.servers import PYTHON, ROOT, Process, free_port, wait_until
from tests.system import System

USER = "5511955550001"


@pytest.fixture(scope="module")
def system(tmp_path_factory, rabbitmq, redis_server):
    with System(
        tmp_path_factory.mktemp("system"), rabbitmq, redis_server, None, llm_model="offline",
        idle_timeout=3, env_of=lambda name: {"PYTHONPROFILEIMPORTTIME": "1"} if name == "sender" else {},
    ) as system:  # fmt: skip
        yield system.start("web", "worker", "sender", "beat")
        wait_until(lambda: not system.user_queues(), seconds=30, what="idle queues gone")


def python_shell(system, command, script):
    done = subprocess.run(
        command, input=script, env=system.env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", [["-m", "chatbot.cli", "shell"], ["-m", "celery", "-A", "chatbot", "shell", "--python"]]
)
def test_a_developer_chats_from_a_shell(system, command):
    user = f"dev{len(command)}"
    output = python_shell(
        system,
        [PYTHON, *command],
        f"print(chat('{user}', 'Oi, meu nome é Rita'))\n"
        f"print(chat('{user}', 'qual é o meu nome?'))\n"
        f"print(answer.delay('{user}', 'tchau'))\n"
        f"print(sessions())\n",
    )
    assert "Prazer, Rita! Vou me lembrar do seu nome." in output
    assert "Seu nome é Rita." in output
    assert f"'{user}': {{'worker': 'worker-" in output
    assert re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", output), "delay() returns the task's id"


def test_flower_shows_user_id_and_length_and_never_the_text(system):
    port = free_port()
    flower = Process(
        [PYTHON, "-m", "celery", "-A", "chatbot", "flower", "--address=127.0.0.1", f"--port={port}"],
        log=system.folder / "flower.log", env={**system.env, "FLOWER_UNAUTHENTICATED_API": "true"},
    ).start()  # fmt: skip
    try:
        wait_until(lambda: "Connected" in flower.output(), seconds=60, what="flower connected")

        def seen():
            system.post((USER, f"wamid.{os.urandom(4).hex()}", "segredo do cliente"))
            try:
                tasks = httpx.get(f"http://127.0.0.1:{port}/api/tasks", timeout=5).json()
            except (httpx.HTTPError, ValueError):
                return None
            return [task for task in tasks.values() if task["name"] == "chatbot.answer"] and tasks

        tasks = wait_until(seen, seconds=60, what="tasks in Flower", every=0.5)
        answers = [task["args"] for task in tasks.values() if task["name"] == "chatbot.answer"]
        assert all(re.fullmatch(rf"\('{USER}', 'wamid\.\w+', 18\)", args) for args in answers), answers
        assert "segredo" not in str(tasks)
    finally:
        flower.kill()


def test_no_log_holds_what_people_write_or_their_number(system):
    texts = ("segredo", "meu nome", USER)
    system.post((USER, "wamid.log", "segredo"))
    before = len(system.replies(USER))
    wait_until(lambda: len(system.replies(USER)) > before or system.replies(USER), what="reply")
    for name, process in system.processes.items():
        found = [line for line in process.output().splitlines() if any(text in line for text in texts)]
        assert found == [], name


def test_a_sender_that_sent_something_has_not_imported_crewai(system):
    system.post((USER, "wamid.imports", "oi"))
    wait_until(lambda: system.replies(USER), what="reply")
    imported = {line.split("|")[-1].strip() for line in system.processes["sender"].output().splitlines()}
    assert "chatbot.delivery.sender" in imported, "the sender writes down what it imports"
    assert {name for name in imported if name.split(".")[0] in {"crewai", "openai"}} == set()


def test_honcho_starts_every_process_of_the_procfile(tmp_path, rabbitmq, redis_server):
    with System(tmp_path, rabbitmq, redis_server, None, llm_model="offline", idle_timeout=1) as system:
        up = Process(
            [str(Path(sys.executable).with_name("honcho")), "start"], log=tmp_path / "up.log",
            env={**system.env, "FLOWER_UNAUTHENTICATED_API": "true"},
        ).start()  # fmt: skip
        system.processes["web"] = up
        try:
            wait_until(system.healthy, seconds=60, what="web up")
            wait_until(lambda: up.output().count(" ready.") == 2, seconds=90, what="worker and sender ready")
            assert system.post((USER, "wamid.up", "Oi, meu nome é Ana")).status_code == 200
            assert system.wait_replies(USER, 1) == ["Prazer, Ana! Vou me lembrar do seu nome."]
            wait_until(lambda: not system.user_queues(), seconds=30, what="idle queue gone")
            for kind in ("web", "worker", "sender", "beat", "flower"):
                assert f"{kind}.1" in up.output()
        finally:
            up.terminate(seconds=30)


# -- doctor ----------------------------------------------------------------------


@pytest.fixture
def outside():
    """Plays RabbitMQ's management API, a model server and the Graph API."""

    class Handler(BaseHTTPRequestHandler):
        answers = {
            "/api/nodes": (200, '[{"fd_total": 65536}]'),
            "/v1/models": (200, '{"data": [{"id": "llama"}]}'),
            "/v26.0/42": (200, "{}"),
        }

        asked: list[str] = []

        def do_GET(self):
            if self.path.startswith("/api/"):
                Handler.asked.append(self.headers["Authorization"])
            status, body = Handler.answers.get(self.path, (404, "{}"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body.encode())

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield Handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def living(redis_server):
    """One process of each kind that says it lives."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        living = [Presence(client) for _ in range(3)]
        for presence, kind in zip(living, ("worker", "sender", "beat"), strict=True):
            presence.start(kind=kind, broker="")
        wait_until(lambda: {p.kind for p in living[0].look() if p.lives} >= {"worker", "sender", "beat"}, what="told")
        yield
        for presence in living:
            presence.stop()


def findings(outside, rabbitmq, redis_server, **settings):
    values = {
        "broker_url": rabbitmq.url, "redis_url": redis_server and redis_server.url,
        "broker_management_url": outside.url,
        "llm_model": "llama", "llm_base_url": f"{outside.url}/v1", "whatsapp_graph_url": f"{outside.url}/v26.0",
        "whatsapp_app_secret": "a", "whatsapp_verify_token": "b", "whatsapp_access_token": "c",
        "whatsapp_phone_number_id": "42", "publish_timeout": 1, **settings,
    }  # fmt: skip
    bot = Chatbot(Settings(_env_file=None, **values))
    try:
        return {finding.part: finding for finding in examine(bot)}
    finally:
        bot.close()


def test_a_healthy_system_has_nothing_to_fix(outside, rabbitmq, redis_server, living):
    found = findings(outside, rabbitmq, redis_server)
    assert [f for f in found.values() if not f.ok] == []
    assert set(found) == {
        "broker", "descriptors", "queues", "chat.open", "send", "chat.dead", "redis", "processes", "clocks", "replies",
        "agent", "model", "whatsapp", "clock",
    }  # fmt: skip


def test_what_the_readme_does_not_ask_for_is_a_hint(outside, rabbitmq, redis_server, living):
    """Nobody consumes from this broker yet, and RabbitMQ's management plugin is not enabled."""
    vhost = rabbitmq.add_vhost()
    url = rabbitmq.url.removesuffix("/") + vhost
    found = findings(outside, rabbitmq, redis_server, broker_url=url, broker_management_url="http://127.0.0.1:1")
    hints = {part: finding.says for part, finding in found.items() if finding.level == "hint"}
    assert [f for f in found.values() if not f.ok] == []
    needed = {"chat.open", "send"} if found["descriptors"].level == "ok" else {"descriptors", "chat.open", "send"}
    assert set(hints) == needed  # RabbitMQ 4 shares files
    assert "no worker runs; start one" in hints["chat.open"]
    if "descriptors" in hints:
        assert "rabbitmq_management" in hints["descriptors"]
    rabbitmq.ctl("delete_vhost", vhost)


def test_the_management_api_is_asked_with_the_decoded_password(outside, rabbitmq, redis_server):
    rabbitmq.ctl("add_user", "ops", "a:b/c")
    rabbitmq.ctl("set_permissions", "-p", "/", "ops", ".*", ".*", ".*")
    url = f"amqp://ops:a%3Ab%2Fc@127.0.0.1:{rabbitmq.port}//"
    outside.asked.clear()
    assert findings(outside, rabbitmq, redis_server, broker_url=url)["broker"].ok
    assert set(outside.asked) <= {"Basic " + base64.b64encode(b"ops:a:b/c").decode()}
    rabbitmq.ctl("delete_user", "ops")


def test_depths_are_findings_that_say_what_to_do(outside, rabbitmq, redis_server, living):
    vhost = rabbitmq.add_vhost()
    url = rabbitmq.url.removesuffix("/") + vhost
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url=url, dead_letters_max=10))
    bot.router.wake_sender("ana", 1)
    bot.router.request_subscriber("chat.ana")
    bot.router.bury(Message(user="ana", id="1", text="oi"), "no")
    found = findings(outside, rabbitmq, redis_server, broker_url=url, dead_letters_max=10)
    assert {part for part, finding in found.items() if not finding.ok} == {"send", "chat.open"}
    assert "no sender runs: start one" in found["send"].says
    assert "no worker runs: start one" in found["chat.open"].says
    assert (found["chat.dead"].level, "chatbot dead list" in found["chat.dead"].says) == ("hint", True)
    for number in range(7):
        bot.router.bury(Message(user="ana", id=f"{number}", text="oi"), "no")
    found = findings(outside, rabbitmq, redis_server, broker_url=url, dead_letters_max=10)
    assert not found["chat.dead"].ok
    assert "8 of 10 letters" in found["chat.dead"].says
    bot.close()
    rabbitmq.ctl("delete_vhost", vhost)


@pytest.fixture
def odd_redis(tmp_path):
    """A Redis that is set up otherwise than the manual says."""

    def start(*options):
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
        process = Process([*command, *options], log=tmp_path / f"{port}.log", cwd=tmp_path).start()
        started.append(process)
        wait_until(lambda: "Ready to accept connections" in process.output(), what="Redis up")
        return f"redis://127.0.0.1:{port}/0"

    started: list[Process] = []
    yield start
    for process in started:
        process.kill()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--appendonly", "yes", "--appendfsync", "everysec"], "appendfsync always"),
        (["--appendonly", "no"], "appendonly yes"),
        (["--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "1mb"], "CHATBOT_RETENTION"),
        (["--maxmemory-policy", "allkeys-lru"], "noeviction"),
    ],
)
def test_what_redis_may_lose_is_a_finding(outside, rabbitmq, odd_redis, options, says):
    found = findings(outside, rabbitmq, None, redis_url=odd_redis(*options))["redis"]
    assert not found.ok
    assert says in found.says


def test_a_redis_that_hides_its_settings_is_no_finding(outside, rabbitmq, odd_redis):
    url = odd_redis("--appendonly", "yes", "--rename-command", "CONFIG", "")
    assert findings(outside, rabbitmq, None, redis_url=url)["redis"].ok


def test_the_agents_file_is_read(outside, rabbitmq, redis_server, tmp_path):
    file = tmp_path / "agent.yaml"
    file.write_text("role: Atendente\ngoal: ajudar\nbackstory: uma padaria\n")
    assert findings(outside, rabbitmq, redis_server, agent_file=file)["agent"].ok
    file.write_text("role: Atendente\n")
    found = findings(outside, rabbitmq, redis_server, agent_file=file)["agent"]
    assert not found.ok
    assert "goal, backstory" in found.says


def test_a_refused_password_is_one_finding(outside, rabbitmq, redis_server):
    found = findings(outside, rabbitmq, redis_server, broker_url=f"amqp://guest:no@127.0.0.1:{rabbitmq.port}//")
    assert "password in CHATBOT_BROKER_URL" in found["broker"].says
    assert {"send", "queues", "descriptors", "chat.dead"}.isdisjoint(found)


def test_doctor_prints_json_and_exits_by_what_it_found(outside, rabbitmq, redis_server, living):
    settings = {
        "CHATBOT_BROKER_URL": rabbitmq.url, "CHATBOT_REDIS_URL": redis_server.url, "CHATBOT_ENV": "test",
        "CHATBOT_BROKER_MANAGEMENT_URL": outside.url, "CHATBOT_WHATSAPP_GRAPH_URL": f"{outside.url}/v26.0",
        "CHATBOT_WHATSAPP_APP_SECRET": "a", "CHATBOT_WHATSAPP_VERIFY_TOKEN": "b",
        "CHATBOT_WHATSAPP_ACCESS_TOKEN": "c", "CHATBOT_WHATSAPP_PHONE_NUMBER_ID": "42",
    }  # fmt: skip

    def run(**more):
        done = subprocess.run(
            [PYTHON, "-m", "chatbot.cli", "doctor", "--json"], env={**os.environ, **settings, **more}, cwd=ROOT,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, {line["part"]: line for line in map(json.loads, done.stdout.splitlines())}

    code, found = run()
    assert (code, {line["level"] for line in found.values()} <= {"ok", "hint"}) == (0, True), found
    code, found = run(CHATBOT_REDIS_URL="redis://127.0.0.1:1/0")
    assert code == 1
    assert found["redis"]["level"] == "fix"


@pytest.mark.parametrize(
    ("settings", "answers", "part", "says"),
    [
        ({"broker_url": "amqp://127.0.0.1:1//"}, {}, "broker", "CHATBOT_BROKER_URL"),
        ({"redis_url": "redis://127.0.0.1:1/0"}, {}, "redis", "CHATBOT_REDIS_URL"),
        ({}, {"/api/nodes": (200, '[{"fd_total": 1024}]')}, "descriptors", "ulimit -n"),
        ({}, {"/v1/models": (401, "")}, "model", "CHATBOT_LLM_API_KEY"),
        ({"llm_model": "gone"}, {}, "model", "not among the models"),
        ({"transcription_base_url": "http://127.0.0.1:1/v1"}, {}, "transcription", "Connect"),
        ({}, {"/v26.0/42": (401, "")}, "whatsapp", "access token"),
        ({"whatsapp_access_token": None}, {}, "whatsapp", "CHATBOT_WHATSAPP_ACCESS_TOKEN"),
        ({"whatsapp_graph_url": "http://127.0.0.1:1/v26.0"}, {}, "clock", "Connect"),
    ],
)
def test_each_trouble_is_named_with_what_to_do(outside, rabbitmq, redis_server, settings, answers, part, says):
    if part == "descriptors" and not rabbitmq.ctl("version").startswith("3."):
        pytest.skip("RabbitMQ 4 shares files among queues")
    outside.answers = {**outside.answers, **answers}
    found = findings(outside, rabbitmq, redis_server, **settings)[part]
    assert not found.ok
    assert says in found.says
