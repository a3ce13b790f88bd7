"""``chatbot dead``: look at the dead letters, send them back on their way, drop them.

In come the messages of queue ``chat.dead``; out go replays, through the router, and
acknowledgements. Promises: a letter leaves its queue only once the broker confirmed its
replay, or when it is dropped; all others go back to the place they had, whatever ends this
process; replaying one letter twice makes one turn; however many there are, one at a time is in
this process's memory (those that were looked at wait in the broker's, unacknowledged). Needs the
broker and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from chatbot.broker import topology
from chatbot.broker.router import ANSWER, MARK_READ, NOTIFY, REPORT, SEND
from chatbot.errors import BrokerUnavailable, ChatbotError, QueueFull
from chatbot.messages import Media, Message

if TYPE_CHECKING:
    from chatbot.app import Chatbot
    from chatbot.broker.router import Router
    from chatbot.broker.sharding import ShardedRouter

UNREADABLE = "unreadable"
NOT_REPLAYABLE = "only answer and send letters can be replayed"

_ID_DIGITS = 12
#: The parts of a message that say who wrote it.
_ADDRESS = frozenset({"phone", "bsuid", "name", "provider_id", "quoted", "moved_to"})
_BLANK = Message(user="", id="", text="")
#: What the positional arguments of our tasks mean (``tasks.py``).
_NAMES = {
    ANSWER: ("user", "text"),
    SEND: ("user", "number"),
    MARK_READ: ("user", "message_id"),
    NOTIFY: ("user", "what"),
    REPORT: ("message_id", "status_name"),
}


class NoSuchLetter(ChatbotError):
    """No letter that can be seen now has that id."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter.

    ``id`` is a hash over all it consists of, so it stays the same and only copies that are
    alike to the byte share it. ``kind`` is the task's name (``answer``, ``send``, …) or
    ``unreadable``. ``died_at``, which only the broker notes, and ``sent_at``, when the
    person wrote, are in Unix seconds, 0 where not known. ``text`` is what the person wrote,
    of an unreadable letter all of it. ``message`` is set for an answer, ``number`` for a
    send; ``obstacle`` says why a replay is out of the question, and is empty where it is not.
    """

    id: str
    kind: str
    user: str
    message_id: str
    text: str
    reason: str
    died_at: float
    sent_at: float
    message: Message | None
    number: int
    obstacle: str
    body: str
    headers: dict[str, Any]
    tag: int = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``list`` shows of it, JSON-ready and without the text; times in ISO 8601 UTC or null."""
        return {
            "id": self.id,
            "died_at": _utc(self.died_at),
            "sent_at": _utc(self.sent_at),
            "kind": self.kind,
            "user": self.user,
            "message_id": self.message_id,
            "length": len(self.text),
            "reason": self.reason,
            "replayable": not self.obstacle,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one letter: replayed, or ``left`` where it was and why."""

    letter: Letter
    left: str = ""


class Held:
    """The letters that waited when the block of ``hold`` began; ``seen`` of them were looked at.

    What dies meanwhile is not among them: a replay that fails again would be replayed for ever.
    """

    def __init__(self, channel: Any, queue: str, errors: tuple[type[Exception], ...]) -> None:
        self.seen = 0
        self._channel = channel
        self._queue = queue
        self._errors = errors
        self._behind = 1  # until the first is taken, which says how many wait behind it

    def letters(self) -> Iterator[Letter]:
        """Yield those not looked at so far, oldest first. Raises ``BrokerUnavailable``."""
        while self._behind > 0:
            with _reachable(self._errors):
                raw = self._channel.basic_get(self._queue)
            if raw is None:
                self._behind = 0
                return
            self._behind = raw.delivery_info["message_count"] if not self.seen else self._behind - 1
            self.seen += 1
            yield _read(raw)

    def use_up(self, letter: Letter) -> None:
        """Have the broker forget ``letter``. Raises ``BrokerUnavailable``: then it is back in its place."""
        with _reachable(self._errors):
            self._channel.basic_ack(letter.tag)

    def give_back(self) -> None:
        """Return once the broker has forgotten what was used up and put back the rest. Raises ``BrokerUnavailable``."""
        with _reachable(self._errors):
            # RabbitMQ answers when the queue has it all back. Told to requeue instead (recover, nack,
            # reject, oldest first), 3.10 takes 40 s for 10,000 and its queue does nothing else meanwhile.
            self._channel.close()


@contextmanager
def hold(bot: Chatbot) -> Iterator[Held]:
    """Have the letters looked at inside the block, where what was not used up goes back at its end.

    Meanwhile no other command sees those that were looked at. Raises ``BrokerUnavailable``.
    """
    if bot.settings.embedded_broker:
        raise BrokerUnavailable("memory:// ends with its process and keeps no dead letters")
    timeout = bot.settings.publish_timeout
    limits = {"read_timeout": timeout, "write_timeout": timeout}
    connection = bot.celery.connection_for_read(connect_timeout=timeout, transport_options=limits)
    errors = (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)
    try:
        with _reachable(errors):
            channel = connection.channel()
            bot.dead_queue.bind(channel).declare()
        held = Held(channel, bot.dead_queue.name, errors)
        yield held
        held.give_back()
    finally:
        connection.release()  # the broker puts back what the connection still held


def choose(
    held: Held, *, ids: Sequence[str] = (), user: str | None = None, reason: str | None = None
) -> Iterator[Letter]:  # fmt: skip
    """Yield the letters with these ``ids``, or all where there are none, oldest first.

    Only those of ``user`` and those whose reason contains ``reason``, in any case of its
    letters. Raises ``NoSuchLetter`` naming every id that no letter has, before it yields one.
    """
    if ids:
        yield from _with_ids(held, ids)
        return
    for letter in held.letters():
        if (user is None or letter.user == user) and (
            reason is None or reason.casefold() in letter.reason.casefold()
        ):  # fmt: skip
            yield letter


def _with_ids(held: Held, ids: Sequence[str]) -> list[Letter]:
    wanted = set(ids)
    found = [letter for letter in held.letters() if letter.id in wanted]
    unknown = [id_ for id_ in dict.fromkeys(ids) if id_ not in {letter.id for letter in found}]
    if unknown:
        raise NoSuchLetter(
            f"no dead letter has the id {', '.join(unknown)}; nothing was done. `chatbot dead list` shows the ids; "
            "a letter that another command holds cannot be seen until that ends"
        )
    return found


def replay(held: Held, letters: Iterable[Letter], router: Router | ShardedRouter) -> Iterator[Outcome]:
    """Send ``letters`` back on their way, one after the other; yield what became of each.

    A message gets a turn of its own, whatever became of it before, and always the same one
    for the same letter. A letter is used up only after the broker confirmed. Where a user's
    queue is full, their later letters stay too, or they would overtake. Raises
    ``BrokerUnavailable``: this letter and those after it stay.
    """
    full: set[str] = set()
    for letter in letters:
        left = letter.obstacle
        if letter.message and letter.user in full:
            left = left or "an older letter of this user found no room"
        if not left:
            try:
                _send_back(letter, router)
            except QueueFull as err:
                full.add(letter.user)
                left = f"{err}: try again when it has been worked off (CHATBOT_MAX_WAITING)"
        if not left:
            held.use_up(letter)
        yield Outcome(letter, left)


def drop(held: Held, ids: Sequence[str]) -> int:
    """Use up the letters with these ``ids``; return how many. Raises ``BrokerUnavailable``."""
    wanted, dropped = set(ids), 0
    for letter in held.letters():
        if letter.id in wanted:
            held.use_up(letter)
            dropped += 1
    return dropped


def table(letters: Sequence[Letter], *, header: bool = True) -> Iterator[str]:
    """Return the lines of ``list``: a header and one line a letter, never its text."""
    rows: list[tuple[str, ...]] = [("ID", "WHEN", "KIND", "USER", "MESSAGE", "CHARS", "REASON")]
    for letter in letters:
        when = _utc(letter.died_at) or _utc(letter.sent_at) or "-"
        cells = (letter.id, when, letter.kind, letter.user, letter.message_id, str(len(letter.text)), letter.reason)
        rows.append(tuple(_one_line(cell) or "-" for cell in cells))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for *leading, last in rows if header else rows[1:]:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(leading, widths, strict=True)), last])


def page(letter: Letter) -> str:
    """Return everything of ``letter`` for a person to read, the text included."""
    facts = {
        "id": letter.id,
        "kind": letter.kind,
        "user": letter.user,
        "message id": letter.message_id,
        "died": _utc(letter.died_at),
        "sent": _utc(letter.sent_at),
        "reason": letter.reason,
        "replay": f"no: {letter.obstacle}" if letter.obstacle else "possible",
    }
    headers = {name: value for name, value in letter.headers.items() if name != "x-death"}
    parts = {"headers": headers, "x-death": letter.headers.get("x-death", [])}
    lines = [f"{name:<11} {_one_line(value or '-')}" for name, value in facts.items()]
    lines += [f"{name:<11} {_json(value, indent=2)}" for name, value in parts.items()]
    what, shown = ("text", letter.text) if letter.message else ("body", _without_address(letter.body))
    return "\n".join([*lines, f"{what}:", "", _harmless(shown)])


def label(letter: Letter) -> str:
    """Return the line that names ``letter`` where something is done to it."""
    return "  ".join(_one_line(part or "-") for part in (letter.id, letter.kind, letter.user, letter.message_id))


def _without_address(body: str) -> str:
    """Return a body without whom it is about, where that is a pseudonym's message (``CHATBOT_PSEUDONYM_KEY``)."""
    try:
        args, kwargs, embedded = json.loads(body)
        message = kwargs["message"]
        if not message["provider_id"]:
            return body
    except (ValueError, TypeError, KeyError, RecursionError):
        return body
    kwargs["message"] = {what: "…" if what in _ADDRESS and value else value for what, value in message.items()}
    return _json([args, kwargs, embedded])


# -- reading ---------------------------------------------------------------------


def _read(raw: Any) -> Letter:
    headers = raw.headers or {}
    body = raw.body.encode() if isinstance(raw.body, str) else bytes(raw.body)
    written = body.decode(errors="backslashreplace")
    task, values = _call(headers, body)
    message, obstacle = None, "" if task == SEND else NOT_REPLAYABLE
    if task == ANSWER:
        values.setdefault("id", headers.get("id"))
        try:
            message, obstacle = _message(values), ""
        except ValueError as err:
            obstacle = f"its message cannot be used: {err}"
    about = {**values, **_dict(values.get("message"))}
    user, reason, died_at = _death(headers)
    number = values.get("number", 0)
    if task == SEND and not (isinstance(number, int) and _text(values, "user")):
        obstacle = "it does not say whose replies wait"
    whole = _json([headers, raw.properties.get("correlation_id")]).encode() + body
    return Letter(
        id=hashlib.sha256(whole).hexdigest()[:_ID_DIGITS],
        kind=task.removeprefix("chatbot.") or UNREADABLE,
        user=_text(values, "user") or user,
        message_id=_text(values, "message_id") or _text(about, "id"),
        text=_text(values, "text") if task else written,
        reason=reason,
        died_at=died_at,
        sent_at=message.sent_at if message else 0.0,
        message=message,
        number=number if isinstance(number, int) else 0,
        obstacle=obstacle,
        body=written,
        headers=headers,
        tag=raw.delivery_tag,
    )


def _call(headers: dict[str, Any], body: bytes) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of the task in ``body``; no name where there is none."""
    task = headers.get("task")
    try:
        args, kwargs, _ = json.loads(body)
    except (ValueError, TypeError, RecursionError):
        return "", {}
    if not (isinstance(task, str) and isinstance(args, list) and isinstance(kwargs, dict)):
        return "", {}
    return task, dict(zip(_NAMES.get(task, ()), args, strict=False)) | kwargs


def _message(values: dict[str, Any]) -> Message:
    """Return the message of an answer. Raises ``ValueError`` where it could not be routed."""
    message = Message.from_dict(values)
    for what in (each.name for each in fields(Message)):
        given, blank = getattr(message, what), getattr(_BLANK, what)
        allowed = {float: (int, float), type(None): (type(None), Media)}.get(type(blank), type(blank))
        if not isinstance(given, allowed):
            raise ValueError(f"{what} is of type {type(given).__name__}")
    topology.queue_name(message.user)
    return message


def _death(headers: dict[str, Any]) -> tuple[str, str, float]:
    """Return the user whose queue it died in ("" if none's), why, and when (Unix seconds, 0 if not known)."""
    deaths = headers.get("x-death")
    death = _dict(deaths[0]) if isinstance(deaths, list) and deaths else {}
    queue, why, time = str(death.get("queue", "")), str(death.get("reason", "")), death.get("time")
    fixed = {topology.OPEN, topology.SEND, topology.HOUSEKEEPING, topology.DEAD_QUEUE.name, ""}
    user = _text(headers, "user") or ("" if queue in fixed else topology.user_of(queue))
    died = {"expired": f"expired in {queue}"}.get(why, f"{why} from {queue}") if why else "no reason is noted"
    died_at = time.replace(tzinfo=UTC).timestamp() if isinstance(time, datetime) else 0.0  # py-amqp leaves the zone off
    return user, _text(headers, "reason") or died, died_at


def _send_back(letter: Letter, router: Router | ShardedRouter) -> None:
    if letter.message:
        router.route(replace(letter.message, replays=letter.message.replays + 1))
    else:
        router.wake_sender(letter.user, letter.number)


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(values: dict[str, Any], what: str) -> str:
    value = values.get(what)
    return value if isinstance(value, str) else ""


# -- showing ---------------------------------------------------------------------


def _utc(seconds: float) -> str | None:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}" if seconds else None
    except (ValueError, OverflowError, OSError):  # what an unforeseen publisher wrote is no time
        return None


def _json(value: object, *, indent: int | None = None) -> str:
    return json.dumps(value, default=str, sort_keys=True, indent=indent)


def _one_line(text: str) -> str:
    return _harmless(text).replace("\n", "\\n").replace("\t", "\\t")


def _harmless(text: str) -> str:
    """Return ``text`` with what could steer a terminal, or cannot be printed, written as escapes."""
    return "".join(
        sign if sign.isprintable() or sign in "\n\t\u200d\ufe0f" else sign.encode("unicode_escape").decode()
        for sign in text
    )


@contextmanager
def _reachable(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what the client raises while the broker is away into ``BrokerUnavailable``."""
    try:
        yield
    except errors as err:
        raise BrokerUnavailable(f"the broker cannot be used: {err!r}") from err
