"""The whole system for tests: processes started as the Procfile says, driven from outside.

Messages go in as signed webhooks over HTTP; replies are read from the Graph API
stand-in; what the model was asked is read from the stub's own record.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import httpx

from chatbot.store.keys import COUNTS
from tests.servers import PYTHON, ROOT, Process, RabbitMQ, Redis, accepts, free_port, wait_until
from tests.stub_llm import StubLLM

APP_SECRET = "test-app-secret"
VERIFY_TOKEN = "test-verify-token"
PHONE_NUMBER_ID = "100000000000009"

PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())


def webhook_body(messages: Iterable[tuple[str, str, str]], phone_number_id: str = PHONE_NUMBER_ID) -> bytes:
    """Return one Cloud API webhook holding ``(user, message id, text)`` in that order."""
    items = list(messages)
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "5511000000000", "phone_number_id": phone_number_id},
        "contacts": [{"profile": {"name": f"P{user}"}, "wa_id": user} for user in dict.fromkeys(m[0] for m in items)],
        "messages": [
            {"from": user, "id": id_, "timestamp": str(int(time.time())), "type": "text", "text": {"body": text}}
            for user, id_, text in items
        ],
    }
    change = {"field": "messages", "value": value}
    return json.dumps({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}).encode()


def statuses_body(statuses: Iterable[tuple[str, str, str]]) -> bytes:
    """Return one Cloud API webhook holding ``(message id, status, callback)`` in that order."""
    items = [{"id": id_, "status": status, "biz_opaque_callback_data": back} for id_, status, back in statuses]
    value = {"metadata": {"phone_number_id": PHONE_NUMBER_ID}, "statuses": items}
    return json.dumps({"entry": [{"changes": [{"field": "messages", "value": value}]}]}).encode()


def sign(body: bytes, secret: str = APP_SECRET) -> str:
    """Return the ``X-Hub-Signature-256`` of a body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class StandIn:
    """The Graph API stand-in, a process of its own that outlives every process killed."""

    def __init__(self, folder: Path, webhook_port: int) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/simulator"
        command = [
            PYTHON, "-m", "chatbot.simulator", "--port", str(port), "--app-secret", APP_SECRET,
            "--webhook-url", f"http://127.0.0.1:{webhook_port}/webhook/whatsapp",
            "--phone-number-id", PHONE_NUMBER_ID,
        ]  # fmt: skip
        self._process = Process(command, log=folder / "stand-in.log")
        self._port = port
        self._client = httpx.Client(timeout=30)

    def start(self) -> StandIn:
        """Serve."""
        self._process.start()
        wait_until(lambda: accepts(self._port), what="stand-in up")
        return self

    def close(self) -> None:
        """Stop serving."""
        self._client.close()
        self._process.kill()

    def sent(self, to: str | None = None) -> list[dict[str, Any]]:
        """Return what was sent, oldest first."""
        answer = self._client.get(f"{self.url}/sent", params={"to": to} if to else {})
        answer.raise_for_status()
        sent: list[dict[str, Any]] = answer.json()
        return sent

    def keep_rates(self, **rates: float) -> None:
        """Refuse what comes faster, as Meta does."""
        self._client.post(f"{self.url}/rates", json=rates).raise_for_status()

    def calls(self) -> list[dict[str, Any]]:
        """Return every call and its outcome, oldest first."""
        answer = self._client.get(f"{self.url}/calls")
        answer.raise_for_status()
        calls: list[dict[str, Any]] = answer.json()
        return calls

    def fail(self, **fault: Any) -> None:
        """Script a failure."""
        self._client.post(f"{self.url}/faults", json=fault).raise_for_status()


class System:
    """Web, workers, sender and beat on a given broker and store."""

    def __init__(
        self, folder: Path, rabbitmq: RabbitMQ, redis: Redis, llm: StubLLM | None, *,
        env_of: Callable[[str], dict[str, str]] = lambda _: {}, **settings: Any,
    ) -> None:  # fmt: skip
        self.folder, self.rabbitmq, self.redis, self.llm = folder, rabbitmq, redis, llm
        self.vhost = rabbitmq.add_vhost()
        self.port = free_port()
        self.stand_in = StandIn(folder, self.port)
        model = {"CHATBOT_LLM_MODEL": "stub", "CHATBOT_LLM_BASE_URL": llm.url} if llm else {}
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("CHATBOT_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CHATBOT_ENV": "test",
            "CHATBOT_BROKER_URL": rabbitmq.url.removesuffix("/") + self.vhost,
            "CHATBOT_REDIS_URL": redis.add_database(),
            "CHATBOT_PORT": str(self.port),
            "CHATBOT_WHATSAPP_GRAPH_URL": f"{self.stand_in.url}/graph/v26.0",
            "CHATBOT_WHATSAPP_APP_SECRET": APP_SECRET,
            "CHATBOT_WHATSAPP_VERIFY_TOKEN": VERIFY_TOKEN,
            "CHATBOT_WHATSAPP_ACCESS_TOKEN": "test-token",
            "CHATBOT_WHATSAPP_PHONE_NUMBER_ID": PHONE_NUMBER_ID,
            "CHATBOT_HOUSEKEEPING_INTERVAL": "1",
            # The stand-in takes messages as fast as they come, unless a test says otherwise.
            "CHATBOT_WHATSAPP_RATE": "10000",
            "CHATBOT_WHATSAPP_PAIR_SECONDS": "0.001",
            "C_FORCE_ROOT": "1",
            **model,
            **{f"CHATBOT_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._env_of = env_of
        self.processes: dict[str, Process] = {}
        self._client = httpx.Client(timeout=30)

    def __enter__(self) -> Self:
        self.stand_in.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
        self._client.close()
        self.stand_in.close()

    def start(self, *names: str) -> System:
        """Start processes by their name in the Procfile (``worker.2`` is a second worker)."""
        for name in names:
            command = PROCFILE[name.split(".")[0]]
            log = self.folder / f"{name}.log"
            self.processes[name] = Process(
                ["sh", "-c", f"exec {command}"], log=log, env={**self.env, **self._env_of(name)}
            ).start()
        for name in names:
            kind = name.split(".")[0]
            if kind in {"worker", "sender"}:
                wait_until(lambda n=name: self._ready(n), seconds=60, what=f"{name} ready")
            if kind == "web":
                wait_until(self.healthy, seconds=30, what="web ready")
        return self

    def _ready(self, name: str) -> bool:
        process = self.processes[name]
        assert process.alive, process.output()[-3000:]
        return " ready." in process.output(since_start=True)

    def healthy(self) -> bool:
        """Return whether the web process answers."""
        assert self.processes["web"].alive, self.processes["web"].output()[-3000:]
        try:
            return self._client.get(f"http://127.0.0.1:{self.port}/health").status_code == 200
        except httpx.HTTPError:
            return False

    def post(self, *messages: tuple[str, str, str], secret: str = APP_SECRET) -> httpx.Response:
        """Post one signed webhook holding ``(user, message id, text)`` each."""
        return self.post_body(webhook_body(messages), secret=secret)

    def post_body(self, body: bytes, *, secret: str = APP_SECRET) -> httpx.Response:
        """Post any signed body."""
        headers = {"X-Hub-Signature-256": sign(body, secret), "Content-Type": "application/json"}
        return self._client.post(f"http://127.0.0.1:{self.port}/webhook/whatsapp", content=body, headers=headers)

    def replies(self, user: str) -> list[str]:
        """Return the texts sent to a user so far, oldest first."""
        return [item["text"] for item in self.stand_in.sent(user)]

    def wait_replies(self, user: str, count: int, *, seconds: float = 60) -> list[str]:
        """Return a user's replies once there are ``count`` of them."""
        wait_until(lambda: len(self.replies(user)) >= count, seconds=seconds, what=f"{count} replies to {user}")
        return self.replies(user)

    def store_counts(self) -> dict[str, int]:
        """Return what the system itself counted."""
        import redis

        with redis.Redis.from_url(self.env["CHATBOT_REDIS_URL"], decode_responses=True) as client:
            return {event: int(times) for event, times in client.hgetall(COUNTS.of()).items()}

    def waiting(self, queue: str) -> int:
        """Return how many messages a queue has: those that wait, are put off or are being handled."""
        return self.rabbitmq.queues(self.vhost).get(queue, (0, 0))[0]

    def user_queues(self) -> dict[str, tuple[int, int]]:
        """Return the queues of users: name → (messages, consumers)."""
        fixed = {"chat.open", "chat.dead"}
        return {q: s for q, s in self.rabbitmq.queues(self.vhost).items() if q.startswith("chat.") and q not in fixed}
