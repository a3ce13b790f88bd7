"""The verdict: every message against what the provider and the model wrote down themselves.

Nothing of the system's own bookkeeping decides, with two exceptions it is asked for: the
dead letters (is each apology's message there?) and how many sends it says it repeated.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from chatbot import language
from tests.stub_llm import Call

NOTICES = {*language.WAITING.values(), *language.TOO_MANY.values()}
APOLOGIES = set(language.APOLOGY.values())

_ECHO = re.compile(r"eco: (.*) #(\d+)$", re.DOTALL)
_WHO = re.compile(r"\bu\d{5}-")


@dataclass
class Verdict:
    """How many messages had which fate; ``why`` says it for the first of them."""

    lost: int = 0
    duplicated: int = 0
    disordered: int = 0
    overlapped: int = 0
    leaked_context: int = 0
    missing_context: int = 0
    apologised: int = 0
    not_kept: int = 0
    repeated_llm_calls: int = 0
    told_to_wait: int = 0
    why: list[str] = field(default_factory=list)

    def blame(self, what: str, why: str) -> None:
        """Count one broken promise."""
        setattr(self, what, getattr(self, what) + 1)
        if len(self.why) < 50:
            self.why.append(f"{what}: {why}")


def judge(
    accepted: Mapping[str, Sequence[str]],
    sent: Iterable[Mapping[str, Any]],
    calls: Sequence[Call],
    dead: Iterable[str],
    *,
    history_turns: int,
) -> Verdict:
    """Return what became of the accepted messages.

    ``accepted``: phone → texts in the order of arrival; ``sent``: what the provider
    accepted; ``calls``: what the model was asked; ``dead``: texts of the dead letters.
    """
    verdict = Verdict()
    by_number = {call.number: call for call in calls}
    replies: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for item in sent:
        replies[item["to"]].append((item["text"], item["callback"]))
    kept = Counter(dead)
    effective: set[int] = set()
    for phone, texts in accepted.items():
        fates = _replies_of(phone, texts, replies.pop(phone, []), verdict)
        used = [by_number[number] for number in fates if number]
        effective |= {call.number for call in used}
        for text, number in zip(texts, fates, strict=True):
            if number == 0 and not kept[text]:
                verdict.blame("not_kept", f"{text} was apologised for and is no dead letter")
        _judge_prompts(texts, fates, by_number, history_turns, verdict)
        for before, after in pairwise(used):
            if after.began < before.ended:
                verdict.blame("overlapped", f"{before.asked} and {after.asked}")
    for phone, foreign in replies.items():
        verdict.blame("leaked_context", f"{phone} never wrote and was sent {foreign[:1]}")
    for call in calls:
        if len({who for _, content in call.messages for who in _WHO.findall(content)}) > 1:
            verdict.blame("leaked_context", f"two users in the prompt of {call.asked}")
    verdict.repeated_llm_calls = sum(call.status == 200 and call.number not in effective for call in calls)
    return verdict


def _replies_of(phone: str, texts: Sequence[str], got: list[tuple[str, str]], verdict: Verdict) -> list[int | None]:
    """Return each message's fate: the number of the call that answered it, 0 apologised, ``None`` lost."""
    replies = []
    seen: set[str] = set()
    for text, callback in got:
        if text in NOTICES:
            verdict.told_to_wait += 1
        elif callback in seen:
            verdict.blame("duplicated", f"{callback}: {text}")
        else:
            seen.add(callback)
            replies.append(text)
    fates: dict[str, int | None] = dict.fromkeys(texts)
    position = {text: n for n, text in enumerate(texts)}
    last, apologies = -1, 0
    for reply in [*replies, None]:
        echo = _ECHO.match(reply) if reply else None
        if reply and not echo:
            if reply not in APOLOGIES:
                verdict.blame("leaked_context", f"{phone} was sent {reply!r}")
            apologies += 1
            continue
        at = position.get(echo[1], -1) if echo else len(texts)
        if echo and at < 0:
            verdict.blame("leaked_context", f"{phone} was sent the answer to {echo[1]}")
            continue
        if echo and fates[echo[1]] is not None:
            verdict.blame("duplicated", f"{echo[1]} has two turns")
            continue
        if at < last:
            verdict.blame("disordered", f"{reply} after {texts[last]}")
        between = texts[last + 1 : at]
        for text in between[:apologies]:
            fates[text] = 0
            verdict.apologised += 1
        for _ in range(apologies - len(between)):
            verdict.blame("duplicated", f"an apology too many to {phone}")
        last, apologies = max(at, last), 0
        if echo:
            fates[echo[1]] = int(echo[2])
    for text in texts:
        if fates[text] is None:
            verdict.blame("lost", text)
    return [fates[text] for text in texts]


def _judge_prompts(
    texts: Sequence[str], fates: Sequence[int | None], by_number: Mapping[int, Call], turns: int, verdict: Verdict
) -> None:
    for n, number in enumerate(fates):
        if number and by_number[number].said != list(texts[max(0, n - turns) : n + 1]):
            verdict.blame("missing_context", f"{texts[n]} was answered knowing {by_number[number].said}")
