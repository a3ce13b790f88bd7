"""One user who writes a thousand messages at once fills one queue: theirs."""

from __future__ import annotations

import threading

import kombu

from chatbot import texts
from tests.servers import wait_until
from tests.stub_llm import StubLLM
from tests.system import System

FLOODER, OTHERS = "5511933330000", [f"551193333{n:04}" for n in range(1, 6)]
MESSAGES, ROOM = 1000, 100


def test_a_flood_fills_one_queue_and_is_refused_honestly(tmp_path, rabbitmq, redis_server):
    released = threading.Event()

    def hold_the_flooder(call):
        if call.asked.startswith("f"):
            assert released.wait(60)

    with StubLLM() as llm, System(
        tmp_path, rabbitmq, redis_server, llm, max_waiting=ROOM, idle_timeout=4
    ) as system:  # fmt: skip
        llm.script = hold_the_flooder
        system.start("web", "worker", "sender", "beat")
        flood = [f"f{n}" for n in range(MESSAGES)]
        refused = 0
        for n in range(0, MESSAGES, 50):
            answer = system.post(*((FLOODER, f"wamid.{text}", text) for text in flood[n : n + 50]))
            assert answer.status_code == 200
            refused += answer.json()["refused"]
        assert MESSAGES - ROOM - 2 <= refused <= MESSAGES - ROOM, "what is being answered, and what waits"
        assert system.user_queues()[f"chat.{FLOODER}"][0] == MESSAGES - refused

        for user in OTHERS:
            system.post((user, f"wamid.{user}", "oi"))
        for user in OTHERS:
            assert system.wait_replies(user, 1) == ["eco: oi"]
        assert system.user_queues()[f"chat.{FLOODER}"][0] == MESSAGES - refused, "all this while the flood waits"
        assert system.wait_replies(FLOODER, 1) == [texts.TOO_MANY["pt"]]
        wait_until(lambda: system.store_counts().get("notice_too_many") == refused, what="each refusal counted")

        released.set()
        told, *replies = system.wait_replies(FLOODER, MESSAGES - refused + 1)
        taken = [reply.removeprefix("eco: ") for reply in replies]
        assert told == texts.TOO_MANY["pt"], "told once"
        assert taken == sorted(taken, key=flood.index)
        assert set(taken) | set(_dead(system)) == set(flood), "nothing is lost"
        wait_until(lambda: not system.user_queues(), seconds=40, what="idle queues gone")


def _dead(system: System) -> list[str]:
    flood = []
    with kombu.Connection(system.env["CHATBOT_BROKER_URL"]) as connection:
        queue = kombu.Queue("chat.dead", no_declare=True)(connection.default_channel)
        while (letter := queue.get()) is not None:
            assert letter.headers["reason"] == "the user's queue is full"
            flood.append(letter.decode()[0][1])
    return flood
