"""Replies that wait, and how far each got.

In comes a wake-up's user, out goes the right to deliver that user's next turn; in comes what
became of its parts. Promises: one run of a sender at a time has a user's outbox, for as long as its claim is
renewed; replies are taken in order; what was being sent when its run ended without a word is in doubt, and
is known to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from chatbot.messages import Turn
from chatbot.store import keys
from chatbot.store.client import Records, reachable
from chatbot.store.presence import CLAIM_SECONDS

#: A reply whose wake-up was lost is looked after this long after its commit.
OVERDUE_SECONDS = 30.0
#: One who finds an outbox claimed is to look again, but not more than one at a time: for so long.
LOOK_SECONDS = 5.0
#: A wake-up for the end of a rest may come this early: hosts' clocks differ.
EARLY_SECONDS = 2.0


class Noted(StrEnum):
    """What writing down how far a delivery is came to."""

    LOST = "lost"  # the claim is another run's by now
    WRITTEN = "written"
    KNOWN = "known"  # a status told already that the part was sent


@dataclass(frozen=True, slots=True)
class Claimed:
    """The right to deliver turn ``number``, of which ``parts`` parts are sent already.

    ``fence`` is the token of the run that has it, ``at`` when it got it (Redis' time). ``stored`` is the turn
    as it is stored, ``None`` when it is no longer. ``doubt_since`` (Unix time) is set when the next part was
    being sent by somebody who never said how it ended. ``runs`` counts those that claimed this turn and
    never settled anything, this one included; ``plain`` is set once it is to go out without formatting.
    """

    user: str
    fence: str
    number: int
    stored: str | None
    parts: int
    doubt_since: float | None
    runs: int = 1
    plain: bool = False
    at: float = 0.0

    @property
    def turn(self) -> Turn | None:
        """The turn, ``None`` when it is no longer stored. Raises ``ValueError`` where it is unreadable."""
        return Turn.from_json(self.stored) if self.stored is not None else None


class Busy(Exception):
    """Another run, ``fence``, is delivering this user's replies and will take this one too.

    It may end without a word: ``look_again`` says that whoever was told so is to come back for it.
    """

    def __init__(self, fence: str, *, look_again: bool) -> None:
        super().__init__("another sender has the claim")
        self.fence = fence
        self.look_again = look_again


class Rests(Exception):
    """What waits for this user is not to be tried for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the outbox rests")
        self.seconds = seconds


class Outbox(Records):
    """The replies of every user that are not delivered yet. Raises ``Transient`` while Redis cannot be used."""

    def claim_delivery(
        self, user: str, *, fence: str, seconds: float = CLAIM_SECONDS, gone: str = ""
    ) -> Claimed | None:
        """Take the user's next undelivered turn for the run ``fence``; ``None`` when all are delivered.

        The claim stands for ``seconds`` unless it is renewed. ``gone`` is a run that is known to be
        gone: what it claimed may be taken at once. Raises ``Busy`` while another run's claim stands, ``Rests``
        while what waits is not to be tried.
        """
        names = [keys.CONVERSATION.of(user), keys.OUTBOX.of(user), keys.DUE.of()]
        answer = self._run("claim_delivery", names, fence, seconds, user, gone, LOOK_SECONDS, EARLY_SECONDS)
        if answer[0] == "busy":
            raise Busy(answer[1], look_again=bool(answer[2]))
        if answer[0] == "rests":
            raise Rests(float(answer[1]))
        if answer[0] == "nothing":
            return None
        _, number, turn, parts, doubt, runs, plain, at = answer
        return Claimed(
            user, fence, number, turn, parts, None if doubt is None else float(doubt), runs, bool(plain), float(at),
        )  # fmt: skip

    def renew_delivery(self, user: str, fence: str) -> bool:
        """Have the claim of that run stand for ``CLAIM_SECONDS`` more; return whether it has it."""
        names = [keys.CONVERSATION.of(user)]
        return bool(self._run("renew", names, "sender", "sender_until", fence, CLAIM_SECONDS))

    def settle_part(self, claimed: Claimed, parts: int, *, sent: str = "") -> bool:
        """Write down that ``parts`` parts of the turn went out and keep the claim.

        ``sent`` is the provider's id of the last one, for whoever quotes it. Returns
        ``False`` if the claim is lost.
        """
        return self._settle(claimed, parts, "part", CLAIM_SECONDS, sent) == Noted.WRITTEN

    def settle_done(self, claimed: Claimed, *, sent: str = "") -> bool:
        """Write down that the whole turn is delivered (or never will be), the last part as ``sent``."""
        return self._settle(claimed, 0, "done", 0.0, sent) == Noted.WRITTEN

    def settle_calling(self, claimed: Claimed, part: int) -> Noted:
        """Write down that ``part``, the next one, is about to be sent (once more or after a wait); keep the claim.

        Returns ``KNOWN`` if a status says meanwhile that the part was sent.
        """
        return self._settle(claimed, part, "again", CLAIM_SECONDS)

    def settle_plain(self, claimed: Claimed) -> bool:
        """Write down that this turn goes out without formatting, whoever goes on with it."""
        return self._settle(claimed, 0, "plain", 0.0) == Noted.WRITTEN

    def settle_later(self, claimed: Claimed, *, pause: float) -> bool:
        """Release the claim of a part that was not sent; it is due again in ``pause`` seconds."""
        return self._settle(claimed, 0, "later", pause) == Noted.WRITTEN

    def settle_doubt(self, claimed: Claimed, *, pause: float) -> bool:
        """Release the claim of a part that may have been sent; due again in ``pause`` seconds."""
        return self._settle(claimed, 0, "doubt", pause) == Noted.WRITTEN

    def settle_failed(self, claimed: Claimed, *, pause: float) -> bool:
        """Release the claim of a run that broke; it counts like one that was never heard of again."""
        return self._settle(claimed, 0, "failed", pause) == Noted.WRITTEN

    def report_part(self, user: str, number: int, part: int) -> bool:
        """Write down that the provider has that part; return whether somebody was waiting to know."""
        return self._report(user, number, part, "sent")

    def report_refused(self, user: str, number: int, part: int) -> bool:
        """Write down that the provider refused that part, and with it the turn; return whether that was news."""
        return self._report(user, number, part, "refused")

    def _report(self, user: str, number: int, part: int, what: str) -> bool:
        names = [keys.CONVERSATION.of(user), keys.OUTBOX.of(user)]
        return bool(self._run("report_part", names, number, part, what))

    def due_outboxes(self, *, before: float, skip: int = 0, most: int = -1) -> list[str]:
        """Return the users whose replies should have gone out before that Unix time: ``most`` behind ``skip``."""
        with reachable():
            return list(self._redis.zrangebyscore(keys.DUE.of(), "-inf", before, skip, most))

    def oldest_overdue(self) -> float:
        """Return for how many seconds the reply that has waited longest is overdue; 0 where none is."""
        with reachable():
            oldest = self._redis.zrange(keys.DUE.of(), 0, 0, withscores=True)
        return max(0.0, self.now() - oldest[0][1]) if oldest else 0.0

    def take_due(self, users: Sequence[str], *, seconds: float) -> list[str]:
        """Take those of ``users`` whose replies are overdue; they are overdue again only in ``seconds``."""
        return list(self._run("take_due", [keys.DUE.of()], seconds, *users)) if users else []

    def _settle(self, claimed: Claimed, part: int, what: str, seconds: float, sent: str = "") -> Noted:
        user = claimed.user
        names = [keys.CONVERSATION.of(user), keys.OUTBOX.of(user), keys.DUE.of(), keys.SENT.of(user, sent)]
        remembered = keys.QUOTED_SECONDS if sent else 0
        return Noted(
            self._run("settle_delivery", names, claimed.fence, claimed.number, part, what, user, seconds, remembered)
        )
