"""Choices an agent offers: ``[[title]]`` or ``[[title | description]]``, one a line, at the end.

In comes a reply, out go its text and the choices. A person who picks one sends its title.
Written as text, so that the history shows the agent what it offered and any channel can
show it in its own way.
"""

from __future__ import annotations

import re

from chatbot.messages import Choice

_CHOICE = re.compile(r"\s*(?:[-*]\s+)?\[\[\s*([^\[\]|]+?)\s*(?:\|\s*([^\[\]]*?)\s*)?\]\]\s*")


def offered(reply: str) -> tuple[str, tuple[Choice, ...]]:
    """Return the text of ``reply`` and the choices that end it, each title once."""
    lines = reply.rstrip().split("\n")
    choices: dict[str, Choice] = {}
    while lines and ((match := _CHOICE.fullmatch(lines[-1])) or (choices and not lines[-1].strip())):
        if match:
            title = match[1]
            choices.pop(title, None)
            choices[title] = Choice(title, match[2] or "")
        lines.pop()
    return "\n".join(lines).rstrip(), tuple(reversed(choices.values()))


def as_text(text: str, choices: tuple[Choice, ...]) -> str:
    """Return ``text`` with the choices as a numbered list under it."""
    listed = [
        f"{number}. {choice.title}" + (f": {choice.description}" if choice.description else "")
        for number, choice in enumerate(choices, 1)
    ]
    return "\n".join([*filter(None, [text]), *([""] if text and listed else []), *listed])
