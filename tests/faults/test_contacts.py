"""One person, one conversation, whatever they are known by: phone, BSUID or both, and wherever they move.

A machine plays people who write now with their phone, now with their BSUID, now with both,
change number and id (and change back), and take numbers that others gave up long ago. The
names that result are queues, each worked off in order by whoever is free, so that the notice
of a move may be taken long after what was written from the new number. Every call that
``Conversation`` and ``Delivery`` make may end its process before or after it took effect;
while a turn waits for the model, other queues go on.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from chatbot.conversation.turn import Conversation
from chatbot.delivery.sender import Delivery
from chatbot.errors import OutcomeUnknown, TooFast, Transient
from chatbot.identity import Names
from chatbot.messages import Message, Part, Turn
from chatbot.resilience.breaker import Breaker
from chatbot.store.client import connect
from chatbot.store.presence import Runs
from chatbot.store.store import Store
from tests.faults import test_promises
from tests.faults.test_promises import Clock, Crash, Steps

clock, _quiet = test_promises.clock, test_promises._quiet  # fixtures

SETTLE_SECONDS = 60.0
DAY = 86_400.0
#: More than anybody says here.
HISTORY_TURNS = 500


@dataclass
class Person:
    """Somebody with a phone and a BSUID, for now."""

    name: str
    phone: str
    bsuid: str
    phones: list[str] = field(default_factory=list)  # of earlier
    notices: dict[str, str] = field(default_factory=dict)  # number → the newest notice that it was given up
    given_up: set[str] = field(default_factory=set)  # numbers whose newest notice was taken


FORMS = st.sampled_from(("phone", "bsuid", "both"))
#: Who changes number is named by the old one, or nobody could tell who it was.
NOTICES = st.sampled_from(("phone", "both"))
PEOPLE = st.sampled_from(("ana", "bia"))
PICKS = st.integers(0, 9)
STEPS = ("begin_turn", "move", "route", "reply", "commit_turn", "wake_sender", "release_turn")
FAULTS = st.none() | st.tuples(
    st.sampled_from(STEPS), st.sampled_from(("before", "after")), st.sampled_from(("crash", "error"))
)
SENDS = st.sampled_from(("ok", "ok", "too fast", "silence", "crash before", "crash after"))


class Contacts(RuleBasedStateMachine):
    """Two people, their queues, workers and senders around one store."""

    def __init__(self, client: Any, clock: Clock) -> None:
        super().__init__()
        client.flushdb()
        self.client = client
        self.clock = clock
        self.names = Names()
        self.fresh = itertools.count(1)
        self.people = {name: Person(name, self._phone(), self._bsuid()) for name in ("ana", "bia")}
        self.store = self._store()
        self.queues: dict[str, list[Message]] = defaultdict(list)
        self.arrived: list[Message] = []
        self.busy: list[str] = []  # queues whose head is being handled
        self.author: dict[str, str] = {}  # message → person
        self.committed: dict[str, Turn] = {}  # message → turn
        self.sent: Counter[str] = Counter()  # reply → how often
        self.resent = 0
        self.replies: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.fault: tuple[str, str, str] | None = None
        self.meanwhile: list[int] = []
        self.runs: dict[str, Runs] = {}
        self.outcome = "ok"

    def _phone(self) -> str:
        return f"55119{next(self.fresh):08}"

    def _bsuid(self) -> str:
        return f"BR.{next(self.fresh)}"

    def _store(self) -> Store:
        return Store(self.client, history_turns=HISTORY_TURNS, retention=10**9, clock=self.clock, names=self.names)

    # -- the processes ----------------------------------------------------------

    def step(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Take a step; the fault that waits for it strikes before or after."""
        self.clock.advance(0.001)
        fault = self.fault if self.fault and self.fault[0] == name else None
        if fault:
            self.fault = None
        if fault and fault[1] == "before":
            raise Crash if fault[2] == "crash" else Transient("away")
        result = call(*args, **kwargs)
        if name == "commit_turn" and result:
            assert result.turn.message.id not in self.committed, "one message, one turn"
            self.committed[result.turn.message.id] = result.turn
        if name == "move":
            self._taken(args[0])
        if fault:
            raise Crash if fault[2] == "crash" else Transient("the answer is lost")
        return result

    def _taken(self, notice: Message) -> None:
        person = self.people[self.author[notice.id]]
        person.given_up |= {phone for phone, newest in person.notices.items() if newest == notice.id}

    def reply(self, message: Message, history: tuple[Turn, ...]) -> str:
        author = self.author[message.id]
        assert {self.author[turn.message.id] for turn in history} <= {author}, "nobody hears of another's past"
        while self.meanwhile:
            self._handle(self.meanwhile.pop())
        return f"re {message.id}"

    def _conversation(self) -> Conversation:
        agent = Steps(SimpleNamespace(reply=self.reply), self.step)
        nothing = lambda *_, **__: None  # noqa: E731
        outbound = SimpleNamespace(route=self._route, wake_sender=nothing, mark_read=nothing, notify=nothing)
        return Conversation(
            Steps(self._store(), self.step), lambda: agent, Steps(outbound, self.step), runs=self._runs(), llm_tries=2,
            breaker=Breaker(failures=10**6, rest=1.0, clock=self.clock), sleep=self.clock.advance,
        )  # fmt: skip

    def _runs(self) -> Runs:
        """Return the runs of a new process; of the others, those are gone that have none under way."""
        liveness = SimpleNamespace(is_gone=lambda id_: not self.runs[id_]._living)
        runs = Runs(f"p{next(self.fresh)}", liveness)
        self.runs[runs.process] = runs
        return runs

    def _route(self, message: Message) -> None:
        self.queues[message.user].append(message)

    def send(self, to: Message, part: Part, *, callback: str) -> str:
        outcome, self.outcome = self.outcome, "ok"
        if outcome == "crash before":
            raise Crash
        if outcome == "too fast":
            raise TooFast("slowly", retry_after=6.0)
        person = self.people[self.author[to.id]]
        assert not (to.phone and to.phone != person.phone and to.phone in person.given_up), "to where they are now"
        user, number, _ = callback.rsplit(":", 2)
        self.replies[user, int(number)].add(part.text)
        assert len(self.replies[user, int(number)]) == 1, "no number is given twice"
        self.sent[part.text] += 1
        if outcome == "crash after":
            raise Crash
        if outcome == "silence":
            raise OutcomeUnknown("no answer")
        return f"wamid.{callback}"

    def _deliver(self, user: str) -> None:
        sender = SimpleNamespace(
            compose=lambda reply: [Part(reply)],
            plain=lambda reply: [Part(reply)],
            send=self.send,
            limits=None,
            window=None,
            reopening=None,
        )
        outbound = SimpleNamespace(bury=None, wake_sender=lambda *_, **__: None)
        delivery = Delivery(
            self._store(), {"shell": sender}, outbound, tries=1, settle_seconds=SETTLE_SECONDS,
            runs=self._runs(), clock=self.clock, sleep=self.clock.advance,
        )  # fmt: skip
        try:
            delivery.deliver(user)
        except (Crash, Transient):
            pass

    # -- what the broker hands out ----------------------------------------------

    def _arrive(self, person: Person, form: str, sent_at: float | None = None, **fields: Any) -> None:
        message = Message(
            user="", id=f"{person.name}-{next(self.fresh)}", text="oi", sent_at=sent_at or self.clock(),
            phone=person.phone if form != "bsuid" else "", bsuid=person.bsuid if form != "phone" else "", **fields,
        )  # fmt: skip
        message = self.names.name(message)
        self.author[message.id] = person.name
        self.arrived.append(message)
        self.queues[message.user].append(message)

    def _handle(self, pick: int) -> bool:
        """Have somebody handle the head of a queue that nobody else does; return whether it is used up."""
        waiting = sorted(user for user, queue in self.queues.items() if queue and user not in self.busy)
        if not waiting:
            return False
        user = waiting[pick % len(waiting)]
        message = self.queues[user][0]
        self.busy.append(user)
        try:
            turn = self._conversation().answer(message)
            assert turn is None or turn == self.committed[message.id]
        except (Crash, Transient):
            return False  # back to the head of its queue
        finally:
            self.busy.remove(user)
        self.queues[user].pop(0)
        return True

    # -- rules ------------------------------------------------------------------

    @rule(who=PEOPLE, form=FORMS, ago=st.sampled_from((0.0, 0.0, 30.0)))
    def somebody_writes(self, who, form, ago):
        self._arrive(self.people[who], form, self.clock() - ago)

    @rule(pick=PICKS)
    def a_webhook_comes_again(self, pick):
        recent = [message for message in self.arrived[-10:] if message.sent_at > self.clock() - 7 * DAY]
        if recent:
            again = recent[pick % len(recent)]
            self.queues[again.user].append(again)

    @rule(pick=PICKS, fault=FAULTS, meanwhile=st.lists(PICKS, max_size=2))
    def a_worker_takes_a_message(self, pick, fault, meanwhile):
        self.fault, self.meanwhile = fault, meanwhile
        self._handle(pick)
        self.fault, self.meanwhile = None, []

    @rule(pick=PICKS, outcome=SENDS)
    def a_sender_is_woken(self, pick, outcome):
        due = sorted(self.store.due_outboxes(before=float("inf")))
        if due:
            self.outcome = outcome
            self._deliver(due[pick % len(due)])
            self.outcome = "ok"

    @rule(who=PEOPLE, form=NOTICES, back=st.booleans())
    def somebody_changes_number(self, who, form, back):
        person = self.people[who]
        self._change_number(person, form, person.phones[-1] if back and person.phones else self._phone())

    def _change_number(self, person: Person, form: str, number: str) -> None:
        self.clock.advance(1.0)
        self._arrive(person, form, kind="system", moved_to=number)
        person.notices[person.phone] = self.arrived[-1].id
        person.phones = [phone for phone in [*person.phones, person.phone] if phone != number]
        person.phone = number
        person.given_up.discard(number)
        person.notices.pop(number, None)
        self.clock.advance(1.0)

    @rule(who=PEOPLE, form=st.sampled_from(("bsuid", "both")))
    def somebody_changes_id(self, who, form):
        person, bsuid = self.people[who], self._bsuid()
        self._arrive(person, form, kind="system", moved_to=bsuid)
        person.bsuid = bsuid
        self.clock.advance(1.0)

    @rule(who=PEOPLE, form=NOTICES)
    def a_number_is_given_out_again(self, who, form):
        """Long after somebody gave it up, and never before all that was written from it came in."""
        person = self.people[who]
        other = self.people["bia" if who == "ana" else "ana"]
        if other.phones:
            self._drain()
            self.clock.advance(8 * DAY)
            self._change_number(person, form, other.phones.pop())

    @rule(seconds=st.sampled_from((1.0, SETTLE_SECONDS, 2000.0)))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    # -- once nothing fails any more --------------------------------------------

    def teardown(self):
        self._drain()
        for person in self.people.values():
            self._arrive(person, "both")
        self._drain()
        for person in self.people.values():
            mine = [turn for id_, turn in self.committed.items() if self.author[id_] == person.name]
            past = self.store.history(self.names.user(person.phone))
            assert [turn.message.id for turn in past] == [turn.message.id for turn in mine], "one conversation each"
        for message in self.arrived:
            if not message.moved_to:
                assert self.store.turn_of(message) == self.committed[message.id], "every message has its turn"
        resent = self.store.counts().get("unknown_resent", 0)
        assert set(self.sent) == {turn.reply for turn in self.committed.values()}, "every reply goes out"
        assert sum(self.sent.values()) <= len(self.sent) + resent, "and once, unless nobody knew"
        assert self.client.keys("chatbot:*:outbox") == []

    def _drain(self) -> None:
        for _ in range(200):
            while any(self._handle(pick) for pick in range(10)):
                pass
            for user in self.store.due_outboxes(before=float("inf")):
                self._deliver(user)
            if not any(self.queues.values()) and not self.store.due_outboxes(before=float("inf")):
                return
            self.clock.advance(SETTLE_SECONDS)
        raise AssertionError("what was taken is answered and delivered in the end")


@pytest.fixture(params=["fakeredis", "redis"])
def client(request):
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url.rsplit("/", 1)[0] + "/8"
    else:
        url = "fakeredis://contacts"
    client = connect(url)
    yield client
    client.flushdb()
    client.close()


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("length", [10, 40])
def test_one_person_has_one_conversation(client, clock, length, request):
    fakeredis = "fakeredis" in request.node.callspec.id
    run_state_machine_as_test(
        partial(Contacts, client, clock),
        settings=settings(
            max_examples=(300 if length == 10 else 60) if fakeredis else 30,
            stateful_step_count=length,
            phases=(Phase.generate, Phase.shrink) if length == 10 else (Phase.generate,),
            report_multiple_bugs=False,
            deadline=None,
            derandomize=True,
            database=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
