"""What of a conversation a model is shown, measured in tokens.

In come the past turns and the message to be answered, out go the messages of a request. Promises:
they fit the room there is, by an estimate that errs on the safe side; a model reads as its own words
only what a model said (apologies and other texts of the system's are left out, what a person wrote
before one of them is put before what they wrote next, unless it ended what answered it); one long message
of the past is cut in its middle and leaves room for others; from one turn to the next the messages begin
as they did before, except every few turns, so that a server can use its cache of the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from chatbot import texts
from chatbot.agent.spoken import without_mark
from chatbot.messages import Message, Turn

#: Tokens that a server's template puts around each message.
AROUND = 8
#: Unanswered messages that are shown with the next one.
MOST_UNANSWERED = 5
#: What stands where a message was too long.
LEFT_OUT = "\n[… trecho omitido: mensagem longa demais …]\n"
#: What stands where an answer of the past was too long: few words, for a model may repeat its own.
SHORTENED = "\n[…]\n"
#: One exchange takes at most this part of the room that there is for the past.
SHARE = 4
#: Where its share would be smaller than so many characters and tokens, a cut would leave nothing worth reading.
SMALLEST_CHARS, SMALLEST_TOKENS = 200, 60

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
    """What there is room for: turns and characters of the past, tokens of past and message together.

    ``image`` of the tokens are taken by what is shown with the message.
    """

    turns: int
    chars: int
    tokens: int
    image: int = 0

    @property
    def past(self) -> int:
        """The tokens that the past may take: as many beside an image, or what is old would be cut anew."""
        return self.tokens * 3 // 4


@dataclass(frozen=True)
class Exchange:
    """What a person wrote and what the model answered."""

    asked: str
    answer: str

    @cached_property
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
    past = _fitting([_shortened(exchange, room) for exchange in past], chars=room.chars, most=room.past)
    left = room.tokens - room.image
    asked = _joined([*unanswered, message.told], left)
    while past and tokens(asked) + AROUND + sum(exchange.tokens for exchange in past) > left:
        past = past[(len(past) + 1) // 2 :]
    asked = cut_middle(asked, left - AROUND)
    shown = [
        {"role": role, "content": text}
        for exchange in past
        for role, text in (("user", exchange.asked), ("assistant", exchange.answer))
    ]
    return [*shown, {"role": "user", "content": asked}]


def cut_middle(text: str, most: int, mark: str = LEFT_OUT) -> str:
    """Return a text of at most ``most`` tokens: beginning and end, and between them that something is missing."""
    while (has := tokens(text)) > most and len(text) > 2 * len(mark):
        text = cut_to(text, int(len(text) * min(most / has, 0.9)), mark)
    return text


def cut_to(text: str, chars: int, mark: str = LEFT_OUT) -> str:
    """Return a text of about ``chars`` characters, cut in its middle."""
    if len(text) <= chars:
        return text
    text = text.replace(mark, "\n")
    end = max(1, (chars - len(mark)) // 2)
    return f"{text[:end]}{mark}{text[-end:]}"


def _shortened(exchange: Exchange, room: Room) -> Exchange:
    """Return an exchange that takes no more than its share; the longer one of its messages is cut first.

    Nothing else that is said has a part in it, so that it is cut the same way in every later turn.
    """
    most, chars = room.past // SHARE - 2 * AROUND, room.chars // SHARE
    fits = exchange.tokens <= most + 2 * AROUND and exchange.chars <= chars
    if fits or most < SMALLEST_TOKENS or chars < SMALLEST_CHARS:
        return exchange
    asked, answer = exchange.asked, exchange.answer
    answer = cut_to(answer, max(chars - len(asked), chars // 2), SHORTENED)
    answer = cut_middle(answer, max(most - tokens(asked), most // 2), SHORTENED)
    asked = cut_middle(cut_to(asked, chars - len(answer)), most - tokens(answer))
    return Exchange(asked, answer)


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
            answer = without_mark(turn.reply) or turn.reply
            exchanges.append(Exchange(_joined([*unanswered, turn.message.told]), answer))
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
    What does not even fit alone is left out alone.
    """
    past = [exchange for exchange in past if exchange.chars <= chars and exchange.tokens <= most]
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
    return past[first:]
