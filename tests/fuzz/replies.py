"""Replies as a model may write them, from a seeded generator, and what must come of each.

``build(rng)`` makes a ``Reply`` of lists in lists, fences, tables, quotes, headings, links,
choices, emoji, stray signs, lone surrogates and control characters, with words planted in
it. ``check(reply)`` composes it for every channel and as plain text; the words must come
out whole and in order, in parts within what the vendors take.

The limits are written here a second time, from Meta's documentation: a constant of the
package that is wrong must be seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from chatbot.channels.cloud.channel import WhatsApp
from chatbot.channels.evolution.channel import Evolution
from chatbot.channels.formatting import CUT, LONGEST
from chatbot.channels.null import Shell
from chatbot.channels.protocols import Sender
from chatbot.messages import Part

CHANNELS: dict[str, Sender] = {
    "whatsapp": WhatsApp(
        graph_url="http://127.0.0.1:1", phone_number_id="1", access_token="t", app_secret="s", verify_token="v",
        timeout=1,
    ),
    "evolution": Evolution(
        url="http://127.0.0.1:1", api_key="k", instance="loja", webhook_secret="s", jwt_key="", timeout=1
    ),
}  # fmt: skip
SHELL = Shell()
#: More parts than this of one reply are a flood.
MOST_PARTS = 16

_STEMS = ["Pix", "ação", "R$9,90", "x²", "😀", "pão", "日本", "e-mail@x.br", "É", "👩‍💻", "50%", "a", "Ω", "2024", "1"]
_SIGNS = [
    "*", "**", "_", "__", "~~", "`", "``", "```", "#", ">", "-", "+", "|", "[", "]", "(", ")", "![", "](", "[[", "]]",
    "\\", "<", "&amp;", "---", "***", "1.", "2)", "|-|", "\\|", "~~~", "[]()", "[[ ]]", "[ ]", ":", '"', "=", "https://",
    "{", "}", "[[a", "=====", "•", "—", "**\n", "\n\n", "\n", "  \n", "\t", "    ",
]  # fmt: skip
_DEBRIS = [
    "\ud800", "\udfff", "\0", "\x07", "\x1b[0m", "\x0b", "\x85", "\x7f", "\r\n", "\r", "\u2028", "\ud83d\ude00",
    "\ufeff",
]  # fmt: skip


@dataclass
class Reply:
    """What a model wrote, and the words in it that a person must get, in order."""

    text: str
    words: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """What was wrong with what became of a reply."""

    lost: tuple[str, ...]
    broken: tuple[str, ...]


# -- what comes of it -----------------------------------------------------------------


def check(reply: Reply) -> Verdict:
    """Return what went wrong in any channel. Raises whatever composing raises."""
    lost: list[str] = []
    broken: list[str] = []
    for name, channel in CHANNELS.items():
        for way in (channel.compose, channel.plain):
            parts = way(reply.text)
            lost += [f"{name}.{way.__name__}: {word}" for word in _lost(reply, parts, longest=LONGEST)]
            broken += [f"{name}.{way.__name__}: {limit}" for limit in _broken(reply, parts)]
            if way.__name__ == "plain":
                broken += [f"{name}: plain parts offer choices" for part in parts if part.choices]
    lost += [f"shell.plain: {word}" for word in _lost(reply, SHELL.plain(reply.text), longest=len(reply.text))]
    return Verdict(tuple(lost), tuple(broken))


def _lost(reply: Reply, parts: list[Part], *, longest: int) -> Iterator[str]:
    said = "\n".join(_said(parts))
    words = reply.words
    if CUT.strip() in said and len(reply.text) > longest:  # what is beyond may be missing
        words = [word for word in words if reply.text.find(word) < longest // 2]
    at = 0
    for word in words:
        found = said.find(word, at)
        if found < 0:
            yield word
        else:
            at = found + len(word)


def _said(parts: list[Part]) -> Iterator[str]:
    for part in parts:
        yield part.text
        for choice in part.choices:
            yield choice.title
            yield choice.description


def _broken(reply: Reply, parts: list[Part]) -> Iterator[str]:
    if not parts and reply.words:
        yield "no part at all"
    if len(parts) > MOST_PARTS:
        yield f"{len(parts)} parts"
    for part in parts:
        yield from _broken_of(part)


def _broken_of(part: Part) -> Iterator[str]:
    if not part.text.strip():
        yield "an empty text"
    if len(part.text) > (1024 if part.choices else 4096):
        yield f"a text of {len(part.text)} characters"
    try:
        json.dumps(list(_said([part])), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        yield "a text that UTF-8 cannot carry"
    if any(ord(char) < 32 and char not in "\n\t" for text in _said([part]) for char in text):
        yield "a control character"
    if part.choices:
        yield from _broken_choices(part)


def _broken_choices(part: Part) -> Iterator[str]:
    titles = [choice.title for choice in part.choices]
    if len(titles) > 10 or len(set(titles)) < len(titles):
        yield f"{len(titles)} choices, {len(set(titles))} different"
    if not all(0 < len(title.strip()) == len(title) <= 24 for title in titles):
        yield "a title of no or too many characters"
    if not all(len(choice.description) <= 72 for choice in part.choices):
        yield "a description of too many characters"


# -- what is written ------------------------------------------------------------------


def build(rng: Random) -> Reply:
    """Return the next reply of this generator."""
    writer = _Writer(rng)
    blocks = [writer.block(0) for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3)))]
    if rng.random() < 0.02:
        blocks.append(writer.deep())
    if rng.random() < 0.002:
        blocks += [writer.block(0) for _ in range(rng.choice((60, 60, 300)))]
    if rng.random() < 0.0005:
        blocks.append(writer.word() + rng.choice(_SIGNS) * rng.choice((3000, 20_000)) + writer.word())
    text = rng.choice(("\n\n", "\n\n", "\n")).join(blocks)
    if rng.random() < 0.3:
        text += rng.choice(("\n", "\n\n", "\n\n", " ")) + writer.choices()
    return Reply(text, writer.words)


class _Writer:
    """Writes the pieces of one reply and keeps the words planted in it."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.words: list[str] = []

    def word(self) -> str:
        """Return a word that occurs once in the reply."""
        word = f"{self._rng.choice(_STEMS)}w{len(self.words)}z"
        self.words.append(word)
        return word

    def block(self, depth: int) -> str:
        """Return one block, with others in it."""
        return self._rng.choice(_BLOCKS if depth < 4 else _FLAT)(self, depth)

    def running(self) -> str:
        """Return running text in one line or a few."""
        rng = self._rng
        pieces = [rng.choice(_INLINE)(self) for _ in range(rng.choice((1, 1, 2, 3, 5)))]
        return rng.choice((" ", " ", " ", "\n", "")).join(pieces) if rng.random() < 0.9 else " ".join(pieces) + "  "

    # -- blocks ---------------------------------------------------------------------

    def paragraph(self, _: int) -> str:
        return self.running()

    def list(self, depth: int) -> str:
        """Return a list; an item may begin with anything, another list too."""
        rng = self._rng
        marker = rng.choice(("-", "*", "+", "1.", "1)", "7.", "2024.", "0.", ""))
        items = []
        for number in range(rng.choice((1, 2, 2, 3))):
            opening = marker or f"{number + 1}."
            held = self.block(depth + 1) if rng.random() < 0.6 else self.running()
            gap = rng.choice((" ", " ", " ", "   ", "\n" + " " * (len(opening) + 1), "     ", "\t"))
            indent = "\n" + " " * (len(opening) + rng.choice((1, 1, 1, 0, 3)))
            items.append(opening + gap + held.replace("\n", indent))
        return rng.choice(("\n", "\n", "\n\n")).join(items)

    def quote(self, depth: int) -> str:
        opening = self._rng.choice(("> ", ">", "> > "))
        return opening + self.block(depth + 1).replace("\n", "\n" + self._rng.choice((opening, opening, "")))

    def fence(self, _: int) -> str:
        rng = self._rng
        fence = rng.choice(("```", "```", "~~~", "````"))
        info = rng.choice(("", "", "python", " json ", None))
        beside = f" {self.word()} {self.word()}" if info is None else info
        code = "\n".join(self.word() + rng.choice(("", " = 1", "  ", "\n")) for _ in range(rng.randrange(3)))
        return f"{fence}{beside}\n{code}\n{rng.choice((fence, fence, fence, ''))}"

    def table(self, _: int) -> str:
        """Return a table; its rows have as many cells as they like."""
        rng = self._rng
        columns = rng.randrange(1, 4)
        rows = [
            self._row(columns),
            rng.choice(("|", "| ", "")) + rng.choice(("---", ":-:", "-")) + "|---" * (columns - 1) + "|",
        ]
        rows += [self._row(max(1, columns + rng.randrange(-1, 3))) for _ in range(rng.randrange(3))]
        return "\n".join(rows)

    def _row(self, columns: int) -> str:
        cells = [self._rng.choice(_INLINE)(self) for _ in range(columns)]
        return self._rng.choice(("| {} |", "{}", "|{}|", "| {}")).format(" | ".join(cells))

    def heading(self, _: int) -> str:
        return "#" * self._rng.randrange(1, 8) + self._rng.choice((" ", " ", "")) + self._rng.choice(_INLINE)(self)

    def rule(self, _: int) -> str:
        return self._rng.choice(("---", "***", "___", "- - -", "=====", "--", ""))

    def soup(self, _: int) -> str:
        """Return signs and words in any order."""
        rng = self._rng
        return rng.choice(("", " ")).join(
            self.word() if rng.random() < 0.3 else rng.choice(_SIGNS) for _ in range(rng.randrange(1, 12))
        )

    def deep(self) -> str:
        """Return quotes and lists nested as deep as the parser goes, and deeper."""
        rng = self._rng
        opening = rng.choice(("> ", ">", "- ", "1. ", "- > ", "> 1) ")) * rng.randrange(5, 45)
        return opening + "\n".join(self.word() for _ in range(rng.choice((1, 2, 40))))

    # -- running text ---------------------------------------------------------------

    def plain(self) -> str:
        return " ".join(self.word() for _ in range(self._rng.choice((1, 1, 2, 4))))

    def marked(self) -> str:
        sign = self._rng.choice(("*", "**", "***", "_", "__", "~~", "`", "``", "~"))
        return sign + self.plain() + self._rng.choice((sign, sign, sign, ""))

    def link(self) -> str:
        rng = self._rng
        shown = rng.choice((self.plain, self.marked, lambda: ""))()
        address = rng.choice(("https://x.br/", "", "mailto:", "a_b*c*/")) + self.word()
        title = f' "{self.plain()}"' if rng.random() < 0.3 else ""
        return f"{rng.choice(('', '', '!'))}[{shown}]({address}{title})"

    def address(self) -> str:
        address = f"https://x.br/a_b_{self.word()}?q=*1*&r=_2_"
        return self._rng.choice((address, f"<{address}>", f"[{address}]({address})"))

    def debris(self) -> str:
        return " ".join((self.word(), self._rng.choice(_DEBRIS) * self._rng.choice((1, 1, 3)), self.word()))

    def stray(self) -> str:
        return f"{self.word()} {self._rng.choice(_SIGNS)} {self.word()}"

    # -- choices --------------------------------------------------------------------

    def choices(self) -> str:
        """Return choices that end a reply, one a line or several on one."""
        rng = self._rng
        between = rng.choice(("\n", "\n", "\n- ", " ", ", ", "\n\n", " | "))
        return between.join(self._choice() for _ in range(rng.choice((1, 2, 3, 3, 4, 9, 12))))

    def _choice(self) -> str:
        rng = self._rng
        if rng.random() < 0.03:
            return "[[ ]]"
        title = " ".join(self.word() for _ in range(rng.choice((1, 1, 1, 2, 3))))
        described = " | " + " ".join(self.word() for _ in range(rng.choice((1, 4, 9)))) if rng.random() < 0.3 else ""
        return f"[[{title}{described}]]"


_FLAT: list[Callable[[_Writer, int], str]] = [
    _Writer.paragraph, _Writer.fence, _Writer.table, _Writer.heading, _Writer.rule, _Writer.soup,
]  # fmt: skip
_BLOCKS: list[Callable[[_Writer, int], str]] = [*_FLAT, *[_Writer.list] * 6, _Writer.quote, _Writer.quote]
_INLINE: list[Callable[[_Writer], str]] = [
    *[_Writer.plain] * 4, _Writer.marked, _Writer.marked, _Writer.link, _Writer.address, _Writer.debris, _Writer.stray,
]  # fmt: skip
