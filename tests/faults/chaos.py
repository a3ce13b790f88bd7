"""Chaos: hundreds of people write while everything is killed, cut and stalled.

``python -m tests.faults.chaos --messages 20000 --faults 100 --seed 7`` starts a private
RabbitMQ and Redis, the processes of the Procfile, the Graph API stand-in and a stub model,
injects faults drawn from the seed, and then judges every message. The last line printed is
one JSON object; the exit code is 1 when a promise was broken. It ends by itself.

``failover_p99_s`` is measured on workers that were killed while another was up and nothing
else was broken: from the kill until the model is asked again for a user whom the killed
worker had served and who was waiting for an answer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kombu

from tests.faults.faults import Faults, Happened
from tests.faults.load import Load
from tests.faults.verdict import judge
from tests.proxy import TcpProxy
from tests.servers import RabbitMQ, Redis, end_in_order, wait_until
from tests.stub_llm import StubLLM
from tests.system import System

HISTORY_TURNS = 6
FAILOVER_LIMIT = 10.0
#: When everything is mended, every message must have its reply this much later.
DRAIN_SECONDS = 300.0
#: Seconds for which a mended fault still disturbs a failover: a worker takes its time to start.
AFTERMATH = {"worker": 15.0, "broker": 20.0, "redis": 3.0, "llm": 3.0}
#: Broken promises: each must be zero.
ZEROS = (
    "lost", "duplicated", "disordered", "overlapped", "leaked_context", "missing_context", "not_kept", "leftovers",
    "crashed_queues",
)  # fmt: skip


def chaos(folder: Path, *, messages: int, faults: int, seed: int, users: int, poisons: int = 0) -> dict[str, Any]:
    """Run once and return the figures; ``why`` says what was wrong with the first broken promises."""
    dice = random.Random(seed)
    with ExitStack() as stack:
        rabbitmq, redis = RabbitMQ(folder / "rabbitmq"), Redis(folder / "redis")
        for server in (rabbitmq, redis):
            stack.callback(server.close)
            server.start()
        llm = stack.enter_context(StubLLM(delay=0.2, numbered=True))
        broker_proxy = stack.enter_context(TcpProxy(rabbitmq.port))
        redis_proxy = stack.enter_context(TcpProxy(redis.port))

        def env_of(name: str) -> dict[str, str]:
            env = {"CHATBOT_LLM_BASE_URL": llm.url_for(name)}
            if name != "worker.1":  # one worker goes straight, so that a cut cable does not end all
                broker, store = system.env["CHATBOT_BROKER_URL"], system.env["CHATBOT_REDIS_URL"]
                env["CHATBOT_BROKER_URL"] = broker.replace(f":{rabbitmq.port}/", f":{broker_proxy.port}/")
                env["CHATBOT_REDIS_URL"] = store.replace(f":{redis.port}/", f":{redis_proxy.port}/")
            return env

        system = stack.enter_context(System(
            folder, rabbitmq, redis, llm, env_of=env_of, idle_timeout=6, history_turns=HISTORY_TURNS,
            llm_timeout=4, send_timeout=3, settle_timeout=10, breaker_rest=1, log_level="INFO",
        ))  # fmt: skip
        system.start("web", "worker.1", "worker.2", "sender", "beat")
        load = Load(
            system, messages, users, random.Random(dice.random()), poisons=frozenset(dice.sample(range(users), poisons))
        )
        breaking = Faults(
            system, rabbitmq, redis, llm, broker_proxy, redis_proxy, random.Random(dice.random()),
            on_answer=load.note_answer,
        )  # fmt: skip
        stack.callback(breaking.close)  # before the processes end, or they would be started anew
        began = time.monotonic()
        schedule = threading.Thread(target=_break_things, args=(breaking, load, messages, faults))
        schedule.start()
        load.run()
        posted = time.monotonic() - began
        schedule.join()
        breaking.mend()
        _drain(system, load)
        figures = _figures(system, load, breaking, llm)
        figures |= {"seconds": round(time.monotonic() - began, 1), "messages_per_s": round(messages / posted, 1)}
    return {"messages": messages, "faults": faults, "seed": seed, "users": users, **figures}


def _break_things(breaking: Faults, load: Load, messages: int, faults: int) -> None:
    """Cause a fault each time another share of the messages is taken, and now and then two at once."""
    running: list[threading.Thread] = []
    for n in range(faults):
        due = (n + 1) * messages / (faults + 1)
        wait_until(lambda due=due: load.count() >= due, seconds=1800, what=f"{due:.0f} messages taken", every=0.05)
        while len([thread for thread in running if thread.is_alive()]) > 1:
            time.sleep(0.05)
        thread = threading.Thread(target=breaking.cause, args=(breaking.draw(),))
        thread.start()
        running.append(thread)
        print(f"{n + 1}/{faults} {breaking.happened[-1:]} {load.count()} taken", file=sys.stderr)
        if breaking.dice.random() < 0.8:
            thread.join()
    for thread in running:
        thread.join()


def _drain(system: System, load: Load) -> None:
    """Wait until the stand-in has a reply for every message, the sessions are closed and nothing is due any more."""
    wanted = {phone: len(texts) for phone, texts in load.accepted.items()}

    def answered() -> bool:
        got = Counter(item["to"] for item in system.stand_in.sent())
        return all(got[phone] >= n for phone, n in wanted.items())

    deadline = time.monotonic() + DRAIN_SECONDS
    while not answered() and time.monotonic() < deadline:
        time.sleep(1)
    # What was put off (a user's next look into the outbox) is due within 75 s.
    while (system.user_queues() or system.waiting("send")) and time.monotonic() < deadline + 90:
        time.sleep(1)
    # Of what beat sends every second, some is being handled at almost any moment: the last of it, too, is to end.
    system.processes["beat"].kill()
    while system.waiting("housekeeping") and time.monotonic() < deadline + 90:
        time.sleep(1)


def _figures(system: System, load: Load, breaking: Faults, llm: StubLLM) -> dict[str, Any]:
    dead = _dead_letters(system)
    texts = [body[0][1] for body, headers in dead if headers.get("task") == "chatbot.answer"]
    verdict = judge(load.accepted, system.stand_in.sent(), llm.calls, texts, history_turns=HISTORY_TURNS)
    queues = system.rabbitmq.queues(system.vhost)
    leftovers = {q: n for q, (n, _) in queues.items() if q != "chat.dead" and (n or q.startswith("chat.5"))}
    counts = system.store_counts()
    resent = int(counts.get("unknown_resent", 0))
    figures = asdict(verdict)
    # A part whose outcome nobody could learn is sent again, and the system says so.
    figures["duplicated"] = max(0, verdict.duplicated - resent)
    failovers, crashes = _failovers(load, breaking, llm), system.rabbitmq.crashed_queues()
    return figures | {
        "unknown_resent": resent,
        "dead_letters": len(dead),
        "leftovers": sum(leftovers.values()) + len(leftovers),
        "crashed_queues": len(crashes),
        "refused_503": load.refused,
        "slowest_503_s": round(load.slowest_refusal, 2),
        "failover_p99_s": _percentile(failovers, 0.99),
        "failovers": len(failovers),
        "kinds": dict(Counter(h.kind for h in breaking.happened)),
        "why": [
            *verdict.why,
            *(f"dead: {h.get('task')} {h.get('reason') or h.get('x-death')}" for _, h in dead[:20]),
            *(f"left: {q} {n}" for q, n in list(leftovers.items())[:5]),
            *(f"crashed: {log}" for log in crashes[:2]),
        ],
    }


def _dead_letters(system: System) -> list[tuple[Any, dict[str, Any]]]:
    letters = []
    with kombu.Connection(system.env["CHATBOT_BROKER_URL"]) as connection:
        queue = kombu.Queue("chat.dead", no_declare=True)(connection.default_channel)
        while (message := queue.get()) is not None:
            letters.append((message.decode(), dict(message.headers)))
    return letters


def _failovers(load: Load, breaking: Faults, llm: StubLLM) -> list[float]:
    """Return the seconds from a worker's death until each of its waiting users was served again."""
    phones = {text: phone for phone, texts in load.accepted.items() for text in texts}
    asked: defaultdict[str, list[Any]] = defaultdict(list)
    for call in llm.calls:
        if call.asked in phones:
            asked[phones[call.asked]].append(call)
    answered_at: dict[str, float] = {}
    for call in llm.calls:
        if call.status == 200:
            answered_at.setdefault(call.asked, call.ended)
    kills = [h for h in breaking.happened if h.kind == "worker_kill" and any(n.startswith("worker.") for n in h.beside)]
    samples = []
    for kill in kills:
        for phone, calls in asked.items():
            before = [call for call in calls if call.began <= kill.began]
            after = [call for call in calls if call.began > kill.began]
            if not before or max(before, key=lambda call: call.began).asker != kill.target:
                continue
            # What never had an answer was apologised for, and nobody waited for it any longer.
            waiting = [
                text
                for text in load.accepted[phone]
                if text in answered_at and load.taken_at[text] < kill.began < answered_at[text]
            ]
            if not waiting:
                continue
            took = min((call.began for call in after), default=math.inf) - kill.began
            if not _disturbed(breaking, kill, min(took, FAILOVER_LIMIT)):
                samples.append(took)
                if took > FAILOVER_LIMIT / 2:
                    print(f"failover: {took:.2f} s, {kill.target}, {phone}, {waiting[:3]}", file=sys.stderr)
    return samples


def _disturbed(breaking: Faults, kill: Happened, seconds: float) -> bool:
    """Return whether something else was broken in the seconds after a worker's death."""
    first, last = kill.began, kill.began + seconds
    return any(
        h is not kill and h.began < last and h.ended + AFTERMATH[h.kind.split("_")[0]] > first
        for h in breaking.happened
        if h.kind.split("_")[0] in AFTERMATH
    )


def _percentile(values: list[float], share: float) -> float | None:
    if not values:
        return None
    return round(sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)], 2)


def broken(figures: dict[str, Any]) -> list[str]:
    """Return which promises the figures break."""
    failover = figures["failover_p99_s"]
    late = ["failover_p99_s"] if failover is not None and failover > FAILOVER_LIMIT else []
    slow = ["slowest_503_s"] if figures["slowest_503_s"] > FAILOVER_LIMIT else []
    return [name for name in ZEROS if figures[name]] + late + slow


def main() -> None:
    """Run once; print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="folder for logs, kept (by default a temporary one)")
    given = parser.parse_args()
    end_in_order()
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatbot-chaos-")))
        figures = chaos(
            folder, messages=given.messages, faults=given.faults, seed=given.seed, users=given.users,
            poisons=min(3, given.faults // 10),
        )  # fmt: skip
    for line in figures.pop("why"):
        print(line, file=sys.stderr)
    print(json.dumps(figures))
    sys.exit(1 if broken(figures) else 0)


if __name__ == "__main__":
    main()
