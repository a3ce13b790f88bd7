"""The promises of a turn and of a delivery, whatever fails between any two of their steps.

A machine plays broker, workers, senders and provider for two users. Every call that
``Conversation`` and ``Delivery`` make (store, agent, publish, send) is a *step*. A fault
strikes before a step or after it took effect with the answer lost: the process ends, the
other side is away, refuses or falls silent; or something else happens *meanwhile*: the
broker hands the same message or the next one to another worker, another sender wakes,
time passes, a status webhook comes. A process says that it lives and renews the claims of its runs, unless it
ended or *stands still*: one that stood still goes on as a zombie when another one has taken its place.
What must hold is asserted where it happens, after each rule, and once all is drained.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from chatbot.conversation import turn as conversation
from chatbot.conversation.turn import Conversation
from chatbot.delivery.sender import MOST_RUNS_IN_PART, Delivery
from chatbot.errors import OutcomeUnknown, Permanent, TooFast, Transient, TurnUnderWay
from chatbot.messages import Message, Part, Status, Turn
from chatbot.resilience.breaker import Breaker
from chatbot.store.client import connect
from chatbot.store.outbox import OVERDUE_SECONDS, Busy, Noted
from chatbot.store.presence import ALIVE_SECONDS, CLAIM_SECONDS, RENEW_SECONDS, Runs
from chatbot.store.store import Store
from chatbot.store.turns import Answered, Committed

USERS = ("ana", "b:2")
WORKERS = SENDERS = 4
HISTORY_TURNS = 3
SETTLE_SECONDS = 60.0
#: Away for longer than a run has patience.
AWAY_SECONDS = conversation.PATIENCE_SECONDS + 30.0
#: What the machine's clock moves at every step.
MOMENT = 0.001


class Crash(BaseException):
    """The process ended, right here."""


@dataclass
class Clock:
    """One time for all, moved by the machine."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now = round(self.now + seconds, 6)  # as Redis keeps it


@dataclass(frozen=True)
class Fault:
    """``what`` happens ``when`` (before or after) the next step named ``at`` is taken."""

    at: str
    when: str
    what: str
    then: tuple[Fault, ...] = ()  # what befalls the run that happens meanwhile

    def __repr__(self) -> str:
        return f"Fault({self.at!r}, {self.when!r}, {self.what!r}{f', {self.then}' if self.then else ''})"


@dataclass
class Delivered:
    """A message in a user's queue; ``tag`` counts its deliveries, the newest can acknowledge."""

    message: Message
    tag: int = 0


@dataclass(eq=False)
class Process:
    """A worker or a sender: what it does, and its runs."""

    runs: Runs
    does: Any = None  # a ``Conversation`` or a ``Delivery``
    ended_at: float = float("inf")
    still_since: float = float("inf")

    def is_gone(self, now: float) -> bool:
        """Return whether it has not said for so long that it lives that it is taken for gone."""
        return now > min(self.ended_at, self.still_since) + ALIVE_SECONDS

    def lives_through(self, fence: str) -> bool:
        """Return whether a run of it goes on, and its claim is renewed."""
        return fence in self.runs._living and min(self.ended_at, self.still_since) == float("inf")


@dataclass(eq=False)
class Run:
    """One run of ``answer`` or ``deliver``, with the faults it has yet to meet."""

    user: str
    plan: list[Fault]
    process: Process
    waiting: Delivered | None = None  # answer: its message in the queue
    past: list[Turn] = field(default_factory=list)  # answer: what was committed when it began
    claimed: Any = None
    told_at: float | None = 0.0  # deliver: when it heard last that it may send; ``None``: its last call was in vain
    knows: set[tuple[str, int, int]] = field(default_factory=set)  # deliver: parts whose ids it was told
    away: dict[str, float] = field(default_factory=dict)

    def next_fault(self, at: str) -> Fault | None:
        fault = next((f for f in self.plan if f.at == at), None)
        if fault:
            self.plan.remove(fault)
        return fault


class Steps:
    """Stands in for ``target``: each call of a public method is a step."""

    def __init__(self, target: Any, step: Callable[..., Any]) -> None:
        self._target = target
        self._step = step

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._target, name)
        return lambda *args, **kwargs: self._step(name, call, *args, **kwargs)


class Exchange:
    """Where turns publish: keeps what was confirmed."""

    def __init__(self) -> None:
        self.wake_ups: dict[str, list[str]] = {user: [] for user in USERS}
        self.buried: list[tuple[str, str]] = []
        self.notices: list[tuple[Message, str, str]] = []
        self._fresh = itertools.count()

    def wake_sender(self, user: str, number: int, *, countdown: float = 0.0) -> None:
        self.wake_ups[user].append(f"wake-up-{next(self._fresh)}")

    def mark_read(self, message: Message, *, at: float) -> None:
        """A courtesy: nothing depends on it."""

    def bury(self, message: Message, reason: str) -> None:
        self.buried.append((message.id, reason))

    def notify(self, message: Message, what: str, text: str) -> None:
        self.notices.append((message, what, text))


class Model:
    """An agent whose every reply is another, in one to three parts."""

    def __init__(self) -> None:
        self._fresh = itertools.count(1)

    def reply(self, message: Message, history: tuple[Turn, ...]) -> str:
        run = next(self._fresh)
        words = f"{message.text} {message.id} run {run}"
        return "|".join(f"{words} part {part}" for part in range(1 + run % 3))


class Provider:
    """Keeps what it accepted, in order."""

    def __init__(self) -> None:
        self.accepted: list[tuple[str, int, int]] = []
        self.texts: dict[tuple[str, int, int], set[str]] = defaultdict(set)
        self.notices: Counter[tuple[str, str]] = Counter()

    def plain(self, reply: str) -> list[Part]:
        return [Part(text) for text in reply.split("|")]

    def compose(self, reply: str) -> list[Part]:
        if reply.startswith("deadly"):
            raise Crash(reply)
        if reply.startswith("broken"):
            raise IndexError(reply)
        return self.plain(reply)

    def send(self, to: Message, part: Part, *, callback: str) -> str:
        if not callback:
            self.notices[to.user, part.text] += 1
            return "wamid.notice"
        user, number, index = callback.rsplit(":", 2)
        self.accepted.append((user, int(number), int(index)))
        self.texts[user, int(number), int(index)].add(part.text)
        return f"wamid.{callback}"


MEANWHILE = ("another user", "another sender", "a status", "a message", "a while")
ENDS = ("crash", "crash", "error", "away")
ANSWER_FAULTS = {
    "begin_turn": ENDS, "mark_read": ("crash", "error"), "reply": (*ENDS, "refusal"), "commit_turn": ENDS,
    "release_turn": ENDS, "is_gone": ("error",),
    "bury": ENDS, "notify": ("crash", "error"), "wake_sender": ENDS, "ack": ("crash",),
}  # fmt: skip
DELIVER_FAULTS = {
    "claim_delivery": ENDS, "send": (*ENDS, "silence", "silence", "slow down", "slow down", "too fast", "refusal"),
    "settle_part": ENDS, "settle_done": ENDS, "settle_calling": ENDS, "settle_later": ENDS, "settle_doubt": ENDS,
    "settle_plain": ENDS, "report_part": ENDS, "report_refused": ENDS, "is_gone": ("error",),
    "count": ENDS, "bury": ENDS, "ack": ("crash",),
}  # fmt: skip
#: Where being overtaken matters most: between what a run was told and what it does about it.
STILL = ("stands still", "stands still for long")
ANSWER_MEANWHILE = (
    ("begin_turn", "reply", "commit_turn"),
    ("the same message", "the next message", *STILL, *MEANWHILE),
)
DELIVER_MEANWHILE = (("claim_delivery", "send", "settle_part", "settle_calling", "settle_done"), (*STILL, *MEANWHILE))


def plans(steps: dict[str, tuple[str, ...]], depth: int) -> st.SearchStrategy[tuple[Fault, ...]]:
    """Up to four faults of one run; meanwhile others run, ``depth`` deep."""
    when = st.sampled_from(("before", "after"))
    ends = st.sampled_from([(at, what) for at, whats in steps.items() for what in whats])
    faults = st.builds(lambda end, when: Fault(end[0], when, end[1]), ends, when)
    if depth:
        at, what = ANSWER_MEANWHILE if steps is ANSWER_FAULTS else DELIVER_MEANWHILE
        then = st.one_of(plans(ANSWER_FAULTS, depth - 1), plans(DELIVER_FAULTS, depth - 1))
        faults |= st.builds(Fault, st.sampled_from(at), when, st.sampled_from(what), then)
    return st.lists(faults, max_size=4).map(tuple)


answers = plans(ANSWER_FAULTS, 2)
deliveries = plans(DELIVER_FAULTS, 2)
calls = plans({"send": DELIVER_FAULTS["send"]}, 0)
users = st.sampled_from(USERS)
picks = st.integers(0, 9)


class Promises(RuleBasedStateMachine):
    """Two users, three workers and any number of senders around one store."""

    def __init__(self, client: Any, clock: Clock) -> None:
        super().__init__()
        client.flushdb()
        self.client = client
        self.clock = clock
        self.store = Store(client, history_turns=HISTORY_TURNS, retention=10**6, clock=clock)  # the machine's own
        self.exchange = Exchange()
        self.provider = Provider()
        self.agent = Model()
        self.numbers = itertools.count(1)
        self.processes: dict[str, Process] = {}
        self.renewals: dict[object, tuple[Process, Callable[[], object]]] = {}
        self.renewing = False
        self.workers = [self._start_worker() for _ in range(WORKERS)]
        self.senders = [self._start_sender() for _ in range(SENDERS)]
        self.runs: list[Run] = []  # under way, the newest last
        self.fresh = itertools.count(1)
        self.quiet_since = float("inf")  # once nothing fails any more: when a process ended last
        self.broken: AssertionError | None = None
        # What was asked of the system.
        self.arrived: dict[str, list[Message]] = {user: [] for user in USERS}
        self.queue: dict[str, list[Delivered]] = {user: [] for user in USERS}
        # What the system has done, as seen where it took effect.
        self.committed: dict[str, list[Turn]] = {user: [] for user in USERS}
        self.newest_turn: dict[str, str] = {}  # user → fence
        self.under_way: dict[str, tuple[str, str, float]] = {}  # user → message, fence, until
        self.unheard_of: dict[str, set[str]] = defaultdict(set)  # message → fences that began and never ended it
        self.active_at: dict[str, float] = {}
        self.newest_fence: dict[str, str] = {}
        self.held: dict[str, tuple[str, float]] = {}  # user → fence, until
        self.cut_off: Counter[tuple[str, int]] = Counter()  # turn → runs that never settled it
        self.known: set[tuple[str, int, int]] = set()  # parts whose ids a run was told that ended in order
        self.closed: set[tuple[str, int]] = set()  # turns that are done
        self.resent: Counter[tuple[str, int, int]] = Counter()
        self.refused: set[tuple[str, int]] = set()
        self.called_at: dict[tuple[str, int, int], float] = {}

    # -- the processes ----------------------------------------------------------

    def _faulty_store(self) -> Any:
        store = Store(self.client, history_turns=HISTORY_TURNS, retention=10**6, clock=self.clock)
        return Steps(store, self.step)

    def _start(self) -> Process:
        """Start a process; what it renews is renewed as the machine's clock moves."""
        liveness = SimpleNamespace(is_gone=lambda id_: self.processes[id_].is_gone(self.clock()))
        process = Process(Runs(f"p{next(self.numbers)}", Steps(liveness, self.step)))
        process.runs._renewals = SimpleNamespace(repeating=partial(self._renewed_in, process))  # type: ignore[assignment]
        self.processes[process.runs.process] = process
        return process

    @contextmanager
    def _renewed_in(self, process: Process, call: Callable[[], object]) -> Iterator[None]:
        block = object()
        self.renewals[block] = process, call
        try:
            yield
        finally:
            del self.renewals[block]

    def _start_worker(self) -> Process:
        process = self._start()
        agent = Steps(self.agent, self.step)
        breaker = Breaker(failures=3, rest=5.0, clock=self.clock)
        process.does = Conversation(
            self._faulty_store(), lambda: agent, Steps(self.exchange, self.step), runs=process.runs, llm_tries=2,
            breaker=breaker, sleep=self.advance,
        )  # fmt: skip
        return process

    def _start_sender(self) -> Process:
        process = self._start()
        channel = SimpleNamespace(
            compose=self.provider.compose, plain=self.provider.plain, send=Steps(self.provider, self.step).send,
            limits=None, window=None,
        )  # fmt: skip
        outbound = SimpleNamespace(bury=Steps(self.exchange, self.step).bury, wake_sender=self.exchange.wake_sender)
        process.does = Delivery(
            self._faulty_store(), {"shell": channel}, outbound, runs=process.runs, tries=3,
            settle_seconds=SETTLE_SECONDS, clock=self.clock, sleep=self.advance,
        )  # fmt: skip
        return process

    def _end(self, process: Process) -> None:
        process.ended_at = self.clock()
        if self.quiet_since < float("inf"):
            self.quiet_since = self.clock()

    def _free(self, processes: list[Process]) -> int:
        """Return which of some processes has no run under way: each has one at a time."""
        busy = [run.process for run in self.runs]
        return next(n for n, process in enumerate(processes) if process not in busy)

    def advance(self, seconds: float) -> None:
        """Have time pass; who lives renews its claims."""
        while seconds > 0:
            self.clock.advance(min(seconds, RENEW_SECONDS))
            seconds -= RENEW_SECONDS
            self.renewing = True
            for process, renew in list(self.renewals.values()):
                if process.still_since == float("inf"):
                    renew()
            self.renewing = False

    def _renewed(self, user: str, fence: str) -> None:
        until = self.clock() + CLAIM_SECONDS
        if self.held.get(user, ("",))[0] == fence:
            self.held[user] = fence, until
        if self.under_way.get(user, ("", ""))[1] == fence:
            self.under_way[user] = self.under_way[user][0], fence, until

    def _lives(self, fence: str) -> bool:
        """Return whether a run goes on, and its claim is renewed."""
        return self.processes[fence.partition("/")[0]].lives_through(fence)

    # -- steps and what strikes them --------------------------------------------

    def step(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Take a step; a promise that it breaks is remembered, for a sender foresees all that may be raised."""
        try:
            return self._take_step(name, call, *args, **kwargs)
        except AssertionError as err:
            self.broken = self.broken or err
            raise

    def _take_step(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Take one step of the newest run, with whatever its plan has for it."""
        if self.renewing:
            renewed = call(*args, **kwargs)
            if renewed:
                self._renewed(*args)
            return renewed
        self.clock.advance(MOMENT)
        run = self.runs[-1]
        asked = getattr(self, f"_asked_{name}", None)
        if asked:
            asked(run, *args, **kwargs)
        fault = run.next_fault(name)
        if self.clock() < run.away.get(name, 0.0):
            raise self._error(run, Fault(name, "before", "error"))
        if fault and (fault.when == "before" or fault.what == "refusal"):
            self._strike(run, fault)
        try:
            result = call(*args, **kwargs)
        except (Busy, TurnUnderWay):
            since = self.clock() - self.quiet_since
            assert since <= CLAIM_SECONDS + 1, "nobody is silent for longer than a claim stands"
            raise
        done = getattr(self, f"_done_{name}", None)
        if done:
            done(run, result, *args, **kwargs)
        elif name.startswith("settle_"):
            self._settled(result, *args, **kwargs)
        if name != "send":
            run.told_at = self.clock()
        if fault and fault.when == "after" and fault.what != "refusal":
            self._strike(run, fault)
        if name == "send" and kwargs["callback"]:
            user, number, part = kwargs["callback"].rsplit(":", 2)
            run.knows.add((user, int(number), int(part)))
        return result

    def _strike(self, run: Run, fault: Fault) -> None:
        what = fault.what
        if what == "crash":
            raise Crash(fault)
        if what == "refusal":
            if fault.at == "send" and run.claimed:
                self.refused.add((run.user, run.claimed.number))
            raise Permanent("refused")
        if what in {"error", "away", "silence", "slow down", "too fast"}:
            raise self._error(run, fault)
        self._meanwhile(run, what, fault.then)

    def _error(self, run: Run, fault: Fault) -> Transient:
        # A channel says Transient only where it knows that nothing was sent.
        if fault.at == "send" and (fault.what == "silence" or fault.when == "after"):
            return OutcomeUnknown("no answer")
        if fault.what == "away":
            run.away[fault.at] = self.clock() + AWAY_SECONDS
        run.told_at = None
        if fault.what == "too fast":
            return TooFast("slowly", retry_after=6.0)
        return Transient("away", retry_after=60.0 if fault.what == "slow down" else None)

    def _meanwhile(self, run: Run, what: str, plan: tuple[Fault, ...]) -> None:
        queue = self.queue[run.user]
        if what == "the same message" and run.waiting and run.waiting in queue:
            self._answer(run.waiting, plan)
        elif what == "the next message" and self._may_go_beside(run):
            self._answer(queue[1], plan)
        elif what == "another user":
            other = USERS[1 - USERS.index(run.user)]
            # A broker hands a message to two workers only where the first one's delivery is lost:
            # that is "the same message". Who is being served meanwhile stays served by one.
            if self.queue[other] and not any(r.user == other and r.waiting for r in self.runs):
                self._answer(self.queue[other][0], plan)
        elif what == "another sender":
            self._deliver(run.user, plan)
        elif what in STILL:
            self._stand_still(run, 110.0 if "long" in what else ALIVE_SECONDS + 1.0, plan)
        elif what == "a status":
            self._report_all(run.user)
        elif what == "a message":
            self._write(run.user)
        elif what == "a while":
            self.advance(61.0)

    def _stand_still(self, run: Run, seconds: float, plan: tuple[Fault, ...]) -> None:
        """Hold the run's process for so long, and have another one take its place meanwhile."""
        if run.process.still_since < float("inf"):
            return
        run.process.still_since = self.clock()
        self.advance(seconds)
        if run.waiting is None:
            self._deliver(run.user, plan)
        elif run.waiting in self.queue[run.user]:
            self._answer(run.waiting, plan)
        run.process.still_since = float("inf")

    def _may_go_beside(self, run: Run) -> bool:
        """Whether a broker that hands the queue over may deliver the next message beside this one.

        It may once the turn of the first has begun, and until its run is over: no sooner,
        and not after the first was given back, for then it goes to the head again.
        """
        queue = self.queue[run.user]
        if len(queue) < 2 or queue[0] is not run.waiting:
            return False
        message, _, until = self.under_way.get(run.user, ("", "", 0.0))
        begun = message == run.waiting.message.id and self.clock() < until - 1.0
        return begun or self._turn_of(run.waiting.message) is not None

    # -- what is seen where it takes effect -------------------------------------

    def _done_begin_turn(self, at: Run, begun: Any, message: Message, /, *, fence: str, gone: str = "") -> None:
        self.active_at[message.user] = self.clock()
        if isinstance(begun, Answered):
            assert begun.turn == self._turn_of(message), "an answered message has the turn it got"
            return
        assert self._turn_of(message) is None, "one message, one turn"
        _, other, until = self.under_way.get(message.user, ("", fence, 0.0))
        assert other in {fence, gone} or until <= self.clock(), "one turn at a time"
        assert other == fence or until <= self.clock() or not self._lives(other), "a run that lives is not overtaken"
        self.unheard_of[message.id].add(fence)
        assert begun.attempts == len(self.unheard_of[message.id]), "an attempt is a run never heard of again, or this"
        self.newest_turn[message.user] = fence
        self.under_way[message.user] = (message.id, fence, self.clock() + CLAIM_SECONDS)
        at.past = list(self.committed[message.user])

    def _done_release_turn(self, run: Run, result: None, begun: Any) -> None:
        if begun.fence == self.newest_turn[run.user]:
            self.under_way.pop(run.user, None)
            self.unheard_of[begun.message.id].discard(begun.fence)

    def _asked_reply(self, run: Run, message: Message, history: tuple[Turn, ...]) -> None:
        assert message == run.waiting.message
        assert list(history) == run.past[-HISTORY_TURNS:], "the agent sees its user's last turns, all and only they"

    def _done_commit_turn(
        self, run: Run, committed: Committed | None, begun: Any, reply: str, *, failure: str
    ) -> None:  # fmt: skip
        if committed is None:
            return
        turn = committed.turn
        assert begun.fence == self.newest_turn[run.user], "an overtaken run commits nothing"
        assert turn.number == len(self.committed[run.user]) + 1, "turns are numbered without gaps"
        assert turn.message == run.waiting.message
        assert turn.reply == reply
        self.committed[run.user].append(turn)
        self.under_way.pop(run.user, None)
        self._check_order_of_turns(run.user)

    def _asked_wake_sender(self, run: Run, user: str, number: int) -> None:
        turns = self.committed[user]
        assert number <= len(turns), "nobody wakes the sender for a turn that was not committed"
        assert turns[number - 1].message.id == run.waiting.message.id, "nor for that of another message"

    def _done_claim_delivery(self, run: Run, claimed: Any, user: str, *, fence: str, gone: str = "") -> None:
        run.claimed = claimed
        if claimed is None:
            self.held.pop(user, None)
            return
        other, until = self.held.get(user, (fence, 0.0))
        assert other in {fence, gone} or until <= self.clock(), "one sender at a time, until its claim runs out"
        assert other == fence or until <= self.clock() or not self._lives(other), "a run that lives is not overtaken"
        assert claimed.turn == self.committed[user][claimed.number - 1], "the reply is the one of that turn"
        self.newest_fence[user] = fence
        self.held[user] = (fence, self.clock() + CLAIM_SECONDS)
        self.cut_off[user, claimed.number] += 1

    def _asked_send(self, run: Run, to: Message, part: Part, *, callback: str) -> None:
        if not callback:
            return
        user, number, part = callback.rsplit(":", 2)
        assert (user, int(number)) == (run.user, run.claimed.number)
        key = (user, int(number), int(part))
        run.told_at = self.clock() if run.told_at is None else run.told_at
        assert run.claimed.fence == self.newest_fence[user], "a sender that lost its claim sends nothing more"
        assert key not in self.known, "what is known to be sent is written down"
        if key in self.provider.texts:
            silent = self.clock() - self.called_at[key]
            assert silent >= SETTLE_SECONDS - 1, f"sent again {silent:.3f} s later: its status had no time to come"

    def _done_send(self, run: Run, result: str, to: Message, part: Part, *, callback: str) -> None:
        if not callback:
            return
        user, number, index = callback.rsplit(":", 2)
        key = (user, int(number), int(index))
        assert self.provider.plain(self.committed[user][key[1] - 1].reply)[key[2]] == part
        self.called_at[key] = max(self.called_at.get(key, 0.0), run.told_at)
        copies = self.provider.accepted.count(key)
        assert copies <= 1 + self.resent[key], f"{key} reached the provider {copies} times, counted {self.resent[key]}"

    def _done_count(self, run: Run, result: None, event: str) -> None:
        if event == "unknown_resent":
            self.resent[run.user, run.claimed.number, run.claimed.parts] += 1

    def _settled(self, kept: Any, claimed: Any, *_: int, pause: float | None = None, sent: str = "") -> None:
        user, kept = claimed.user, kept not in {False, Noted.LOST}
        newest = claimed.fence == self.newest_fence[user]
        assert newest or not kept, "only the newest claim settles anything"
        assert kept or not newest or (user, claimed.number) in self.closed, "and it does"
        if not kept:
            return
        if pause is None:
            self._renewed(user, claimed.fence)
        else:
            self.held.pop(user, None)
            self.cut_off[user, claimed.number] -= 1

    def _done_settle_done(self, run: Run, kept: Any, claimed: Any, **noted: Any) -> None:
        self._settled(kept, claimed, **noted)
        if kept:
            self.closed.add((claimed.user, claimed.number))

    def _done_report_refused(self, run: Run, written: Any, user: str, number: int, part: int) -> None:
        if written:
            self.closed.add((user, number))

    def _done_bury(self, run: Run, result: None, message: Message, reason: str) -> None:
        if "given up" in reason and run.claimed:
            self.refused.add((run.user, run.claimed.number))
            assert self.cut_off[run.user, run.claimed.number] > MOST_RUNS_IN_PART, "given up too early"

    def _turn_of(self, message: Message) -> Turn | None:
        return next((turn for turn in self.committed[message.user] if turn.message.id == message.id), None)

    # -- what the broker hands out ----------------------------------------------

    def _write(self, user: str, text: str = "oi") -> None:
        message = Message(user=user, id=f"{user}-{next(self.fresh)}", text=text, sent_at=self.clock())
        self.arrived[user].append(message)
        self.queue[user].append(Delivered(message))

    @contextmanager
    def _running(self, run: Run) -> Iterator[None]:
        self.runs.append(run)
        try:
            yield
        finally:
            self.runs.remove(run)
            if self.broken:
                raise self.broken

    def _answer(self, waiting: Delivered, plan: tuple[Fault, ...] = ()) -> bool:
        """Have a free worker take a message; return whether it was used up."""
        worker = self._free(self.workers)
        waiting.tag += 1
        tag, user, process = waiting.tag, waiting.message.user, self.workers[worker]
        try:
            with self._running(Run(user, list(plan), process, waiting=waiting)):
                turn = process.does.answer(waiting.message)
                assert turn == self._turn_of(waiting.message)
                self.step("ack", lambda: None)
        except Crash:
            self._end(process)
            self.workers[worker] = self._start_worker()
        except Transient:
            pass  # back to the head of its queue
        else:
            if waiting.tag == tag and waiting in self.queue[user]:  # else its delivery went to another
                self.queue[user].remove(waiting)
            return True
        return False

    def _deliver(self, user: str, plan: tuple[Fault, ...] = ()) -> bool:
        """Have a free sender follow a wake-up; return whether that is used up."""
        sender = self._free(self.senders)
        process = self.senders[sender]
        run = Run(user, list(plan), process)
        try:
            with self._running(run):
                process.does.deliver(user)
                self.known |= run.knows
                self.step("ack", lambda: None)
        except Crash:
            self._end(process)
            self.senders[sender] = self._start_sender()
            return False
        except Transient:
            return False
        return True

    def _follow(self, user: str, wake_up: str, plan: tuple[Fault, ...] = ()) -> None:
        if self._deliver(user, plan) and wake_up in self.exchange.wake_ups[user]:
            self.exchange.wake_ups[user].remove(wake_up)

    def _report(self, key: tuple[str, int, int]) -> None:
        """A status webhook comes for something the provider has; as the task does, it sends on."""
        user, number, part = key
        process = self.senders[self._free(self.senders)]
        with self._running(Run(user, [], process)):
            told = process.does.report(Status("wamid.x", "sent", callback=f"{user}:{number}:{part}"))
        assert told in {user, None}
        if told:
            self.exchange.wake_sender(user, number)

    def _report_all(self, user: str) -> None:
        for key in sorted(key for key in self.provider.texts if key[0] == user):
            self._report(key)

    # -- rules ------------------------------------------------------------------

    @rule(user=users, text=st.sampled_from(("oi", "oi", "oi", "oi", "", "broken", "deadly")))
    def a_user_writes(self, user, text):
        self._write(user, text)

    @rule(user=users, pick=picks)
    def a_webhook_comes_again(self, user, pick):
        if self.arrived[user]:
            self.queue[user].append(Delivered(self.arrived[user][pick % len(self.arrived[user])]))

    @rule(user=users, plan=answers)
    def a_worker_is_handed_the_head(self, user, plan):
        if self.queue[user]:
            self._answer(self.queue[user][0], plan)

    @rule(
        user=users,
        ended=st.sampled_from((0, 0, 2, 3)),
        at=st.sampled_from((("begin_turn", "after"), ("reply", "before"), ("commit_turn", "before"))),
        what=st.sampled_from(("the same message", "the next message", "stands still")),
        then=plans(ANSWER_FAULTS, 1),
        plan=plans(ANSWER_FAULTS, 0),
    )
    def a_turn_has_company(self, user, ended, at, what, then, plan):
        """A queue goes from one worker to another while a turn is under way, maybe that of a suspect."""
        for faults in [*[(Fault("commit_turn", "before", "crash"),)] * ended, (Fault(*at, what, then), *plan)]:
            while len(self.queue[user]) < 2:
                self._write(user)
            self._answer(self.queue[user][0], faults)
            self.advance(ALIVE_SECONDS + 1.0)

    @rule(user=users, plan=deliveries, pick=picks)
    def a_sender_is_woken(self, user, plan, pick):
        wake_ups = self.exchange.wake_ups[user]
        if wake_ups:
            self._follow(user, wake_ups[pick % len(wake_ups)], plan)

    @rule(user=users, plan=calls | deliveries)
    def a_user_is_served_at_once(self, user, plan):
        """Nothing fails until the reply is to be sent; whatever becomes of it, a sender looks again."""
        if not self.queue[user]:
            self._write(user)
        self._answer(self.queue[user][0])
        for wake_up in list(self.exchange.wake_ups[user]):
            self._follow(user, wake_up, plan)
        self._deliver(user)

    @rule(user=users, again=st.booleans())
    def a_wake_up_is_doubled_or_lost(self, user, again):
        wake_ups = self.exchange.wake_ups[user]
        if wake_ups and again:
            self.exchange.wake_sender(user, 0)
        elif wake_ups:
            wake_ups.pop()

    @rule(pick=st.integers(0, 99))
    def a_status_comes(self, pick):
        keys = sorted(self.provider.texts)
        if keys:
            self._report(keys[pick % len(keys)])

    @rule(seconds=st.sampled_from((1.0, ALIVE_SECONDS + 1.0, OVERDUE_SECONDS, SETTLE_SECONDS, CLAIM_SECONDS + 1.0)))
    def time_passes(self, seconds):
        self.advance(seconds)

    @rule()
    def beat_rescues(self):
        for user in self.store.due_outboxes(before=self.clock()):
            self.exchange.wake_sender(user, 0)

    @precondition(lambda self: self.exchange.notices)
    @rule()
    def a_notice_is_told(self):
        message, what, text = self.exchange.notices.pop()
        process = self.senders[self._free(self.senders)]
        with self._running(Run(message.user, [], process)):
            process.does.notify(message, what, text)

    @rule(user=users, meanwhile=st.booleans(), plan=plans(ANSWER_FAULTS, 0))
    def an_idle_session_closes(self, user, meanwhile, plan):
        """Beat looks, finds no queue, and has the session forgotten; a message may open it again in between."""
        seen = self.store.sessions().get(user)
        if self.queue[user] or seen is None:
            return
        if meanwhile:
            self._write(user)
            self._answer(self.queue[user][0], plan)
        self.store.end_session(user, unless_active_since=seen)
        assert (user in self.store.sessions()) == (self.active_at[user] > seen), "a session in use is not forgotten"

    # -- what holds at any time -------------------------------------------------

    def _check_order_of_turns(self, user: str) -> None:
        turns = self.committed[user]
        assert [turn.number for turn in turns] == list(range(1, len(turns) + 1))
        came = [message.id for message in self.arrived[user]]
        assert [turn.message.id for turn in turns] == came[: len(turns)], "turns in the order of arrival, one each"

    @invariant()
    def promises_hold(self):
        for user in USERS:
            self._check_history(user)
            self._check_order_of_replies(user)
        assert all(times == 1 for times in self.provider.notices.values()), "that there is trouble is said once"

    def _check_history(self, user: str) -> None:
        assert self.store.history(user) == self.committed[user][-HISTORY_TURNS:], "history is what was committed"

    def _check_order_of_replies(self, user: str) -> None:
        firsts = dict.fromkeys(key for key in self.provider.accepted if key[0] == user)
        complete = [key for key in firsts if key[:2] not in self.refused]
        due = [
            (user, turn.number, part)
            for turn in self.committed[user]
            if (user, turn.number) not in self.refused
            for part in range(len(self.provider.plain(turn.reply)))
        ]
        assert complete == due[: len(complete)], "no reply overtakes another, and no part is left out"

    # -- once nothing fails any more --------------------------------------------

    def teardown(self):
        self._drain()
        for user in USERS:
            self._check_order_of_turns(user)
            assert len(self.committed[user]) == len(self.arrived[user]), "every message has its turn"
            for message in self.arrived[user]:
                assert self.store.turn_of(message) == self._turn_of(message)
            for turn in self.committed[user]:
                self._check_delivered(turn)
        self.promises_hold()
        assert self.client.keys("chatbot:*:outbox") == []
        assert self.store.due_outboxes(before=float("inf")) == []
        assert sum(self.resent.values()) == self.store.counts().get("unknown_resent", 0)

    def _check_delivered(self, turn: Turn) -> None:
        user = turn.message.user
        if turn.failure:
            assert (turn.message.id, turn.failure) in self.exchange.buried, "an apology is a dead letter"
        accepted = {key for key in self.provider.accepted if key[:2] == (user, turn.number)}
        parts = self.provider.plain(turn.reply)
        for key in accepted:
            assert self.provider.texts[key] == {parts[key[2]].text}, "one reply per turn"
        if len(accepted) < len(parts):
            assert (user, turn.number) in self.refused, "every part reached the provider"
            reasons = [reason for id_, reason in self.exchange.buried if id_ == turn.message.id]
            assert any(reason.startswith("reply not delivered") for reason in reasons), "what was refused is kept"

    def _drain(self) -> None:
        self.quiet_since = self.clock()
        for _ in range(100):
            for user in USERS:
                while self.queue[user] and self._answer(self.queue[user][0]):
                    pass
                for wake_up in list(self.exchange.wake_ups[user]):
                    self._follow(user, wake_up)
            if self._is_drained():
                return
            self.advance(SETTLE_SECONDS)
            self.beat_rescues()
        raise AssertionError("what was taken is answered and delivered in the end")

    def _is_drained(self) -> bool:
        left = [*self.queue.values(), *self.exchange.wake_ups.values(), self.store.due_outboxes(before=float("inf"))]
        return not any(left)


@pytest.fixture(params=["fakeredis", "redis"])
def client(request):
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url.rsplit("/", 1)[0] + "/9"
    else:
        url = "fakeredis://promises"
    client = connect(url)
    yield client
    client.flushdb()
    client.close()


@pytest.fixture
def clock(monkeypatch):
    """The machine's clock, by which retries lose their patience too: tenacity has no other way to be told the time."""
    clock = Clock()
    monkeypatch.setattr("tenacity.time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def _quiet():
    """Thousands of failures are on purpose here: what is logged about them would hide the one that counts."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


#: Length of an example, how many on fakeredis and on a real Redis, and what Hypothesis does. What
#: short examples find shrinks in seconds; long ones go where the short ones cannot, and shrink for minutes.
LENGTHS = {
    "short": (7, 400, 100, (Phase.generate, Phase.shrink)),
    "long": (40, 100, 20, (Phase.generate,)),
}


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("length", LENGTHS)
def test_the_promises_hold_whatever_fails(client, clock, length, request):
    steps, on_fakeredis, on_redis, phases = LENGTHS[length]
    run_state_machine_as_test(
        partial(Promises, client, clock),
        settings=settings(
            max_examples=on_fakeredis if "fakeredis" in request.node.callspec.id else on_redis,
            stateful_step_count=steps,
            phases=phases,
            report_multiple_bugs=False,
            deadline=None,
            derandomize=True,
            database=None,
            print_blob=True,
            # Plans of plans are large on purpose, and a turn on a real Redis takes its time.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
