"""The verdict: every message against what the provider and the model wrote down themselves.

In come what was accepted, sent and asked, and what the faults did on purpose; out goes how many
messages had which fate. Nothing of the system's own bookkeeping decides, with two exceptions it is asked for: the
dead letters (is each apology's message there?) and how many sends it says it repeated.

A Redis that was set back (``rollback.py``) excuses only the messages whose turn it forgot and the sends it no
longer knew of. They are counted apart; whatever else happens then is as wrong as ever.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from chatbot import texts
from tests.faults.model import texts_of
from tests.faults.replies import marks
from tests.faults.rollback import Forgotten
from tests.stub_llm import Call

NOTICES = {*texts.WAITING.values(), *texts.TOO_MANY.values()}
APOLOGIES = set(texts.APOLOGY.values())

_ECHO = re.compile(r"eco: ([^\n]*) #(\d+)(?:\n|$)")
_WHO = re.compile(r"\bu\d{5}-")


@dataclass(frozen=True, slots=True)
class Done:
    """What the faults did on purpose.

    ``poisons``: texts that end whatever process answers them; ``hunted``: texts whose senders were killed again
    and again; ``said``: call → reply, where it was not just the echo; ``forgotten`` by a Redis that was set back.
    """

    poisons: frozenset[str] = frozenset()
    hunted: frozenset[str] = frozenset()
    said: Mapping[int, str] = field(default_factory=dict)
    forgotten: Forgotten = field(default_factory=Forgotten)

    def forgot(self, text: str) -> bool:
        """Return whether the turn of that message was forgotten."""
        return f"wamid.{text.split(maxsplit=1)[0]}" in self.forgotten.turns


@dataclass
class Verdict:
    """How many messages had which fate; ``why`` says it for the first of them.

    ``torn``: replies of which the person does not have every part once, in order; ``unprovoked``: apologies
    for messages that were no poison; ``needless_dead``: dead letters that nothing explains.
    """

    lost: int = 0
    duplicated: int = 0
    disordered: int = 0
    overlapped: int = 0
    torn: int = 0
    leaked_context: int = 0
    missing_context: int = 0
    apologised: int = 0
    unprovoked: int = 0
    not_kept: int = 0
    needless_dead: int = 0
    given_up: int = 0
    set_back_lost: int = 0
    set_back_repeated: int = 0
    set_back_context: int = 0
    repeated_llm_calls: int = 0
    told_to_wait: int = 0
    why: list[str] = field(default_factory=list)

    def blame(self, what: str, why: str) -> None:
        """Count one broken promise."""
        setattr(self, what, getattr(self, what) + 1)
        if len(self.why) < 50:
            self.why.append(f"{what}: {why}")

    def excuse_or_blame(self, excused: str, what: str, why: str, *, is_excused: bool) -> None:
        """Count what a Redis that was set back explains as ``excused``, anything else as a broken promise."""
        if is_excused:
            setattr(self, excused, getattr(self, excused) + 1)
        else:
            self.blame(what, why)


@dataclass
class _Reply:
    """The parts of one turn, as the provider took them."""

    parts: list[str]

    @property
    def first(self) -> str:
        return self.parts[0]


def judge(
    accepted: Mapping[str, Sequence[str]],
    sent: Iterable[Mapping[str, Any]],
    calls: Sequence[Call],
    dead: Iterable[str],
    *,
    history_turns: int,
    done: Done | None = None,
) -> Verdict:
    """Return what became of the accepted messages.

    ``accepted``: phone → texts in the order of arrival; ``sent``: what the provider
    accepted; ``calls``: what the model was asked; ``dead``: texts of the dead letters.
    """
    verdict, done = Verdict(), done or Done()
    by_number = {call.number: call for call in calls}
    got: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item in sent:
        got[item["to"]].append(item)
    kept = Counter(dead)
    effective: set[int] = set()
    for phone, theirs in accepted.items():
        fates = _Fates(phone, theirs, done, kept, verdict).of(got.pop(phone, []))
        effective |= {number for number in fates if number}
        _judge_prompts(theirs, fates, by_number, history_turns, done, verdict)
        _judge_overlaps(theirs, fates, by_number, done, verdict)
    for phone, foreign in got.items():
        verdict.blame("leaked_context", f"{phone} never wrote and was sent {foreign[:1]}")
    for call in calls:
        if len({who for _, content in call.messages for who in _WHO.findall(content)}) > 1:
            verdict.blame("leaked_context", f"two users in the prompt of {call.asked}")
    _judge_dead(kept, done, verdict)
    verdict.repeated_llm_calls = sum(call.status == 200 and call.number not in effective for call in calls)
    return verdict


def is_answered(
    accepted: Mapping[str, Sequence[str]], sent: Iterable[Mapping[str, Any]], done: Done
) -> bool:  # fmt: skip
    """Return whether there is a reply or an apology for each message that may still expect one."""
    echoes: defaultdict[str, set[str]] = defaultdict(set)
    apologies: Counter[str] = Counter()
    for item in sent:
        if echo := _ECHO.match(item["text"]):
            echoes[item["to"]].add(echo[1])
        apologies[item["to"]] += item["text"] in APOLOGIES
    return all(
        len([text for text in texts if text not in echoes[phone] and not done.forgot(text)]) <= apologies[phone]
        for phone, texts in accepted.items()
    )


class _Fates:
    """Each message's fate, for one person: the number of the call that answered it, 0 apologised, ``None`` lost."""

    def __init__(
        self, phone: str, texts: Sequence[str], done: Done, kept: Mapping[str, int], verdict: Verdict
    ) -> None:  # fmt: skip
        self._phone, self._texts, self._done, self._kept, self._verdict = phone, texts, done, kept, verdict
        self._position = {text: n for n, text in enumerate(texts)}
        self._fates: dict[str, int | None] = dict.fromkeys(texts)
        self._last, self._apologies = -1, 0

    def of(self, got: Iterable[Mapping[str, Any]]) -> list[int | None]:
        for reply in self._replies(got):
            if echo := _ECHO.match(reply.first):
                self._take_echo(echo[1], int(echo[2]), reply)
            elif reply.first in APOLOGIES and len(reply.parts) == 1:
                self._apologies += 1
            else:
                self._verdict.blame("leaked_context", f"{self._phone} was sent {reply.first[:200]!r}")
        self._take_apologies(len(self._texts))
        for text, fate in self._fates.items():
            if fate is None:
                self._take_loss(text)
            elif fate == 0 and not self._kept[text]:
                self._verdict.blame("not_kept", f"{text} was apologised for and is no dead letter")
        return [self._fates[text] for text in self._texts]

    def _replies(self, got: Iterable[Mapping[str, Any]]) -> list[_Reply]:
        """Return what was sent, the parts of each turn together; notices are none, and repeated parts count once."""
        replies: list[_Reply] = []
        by_turn: dict[str, _Reply] = {}
        seen: set[tuple[str, str]] = set()
        for item in got:
            text, callback = "\n".join([item["text"], *item.get("choices", ())]), item["callback"]
            if text in NOTICES:
                self._verdict.told_to_wait += 1
                continue
            turn, _, part = callback.rpartition(":")
            user, _, number = turn.rpartition(":")
            reply = by_turn.get(turn)
            if (callback, text) in seen:
                self._repeated(callback, (user, int(number)) in self._done.forgotten.sends)
            elif int(part) == 0 and (reply is None or (user, int(number)) in self._done.forgotten.numbers):
                by_turn[turn] = _Reply([text])
                replies.append(by_turn[turn])
            elif reply is not None and int(part) == len(reply.parts):
                reply.parts.append(text)
            elif reply is not None and int(part) < len(reply.parts):  # once more, and worded otherwise
                self._repeated(callback, (user, int(number)) in self._done.forgotten.sends)
                reply.parts[int(part)] = text
            else:
                self._verdict.blame("torn", f"{callback} came before the parts in front of it")
            seen.add((callback, text))
        return replies

    def _repeated(self, callback: str, is_excused: bool) -> None:  # noqa: FBT001  # what it says
        self._verdict.excuse_or_blame("set_back_repeated", "duplicated", callback, is_excused=is_excused)

    def _take_echo(self, text: str, number: int, reply: _Reply) -> None:
        verdict, at = self._verdict, self._position.get(text, -1)
        if at < 0:
            verdict.blame("leaked_context", f"{self._phone} was sent the answer to {text}")
            return
        forgot = self._done.forgot(text)
        if self._fates[text] is not None:
            verdict.excuse_or_blame("set_back_repeated", "duplicated", f"{text} has two turns", is_excused=forgot)
            return
        self._judge_parts(text, number, reply)
        if at < self._last:
            why = f"{text} was answered after {self._texts[self._last]}"
            verdict.excuse_or_blame("set_back_repeated", "disordered", why, is_excused=forgot)
        else:
            self._take_apologies(at)
            self._last = at
        self._fates[text] = number

    def _judge_parts(self, text: str, number: int, reply: _Reply) -> None:
        said = self._done.said.get(number, f"eco: {text} #{number}")
        whole = marks("\n".join(reply.parts)) == marks(said) if number in self._done.said else reply.parts == [said]
        if whole or (text in self._done.hunted and self._kept[text]):
            return
        why = f"{text} was answered with {len(reply.parts)} parts that are not what was said"
        self._verdict.excuse_or_blame("set_back_lost", "torn", why, is_excused=self._done.forgot(text))

    def _take_apologies(self, at: int) -> None:
        """Say for which messages in front of that one the apologies were that came: poison, or any."""
        between = [text for text in self._texts[self._last + 1 : at] if self._fates[text] is None]
        between.sort(key=lambda text: text not in self._done.poisons)
        for text in between[: self._apologies]:
            self._fates[text] = 0
            self._verdict.apologised += 1
            if text not in self._done.poisons:
                self._verdict.blame("unprovoked", f"an apology for {text}")
        for _ in range(self._apologies - len(between)):
            self._verdict.excuse_or_blame(
                "set_back_repeated", "duplicated", f"an apology too many to {self._phone}",
                is_excused=any(self._done.forgot(text) for text in self._texts if text in self._done.poisons),
            )  # fmt: skip
        self._apologies = 0

    def _take_loss(self, text: str) -> None:
        if text in self._done.hunted and self._kept[text]:
            self._verdict.given_up += 1
            return
        self._verdict.excuse_or_blame("set_back_lost", "lost", text, is_excused=self._done.forgot(text))


def _judge_prompts(
    texts: Sequence[str], fates: Sequence[int | None], by_number: Mapping[int, Call], turns: int, done: Done,
    verdict: Verdict,
) -> None:  # fmt: skip
    """Judge what each answer knew: the last turns in their order and each once, without poison.

    All of them, while there are few; at least half of those that may be shown, once there are more.
    """
    forgot = {text for text in texts if done.forgot(text)}
    for n, number in enumerate(fates):
        if not number:
            continue
        *past, asked = texts_of(by_number[number])
        shown = list(texts[: _end(texts, n, past) if texts[n] in forgot else n])
        wanted = [text for text in shown if text not in done.poisons]
        if asked == texts[n] and _is_end(past, wanted, at_least=min(len(wanted), turns // 2), at_most=turns):
            continue
        known, left = ([text for text in given if text not in forgot] for given in (past, wanted))
        excused = (
            bool(forgot)
            and asked == texts[n]
            and _is_end(known, left, at_least=min(len(left), turns // 2 + len(known) - len(past)), at_most=turns)
        )
        why = f"{texts[n]} was answered knowing {texts_of(by_number[number])}"
        verdict.excuse_or_blame("set_back_context", "missing_context", why, is_excused=excused)


def _is_end(known: Sequence[str], wanted: Sequence[str], *, at_least: int, at_most: int) -> bool:
    """Return whether what is known is the end of what is wanted, of a length that is right."""
    return at_least <= len(known) <= at_most and list(known) == list(wanted[len(wanted) - len(known) :])


def _end(texts: Sequence[str], n: int, past: Sequence[str]) -> int:
    """Return how many texts came before message ``n``, which may be answered late, behind others that came later."""
    return max([n, *(texts.index(text) + 1 for text in past if text in texts)])


def _judge_overlaps(
    texts: Sequence[str], fates: Sequence[int | None], by_number: Mapping[int, Call], done: Done, verdict: Verdict
) -> None:
    """Judge whether two answers of one person were thought of at once."""
    used = [by_number[number] for text, number in zip(texts, fates, strict=True) if number and not done.forgot(text)]
    for before, after in pairwise(used):
        if after.began < before.ended:
            verdict.blame("overlapped", f"{before.asked} and {after.asked}")


def _judge_dead(kept: Mapping[str, int], done: Done, verdict: Verdict) -> None:
    """Judge whether each dead letter is of a message that earned it."""
    for text, letters in kept.items():
        if text not in done.poisons and text not in done.hunted:
            verdict.blame("needless_dead", text)
        elif letters > 1 and not done.forgot(text):
            verdict.blame("needless_dead", f"{letters} of {text}")
