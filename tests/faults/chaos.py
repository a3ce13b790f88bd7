"""Chaos: hundreds of people write while everything is killed, cut and stalled.

``python -m tests.faults.chaos --messages 20000 --faults 100 --seed 7`` starts a private
RabbitMQ and Redis, the processes of the Procfile, the Graph API stand-in and a stub model,
injects faults drawn from the seed, and then judges every message. The last line printed is
one JSON object; the exit code is 1 when a promise was broken. It ends by itself.
``--only sender_pause,redis_set_back`` causes only these, each once unless ``--faults`` says otherwise.

A Redis that is set back forgets turns and sends: what that explains, and nothing else, is counted as
``set_back_lost``, ``set_back_repeated`` and ``set_back_context``; ``set_back_silence_s`` is for how long somebody heard
nothing who wrote right after. ``given_up`` are replies whose senders were killed again and again (``hunt.py``).

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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kombu

from chatbot.store.presence import CLAIM_SECONDS
from tests.faults.faults import AHEAD_SECONDS, LONG, WEIGHTS, Faults, Happened
from tests.faults.load import Load
from tests.faults.model import asked
from tests.faults.skewed import skewed
from tests.faults.verdict import Done, is_answered, judge
from tests.proxy import TcpProxy
from tests.servers import RabbitMQ, Redis, end_in_order, wait_until
from tests.stub_llm import StubLLM
from tests.system import System

HISTORY_TURNS = 6
FAILOVER_LIMIT = 10.0
#: When everything is mended, every message must have its reply this much later.
DRAIN_SECONDS = 300.0
#: Seconds for which a mended fault still disturbs a failover: a worker takes its time to start, a
#: message that it had twice is answered apart, and a Redis that was set back knows claims of runs that ended.
AFTERMATH = {
    "worker": 15.0, "worker_twice": 30.0, "broker": 20.0, "broker_cuts": 30.0, "redis": 3.0,
    "redis_set_back": CLAIM_SECONDS + 15.0, "llm": 10.0,
}  # fmt: skip
#: Whoever writes to a Redis that was set back hears something within the time of a claim, and what comes on top.
SILENCE_LIMIT = CLAIM_SECONDS + 30.0
#: Who writes so soon after it is looked at, where nothing else was broken that keeps people waiting, then or
#: so long before.
SILENCE_LOOK, SILENCE_BEFORE = 20.0, 60.0
KEEPS_WAITING = {"worker", "broker", "redis", "llm", "sender"}
#: Claims stand for 60 s. A sender stands still for longer; for much longer where that is asked for by name.
PAUSE_SECONDS, PAUSE_BY_NAME_SECONDS = 75.0, 110.0
#: The system's settings: a slow answer of the model is none that takes too long, and the past fits, whatever was said.
SETTINGS = {
    "idle_timeout": 6, "history_turns": HISTORY_TURNS, "history_chars": 1_000_000, "llm_context": 1_000_000,
    "llm_timeout": 8, "send_timeout": 3, "settle_timeout": 10, "breaker_rest": 1, "log_level": "INFO",
}  # fmt: skip
PROCESSES = ("web", "worker.1", "worker.2", "sender.1", "sender.2", "beat")
#: Broken promises: each must be zero.
ZEROS = (
    "lost", "duplicated", "disordered", "overlapped", "torn", "leaked_context", "missing_context", "unprovoked",
    "not_kept", "needless_dead", "leftovers", "crashed_queues",
)  # fmt: skip


def chaos(
    folder: Path, *, messages: int, faults: int, seed: int, users: int, poisons: int = 0, only: Sequence[str] = (),
    pause: float = PAUSE_SECONDS,
) -> dict[str, Any]:  # fmt: skip
    """Run once and return the figures; ``why`` says what was wrong with the first broken promises.

    ``only`` are the kinds of faults to choose from, by default all; a sender stands still for ``pause`` seconds.
    """
    dice = random.Random(seed)
    with ExitStack() as stack:
        rabbitmq, redis = RabbitMQ(folder / "rabbitmq"), Redis(folder / "redis")
        for server in (rabbitmq, redis):
            stack.callback(server.close)
            server.start()
        llm = stack.enter_context(StubLLM(delay=0.2, numbered=True))
        broker_proxy = stack.enter_context(TcpProxy(rabbitmq.port))
        redis_proxy = stack.enter_context(TcpProxy(redis.port))
        ahead: set[str] = set()

        def env_of(name: str) -> dict[str, str]:
            env = {"CHATBOT_LLM_BASE_URL": llm.url_for(name)}
            if name in ahead:
                env |= skewed(AHEAD_SECONDS)
            if name != "worker.1":  # one worker goes straight, so that a cut cable does not end all
                broker, store = system.env["CHATBOT_BROKER_URL"], system.env["CHATBOT_REDIS_URL"]
                env["CHATBOT_BROKER_URL"] = broker.replace(f":{rabbitmq.port}/", f":{broker_proxy.port}/")
                env["CHATBOT_REDIS_URL"] = store.replace(f":{redis.port}/", f":{redis_proxy.port}/")
            return env

        system = stack.enter_context(System(folder, rabbitmq, redis, llm, env_of=env_of, **SETTINGS))
        system.start(*PROCESSES)
        load = Load(
            system, messages, users, random.Random(dice.random()), poisons=frozenset(dice.sample(range(users), poisons))
        )
        breaking = Faults(
            system, rabbitmq, redis, llm, broker_proxy, redis_proxy, random.Random(dice.random()), only=only,
            pause=pause, settle=SETTINGS["settle_timeout"], skewed=ahead, on_answer=load.note_answer,
            phone_of=load.phone_of,
        )  # fmt: skip
        stack.callback(breaking.close)  # before the processes end, or they would be started anew
        began = time.monotonic()
        plan = Plan(breaking, load, messages, faults)
        load.may_write = plan.may_write
        schedule = threading.Thread(target=plan.run)
        schedule.start()
        load.run()
        posted = time.monotonic() - began
        schedule.join()
        breaking.mend()
        done = Done(load.poison_texts(), frozenset(breaking.model.hunted), breaking.model.said, breaking.forgotten)
        _drain(system, load, breaking, done)
        figures = _figures(system, load, breaking, llm, done)
        figures |= {"seconds": round(time.monotonic() - began, 1), "messages_per_s": round(messages / posted, 1)}
    return {"messages": messages, "faults": faults, "seed": seed, "users": users, **figures}


class Plan:
    """When what is broken: a fault each time another share of the messages is taken, and now and then two at once.

    People write no faster than faults happen: the next share is written once the next fault began, and what
    comes after the last one while those that last are under way.
    """

    def __init__(self, breaking: Faults, load: Load, messages: int, faults: int) -> None:
        self._breaking, self._load, self._messages, self._faults = breaking, load, messages, faults
        self._begun = 0
        self._last_at = 0.0

    def run(self) -> None:
        """Cause every fault; returns when all is mended."""
        running: list[threading.Thread] = []
        lasting: list[threading.Thread] = []
        for n in range(self._faults):
            due = self._due(n + 1)
            wait_until(
                lambda due=due: self._load.count() >= due, seconds=1800, what=f"{due:.0f} messages taken", every=0.05
            )
            while len([thread for thread in running if thread.is_alive()]) > 1:
                time.sleep(0.05)
            happened = self._breaking.begin(self._breaking.draw())
            thread = threading.Thread(target=self._breaking.cause, args=(happened,))
            thread.start()
            self._begun, self._last_at = n + 1, time.monotonic()
            print(f"{n + 1}/{self._faults} {happened} {self._load.count()} taken", file=sys.stderr)
            if happened.kind in LONG:
                lasting.append(thread)
            else:
                running.append(thread)
                if self._breaking.dice.random() < 0.8:
                    thread.join()
        for thread in running + lasting:
            thread.join()

    def may_write(self) -> bool:
        """Return whether people may write another message by now."""
        room, share = self._due(self._begun), self._messages / (self._faults + 1)
        if self._begun == self._faults and (left := max(0.0, self._breaking.lasts())):
            passed = time.monotonic() - self._last_at
            share *= passed / (passed + left)
        return self._load.count() < room + share

    def _due(self, fault: int) -> float:
        return fault * self._messages / (self._faults + 1)


def _drain(system: System, load: Load, breaking: Faults, done: Done) -> None:
    """Wait until the stand-in has a reply for every message, the sessions are closed and nothing is due any more."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline and not is_answered(load.accepted, system.stand_in.sent(), done):
        time.sleep(1)
    # What was put off (a user's next look into the outbox) is due within 75 s.
    while (system.user_queues() or system.waiting("send")) and time.monotonic() < deadline + 90:
        time.sleep(1)
    # Of what beat sends every second, some is being handled at almost any moment: the last of it, too, is to end.
    breaking.close()
    system.processes["beat"].kill()
    while system.waiting("housekeeping") and time.monotonic() < deadline + 90:
        time.sleep(1)


def _figures(system: System, load: Load, breaking: Faults, llm: StubLLM, done: Done) -> dict[str, Any]:
    dead = _dead_letters(system)
    texts = [body[0][1] for body, headers in dead if headers.get("task") == "chatbot.answer"]
    sent = system.stand_in.sent()
    verdict = judge(load.accepted, sent, llm.calls, texts, history_turns=HISTORY_TURNS, done=done)
    queues = system.rabbitmq.queues(system.vhost)
    leftovers = {q: n for q, (n, _) in queues.items() if q != "chat.dead" and (n or q.startswith("chat.5"))}
    resent = int(system.store_counts().get("unknown_resent", 0)) + done.forgotten.resent
    figures = asdict(verdict)
    # A part whose outcome nobody could learn is sent again, and the system says so.
    figures["duplicated"] = max(0, verdict.duplicated - resent)
    figures["needless_dead"] += len(dead) - len(texts)  # of tasks that are no message
    failovers, crashes = _failovers(load, breaking, llm), system.rabbitmq.crashed_queues()
    return figures | {
        "unknown_resent": resent,
        "dead_letters": len(dead),
        "leftovers": sum(leftovers.values()) + len(leftovers),
        "crashed_queues": len(crashes),
        "refused_503": load.refused,
        "slowest_503_s": round(load.slowest_refusal, 2),
        "set_back_turns": len(done.forgotten.turns),
        "set_back_silence_s": _silence(load, breaking, sent, done),
        "hostile_replies": len(done.said),
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


def _silence(load: Load, breaking: Faults, sent: Sequence[dict[str, Any]], done: Done) -> float | None:
    """Return for how long somebody heard nothing who wrote to a Redis that had just been set back, and to nothing else.

    ``None`` where other faults would have kept people waiting, too.
    """
    to_monotonic = time.monotonic() - time.time()
    heard: defaultdict[str, list[float]] = defaultdict(list)
    for item in sent:
        heard[item["to"]].append(item["time"] + to_monotonic)
    silences = []
    for restored in _set_back_alone(breaking.happened):
        for phone, texts in load.accepted.items():
            if {*texts} & (done.poisons | done.hunted):
                continue
            wrote = [load.taken_at[text] for text in texts if restored < load.taken_at[text] < restored + SILENCE_LOOK]
            if wrote:
                silences.append(min((at for at in heard[phone] if at > min(wrote)), default=math.inf) - min(wrote))
    return round(max(silences), 1) if silences else None


def _set_back_alone(happened: Sequence[Happened]) -> list[float]:
    """Return when a Redis that was set back was up again, where nothing else kept people waiting at about that time."""
    waited = [h for h in happened if h.kind.split("_")[0] in KEEPS_WAITING]
    return [
        back.ended
        for back in happened
        if back.kind == "redis_set_back"
        and not any(
            h is not back and h.began < back.ended + SILENCE_LIMIT and h.ended + SILENCE_BEFORE > back.began
            for h in waited
        )
    ]


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
    calls_of: defaultdict[str, list[Any]] = defaultdict(list)
    for call in llm.calls:
        if (text := asked(call)) in phones:
            calls_of[phones[text]].append(call)
    answered_at: dict[str, float] = {}
    for call in llm.calls:
        if call.status == 200:
            answered_at.setdefault(asked(call), call.ended)
    kills = [h for h in breaking.happened if h.kind == "worker_kill" and any(n.startswith("worker.") for n in h.beside)]
    samples = []
    for kill in kills:
        for phone, calls in calls_of.items():
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
        h is not kill and h.began < last and h.ended + AFTERMATH.get(h.kind, AFTERMATH[part]) > first
        for h in breaking.happened
        if (part := h.kind.split("_")[0]) in AFTERMATH
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
    silence = figures["set_back_silence_s"]
    silent = ["set_back_silence_s"] if silence is not None and silence > SILENCE_LIMIT else []
    return [name for name in ZEROS if figures[name]] + late + slow + silent


def _kinds(named: str) -> tuple[str, ...]:
    kinds = tuple(named.split(",")) if named else ()
    if unknown := set(kinds) - set(WEIGHTS):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
    return kinds


def main() -> None:
    """Run once; print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--faults", type=int, help="how many (default: 20, or with --only each of them once)")
    parser.add_argument("--only", type=_kinds, default=(), help=f"kinds of faults: {', '.join(sorted(WEIGHTS))}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="folder for logs, kept (by default a temporary one)")
    given = parser.parse_args()
    end_in_order()
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatbot-chaos-")))
        faults = given.faults or len(given.only) or 20
        figures = chaos(
            folder, messages=given.messages, faults=faults, seed=given.seed, users=given.users,
            poisons=min(3, faults // 10), only=given.only, pause=PAUSE_BY_NAME_SECONDS if given.only else PAUSE_SECONDS,
        )  # fmt: skip
    for line in figures.pop("why"):
        print(line, file=sys.stderr)
    print(json.dumps(figures))
    sys.exit(1 if broken(figures) else 0)


if __name__ == "__main__":
    main()
