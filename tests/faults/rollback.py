"""A Redis that comes back as it was some seconds ago, and what it forgot by that.

In comes the folder of a Redis that writes every command to its append-only file; out goes that
file, cut off where it ended at a moment before (``mark``, ``cut``), and what the commands behind
it had written. A failover to an asynchronous replica, or a crash with ``appendfsync everysec``, looks the same
to its clients. What Redis ran as one transaction is kept or forgotten as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

_CONVERSATION = re.compile(r"chatbot:\{([^}]*)\}:conversation")
_TURN = re.compile(r"chatbot:\{[^}]*\}:turn:(.*)")
_COUNTS = "chatbot:counts"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in an append-only file: what was there at one moment."""

    file: Path
    size: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What Redis no longer knows.

    ``turns``: ids of the messages whose turn was written; ``numbers``: (user, number) of these turns, which are
    given again; ``sends``: (user, number) of turns of which a send was begun or settled; ``resent``: repeated sends
    that were counted.
    """

    turns: frozenset[str] = frozenset()
    numbers: frozenset[tuple[str, int]] = frozenset()
    sends: frozenset[tuple[str, int]] = frozenset()
    resent: int = 0

    def __or__(self, other: Forgotten) -> Forgotten:
        """Return what either forgot."""
        return Forgotten(
            self.turns | other.turns, self.numbers | other.numbers, self.sends | other.sends,
            self.resent + other.resent,
        )  # fmt: skip


def mark(folder: Path) -> Mark:
    """Return where the append-only file of the Redis in ``folder`` ends now."""
    names = re.findall(r"file (\S+) seq \d+ type i", next(folder.glob("appendonlydir/*.manifest")).read_text())
    file = folder / "appendonlydir" / names[-1]
    return Mark(file, file.stat().st_size)


def cut(to: Mark) -> Forgotten:
    """Cut the file of a Redis that is not running back to a mark; return what is forgotten."""
    written = to.file.read_bytes()
    keep, lost = to.size, []
    for end, commands in transactions(written):
        if end <= to.size:
            keep = end
        else:
            lost += commands
    with to.file.open("r+b") as file:
        file.truncate(min(keep, to.size))
    return forgotten(lost)


def transactions(written: bytes) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield where each transaction of an append-only file ends, and its commands; a single command is one, too."""
    together: list[list[str]] = []
    within = False
    for end, command in _commands(written):
        name = command[0].upper()
        within = name == "MULTI" or (within and name != "EXEC")
        if name not in {"MULTI", "EXEC"}:
            together.append(command)
        if not within:
            yield end, together
            together = []


def forgotten(commands: Iterable[list[str]]) -> Forgotten:
    """Return what is no longer known once these commands were never run."""
    turns: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    sends: set[tuple[str, int]] = set()
    resent = 0
    for name, key, *rest in (command for command in commands if len(command) > 1):
        if name.upper() == "SET" and (turn := _TURN.fullmatch(key)):
            turns.add(turn[1])
        elif name.upper() == "HSET" and (conversation := _CONVERSATION.fullmatch(key)):
            user, fields = unquote(conversation[1]), dict(zip(rest[::2], rest[1::2], strict=True))
            if "turns" in fields:
                numbers.add((user, int(fields["turns"])))
            sends.update((user, int(fields[f].partition(":")[0])) for f in ("calling", "delivered") if f in fields)
        elif (name.upper(), key, rest[:1]) == ("HINCRBY", _COUNTS, ["unknown_resent"]):
            resent += int(rest[1])
    return Forgotten(frozenset(turns), frozenset(numbers), frozenset(sends), resent)


def _commands(written: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield where each command ends, and its words; a last one that is not whole is left out."""
    at = 0
    while at < len(written):
        try:
            words, end = _words(written, at)
        except (IndexError, ValueError):
            return
        yield end, words
        at = end


def _words(written: bytes, at: int) -> tuple[list[str], int]:
    number, at = _number(written, at, b"*")
    words = []
    for _ in range(number):
        length, at = _number(written, at, b"$")
        if at + length + 2 > len(written):
            raise IndexError("the last command is not whole")
        words.append(written[at : at + length].decode(errors="replace"))
        at += length + 2
    return words, at


def _number(written: bytes, at: int, sign: bytes) -> tuple[int, int]:
    end = written.index(b"\r\n", at)
    if written[at : at + 1] != sign:
        raise ValueError("no append-only file of commands")
    return int(written[at + 1 : end]), end + 2
