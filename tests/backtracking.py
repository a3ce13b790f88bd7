"""Counts what a regular expression costs in steps, with a backtracking matcher of our own.

In come a pattern and a text; out goes the number of instructions that matching takes as
Python's ``re`` does it (leftmost, greedy first, one alternative after another), without its
shortcuts. ``re`` cannot be asked for that, and time decides nothing. ``hostile`` makes texts
from the pattern itself: every loop filled as far as it goes, with one character as often as
the pattern takes it, and cut where a match can just not end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

_c: Any = re._constants  # type: ignore[attr-defined]
_parser: Any = re._parser  # type: ignore[attr-defined]

#: How often a loop without an end is filled.
FILLED = 200
#: Steps a character may cost: repeats of ours are bounded by 200, and few are nested.
PER_CHARACTER = 100
_POOL = [*map(chr, range(32, 127)), "\n", "\t", "é", "À", "²", "…", "😀"]
_LOOPS = (_c.MAX_REPEAT, _c.MIN_REPEAT, _c.POSSESSIVE_REPEAT)


class TooManyStepsError(Exception):
    """Matching took more than ``PER_CHARACTER`` steps a character."""


def steps(pattern: str, flags: int, text: str, *, way: str = "search") -> int:
    """Return the steps of finding every match in ``text``, or of one ``match`` or ``fullmatch``.

    Raises ``TooManyStepsError``.
    """
    if way == "fullmatch":
        pattern = f"(?:{pattern}\n)\\Z" if flags & re.VERBOSE else f"(?:{pattern})\\Z"
    program = _program(pattern, flags)
    program.steps = 0
    start = 0
    while start <= len(text):
        end = program.match(text, start)
        if way != "search":
            break
        start = end if end is not None and end > start else start + 1
    return program.steps


def worst(pattern: str, flags: int = 0, *, way: str = "search") -> float:
    """Return the most steps a character of a hostile text costs; infinity where there is no bound."""
    costs = [0.0]
    for text in hostile(pattern, flags):
        try:
            costs.append(steps(pattern, flags, text, way=way) / (len(text) + 1))
        except TooManyStepsError:
            return float("inf")
    return max(costs)


@cache
def _program(pattern: str, flags: int) -> Program:
    return Program(pattern, flags)


# -- the matcher ----------------------------------------------------------------------


class Program:
    """A pattern as instructions: ``char``, ``split``, ``jump``, ``at``, ``look``, ``atomic``, ``match``."""

    def __init__(self, pattern: str, flags: int) -> None:
        tree = _parser.parse(pattern, flags)
        self._flags = tree.state.flags
        self._code = self._compiled(tree)
        self.steps = 0

    def match(self, text: str, start: int) -> int | None:
        """Return where the match that begins at ``start`` ends."""
        return self._run(self._code, text, start)

    def _run(self, code: list[Any], text: str, start: int) -> int | None:
        waiting = [(0, start)]
        while waiting:
            at, pos = waiting.pop()
            while True:
                self.steps += 1
                if self.steps > PER_CHARACTER * (len(text) + 1):
                    raise TooManyStepsError
                instruction = code[at]
                what = instruction[0]
                if what == "char":
                    if pos >= len(text) or not instruction[1](text[pos]):
                        break
                    at, pos = at + 1, pos + 1
                elif what == "split":
                    waiting.append((instruction[2], pos))
                    at = instruction[1]
                elif what == "jump":
                    at = instruction[1]
                elif what == "match":
                    return pos
                else:
                    after = self._after(what, instruction[1:], text, pos)
                    if after is None:
                        break
                    at, pos = at + 1, after
        return None

    def _after(self, what: str, held: tuple[Any, ...], text: str, pos: int) -> int | None:
        """Return the position after an instruction that looks at the text, or takes part of it as a whole."""
        if what == "at":
            return pos if re.compile(held[0], self._flags & ~re.VERBOSE).match(text, pos) else None
        if what == "atomic":
            return self._run(held[0], text, pos)
        inner, wanted, width = held
        begin = pos - width
        found = begin >= 0 and self._run(inner, text, begin) is not None
        return pos if found == wanted else None

    # -- compiling ----------------------------------------------------------------

    def _compiled(self, tree: Any) -> list[Any]:
        return [*self._sequence(tree, 0), ("match",)]

    def _sequence(self, tree: Any, base: int) -> list[Any]:
        code: list[Any] = []
        for op, held in tree:
            code += self._one(op, held, base + len(code))
        return code

    def _one(self, op: Any, held: Any, base: int) -> list[Any]:
        if op in _LOOPS:
            return self._loop(op, *held, base)
        if op is _c.SUBPATTERN:
            return self._sequence(held[3], base)
        if op is _c.BRANCH:
            return self._branch(held[1], base)
        return [self._alone(op, held)]

    def _alone(self, op: Any, held: Any) -> tuple[Any, ...]:
        if op is _c.ATOMIC_GROUP:
            return "atomic", self._compiled(held)
        if op in (_c.ASSERT, _c.ASSERT_NOT):
            direction, inner = held
            width = inner.getwidth()[0] if direction < 0 else 0
            return "look", self._compiled(inner), op is _c.ASSERT, width
        if op is _c.AT:
            return "at", _POSITIONS[held]
        return "char", taker(op, held, self._flags)

    def _branch(self, alternatives: list[Any], base: int) -> list[Any]:
        code: list[Any] = []
        ends = []
        for alternative in alternatives[:-1]:
            begin = base + len(code)
            inner = self._sequence(alternative, begin + 1)
            code += [("split", begin + 1, begin + len(inner) + 2), *inner, ()]
            ends.append(len(code) - 1)
        code += self._sequence(alternatives[-1], base + len(code))
        for end in ends:
            code[end] = ("jump", base + len(code))
        return code

    def _loop(self, op: Any, low: int, high: Any, body: Any, base: int) -> list[Any]:
        if op is _c.POSSESSIVE_REPEAT:
            return [("atomic", [*self._loop(_c.MAX_REPEAT, low, high, body, 0), ("match",)])]
        code: list[Any] = []
        for _ in range(low):
            code += self._sequence(body, base + len(code))
        lazy = op is _c.MIN_REPEAT
        if high is _c.MAXREPEAT:
            assert body.getwidth()[0] > 0, "a loop without an end over something that may be empty"
            begin = base + len(code)
            inner = self._sequence(body, begin + 1)
            return [*code, _split(begin + 1, begin + len(inner) + 2, lazy=lazy), *inner, ("jump", begin)]
        splits = []
        for _ in range(high - low):
            splits.append(len(code))
            code.append(())
            code += self._sequence(body, base + len(code))
        for at in splits:
            code[at] = _split(base + at + 1, base + len(code), lazy=lazy)
        return code


def _split(on: int, off: int, *, lazy: bool) -> tuple[str, int, int]:
    return ("split", off, on) if lazy else ("split", on, off)


_POSITIONS = {
    _c.AT_BEGINNING: "^", _c.AT_BEGINNING_STRING: r"\A", _c.AT_BOUNDARY: r"\b", _c.AT_NON_BOUNDARY: r"\B",
    _c.AT_END: "$", _c.AT_END_STRING: r"\Z",
}  # fmt: skip
_CATEGORIES = {
    _c.CATEGORY_DIGIT: r"\d", _c.CATEGORY_NOT_DIGIT: r"\D", _c.CATEGORY_SPACE: r"\s",
    _c.CATEGORY_NOT_SPACE: r"\S", _c.CATEGORY_WORD: r"\w", _c.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip


def taker(op: Any, held: Any, flags: int) -> Callable[[str], bool]:
    """Return whether a node that stands for one character takes it. Raises ``KeyError`` for what is unknown."""
    one = re.compile(_written(op, held), flags & ~re.VERBOSE)
    known: dict[str, bool] = {}

    def takes(char: str) -> bool:
        if char not in known:
            known[char] = one.fullmatch(char) is not None
        return known[char]

    return takes


def _written(op: Any, held: Any) -> str:
    """Return the node as a pattern of its own."""
    if op is _c.ANY:
        return "."
    if op is _c.LITERAL:
        return re.escape(chr(held))
    if op is _c.NOT_LITERAL:
        return f"[^{_in_class(chr(held))}]"
    return f"[{''.join(map(_member, *zip(*held, strict=True)))}]" if op is _c.IN else _CATEGORIES[held]


def _member(op: Any, held: Any) -> str:
    if op is _c.NEGATE:
        return "^"
    if op is _c.LITERAL:
        return _in_class(chr(held))
    if op is _c.RANGE:
        return f"{_in_class(chr(held[0]))}-{_in_class(chr(held[1]))}"
    return _CATEGORIES[held]


def _in_class(char: str) -> str:
    return f"\\U{ord(char):08x}"


# -- hostile texts --------------------------------------------------------------------


def hostile(pattern: str, flags: int = 0) -> Iterator[str]:
    """Yield texts that cost a backtracking matcher much, if anything does."""
    tree = _parser.parse(pattern, flags)
    takers = [taker(op, held, tree.state.flags) for op, held in _characters(tree)]
    kinds = _kinds(takers)
    known = set()
    for text in (*_pumped(kinds), *_filled(tree, kinds)):
        if text not in known:
            known.add(text)
            yield text


def _characters(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the nodes that stand for one character."""
    for op, held in tree:
        inner = _inside(op, held)
        if inner is None and op is not _c.AT:
            yield op, held
        for part in inner or ():
            yield from _characters(part)


def _inside(op: Any, held: Any) -> list[Any] | None:
    if op in _LOOPS:
        return [held[2]]
    if op is _c.SUBPATTERN:
        return [held[3]]
    if op is _c.ATOMIC_GROUP:
        return [held]
    if op is _c.BRANCH:
        return list(held[1])
    if op in (_c.ASSERT, _c.ASSERT_NOT):
        return [held[1]]
    return None


def _kinds(takers: list[Callable[[str], bool]]) -> list[str]:
    """Return one character of every kind the pattern tells apart."""
    by_kind: dict[tuple[bool, ...], str] = {}
    for char in _POOL:
        by_kind.setdefault(tuple(takes(char) for takes in takers), char)
    return list(by_kind.values())


def _pumped(kinds: list[str]) -> Iterator[str]:
    for char in kinds:
        yield char * FILLED
    for one, other in product(kinds[:12], repeat=2):
        yield (one + other) * (FILLED // 2)


def _filled(tree: Any, kinds: list[str]) -> Iterator[str]:
    """Yield texts the pattern takes as far as they go, cut after each of its elements."""
    for char, way in product(kinds, range(3)):
        sample = _Sample(tree.state.flags, kinds, char, way)
        sample.add(tree)
        whole = "".join(sample.text)
        for end in sorted(sample.borders):
            yield whole[:end]
            yield whole[:end] + "\0"
        yield whole * 3


class _Sample:
    """A text that the pattern takes: ``char`` wherever it can stand, alternative ``way`` of each choice."""

    def __init__(self, flags: int, kinds: list[str], char: str, way: int) -> None:
        self._flags, self._way = flags, way
        self._chars = [char, *kinds, *_POOL]
        self.text: list[str] = []
        self.borders: set[int] = set()

    def add(self, tree: Any) -> None:
        """Add what ``tree`` takes."""
        for op, held in tree:
            self._add(op, held)
            if len(self.borders) < 60:
                self.borders.add(len(self.text))

    def _add(self, op: Any, held: Any) -> None:
        if op in _LOOPS:
            low, high, body = held
            for _ in range(max(low, FILLED if high is _c.MAXREPEAT else min(high, FILLED))):
                if len(self.text) < 6 * FILLED:
                    self.add(body)
        elif op is _c.BRANCH:
            self.add(held[1][self._way % len(held[1])])
        elif op in (_c.SUBPATTERN, _c.ATOMIC_GROUP):
            self.add(held[3] if op is _c.SUBPATTERN else held)
        elif op not in (_c.AT, _c.ASSERT, _c.ASSERT_NOT):
            takes = taker(op, held, self._flags)
            self.text += next(([char] for char in self._chars if takes(char)), [])
