"""The promises of a turn and of a delivery, whatever fails between any two of their steps.

A machine plays broker, workers, senders and provider for two users. Every call that
``Conversation`` and ``Delivery`` make (store, agent, publish, send) is a *step*. A fault
strikes before a step or after it took effect with the answer lost: the process ends, the
other side is away, refuses or falls silent; or something else happens *meanwhile*: the
broker hands the same message or the next one to another worker, another sender wakes,
time passes, a status webhook comes. A run that is overtaken meanwhile goes on as a zombie.
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

from chatbot import conversation, delivery
from chatbot.breaker import Breaker
from chatbot.conversation import Conversation
from chatbot.delivery import Delivery
from chatbot.errors import OutcomeUnknown, Permanent, TooFast, Transient
from chatbot.messages import Message, Part, Status, Turn
from chatbot.store import OVERDUE_SECONDS, Store, connect

USERS = ("ana", "b:2")
WORKERS = 3
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
        self.now += seconds


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
class Run:
    """One run of ``answer`` or ``deliver``, with the faults it has yet to meet."""

    user: str
    plan: list[Fault]
    waiting: Delivered | None = None  # answer: its message in the queue
    worker: int = -1
    past: list[Turn] = field(default_factory=list)  # answer: what was committed when it began
    suspect: bool = False  # answer: it was told to run alone
    holder: str = ""  # deliver: its wake-up
    claimed: Any = None
    told_at: float | None = 0.0  # deliver: when it heard last that it may send; ``None``: its last call was in vain
    sends_since_lost: int = 0
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

    def mark_read(self, message: Message) -> None:
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
        return "|".join(f"{message.id} run {run} part {part}" for part in range(1 + run % 3))


class Provider:
    """Keeps what it accepted, in order."""

    def __init__(self) -> None:
        self.accepted: list[tuple[str, int, int]] = []
        self.texts: dict[tuple[str, int, int], set[str]] = defaultdict(set)
        self.notices: Counter[tuple[str, str]] = Counter()

    def compose(self, reply: str) -> list[Part]:
        return [Part(text) for text in reply.split("|")]

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
    "release_turn": ENDS, "not_begun": ENDS,
    "bury": ENDS, "notify": ("crash", "error"), "wake_sender": ENDS, "ack": ("crash",),
}  # fmt: skip
DELIVER_FAULTS = {
    "claim_delivery": ENDS, "send": (*ENDS, "silence", "silence", "slow down", "slow down", "too fast", "refusal"),
    "settle_part": ENDS, "settle_done": ENDS, "settle_calling": ENDS, "settle_later": ENDS, "settle_doubt": ENDS,
    "count": ENDS, "bury": ENDS, "ack": ("crash",),
}  # fmt: skip
#: Where being overtaken matters most: between what a run was told and what it does about it.
ANSWER_MEANWHILE = (
    ("begin_turn", "not_begun", "reply", "commit_turn"),
    ("the same message", "the next message", *MEANWHILE),
)
DELIVER_MEANWHILE = (("claim_delivery", "send", "settle_part"), ("the same wake-up", "a long while", *MEANWHILE))


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
        self.workers = [self._start_worker() for _ in range(WORKERS)]
        self.runs: list[Run] = []  # under way, the newest last
        self.fresh = itertools.count(1)
        # What was asked of the system.
        self.arrived: dict[str, list[Message]] = {user: [] for user in USERS}
        self.queue: dict[str, list[Delivered]] = {user: [] for user in USERS}
        # What the system has done, as seen where it took effect.
        self.committed: dict[str, list[Turn]] = {user: [] for user in USERS}
        self.newest_claim: dict[str, int] = {}
        self.under_way: dict[str, tuple[str, float]] = {}  # user → message, since
        self.unheard_of: dict[str, set[tuple[Run, bool]]] = defaultdict(set)  # message → who began and never ended it
        self.active_at: dict[str, float] = {}
        self.newest_fence: dict[str, int] = {}
        self.held: dict[str, tuple[str, float]] = {}  # user → holder, until
        self.resent: Counter[tuple[str, int, int]] = Counter()
        self.refused: set[tuple[str, int]] = set()
        self.called_at: dict[tuple[str, int, int], float] = {}

    # -- the processes ----------------------------------------------------------

    def _faulty_store(self) -> Any:
        store = Store(self.client, history_turns=HISTORY_TURNS, retention=10**6, clock=self.clock)
        return Steps(store, self.step)

    def _start_worker(self) -> Conversation:
        agent = Steps(self.agent, self.step)
        breaker = Breaker(failures=3, rest=5.0, clock=self.clock)
        return Conversation(
            self._faulty_store(), lambda: agent, Steps(self.exchange, self.step), llm_tries=2, breaker=breaker,
            sleep=self.clock.advance,
        )  # fmt: skip

    def _start_sender(self) -> Delivery:
        channel = SimpleNamespace(
            compose=self.provider.compose, send=Steps(self.provider, self.step).send, limits=None, window=None
        )
        outbound = SimpleNamespace(bury=Steps(self.exchange, self.step).bury, wake_sender=self.exchange.wake_sender)
        return Delivery(
            self._faulty_store(), {"shell": channel}, outbound, tries=3,
            settle_seconds=SETTLE_SECONDS, clock=self.clock, sleep=self.clock.advance,
        )  # fmt: skip

    # -- steps and what strikes them --------------------------------------------

    def step(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Take one step of the newest run, with whatever its plan has for it."""
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
        result = call(*args, **kwargs)
        done = getattr(self, f"_done_{name}", None)
        if done:
            done(run, result, *args, **kwargs)
        elif name.startswith("settle_"):
            self._settled(result, *args, **kwargs)
        if name != "send":
            run.told_at = self.clock()
        if fault and fault.when == "after" and fault.what != "refusal":
            self._strike(run, fault)
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
            self._deliver(run.user, f"another-{next(self.fresh)}", plan)
        elif what == "the same wake-up" and run.holder:
            self._deliver(run.user, run.holder, plan)
        elif what == "a status":
            self._report_all(run.user)
        elif what == "a message":
            self._write(run.user)
        elif what == "a while":
            self.clock.advance(61.0)
        elif what == "a long while" and not any(r.waiting for r in self.runs):
            # Only a sender stands still that long: a turn is bounded well below its claim.
            self.clock.advance(delivery.CLAIM_SECONDS + 1.0)

    def _may_go_beside(self, run: Run) -> bool:
        """Whether a broker that hands the queue over may deliver the next message beside this one.

        It may once the turn of the first has begun, and until its run is over: no sooner,
        and not after the first was given back, for then it goes to the head again.
        """
        queue = self.queue[run.user]
        if len(queue) < 2 or queue[0] is not run.waiting:
            return False
        message, since = self.under_way.get(run.user, ("", 0.0))
        begun = message == run.waiting.message.id and self.clock() < since + conversation.CLAIM_SECONDS - 600.0
        return begun or self._turn_of(run.waiting.message) is not None

    # -- what is seen where it takes effect -------------------------------------

    def _done_begin_turn(self, at: Run, begun: Any, message: Message, /, *, seconds: float, run: str) -> None:
        self.active_at[message.user] = self.clock()
        if begun.answered:
            assert begun.answered == self._turn_of(message), "an answered message has the turn it got"
            return
        assert self._turn_of(message) is None, "one message, one turn"
        self.unheard_of[message.id].add((at, at.suspect))
        assert begun.attempts == len(self.unheard_of[message.id]), "an attempt is a run never heard of again, or this"
        self.newest_claim[message.user] = begun.claim
        self.under_way[message.user] = (message.id, self.clock())
        at.past = list(self.committed[message.user])

    def _done_release_turn(self, run: Run, result: None, begun: Any) -> None:
        if begun.claim == self.newest_claim[run.user]:
            self.under_way.pop(run.user, None)
            self.unheard_of[begun.message.id].discard((run, run.suspect))

    def _done_not_begun(self, run: Run, result: None, begun: Any) -> None:
        run.suspect = True
        if begun.claim == self.newest_claim[run.user]:
            self.unheard_of[begun.message.id].discard((run, False))

    def _asked_reply(self, run: Run, message: Message, history: tuple[Turn, ...]) -> None:
        assert message == run.waiting.message
        assert list(history) == run.past[-HISTORY_TURNS:], "the agent sees its user's last turns, all and only they"

    def _done_commit_turn(self, run: Run, turn: Turn | None, begun: Any, reply: str, *, failure: str) -> None:
        if turn is None:
            return
        assert begun.claim == self.newest_claim[run.user], "an overtaken run commits nothing"
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

    def _done_claim_delivery(self, run: Run, claimed: Any, user: str, *, holder: str, seconds: float) -> None:
        run.claimed = claimed
        if claimed is None:
            self.held.pop(user, None)
            return
        other, until = self.held.get(user, ("", 0.0))
        assert other in {"", holder} or until <= self.clock(), "one sender at a time, until its claim runs out"
        assert claimed.turn == self.committed[user][claimed.number - 1], "the reply is the one of that turn"
        self.newest_fence[user] = claimed.fence
        self.held[user] = (holder, self.clock() + seconds)
        run.sends_since_lost = 0

    def _asked_send(self, run: Run, to: Message, part: Part, *, callback: str) -> None:
        if not callback:
            return
        user, number, part = callback.rsplit(":", 2)
        assert (user, int(number)) == (run.user, run.claimed.number)
        key = (user, int(number), int(part))
        run.told_at = self.clock() if run.told_at is None else run.told_at
        if run.claimed.fence != self.newest_fence[user]:
            # What it was about to send when it lost its claim; whoever has the claim counts it.
            run.sends_since_lost += 1
            assert run.sends_since_lost == 1, "a sender that lost its claim sends nothing more"
        elif key in self.provider.texts:
            silent = self.clock() - self.called_at[key]
            assert silent >= SETTLE_SECONDS - 1, f"sent again {silent:.3f} s later: its status had no time to come"

    def _done_send(self, run: Run, result: str, to: Message, part: Part, *, callback: str) -> None:
        if not callback:
            return
        user, number, index = callback.rsplit(":", 2)
        key = (user, int(number), int(index))
        assert self.provider.compose(self.committed[user][key[1] - 1].reply)[key[2]] == part
        self.called_at[key] = max(self.called_at.get(key, 0.0), run.told_at)
        copies = self.provider.accepted.count(key)
        assert copies <= 1 + self.resent[key], f"{key} reached the provider {copies} times, counted {self.resent[key]}"

    def _done_count(self, run: Run, result: None, event: str) -> None:
        if event == "unknown_resent":
            self.resent[run.user, run.claimed.number, run.claimed.parts] += 1

    def _settled(
        self, kept: Any, claimed: Any, *_: int, seconds: float = 0.0, pause: float | None = None, sent: str = ""
    ) -> None:
        assert kept == (claimed.fence == self.newest_fence[claimed.user]), "only the newest claim settles anything"
        if kept and (seconds or pause is not None):
            self.held[claimed.user] = (self.held[claimed.user][0], self.clock() + seconds)

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

    def _answer(self, waiting: Delivered, plan: tuple[Fault, ...] = ()) -> bool:
        """Have a free worker take a message; return whether it was used up."""
        busy = {run.worker for run in self.runs}
        worker = next((n for n in range(WORKERS) if n not in busy), None)
        if worker is None:
            return False
        waiting.tag += 1
        tag, user = waiting.tag, waiting.message.user
        try:
            with self._running(Run(user, list(plan), waiting=waiting, worker=worker)):
                turn = self.workers[worker].answer(waiting.message)
                assert turn == self._turn_of(waiting.message)
                self.step("ack", lambda: None)
        except Crash:
            self.workers[worker] = self._start_worker()
        except Transient:
            pass  # back to the head of its queue
        else:
            if waiting.tag == tag and waiting in self.queue[user]:  # else its delivery went to another
                self.queue[user].remove(waiting)
            return True
        return False

    def _deliver(self, user: str, holder: str, plan: tuple[Fault, ...] = ()) -> bool:
        """Have a sender follow a wake-up; return whether that is used up."""
        try:
            with self._running(Run(user, list(plan), holder=holder)):
                self._start_sender().deliver(user, holder=holder)
                self.step("ack", lambda: None)
        except (Crash, Transient):
            return False
        return True

    def _follow(self, user: str, holder: str, plan: tuple[Fault, ...] = ()) -> None:
        if self._deliver(user, holder, plan) and holder in self.exchange.wake_ups[user]:
            self.exchange.wake_ups[user].remove(holder)

    def _report(self, key: tuple[str, int, int]) -> None:
        """A status webhook comes for something the provider has; as the task does, it sends on."""
        user, number, part = key
        with self._running(Run(user, [])):
            told = self._start_sender().report(Status("wamid.x", "sent", callback=f"{user}:{number}:{part}"))
        assert told in {user, None}
        if told:
            self.exchange.wake_sender(user, number)

    def _report_all(self, user: str) -> None:
        for key in sorted(key for key in self.provider.texts if key[0] == user):
            self._report(key)

    # -- rules ------------------------------------------------------------------

    @rule(user=users, text=st.sampled_from(("oi", "oi", "oi", "")))
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
        at=st.sampled_from((("begin_turn", "after"), ("not_begun", "after"), ("commit_turn", "before"))),
        what=st.sampled_from(("the same message", "the next message")),
        then=plans(ANSWER_FAULTS, 1),
        plan=plans(ANSWER_FAULTS, 0),
    )
    def a_turn_has_company(self, user, ended, at, what, then, plan):
        """A queue goes from one worker to another while a turn is under way, maybe that of a suspect."""
        for faults in [*[(Fault("commit_turn", "before", "crash"),)] * ended, (Fault(*at, what, then), *plan)]:
            while len(self.queue[user]) < 2:
                self._write(user)
            self._answer(self.queue[user][0], faults)

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
        for holder in list(self.exchange.wake_ups[user]):
            self._follow(user, holder, plan)
        self._deliver(user, f"another-{next(self.fresh)}")

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

    @rule(seconds=st.sampled_from((1.0, OVERDUE_SECONDS, SETTLE_SECONDS, delivery.CLAIM_SECONDS + 1.0)))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def beat_rescues(self):
        for user in self.store.due_outboxes(before=self.clock()):
            self.exchange.wake_sender(user, 0)

    @precondition(lambda self: self.exchange.notices)
    @rule()
    def a_notice_is_told(self):
        message, what, text = self.exchange.notices.pop()
        with self._running(Run(message.user, [])):
            self._start_sender().notify(message, what, text)

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
            for part in range(len(self.provider.compose(turn.reply)))
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
        parts = self.provider.compose(turn.reply)
        for key in accepted:
            assert self.provider.texts[key] == {parts[key[2]].text}, "one reply per turn"
        if len(accepted) < len(parts):
            assert (user, turn.number) in self.refused, "every part reached the provider"
            reasons = [reason for id_, reason in self.exchange.buried if id_ == turn.message.id]
            assert any(reason.startswith("reply not delivered") for reason in reasons), "what was refused is kept"

    def _drain(self) -> None:
        for _ in range(100):
            for user in USERS:
                while self.queue[user] and self._answer(self.queue[user][0]):
                    pass
                for holder in list(self.exchange.wake_ups[user]):
                    self._follow(user, holder)
            if self._is_drained():
                return
            self.clock.advance(SETTLE_SECONDS)
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
