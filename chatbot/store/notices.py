"""What a provider told beside messages: kept for an operator, and for what acts on it later.

In comes a ``Notice`` (a restricted account, what staff wrote in the phone's app, who wants
no marketing); out go one log line, a count and the list. Promises: a notice that comes
again is the same notice (WhatsApp delivers for up to 7 days), and many of one kind push
out none of another: each kind keeps its newest ``MOST``, none longer than ``keys.NOTICES_SECONDS``.

Kinds are the provider's names that a channel reads, so there are only so many keys. A line
of the log holds the kind, the account's id and fixed words; never a text, phone or BSUID.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import structlog

from chatbot.messages import Notice
from chatbot.store import keys
from chatbot.store.client import reachable, redis_time

log = structlog.get_logger(__name__)

#: Notices of one kind that are kept.
MOST = 1000


class Notices:
    """The notices in Redis. Raises ``Transient`` while it cannot be used."""

    def __init__(self, client: Any) -> None:
        self._redis = client  # Any: redis-py types every reply as "maybe awaitable"

    def keep(self, notice: Notice) -> bool:
        """Keep ``notice``, log and count it; return whether it is new."""
        key = keys.NOTICES.of(notice.kind)
        with reachable():
            now = redis_time(self._redis)
            pipe = self._redis.pipeline(transaction=True)
            pipe.zadd(key, {notice.to_json(): now}, nx=True)
            pipe.zremrangebyscore(key, "-inf", now - keys.NOTICES_SECONDS)
            pipe.zremrangebyrank(key, 0, -MOST - 1)
            pipe.expire(key, keys.NOTICES_SECONDS)
            pipe.sadd(keys.NOTICE_KINDS.of(), notice.kind)
            new = bool(pipe.execute()[0])
            if new:
                self._redis.hincrby(keys.COUNTS.of(), f"notice.{notice.severity}", 1)
        if new:
            _log(notice)
        return new

    def kept(self) -> list[Notice]:
        """Return the notices of every kind by the time they speak of, else that they came; the newest last."""
        with reachable():
            kinds = sorted(self._redis.smembers(keys.NOTICE_KINDS.of()))
            found = [
                pair for kind in kinds for pair in self._redis.zrange(keys.NOTICES.of(kind), 0, -1, withscores=True)
            ]
        dated = [(notice.at or came, notice) for notice, came in ((Notice.from_json(n), came) for n, came in found)]
        return [notice for _, notice in sorted(dated, key=lambda pair: pair[0])]


def line(notice: Notice) -> str:
    """Return one line on a notice for a terminal, without what anybody wrote."""
    at = datetime.fromtimestamp(notice.at, UTC).strftime("%Y-%m-%d %H:%M:%S") if notice.at else "-" * 19
    details = ", ".join(f"{name}={value}" for name, value in notice.details.items())
    return "  ".join(filter(None, (at, f"{notice.severity:<8}", notice.account, notice.user, notice.summary, details)))


def _log(notice: Notice) -> None:
    say = {"critical": log.critical, "warning": log.warning}.get(notice.severity, log.info)
    say("notice.received", kind=notice.kind, account=notice.account, severity=notice.severity, says=notice.summary)
