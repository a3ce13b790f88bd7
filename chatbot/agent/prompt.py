"""What of a conversation a model is shown, measured in tokens.

In come the past turns and the message to be answered, out go the messages of a request. Promises:
they fit the room there is, by an estimate that errs on the safe side; a model reads as its own words
only what a model said (apologies and other texts of the system's are left out, what a person wrote
before one of them is put before what they wrote next, unless it ended what answered it); from one
turn to the next the messages begin as they did before, except every few turns, so that a server can use
its cache of the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chatbot import texts
from chatbot.messages import Message, Turn

#: Tokens that a server's template puts around each message.
AROUND = 8
#: Unanswered messages that are shown with the next one.
MOST_UNANSWERED = 5
#: What stands where a message was too long.
LEFT_OUT = "\n[… trecho omitido: mensagem longa demais …]\n"

_PLAIN = re.compile(r"[A-Za-z ]+")


def tokens(text: str) -> int:
    """Return how many tokens a text may have.

    Estimated: 3.3 plain letters a token, each other ASCII character one (digits are in several
    vocabularies), two bytes one elsewhere. Portuguese has about 1.3 times fewer in the vocabularies
    that are in use; random letters have up to 1.7 times more.
    """
    size = len(text.encode("utf-8", "replace"))
    plain = sum(map(len, _PLAIN.findall(text)))
    ascii_size = len(text.encode("ascii", "ignore"))
    return int(plain / 3.3 + (ascii_size - plain) + (size - ascii_size) / 2) + 1


@dataclass(frozen=True, slots=True)
class Room:
    """What there is room for: turns and characters of the past, tokens of past and message together."""

    turns: int
    chars: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a person wrote and what the model answered."""

    asked: str
    answer: str

    @property
    def tokens(self) -> int:
        """What it takes."""
        return tokens(self.asked) + tokens(self.answer) + 2 * AROUND

    @property
    def chars(self) -> int:
        """Its length."""
        return len(self.asked) + len(self.answer)


def messages(message: Message, history: Sequence[Turn], room: Room) -> list[dict[str, str]]:
    """Return the messages of a request: the past, oldest first, and last what is asked now."""
    past, unanswered = _exchanges(message, _block(history, room.turns))
    past = _fitting(past, chars=room.chars, most=room.tokens * 3 // 4)
    asked = _joined([*unanswered, message.told], room.tokens)
    while past and tokens(asked) + AROUND + sum(exchange.tokens for exchange in past) > room.tokens:
        past = past[(len(past) + 1) // 2 :]
    asked = cut_middle(asked, room.tokens - AROUND)
    shown = [
        {"role": role, "content": text}
        for exchange in past
        for role, text in (("user", exchange.asked), ("assistant", exchange.answer))
    ]
    return [*shown, {"role": "user", "content": asked}]


def cut_middle(text: str, most: int) -> str:
    """Return a text of at most ``most`` tokens: beginning and end, and between them that something is missing."""
    while (has := tokens(text)) > most and len(text) > 2 * len(LEFT_OUT):
        text = cut_to(text, int(len(text) * min(most / has, 0.9)))
    return text


def cut_to(text: str, chars: int) -> str:
    """Return a text of about ``chars`` characters, cut in its middle."""
    if len(text) <= chars:
        return text
    text = text.replace(LEFT_OUT, "\n")
    end = max(1, (chars - len(LEFT_OUT)) // 2)
    return f"{text[:end]}{LEFT_OUT}{text[-end:]}"


def _block(history: Sequence[Turn], turns: int) -> list[Turn]:
    """Return the last turns: at most so many, and from a number on that changes every ``turns // 2`` turns."""
    if not history or not turns:
        return []
    block = max(1, turns // 2)
    too_many = history[-1].number - turns
    before = -(-too_many // block) * block if too_many > 0 else 0
    return [turn for turn in history if turn.number > before][-turns:]


def _exchanges(message: Message, turns: Sequence[Turn]) -> tuple[list[Exchange], list[str]]:
    """Return what was said, and what the person wrote that no model has answered since."""
    answered = {turn.message.id for turn in turns if _is_answer(turn)} | {message.id}
    exchanges: list[Exchange] = []
    unanswered: list[str] = []
    for turn in turns:
        if _is_answer(turn):
            exchanges.append(Exchange(_joined([*unanswered, turn.message.told]), turn.reply))
            unanswered = []
        elif _may_be_shown(turn) and turn.message.id not in answered:
            unanswered.append(turn.message.told)
    return exchanges, unanswered


def _is_answer(turn: Turn) -> bool:
    return bool(turn.reply) and not turn.failure and turn.reply not in texts.SYSTEM_TEXTS


def _may_be_shown(turn: Turn) -> bool:
    """Return whether what was written there says something, no filter refused it, and it ended no process."""
    says_something = bool(turn.reply and turn.message.text.strip())
    return says_something and turn.reply not in texts.REFUSED.values() and not turn.is_poison


def _joined(texts: Sequence[str], room: int | None = None) -> str:
    """Return the texts as one, the last one whole, of the others the latest that fit a quarter of ``room``."""
    *before, last = texts
    kept = before[-MOST_UNANSWERED:]
    while kept and room is not None and sum(map(tokens, kept)) > room // 4:
        kept = kept[1:]
    return "\n\n".join([*kept, last])


def _fitting(past: list[Exchange], *, chars: int, most: int) -> list[Exchange]:
    """Return the end of the past that fits; where it begins depends on nothing that comes later.

    It is gone through from its beginning: each time it has become too long, all but half of
    what fits is left out, so that the next few turns change nothing at the beginning.
    """
    first, has_chars, has_tokens = 0, 0, 0
    for n, exchange in enumerate(past):
        has_chars += exchange.chars
        has_tokens += exchange.tokens
        if has_chars <= chars and has_tokens <= most:
            continue
        while first < n and (has_chars > chars // 2 or has_tokens > most // 2):
            has_chars -= past[first].chars
            has_tokens -= past[first].tokens
            first += 1
        if has_chars > chars or has_tokens > most:
            first, has_chars, has_tokens = n + 1, 0, 0
    return past[first:]
