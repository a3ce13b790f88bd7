"""Replies as WhatsApp shows them: its formatting instead of Markdown, in parts it takes.

In comes a reply, out goes text in WhatsApp's signs: ``*bold*``, ``_italic_``,
``~strike~``, backquotes, ``-`` and ``1.`` lists, ``>`` quotes (WhatsApp, "How to format
your messages"). Promise: no word is lost, a link stays whole, and what is already
WhatsApp's stays as it is (a single ``*`` is bold there, so it is left alone).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

#: Longest text body WhatsApp takes (Meta, "Text messages").
LIMIT = 4096
#: Without what people do not mean in a chat: indented code, underlined headings, HTML, entities.
_MARKDOWN = (
    MarkdownIt("commonmark", {"html": False})
    .enable(["strikethrough", "table"])
    .disable(["code", "lheading", "html_block", "html_inline", "reference", "entity", "escape", "autolink"])
)


def to_whatsapp(text: str) -> str:
    """Return ``text`` with its Markdown written in WhatsApp's signs."""
    return _Writer().write(_MARKDOWN.parse(text)).strip()


class _Writer:
    """Writes block tokens as lines; ``prefix`` opens every line of what is nested."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._prefix: list[str] = []
        self._counters: list[tuple[int, str] | None] = []
        self._item = ""
        self._tight = [False]
        self._row: list[str] | None = None

    def write(self, tokens: Sequence[Token]) -> str:
        for token in tokens:
            handle = getattr(self, f"_{token.type}", None)
            if handle:
                handle(token)
        return "\n".join(self._lines)

    # -- blocks -------------------------------------------------------------------

    def _add(self, text: str) -> None:
        for line in text.split("\n"):
            self._lines.append(("".join(self._prefix) + self._item + line).rstrip())
            if self._item:
                self._prefix.append(" " * len(self._item))
                self._item = ""

    def _gap(self) -> None:
        if self._lines and self._lines[-1].strip("> ") and not self._tight[-1] and not self._item:
            self._lines.append("".join(self._prefix).rstrip())

    def _paragraph_open(self, token: Token) -> None:
        if not token.hidden:
            self._gap()

    def _heading_open(self, _: Token) -> None:
        self._gap()
        self._heading = True

    _heading = False

    def _heading_close(self, _: Token) -> None:
        self._heading = False

    def _inline(self, token: Token) -> None:
        text = inline(token.children or [])
        if self._row is not None:
            self._row.append(text)
            return
        if self._heading and "*" not in text:
            text = f"*{text}*"
        self._add(text)

    def _fence(self, token: Token) -> None:
        self._gap()
        self._add(f"```\n{token.content.rstrip()}\n```")

    def _hr(self, _: Token) -> None:
        self._gap()
        self._add("———")

    def _blockquote_open(self, _: Token) -> None:
        self._gap()
        self._prefix.append("> ")

    def _blockquote_close(self, _: Token) -> None:
        self._prefix.pop()

    def _bullet_list_open(self, _: Token) -> None:
        self._list_open(None)

    def _ordered_list_open(self, token: Token) -> None:
        self._list_open((int(token.attrs.get("start", 1)), token.markup))

    def _list_open(self, counter: tuple[int, str] | None) -> None:
        if not self._counters:
            self._gap()
        self._counters.append(counter)
        self._tight.append(True)

    def _bullet_list_close(self, _: Token) -> None:
        self._counters.pop()
        self._tight.pop()

    _ordered_list_close = _bullet_list_close

    def _list_item_open(self, _: Token) -> None:
        counter = self._counters[-1]
        if counter is None:
            self._item = "- "
        else:
            number, sign = counter
            self._item = f"{number}{sign} "
            self._counters[-1] = (number + 1, sign)
        self._depth = len(self._prefix)

    def _list_item_close(self, _: Token) -> None:
        if self._item:  # an empty item
            self._add("")
        self._prefix.pop()

    def _tr_open(self, _: Token) -> None:
        self._row = []

    def _tr_close(self, _: Token) -> None:
        row, self._row = self._row or [], None
        self._add(" | ".join(row))

    def _table_open(self, _: Token) -> None:
        self._gap()


_SIGNS = {"strong_open": "*", "strong_close": "*", "s_open": "~", "s_close": "~"}


def inline(tokens: Sequence[Token]) -> str:
    """Return the running text of a block."""
    written: list[str] = []
    links: list[tuple[int, str]] = []
    tokens = [token for token in tokens if token.content or token.type != "text"]
    for index, token in enumerate(tokens):
        if token.type in ("em_open", "em_close"):
            beside = {other.type for other in tokens[max(0, index - 1) : index + 2]}
            written.append("_" if beside & {"strong_open", "strong_close"} else token.markup)
        elif token.type in _SIGNS:
            written.append(_SIGNS[token.type])
        elif token.type in ("softbreak", "hardbreak"):
            written.append("\n")
        elif token.type == "code_inline":
            written.append(f"{token.markup}{token.content}{token.markup}")
        elif token.type == "link_open":
            links.append((len(written), str(token.attrs.get("href", ""))))
        elif token.type == "link_close":
            start, address = links.pop()
            shown = "".join(written[start:])
            written[start:] = [shown if address in (shown, f"mailto:{shown}") else f"{shown} ({address})"]
        elif token.type == "image":
            address = str(token.attrs.get("src", ""))
            written.append(f"{token.content} ({address})" if token.content else address)
        else:
            written.append(token.content)
    return "".join(written)


#: Where a long text may end, best first: paragraph, line, sentence, word.
_BORDERS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"(?<=[.!?…])\s"), re.compile(r"\s"))


def split(text: str, limit: int = LIMIT) -> list[str]:
    """Return ``text`` in parts of at most ``limit`` characters; only white space is lost.

    A word (and so a link) is cut only where it alone is longer than the limit.
    """
    parts = []
    rest = text.strip()
    while len(rest) > limit:
        end = _border(rest, limit)
        parts.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return [*parts, rest] if rest else parts


def _border(text: str, limit: int) -> int:
    window = text[: limit + 1]
    for border in _BORDERS:
        ends = [match.start() for match in border.finditer(window) if match.start() > 0]
        # A border in the first half would make many small parts: look for the next kind.
        if ends and (ends[-1] > limit // 2 or border is _BORDERS[-1]):
            return ends[-1]
    return limit
