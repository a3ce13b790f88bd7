"""What the processes tell of themselves: ``chatbot doctor`` on all of them, ``chatbot alive`` on one.

In comes a chatbot, out go findings. Workers, senders and beat say every second that they live
(``store/presence.py``), how far their clock is off, and whether their main loop comes round.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from chatbot.ops.finding import Finding, hint

if TYPE_CHECKING:
    from chatbot.app import Chatbot
    from chatbot.store.presence import Process

#: What there has to be, and what is missing where there is none.
KINDS = {
    "worker": "nobody is answered",
    "sender": "no reply goes out",
    "beat": "idle sessions stay open, and what lost its worker or its sender stays so",
}
#: Clocks may differ by so much (seconds): logs of several hosts still read in their order.
SKEW_SECONDS = 1.0
#: A main loop that did not come round for so long hangs.
STUCK_SECONDS = 30.0
#: A reply that has been overdue for this long (seconds) is more than a rest between two tries.
OVERDUE_SECONDS = 120.0


def processes(bot: Chatbot) -> Finding:
    """Find out whether there is one of each kind that lives, and none that hangs."""
    if bot.settings.redis_url.startswith("fakeredis:"):
        return Finding("processes", True, "with an embedded store all of them are one process")
    seen = bot.presence.look()
    if not seen:
        return hint("processes", "none has said within the last hour that it lives: start them (Procfile, `make up`)")
    living = [process for process in seen if process.lives]
    problems = [
        f"no {kind} lives, so {means}: start one (Procfile)"
        for kind, means in KINDS.items()
        if not any(kind in process.kind for process in living)
    ]
    problems += [
        f"the {process.kind} {process.id} hangs: its main loop has not come round for {process.stuck:.0f} s; restart it"
        for process in living
        if process.stuck > STUCK_SECONDS
    ]
    if problems:
        return Finding("processes", False, "; ".join(problems))
    counted = ", ".join(f"{sum(kind in process.kind for process in living)} {kind}" for kind in KINDS)
    return Finding("processes", True, f"{counted}: all of them live")


def clocks(bot: Chatbot) -> Finding:
    """Find out whether the clocks of all processes agree with Redis', which is the one that decides."""
    off = [process for process in bot.presence.look() if process.lives and abs(process.skew) > SKEW_SECONDS]
    if off:
        shown = ", ".join(f"{process.kind} on {process.host} by {process.skew:+.1f} s" for process in off)
        return Finding("clocks", False, f"off: {shown}; switch NTP on there (`timedatectl set-ntp true`)")
    return Finding("clocks", True, "all agree with Redis'")


def oldest_reply(bot: Chatbot) -> Finding:
    """Find out for how long a reply has been waiting beyond its time."""
    waits = bot.store.oldest_overdue()
    if waits > OVERDUE_SECONDS:
        return Finding(
            "replies", False,
            f"one has been overdue for {waits:.0f} s: does a sender live, and do the channels take messages? "
            "Look for `channel.down` and `delivery.postponed` in the senders' logs",
        )  # fmt: skip
    return Finding("replies", True, "none is overdue")


def alive(bot: Chatbot, kind: str) -> Finding:
    """Find out whether a process of this kind on this host lives and does not hang: a health check."""
    host = socket.gethostname()
    here = [process for process in bot.presence.look() if process.host == host and kind in process.kind]
    if not any(process.lives for process in here):
        return Finding(kind, False, f"no {kind} on {host} has said lately that it lives")
    if all(process.stuck > STUCK_SECONDS for process in here if process.lives):
        return Finding(kind, False, f"the main loop of the {kind} on {host} does not come round")
    return Finding(kind, True, _named(here))


def _named(here: list[Process]) -> str:
    return ", ".join(f"{process.id} lives" for process in here if process.lives)
