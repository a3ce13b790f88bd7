"""``chatbot doctor`` on Redis: is it there, what may it lose, and is there room?

In comes a chatbot, out goes a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from chatbot.errors import ChatbotError, StoreRefused, Transient
from chatbot.ops.finding import Finding
from chatbot.store.client import reachable

if TYPE_CHECKING:
    from chatbot.app import Chatbot

#: From this share on Redis soon refuses to write.
MEMORY_USED = 0.8


def redis(bot: Chatbot) -> Finding:
    if bot.settings.redis_url.startswith("fakeredis:"):
        return Finding("redis", False, "fakeredis:// forgets everything; set CHATBOT_REDIS_URL=redis://…")
    try:
        with reachable():
            info = bot.redis.info()
    except StoreRefused as err:
        return Finding("redis", False, str(err))
    except ChatbotError as err:
        return Finding("redis", False, f"{err}; is Redis running, and is CHATBOT_REDIS_URL right?")
    problems = [*_persistence(bot, info), *_memory(info)]
    if problems:
        return Finding("redis", False, "; ".join(problems))
    return Finding("redis", True, f"Redis {info.get('redis_version')} answers, with an append-only file")


def _persistence(bot: Chatbot, info: dict[str, Any]) -> Iterator[str]:
    """Yield what may be lost, and what to do about it."""
    if info.get("role") == "slave":
        yield "it is a replica, which takes no writes: let CHATBOT_REDIS_URL name the master"
    if not int(info.get("aof_enabled", 0)):
        yield "conversations can be lost in a crash: set `appendonly yes`"
    elif (fsync := _setting(bot, "appendfsync")) not in {"always", ""}:
        lost = "the last second or two" if fsync == "everysec" else "what the system had not written yet"
        yield (
            f"`appendfsync {fsync}`: a power cut loses {lost}: turns that were taken are forgotten, replies that "
            "were sent may be sent again: set `appendfsync always`"
        )
    failed = [what for what in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(what, "ok") != "ok"]
    if failed:
        yield f"it could not write to its disk ({', '.join(failed)}) and may refuse writes: is the disk full?"


def _memory(info: dict[str, Any]) -> Iterator[str]:
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        yield "Redis may drop conversations when full: set `maxmemory-policy noeviction`"
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    most = most or int(info.get("total_system_memory", 0))
    if most and used >= most * MEMORY_USED:
        yield (
            f"{used * 100 // most} % of its memory is used; full, it refuses writes and nobody is answered: give it "
            "more (`maxmemory`), or shorten CHATBOT_RETENTION"
        )


def _setting(bot: Chatbot, name: str) -> str:
    """Return one of Redis' own settings, ``""`` where it does not tell, as hosted ones do not."""
    try:
        with reachable():
            return str(bot.redis.config_get(name).get(name, ""))
    except Transient:
        return ""
