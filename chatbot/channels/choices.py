"""Choices an agent offers: ``[[title]]`` or ``[[title | description]]``, at the end of a reply.

In comes a reply, out go its text and the choices. A person who picks one sends its title.
Choices stand one a line, or several on a line; two or more may also follow the last
sentence. Written as text, so that the history shows the agent what it offered and any
channel can show it in its own way. Every character is looked at a fixed number of times,
whatever a model writes.
"""

from __future__ import annotations

from chatbot.messages import Choice

_BULLETS = frozenset("-*")
#: What may stand between two choices of one line.
_BETWEEN = frozenset(" \t,;/|")


def offered(reply: str) -> tuple[str, tuple[Choice, ...]]:
    """Return the text of ``reply`` and the choices that end it, each once and in their order."""
    lines = reply.rstrip().split("\n")
    found: list[Choice] = []
    while lines:
        text, choices = _split(lines[-1])
        if (text and len(choices) < 2) or not (text or choices or found):
            break
        found += reversed(choices)
        if text:
            lines[-1] = text
            break
        lines.pop()
    return "\n".join(lines).rstrip(), _each_once(found[::-1])


def as_text(text: str, choices: tuple[Choice, ...]) -> str:
    """Return ``text`` with the choices as a numbered list under it."""
    listed = [
        f"{number}. {choice.title}" + (f": {choice.description}" if choice.description else "")
        for number, choice in enumerate(choices, 1)
    ]
    return "\n".join([*filter(None, [text]), *([""] if text and listed else []), *listed])


def _split(line: str) -> tuple[str, list[Choice]]:
    """Return what stands before the choices that end ``line``, and these; a bullet before them is no text."""
    choices: list[Choice] = []
    end = rest = len(line.rstrip())
    while (begin := _opening(line, rest)) >= 0 and (choice := _choice(line[begin + 2 : rest - 2])):
        choices.append(choice)
        end = rest = begin
        while rest and line[rest - 1] in _BETWEEN:
            rest -= 1
    text = line[:end].rstrip()
    return "" if choices and text.lstrip() in _BULLETS else text, choices[::-1]


def _opening(line: str, end: int) -> int:
    """Return where the brackets open that close at ``end``; -1 where none close there."""
    return line.rfind("[[", 0, end - 2) if line.endswith("]]", 0, end) else -1


def _choice(inner: str) -> Choice | None:
    """Return the choice between two pairs of brackets; one without a title is none."""
    title, _, description = (part.strip() for part in inner.partition("|"))
    if not title or "[" in inner or "]" in inner:
        return None
    return Choice(title, description)


def _each_once(choices: list[Choice]) -> tuple[Choice, ...]:
    """Return the choices without those that say nothing new: a title given before adds only a new description."""
    described = {choice.title for choice in choices if choice.description}
    return tuple(dict.fromkeys(choice for choice in choices if choice.description or choice.title not in described))
