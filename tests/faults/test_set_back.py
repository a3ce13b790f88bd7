"""A Redis that comes back as it was some steps ago: after a failover to an asynchronous replica, or a crash.

At one step of a run everything that Redis holds is kept; at a later one, maybe of another run, Redis is set back
to that. Runs that are under way go on and know nothing of it. A process may end at any step, too.

What such a Redis breaks, and no claim could mend: turns and notes of those seconds are gone. A message that was
answered then is answered again if the broker has it still, or has no turn for good; the bot has forgotten it
either way. A part that was sent then may be sent again, by what Redis knows it was not. What must hold, from then on:

- nobody is silent for longer than a claim stands: who writes is answered as soon as the claims of runs that Redis
  still remembers have run out, and the reply goes out as soon as no status may come any more for what was in doubt;
- what is written from then on is answered once, in order, and the replies go out in order, whole and once, but for
  what is counted as sent again.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatbot.conversation.turn import Conversation
from chatbot.delivery.sender import LOOK_AGAIN_SECONDS, Delivery
from chatbot.errors import Transient
from chatbot.messages import Message, Part
from chatbot.resilience.breaker import Breaker
from chatbot.store.outbox import OVERDUE_SECONDS
from chatbot.store.presence import ALIVE_SECONDS, CLAIM_SECONDS, Runs
from chatbot.store.store import Store
from tests.faults import test_promises
from tests.faults.test_promises import SETTLE_SECONDS, USERS, Clock, Crash, Steps

clock, client, _quiet = test_promises.clock, test_promises.client, test_promises._quiet  # fixtures

#: What is done again and again is done this often.
EVERY = 5.0


class World:
    """Two users, a worker and a sender; ``plan`` says what happens at which step."""

    def __init__(self, client: Any, clock: Clock, plan: dict[int, str]) -> None:
        client.flushdb()
        self.client, self.clock, self.plan = client, clock, plan
        self.store = self._store()
        self.steps, self.numbers = itertools.count(1), itertools.count(1)
        self.kept: list[tuple[str, int, bytes]] = []
        self.was_set_back = False
        self.ended: dict[str, float] = {}
        self.queue: dict[str, list[Message]] = defaultdict(list)
        self.woken: set[str] = set()
        self.busy: set[str] = set()  # whose head is being answered
        self.sent: dict[str, list[tuple[str, float]]] = defaultdict(list)  # user → message and part, when
        self.worker, self.sender = self._start_worker(), self._start_sender()

    def _store(self) -> Store:
        return Store(self.client, history_turns=3, retention=10**6, clock=self.clock)

    def _runs(self) -> tuple[str, Runs]:
        liveness = SimpleNamespace(is_gone=lambda id_: self.clock() > self.ended.get(id_, 1e18) + ALIVE_SECONDS)
        id_ = f"p{next(self.numbers)}"
        return id_, Runs(id_, liveness)

    def _start_worker(self) -> tuple[str, Conversation]:
        id_, runs = self._runs()
        agent = SimpleNamespace(reply=lambda message, _: f"{message.id}|{message.id}")
        nothing = lambda *_, **__: None  # noqa: E731
        outbound = SimpleNamespace(
            wake_sender=lambda user, _: self.woken.add(user), mark_read=nothing, notify=nothing, bury=nothing
        )
        return id_, Conversation(
            Steps(self._store(), self.step), lambda: agent, outbound, runs=runs, llm_tries=1,
            breaker=Breaker(failures=3, rest=5.0, clock=self.clock), sleep=self.clock.advance,
        )  # fmt: skip

    def _start_sender(self) -> tuple[str, Delivery]:
        id_, runs = self._runs()
        channel = SimpleNamespace(
            compose=lambda reply: [Part(text) for text in reply.split("|")], limits=None, window=None, send=self.send
        )
        outbound = SimpleNamespace(wake_sender=lambda user, *_, **__: self.woken.add(user), bury=None)
        return id_, Delivery(
            Steps(self._store(), self.step), {"shell": channel}, outbound, runs=runs, tries=1,
            settle_seconds=SETTLE_SECONDS, clock=self.clock, sleep=self.clock.advance,
        )  # fmt: skip

    def step(self, _: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.clock.advance(0.001)
        what = self.plan.get(next(self.steps))
        if what == "keep":
            self.keep()
        elif what == "set back":
            self.set_back()
        elif what == "a message":
            for user in USERS:
                self.write(user)
                self._answer(user)
        elif what == "crash before":
            raise Crash
        answer = call(*args, **kwargs)
        if what == "crash after":
            raise Crash
        return answer

    def send(self, to: Message, part: Part, *, callback: str) -> str:
        def sent() -> str:
            self.sent[to.user].append((f"{part.text}:{callback.rsplit(':', 1)[1]}", self.clock()))
            return f"wamid.{callback}"

        return str(self.step("send", sent))

    def keep(self) -> None:
        keys = sorted(self.client.scan_iter())
        self.kept = [(key, max(self.client.pttl(key), 0), _raw(self.client).dump(key)) for key in keys]

    def set_back(self) -> None:
        self.was_set_back = True
        self.client.flushdb()
        for key, ttl, dumped in self.kept:
            _raw(self.client).restore(key, ttl, dumped)

    def write(self, user: str) -> str:
        id_ = f"{user}-{next(self.numbers)}"
        self.queue[user].append(Message(user=user, id=id_, text="oi", sent_at=self.clock()))
        return id_

    def go_round(self) -> None:
        """Have each waiting message handed out, each wake-up followed, and what is overdue rescued."""
        for user in USERS:
            self._answer(user)
        due = self.store.due_outboxes(before=self.clock())
        woken, self.woken = self.woken | set(due), set()
        for user in sorted(woken):
            if not self._run("sender", lambda s, user=user: s.deliver(user)):
                self.woken.add(user)

    def _answer(self, user: str) -> None:
        """Have what a user wrote handed out, unless the head of it is being answered."""
        while self.queue[user] and user not in self.busy:
            message = self.queue[user][0]
            self.busy.add(user)
            used_up = self._run("worker", lambda worker, message=message: worker.answer(message))
            self.busy.discard(user)
            if not used_up:
                return
            self.queue[user].remove(message)

    def _run(self, kind: str, call: Callable[[Any], object]) -> bool:
        id_, process = getattr(self, kind)
        try:
            call(process)
        except Crash:
            self.ended[id_] = self.clock()
            if getattr(self, kind)[0] == id_:
                setattr(self, kind, self._start_worker() if kind == "worker" else self._start_sender())
            return False
        except Transient:
            return False
        return True


def _raw(client: Any) -> Any:
    """Return a client of the same Redis for what is no text."""
    return client.raw


@pytest.fixture
def both(client):
    """Give the client another one, for what is no text."""
    if isinstance(client, fakeredis.FakeRedis):
        client.raw = client
    else:
        import redis

        client.raw = redis.Redis(connection_pool=redis.ConnectionPool(**{
            **client.connection_pool.connection_kwargs, "decode_responses": False,
        }))  # fmt: skip
    yield client
    if client.raw is not client:
        client.raw.close()


HAPPENS = st.sampled_from(("crash before", "crash after", "a message", "a message"))
PLANS = st.dictionaries(st.integers(1, 60), HAPPENS, max_size=4)


@pytest.mark.usefixtures("_quiet")
def test_after_a_redis_was_set_back_nobody_is_silent_for_longer_than_a_claim(both, clock):
    @settings(
        max_examples=100 if both.raw is both else 30, deadline=None, derandomize=True, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(plan=PLANS, keep=st.integers(1, 60), after=st.integers(0, 40), written=st.integers(1, 3))
    def holds(plan, keep, after, written):
        world = World(both, clock, {**plan, keep: "keep", keep + after + 1: "set back"})
        for _ in range(written):
            for user in USERS:
                world.write(user)
            world.go_round()
            world.clock.advance(EVERY)
        world.plan.clear()
        if not world.was_set_back:
            world.set_back()
        _check_what_follows(world)

    holds()


def _check_what_follows(world: World) -> None:
    began = world.clock()
    asked = {user: [world.write(user) for _ in range(2)] for user in USERS}
    answered_at: dict[str, float] = {}
    longest = CLAIM_SECONDS + SETTLE_SECONDS + OVERDUE_SECONDS + LOOK_AGAIN_SECONDS
    while world.clock() < began + longest + EVERY:
        world.go_round()
        for user in USERS:
            if not world.queue[user]:
                answered_at.setdefault(user, world.clock())
        world.clock.advance(EVERY)
    for user in USERS:
        assert answered_at[user] - began <= CLAIM_SECONDS + EVERY, "answered as soon as no claim stands"
        wanted = [f"{id_}:{part}" for id_ in asked[user] for part in range(2)]
        times = Counter(part for part, _ in world.sent[user] if part in wanted)
        assert list(dict.fromkeys(part for part, _ in world.sent[user] if part in wanted)) == wanted, "whole, in order"
        assert max(times.values()) <= 1 + world.store.counts().get("unknown_resent", 0), "and once"
    assert not world.client.keys("chatbot:*:outbox"), "nothing is left behind"
