"""One turn of a suspect in a process of its own: the other end of ``conversation/quarantine.py``.

In come lines of JSON on standard input, the settings first, then one suspect each; out goes a line
for each outcome on standard output. ``python -m chatbot.isolated_turn`` is started by a worker only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
from collections.abc import Iterator
from typing import Any, TextIO

from chatbot import config, errors
from chatbot.app import Chatbot
from chatbot.conversation.quarantine import IDLE_SECONDS
from chatbot.messages import Message, Turn
from chatbot.observability.logging import configure_logging


def main() -> None:
    """Answer suspects from standard input until it ends, or nothing comes for ``IDLE_SECONDS``."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else writes there is no answer
    lines = _lines()
    first = next(lines, None)
    if first is None:
        return
    settings = config.load(**json.loads(first))
    configure_logging(settings)
    bot = Chatbot(settings)
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone, and this process ends with it
        for line in lines:
            _say(answers, _outcome(bot, json.loads(line)))


def _lines() -> Iterator[str]:
    """Yield the lines of standard input; end with it, or when none comes for a while."""
    read = bytearray()
    while True:
        while b"\n" in read:
            line, _, rest = bytes(read).partition(b"\n")
            read = bytearray(rest)
            yield line.decode()
        if not select.select([0], [], [], IDLE_SECONDS)[0]:
            return
        chunk = os.read(0, 65_536)
        if not chunk:
            return
        read += chunk


def _outcome(bot: Any, asked: dict[str, Any]) -> dict[str, Any]:
    message = Message.from_dict(asked["message"])
    history = [Turn.from_dict(turn) for turn in asked["history"]]
    try:
        read, reply = bot.conversation.think(message, history)
    except errors.ChatbotError as err:
        return {"error": type(err).__name__, "says": str(err), "retry_after": getattr(err, "retry_after", None)}
    return {"message": read.to_dict(), "reply": reply}


def _say(answers: TextIO, outcome: dict[str, Any]) -> None:
    answers.write(json.dumps(outcome) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
