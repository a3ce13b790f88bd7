"""What a hostile model says: replies that are hard to format, in which every word can be found again.

In comes what each reply begins with (whom it answers), out goes that line and a body of a kind drawn from
the dice. Bodies hold marked words (``w00001``, ``w00002`` …) in their order, so that a reply that lost one,
or that came twice in part, is seen in what the provider took. No reply is longer than what a channel sends whole.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from itertools import count

#: Longer than any part; below what is shortened on its way out.
LONG = 30_000
_MARK = re.compile(r"w\d{5}")

Words = Iterator[str]


def marks(text: str) -> list[str]:
    """Return the marked words of a text in their order."""
    return _MARK.findall(text)


def hostile(dice: random.Random, head: str) -> str:
    """Return a reply that begins with ``head`` and is hard on whoever formats it."""
    return f"{head}\n\n{dice.choice(BODIES)(_words())}"


def heavy(head: str) -> str:
    """Return a reply that begins with ``head`` and takes as long to format as any."""
    words = _words()
    return f"{head}\n\n{_many_brackets(words)}\n\n{_long_list(words)[: LONG // 2]}"


def _words() -> Words:
    return (f"w{number:05}" for number in count(1))


def _filled(lines: Callable[[int], str]) -> str:
    """Return lines, as many as are long enough."""
    text: list[str] = []
    length = 0
    while length < LONG:
        text.append(lines(len(text)))
        length += len(text[-1]) + 1
    return "\n".join(text[:-1])


def _lists_in_lists(words: Words) -> str:
    w = words.__next__
    return (
        f"- 1) {w()} Pix\n* 1. {w()} Abra o app\n- 2024. {w()} Ano bom\n1.\n   - {w()} Café\n"
        f"      1) {w()}\n- - - {w()}\n\n> 1. > - {w()}\n{w()}"
    )


def _choice_that_never_ends(words: Words) -> str:
    w = words.__next__
    return f"{w()}\n[[a{' ' * 400}|{' ' * 400}{w()}"


def _many_brackets(words: Words) -> str:
    w = words.__next__
    return f"{w()} {'[[' * 3000}\n{w()} {'](' * 3000} {w()}"


def _table(words: Words) -> str:
    w = words.__next__
    rows = "\n".join(f"| {w()} | {w()} | {w()} | {w()} |" for _ in range(30))
    return f"| {w()} | {w()} |\n|---|---|\n{rows}\n\n{w()}"


def _surrogates(words: Words) -> str:
    w = words.__next__
    return f"{w()} \ud83d {w()}\udc00{' '}{w()} \ud83d\ude00 {w()} \x00\x0b\u2028 {w()}"


def _signs(words: Words) -> str:
    w = words.__next__
    return f"{w()} {'*' * 2000}{w()}{'_' * 2000} {'`' * 999}\n{w()}\n{'> ' * 300}{w()}\n```\n{w()}"


def _long_list(words: Words) -> str:
    w = words.__next__
    return _filled(lambda line: f"{'  ' * (line % 6)}- {line}) **{w()}** `a` _{w()}_ [{w()}](https://a.example/b)")


def _one_long_word(words: Words) -> str:
    w = words.__next__
    return f"{w()} {'ã' * 9000} {w()}"


def _real_choices(words: Words) -> str:
    w = words.__next__
    return f"{w()}\n[[{w()} sim]]\n[[{w()} não]]\n[[{w()} talvez]]"


BODIES = (
    _lists_in_lists, _choice_that_never_ends, _many_brackets, _table, _surrogates, _signs, _long_list,
    _one_long_word, _real_choices,
)  # fmt: skip
