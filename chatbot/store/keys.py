"""The keys in Redis: what there is, of which type, for how long, and whose it is.

Every key's name is made here, by a row of the table (``CONVERSATION.of(user)``), and nowhere else;
scripts are given names. A name in ``<>`` in a pattern is a placeholder. ``<user>`` is percent-encoded
as in the names of queues and stands in braces, so that all keys of one user are in one slot of a Redis Cluster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from chatbot.identity import key_of

#: WhatsApp delivers a webhook again for up to 7 days (Meta, "Webhooks", retries).
DEDUPE_SECONDS = 9 * 86_400
#: People quote what we wrote as long as this later.
QUOTED_SECONDS = 30 * 86_400
#: How far rescue came is remembered this long.
RESCUED_SECONDS = 86_400
#: A task that was delivered again is remembered this long.
REDELIVERED_SECONDS = 86_400
#: Notices of one kind are kept this long after the newest.
NOTICES_SECONDS = 30 * 86_400
#: The places of a model, and the line for them, are kept this long after their last use.
SLOTS_SECONDS = 3600

_PLACEHOLDER = re.compile(r"<[a-z]+>")


class Ttl(Enum):
    """How long a key lives where that is no fixed number of seconds."""

    FOREVER = "it stays"
    RETENTION = "CHATBOT_RETENTION after its last use"
    GIVEN = "as long as whoever writes it says"


class Owner(Enum):
    """Whose a key is: what has to be looked at to erase or to export what is known of somebody."""

    USER = "one user's: its name begins with whose"
    SHARED = "shared: it has entries of users"
    PROCESS = "of processes, or of what they do"
    NOBODY = "nobody's: nothing in it is about a user"


@dataclass(frozen=True, slots=True)
class Key:
    """A row: the keys of one ``pattern``. ``ttl`` is in seconds, the most that a key of it has left."""

    pattern: str
    type: str
    ttl: int | Ttl
    owner: Owner
    holds: str

    _form: str = field(init=False, repr=False, compare=False)
    _places: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare what each message asks for about twenty times."""
        braced = self.pattern.replace("{", "{{").replace("}", "}}")
        form, places = _PLACEHOLDER.subn("{}", braced)
        object.__setattr__(self, "_form", form)
        object.__setattr__(self, "_places", places)

    def of(self, *names: str) -> str:
        """Return the key that has ``names`` for the placeholders, in their order. Raises ``ValueError``."""
        if len(names) != self._places:
            raise ValueError(f"{self.pattern} has {self._places} places, not {len(names)}")
        if self.owner is Owner.USER:
            names = (key_of(names[0]), *names[1:])
        return self._form.format(*names)

    def matches(self, key: str) -> bool:
        """Return whether ``key`` is of this row."""
        first, *others = _PLACEHOLDER.split(self.pattern)
        if not others:
            return key == first
        *middles, last = others
        if not (key.startswith(first) and key.endswith(last) and len(key) >= len(first) + len(last)):
            return False
        rest = key[len(first) : len(key) - len(last)]
        for middle, name in zip(middles, _PLACEHOLDER.findall(self.pattern), strict=False):
            found, there, rest = rest.partition(middle)
            if not there or (name == "<user>" and not _is_user(found)):
                return False
        return _PLACEHOLDER.findall(self.pattern)[-1] != "<user>" or _is_user(rest)


def _is_user(name: str) -> bool:
    return bool(name) and not set(name) & set("{}:")


CONVERSATION = Key(
    "chatbot:{<user>}:conversation", "hash", Ttl.RETENTION, Owner.USER,
    "``turns`` committed; ``run``/``claim_until``: the fencing token and the end of the claim of the turn under "
    "way; ``message``/``attempts``/``waits`` of the message it answers; ``delivered`` turns; ``parts`` of the "
    "next one sent; ``sender``/``sender_until``: fencing token and end of the claim of its delivery; "
    "``sender_runs`` that claimed turn ``sender_turn``; ``plain``: the turn that goes out without formatting; "
    "``rests_until``: nothing is tried before; ``looked_at``: until then, one who found it claimed looks again; "
    "``calling``/``calling_at``: the part being sent; ``moved`` to that user (``moved_phone``/``moved_bsuid`` "
    "reach them): all, or what was written until ``moved_at``, which stays when the user is one again",
)  # fmt: skip
HISTORY = Key(
    "chatbot:{<user>}:history", "list", Ttl.RETENTION, Owner.USER,
    "turns as JSON, oldest first, the last few",
)  # fmt: skip
OUTBOX = Key(
    "chatbot:{<user>}:outbox", "hash", Ttl.RETENTION, Owner.USER,
    "turn number → turn as JSON, until delivered",
)  # fmt: skip
NAMES = Key(
    "chatbot:{<user>}:names", "set", Ttl.RETENTION, Owner.USER,
    "users (by BSUID) who lead here for good",
)  # fmt: skip
TURN = Key(
    "chatbot:{<user>}:turn:<message>", "string", DEDUPE_SECONDS, Owner.USER,
    "turn as JSON: one message, one turn; under the user it came in as (``Message.origin``), so that it never moves",
)  # fmt: skip
SENT = Key(
    "chatbot:{<user>}:sent:<id>", "string", QUOTED_SECONDS, Owner.USER,
    "number of the turn that a message of ours belongs to, by the provider's id of it",
)  # fmt: skip
TOLD = Key(
    "chatbot:{<user>}:told:<what>", "string", Ttl.GIVEN, Owner.USER,
    "present while the user need not be told again",
)  # fmt: skip
PAIR = Key(
    "chatbot:{<user>}:pace", "string", Ttl.GIVEN, Owner.USER,
    "Unix time from which the user's burst is whole again",
)  # fmt: skip
REFUSED = Key(
    "chatbot:{<user>}:refused", "string", Ttl.GIVEN, Owner.USER,
    'how often in a row the channel said "too fast" to the pair',
)  # fmt: skip
NUMBER = Key(
    "chatbot:pace:<account>", "string", Ttl.GIVEN, Owner.NOBODY,
    "Unix time from which the number may send again, and since when it is in use without a rest",
)  # fmt: skip
ALERTED = Key(
    "chatbot:alerted:<what>", "string", Ttl.GIVEN, Owner.NOBODY,
    "present while nobody need be called again",
)  # fmt: skip
LOCK = Key(
    "chatbot:lock:<what>", "string", Ttl.GIVEN, Owner.PROCESS,
    "token of the process that does ``what``, alone, for some seconds",
)  # fmt: skip
RESCUED = Key(
    "chatbot:rescued:<broker>", "string", RESCUED_SECONDS, Owner.PROCESS,
    "activity of the last session that rescue looked at",
)  # fmt: skip
VERSION = Key("chatbot:version", "string", Ttl.FOREVER, Owner.NOBODY, "version of the form of all that is stored")
SESSIONS = Key("chatbot:sessions", "zset", Ttl.FOREVER, Owner.SHARED, "user → Unix time of the last activity")
DUE = Key("chatbot:due", "zset", Ttl.FOREVER, Owner.SHARED, "user → Unix time from which the outbox is overdue")
COUNTS = Key("chatbot:counts", "hash", Ttl.FOREVER, Owner.NOBODY, "event → how often it happened")
NOTICE_KINDS = Key("chatbot:notices", "set", Ttl.FOREVER, Owner.NOBODY, "the kinds of notices there are")
NOTICES = Key(
    "chatbot:notices:<kind>", "zset", NOTICES_SECONDS, Owner.SHARED,
    "notice as JSON (it may name a user, and hold what was written to them) → Unix time it came first",
)  # fmt: skip
PROCESSES = Key(
    "chatbot:processes", "hash", Ttl.FOREVER, Owner.PROCESS,
    "process → when it last said that it lives, and what it says of itself; ``:last`` of all, ``:quiet_until``",
)  # fmt: skip
REDELIVERED = Key(
    "chatbot:redelivered:<task>", "set", REDELIVERED_SECONDS, Owner.PROCESS,
    "processes that run a task which was delivered again, or ended under it",
)  # fmt: skip
HOLDERS = Key("{slots:<name>}:holders", "zset", SLOTS_SECONDS, Owner.PROCESS, "holder → when the lease ends")
LINE = Key("{slots:<name>}:line", "zset", SLOTS_SECONDS, Owner.PROCESS, "who waits → their number")
SEEN = Key(
    "{slots:<name>}:seen", "zset", SLOTS_SECONDS, Owner.PROCESS,
    "who waits → until when they do without another word",
)  # fmt: skip
LAST_NUMBER = Key("{slots:<name>}:number", "string", SLOTS_SECONDS, Owner.PROCESS, "the last number given")

TABLE = tuple(row for row in vars().values() if isinstance(row, Key))


def row_of(key: str) -> Key:
    """Return the row of a key that stands in Redis. Raises ``LookupError`` where it has none, or several."""
    rows = [row for row in TABLE if row.matches(key)]
    if len(rows) != 1:
        raise LookupError(f"{key} is of {len(rows)} rows of the table of keys")
    return rows[0]
