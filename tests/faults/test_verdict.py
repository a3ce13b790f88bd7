"""The verdict itself: each broken promise is seen, and what is excused is excused by nothing else."""

from __future__ import annotations

import random
import re

import pytest

from chatbot import texts
from tests.faults.replies import BODIES, LONG, heavy, hostile, marks
from tests.faults.rollback import Forgotten
from tests.faults.verdict import Done, judge
from tests.stub_llm import Call

PHONE = "5511900000001"
TEXTS = [f"u00001-m0000{n} bom dia" for n in range(4)]
APOLOGY = texts.APOLOGY["pt"]


def call(number, *said):
    return Call(number, tuple(("user", text) for text in said), began=number, ended=number + 0.5)


def sent(turn, text, part=0, choices=()):
    return {"to": PHONE, "text": text, "callback": f"{PHONE}:{turn}:{part}", "choices": choices}


def echo(n, number):
    return f"eco: {TEXTS[n]} #{number}"


def calls(upto):
    return [call(n + 1, *TEXTS[: n + 1]) for n in range(upto)]


def figures(items, asked, *, dead=(), texts=2, **done):
    """Return what is not zero, of a person who wrote ``texts`` messages."""
    verdict = judge({PHONE: TEXTS[:texts]}, items, asked, dead, history_turns=6, done=Done(**done))
    return {name: n for name, n in vars(verdict).items() if n and name not in {"why", "repeated_llm_calls"}}


def ids(*numbers):
    return frozenset(f"wamid.u00001-m0000{n}" for n in numbers)


def test_nothing_is_wrong_with_a_good_run():
    items = [sent(1, echo(0, 1)), {**sent(0, texts.WAITING["pt"]), "callback": ""}, sent(2, echo(1, 2))]
    assert figures(items, calls(2)) == {"told_to_wait": 1}


@pytest.mark.parametrize(
    ("items", "broken"),
    [
        ([sent(1, echo(0, 1))], {"lost": 1}),
        ([sent(1, echo(0, 1)), sent(2, echo(1, 2)), sent(2, echo(1, 2))], {"duplicated": 1}),
        ([sent(1, echo(0, 1)), sent(2, echo(1, 2)), sent(3, echo(1, 2))], {"duplicated": 1}),
        ([sent(1, echo(1, 2)), sent(2, echo(0, 1))], {"disordered": 1}),
        ([sent(1, echo(0, 1)), sent(2, echo(1, 2) + "\n\nw00001")], {"torn": 1}),
        ([sent(1, echo(0, 1)), sent(2, echo(1, 2)), sent(2, "w00001", 2)], {"torn": 1}),
    ],
)
def test_each_broken_promise_is_seen(items, broken):
    assert figures(items, calls(2)) == broken


def test_an_apology_is_for_poison_and_its_message_is_kept_once():
    items = [sent(1, APOLOGY), sent(2, echo(1, 2))]
    asked = [call(1, TEXTS[0]), call(2, TEXTS[1])]
    assert figures(items, asked, dead=[TEXTS[0]], poisons=frozenset(TEXTS[:1])) == {"apologised": 1}
    assert figures(items, asked, dead=[TEXTS[0]] * 2, poisons=frozenset(TEXTS[:1])) == {
        "apologised": 1, "needless_dead": 1,
    }  # fmt: skip
    joined = [call(2, f"{TEXTS[0]}\n\n{TEXTS[1]}")]
    assert figures(items, joined) == {"apologised": 1, "unprovoked": 1, "not_kept": 1}
    assert figures(items, joined, dead=[TEXTS[0]], poisons=frozenset(TEXTS[:1])) == {
        "apologised": 1, "missing_context": 1,
    }  # fmt: skip
    assert figures([sent(1, echo(0, 1)), sent(2, echo(1, 2))], calls(2), dead=[TEXTS[1]]) == {"needless_dead": 1}


def test_the_past_is_its_end_and_no_shorter_than_half_of_what_may_be_shown():
    texts = [f"u00001-m{n:05} bom dia" for n in range(10)]
    items = [sent(n + 1, f"eco: {text} #{n + 1}") for n, text in enumerate(texts)]

    def missing(first):
        asked = [call(n + 1, *texts[max(0, n - 6) : n + 1]) for n in range(9)] + [call(10, *texts[first:])]
        verdict = judge({PHONE: texts}, items, asked, (), history_turns=6)
        return verdict.missing_context

    assert [missing(first) for first in (2, 3, 6, 7)] == [1, 0, 0, 1]


def test_a_reply_is_given_up_only_where_its_senders_were_hunted():
    items = [sent(1, echo(0, 1))]
    assert figures(items, calls(2), dead=[TEXTS[1]], hunted=frozenset(TEXTS[1:2])) == {"given_up": 1}
    assert figures(items, calls(2), hunted=frozenset(TEXTS[1:2])) == {"lost": 1}


@pytest.mark.parametrize("body", BODIES)
def test_a_hostile_reply_is_known_by_its_first_line_and_every_word_is_looked_for(body):
    said = f"{echo(1, 2)}\n\n{body(iter(f'w{n:05}' for n in range(10_000)))}"
    parts = re.findall(r"(?s).{1,4096}(?:\s|$)", said)
    items = [sent(1, echo(0, 1)), *(sent(2, part, n) for n, part in enumerate(parts))]
    assert figures(items, calls(2), said={2: said}) == {}
    last = marks(said)[-1]
    items[-1] = {**items[-1], "text": items[-1]["text"].replace(last, "")}
    assert figures(items, calls(2), said={2: said}) == {"torn": 1}


def test_hostile_replies_are_no_longer_than_what_is_sent_whole():
    dice = random.Random(1)
    assert all(len(hostile(dice, echo(0, 1))) <= LONG + 100 for _ in range(50))
    assert LONG / 2 < len(heavy(echo(0, 1))) < LONG


def test_what_a_redis_forgot_is_counted_apart():
    forgotten = Forgotten(ids(1), frozenset({(PHONE, 2)}), frozenset({(PHONE, 1)}))
    twice = [sent(1, echo(0, 1)), sent(1, echo(0, 1)), sent(2, echo(1, 2)), sent(2, echo(1, 3))]
    asked = [*calls(2), call(3, *TEXTS[:2])]
    assert figures(twice, asked, forgotten=forgotten) == {"set_back_repeated": 2}
    assert figures(twice, asked) == {"duplicated": 2}


def test_a_turn_that_redis_forgot_may_be_missing_or_late_and_nothing_else_may():
    forgotten = Forgotten(ids(1), frozenset({(PHONE, 2)}))
    items = [sent(1, echo(0, 1)), sent(2, echo(2, 2)), sent(3, echo(3, 3))]
    asked = [call(1, TEXTS[0]), call(2, TEXTS[0], TEXTS[2]), call(3, TEXTS[0], TEXTS[2], TEXTS[3])]
    lost = {"set_back_lost": 1, "set_back_context": 2}
    assert figures(items, asked, texts=4, forgotten=forgotten) == lost
    late = [*items, sent(4, echo(1, 4))]
    came_late = [*asked, call(4, TEXTS[0], TEXTS[2], TEXTS[3], TEXTS[1])]
    assert figures(late, came_late, texts=4, forgotten=forgotten) == {"set_back_repeated": 1, "set_back_context": 3}
    assert figures(items, asked, texts=4) == {"lost": 1, "missing_context": 2}
    swapped = [*asked[:2], call(3, TEXTS[2], TEXTS[0], TEXTS[3])]
    assert figures(items, swapped, texts=4, forgotten=forgotten) == {
        "set_back_lost": 1, "set_back_context": 1, "missing_context": 1,
    }  # fmt: skip
