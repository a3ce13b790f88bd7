"""Replies as WhatsApp shows them: its formatting instead of Markdown, in parts it takes.

In comes a reply, out goes text in WhatsApp's signs: ``*bold*``, ``_italic_``,
``~strike~``, backquotes, ``-`` and ``1.`` lists, ``>`` quotes (WhatsApp, "How to format
your messages"). Promise: no word is lost, a link stays whole, and what is already
WhatsApp's stays as it is (a single ``*`` is bold there, so it is left alone). A list keeps
the numbers it was written with. Where the parser would lose something (it ignores what is
nested too deep), the text goes out as it was written.

What a model writes is bounded: ``LONGEST`` characters go out, the first ``LONGEST_FORMATTED``
of them formatted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from chatbot.messages import writable

#: Longest text body WhatsApp takes (Meta, "Text messages").
LIMIT = 4096
#: Longest text that is read as Markdown: two messages full. The parser's worst case takes
#: about 0.1 s then; what comes later in so long a reply goes out as it was written.
LONGEST_FORMATTED = 2 * LIMIT
#: Longest reply that goes out, about eight messages; a longer one ends with ``CUT``.
LONGEST = 32_000
CUT = "\n\n[…]"
#: What stands beside a fence's opening and names a language is nothing to read.
_LANGUAGES = frozenset({
    "bash", "c", "console", "cpp", "cs", "csharp", "css", "csv", "diff", "go", "html", "http", "ini", "java",
    "javascript", "js", "json", "jsx", "kotlin", "latex", "log", "markdown", "md", "php", "plain", "plaintext",
    "powershell", "py", "python", "rb", "ruby", "rust", "sh", "shell", "sql", "swift", "text", "toml", "ts", "tsx",
    "txt", "typescript", "xml", "yaml", "yml",
})  # fmt: skip
#: Markdown's signs: they may change or go. Every other character must come out.
_SIGNS = frozenset("*_~`#>-+|[]()!\\\"'<:")


class _Markdown(MarkdownIt):
    """CommonMark without what people do not mean in a chat: indented code, underlined headings, HTML, entities."""

    def __init__(self) -> None:
        super().__init__("commonmark", {"html": False})
        self.enable("strikethrough").disable(
            ["code", "lheading", "html_block", "html_inline", "reference", "entity", "escape", "autolink"]
        )
        self.core.ruler.before("inline", "table_rows", _write_rows)

    def normalizeLink(self, url: str) -> str:  # noqa: N802  # markdown-it's name
        """Return the address as it was written, in one piece."""
        return url.replace(" ", "%20")


def to_whatsapp(text: str) -> str:
    """Return ``text`` with its Markdown written in WhatsApp's signs."""
    text = text.strip()
    end = _border(text, LONGEST_FORMATTED) if len(text) > LONGEST_FORMATTED else len(text)
    return _formatted(text[:end]) + text[end:]


def shortened(text: str) -> str:
    """Return ``text``, or as much of it as goes out and a sign that this is not all."""
    if len(text) <= LONGEST:
        return text
    end = _border(text, LONGEST)
    return text[: end if end > LONGEST // 2 else LONGEST].rstrip() + CUT


def plain(reply: str) -> list[str]:
    """Return the parts of a reply as it was written, with no formatting at all."""
    return split(shortened(writable(reply)))


def _formatted(source: str) -> str:
    writer = _Writer()
    written = writer.write(_MARKDOWN.parse(source)).strip()
    whole = bool(written) and not _loses(source, written + "".join(writer.left_out))
    # Signs that open every line of a deep quote could make many messages of one.
    return written if whole and len(written) <= 2 * len(source) + 200 else source


def _loses(source: str, kept: str) -> bool:
    counts = Counter(kept)
    return any(counts[char] < n for char, n in Counter(source).items() if char not in _SIGNS and not char.isspace())


# -- blocks ---------------------------------------------------------------------------


class _Block:
    """A block that is open: its token, and the lines of what it holds so far."""

    def __init__(self, token: Token | None = None, *, tight: bool = False) -> None:
        self.token = token
        self.tight = tight
        self.lines: list[str] = []

    def take(self, lines: list[str]) -> None:
        """Put ``lines`` under the others; in a list, with no empty line between."""
        if self.lines and lines and not self.tight:
            self.lines.append("")
        self.lines += lines

    def closed(self) -> list[str]:
        """Return the lines with the signs of the block."""
        kind = self.token.type if self.token else ""
        if kind == "heading_open":
            return [f"*{line}*" if line and "*" not in line else line for line in self.lines]
        if kind == "blockquote_open":
            return _opened_by("> ", "> ", self.lines)
        if kind == "list_item_open" and self.token:
            marker = f"{self.token.info}{self.token.markup} " if self.token.info else "- "
            return _opened_by(marker, " " * len(marker), self.lines or [""])
        return self.lines


def _opened_by(first: str, others: str, lines: list[str]) -> list[str]:
    return [((others if index else first) + line).rstrip() for index, line in enumerate(lines)]


class _Writer:
    """Writes tokens as lines, a block inside another; ``left_out`` is what is not said on purpose."""

    def __init__(self) -> None:
        self.left_out: list[str] = []

    def write(self, tokens: Iterable[Token]) -> str:
        """Return the text of a whole document."""
        blocks = [_Block()]
        for token in tokens:
            if token.nesting > 0:
                blocks.append(_Block(token, tight=blocks[-1].tight or token.type.endswith("list_open")))
            elif token.nesting < 0:
                closed = blocks.pop().closed()
                blocks[-1].take(closed)
            else:
                blocks[-1].take(self._leaf(token))
        return "\n".join(blocks[0].lines)

    def _leaf(self, token: Token) -> list[str]:
        if token.type == "fence":
            return self._fence(token)
        if token.type == "hr":
            return ["———"]
        text = self.inline(token.children) if token.children is not None else token.content
        return [line.rstrip() for line in text.split("\n")] if text else []

    def _fence(self, token: Token) -> list[str]:
        """Return the code; what stands beside its opening is kept as its first line, unless it names a language."""
        info = token.info.strip()
        if info.lower() in _LANGUAGES:
            self.left_out.append(info)
            info = ""
        return ["```", *([info] if info else []), *token.content.rstrip().split("\n"), "```"]

    # -- running text -----------------------------------------------------------------

    def inline(self, tokens: Sequence[Token]) -> str:
        """Return the running text of a block."""
        written: list[str] = []
        links: list[tuple[int, Token]] = []
        tokens = [token for token in tokens if token.content or token.type != "text"]
        for index, token in enumerate(tokens):
            if token.type in ("em_open", "em_close"):
                beside = {other.type for other in tokens[max(0, index - 1) : index + 2]}
                written.append("_" if beside & {"strong_open", "strong_close"} else token.markup)
            elif token.type == "code_inline":
                written.append(f"{token.markup}{token.content}{token.markup}")
            elif token.type == "link_open":
                links.append((len(written), token))
            elif token.type == "link_close":
                start, opened = links.pop()
                written[start:] = [self._link("".join(written[start:]), opened, "href")]
            elif token.type == "image":
                written.append(self._link(token.content, token, "src"))
            else:
                written.append(_SAID.get(token.type, token.content))
        return "".join(written)

    def _link(self, shown: str, token: Token, attribute: str) -> str:
        """Return what a link shows and, in brackets, its address and its title."""
        address, title = str(token.attrs.get(attribute, "")), str(token.attrs.get("title", ""))
        if address in (shown, f"mailto:{shown}"):
            self.left_out.append(address)
            address = ""
        behind = " – ".join(filter(None, (address, title)))
        if not shown or not behind:
            return shown or behind
        return f"{shown} ({behind})"


_SAID = {
    "strong_open": "*", "strong_close": "*", "s_open": "~", "s_close": "~", "softbreak": "\n", "hardbreak": "\n",
}  # fmt: skip


# -- tables ---------------------------------------------------------------------------

_CELL_BORDER = re.compile(r"(?<!\\)\|")


def _write_rows(state: StateCore) -> None:
    """Rewrite tables as lines, all cells of a row on one (the parser's own tables drop surplus cells)."""
    for token in state.tokens:
        if token.type == "inline" and "|" in token.content:
            token.content = _rows(token.content)


def _rows(text: str) -> str:
    lines: list[str] = []
    in_table = False
    for line in text.split("\n"):
        if not in_table and lines and "|" in lines[-1] and _is_ruler(line):
            in_table = True
            lines[-1] = _row(lines[-1])
        else:
            lines.append(_row(line) if in_table else line)
    return "\n".join(lines)


def _is_ruler(line: str) -> bool:
    """Whether ``line`` is the one between a table's head and its rows."""
    return "-" in line and "|" in line and not line.strip("|-: \t")


def _row(line: str) -> str:
    cells = [cell.strip().replace("\\|", "|") for cell in _CELL_BORDER.split(line)]
    if not cells[0]:
        cells = cells[1:]
    if cells and not cells[-1]:
        cells = cells[:-1]
    return " | ".join(cells)


_MARKDOWN = _Markdown()


# -- parts ----------------------------------------------------------------------------

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
