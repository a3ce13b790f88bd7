"""The way of a message, end to end, on real RabbitMQ and Redis with the Procfile's processes."""

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from tests.servers import wait_until
from tests.stub_llm import StubLLM
from tests.system import System

USERS = [f"55118888{n:05}" for n in range(100)]
MESSAGES = 20


def test_a_hundred_users_each_get_their_own_replies_in_order(tmp_path, rabbitmq, redis_server):
    with StubLLM(delay=0.02) as llm, System(
        tmp_path, rabbitmq, redis_server, llm, idle_timeout=8, history_turns=3
    ) as system:  # fmt: skip
        system.start("web", "worker.1", "worker.2", "sender", "beat")
        dice = random.Random(11)

        def post(user: str) -> None:
            waiting = [(user, f"wamid.{user}.{n}", f"{user}/{n}") for n in range(MESSAGES)]
            while waiting:
                size = dice.choice((1, 1, 2, 5))
                assert system.post(*waiting[:size]).status_code == 200
                del waiting[:size]

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(post, USERS))
        wait_until(
            lambda: len(system.stand_in.sent()) >= len(USERS) * MESSAGES, seconds=180, what="every reply", every=1
        )

        for user in USERS:
            assert system.replies(user) == [f"eco: {user}/{n}" for n in range(MESSAGES)]
        assert len(llm.calls) == len(USERS) * MESSAGES, "one turn a message"

        turns = defaultdict(list)
        for call in llm.calls:
            user = call.asked.split("/")[0]
            turns[user].append(call)
            assert all(said.startswith(f"{user}/") for said in call.said), "no text of another user in the prompt"
            foreign = [text for _, text in call.messages for other in USERS if other != user and other in text]
            assert foreign == []
        for calls in turns.values():
            calls.sort(key=lambda call: call.began)
            assert all(before.ended <= after.began for before, after in pairwise(calls))
        workers = [system.processes[f"worker.{n}"].output().count("turn.committed") for n in (1, 2)]
        assert all(workers), f"both workers took part: {workers}"

        wait_until(lambda: not system.user_queues(), seconds=60, what="idle queues gone")
        user = USERS[0]
        assert system.post((user, "wamid.back", f"{user}/back")).status_code == 200
        system.wait_replies(user, MESSAGES + 1)
        remembered = next(call for call in llm.calls if call.asked == f"{user}/back").said
        assert remembered == [*(f"{user}/{n}" for n in range(MESSAGES - 3, MESSAGES)), f"{user}/back"]
        for name, process in system.processes.items():
            assert f"{user}/1" not in process.output(), f"no text of a person in the log of {name}"


def test_the_same_webhook_twice_is_answered_once(tmp_path, rabbitmq, redis_server):
    with StubLLM() as llm, System(tmp_path, rabbitmq, redis_server, llm, idle_timeout=2) as system:
        system.start("web", "worker", "sender", "beat")
        for _ in range(3):
            assert system.post(("5511777770001", "wamid.same", "oi")).status_code == 200
        system.post(("5511777770001", "wamid.next", "tchau"))
        assert system.wait_replies("5511777770001", 2) == ["eco: oi", "eco: tchau"]
        assert len(llm.calls) == 2
        wait_until(lambda: not system.user_queues(), seconds=30, what="idle queues gone")
        assert len(system.replies("5511777770001")) == 2
