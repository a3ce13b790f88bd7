"""Stage 5: replies reach the person in order, each once.

In comes a wake-up that names a user; what to say lies in the user's outbox. One sender
at a time holds the user's claim and empties the outbox turn by turn, so wake-ups may
come late, twice or in any order. A reply the channel refuses for good goes to the dead
letters and the next one follows; one that only has to wait is due again later. Where
nobody knows whether a part went out (no answer came, the sender died), the provider's
status webhook settles it; only if none comes within ``settle_seconds`` is it sent again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from chatbot.channels import Sender
from chatbot.errors import OutcomeUnknown, Permanent, Transient
from chatbot.messages import Message, Part, Status
from chatbot.retry import in_place
from chatbot.store import Busy, Claimed, Store

log = structlog.get_logger(__name__)

#: How long an undeliverable outbox rests before the next attempt.
REST_SECONDS = 60.0
#: A sender that stopped without a word loses its claim after this long. Longer than all
#: tries of one part together, pauses included; every part sent renews it.
CLAIM_SECONDS = 900.0
#: Redis may be away this long before a part that went out counts as one in doubt.
NOTE_SECONDS = 20.0
#: What is no reply (there is trouble, there are too many messages) is said this often at most.
TELL_AGAIN_SECONDS = 3600.0


class Delivery:
    """Empties outboxes through the channels."""

    def __init__(
        self,
        store: Store,
        senders: Mapping[str, Sender],
        *,
        bury: Callable[[Message, str], None],
        tries: int,
        settle_seconds: float,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._senders = senders
        self._bury = bury
        self._tries = tries
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._sleep = sleep

    def deliver(self, user: str, *, holder: str) -> int:
        """Deliver everything that waits for ``user``, oldest first; return how many turns.

        ``holder`` names this wake-up: when its own delivery comes back after a crash it
        may take its claim again. Raises ``Transient`` while Redis cannot be used.
        """
        delivered = 0
        try:
            while claimed := self._store.claim_delivery(user, holder=holder, seconds=CLAIM_SECONDS):
                if not self._deliver_turn(claimed):
                    break
                delivered += 1
        except Busy:
            # Its holder looks again before it lets go, and sees this turn too.
            log.debug("delivery.busy")
        return delivered

    def mark_read(self, message: Message) -> None:
        """Mark ``message`` as read and show typing, unless it is answered already."""
        unanswered = self._store.turn_of(message) is None
        self._sender(message).mark_read(message, typing=unanswered)

    def notify(self, message: Message, what: str, text: str) -> bool:
        """Tell the author of ``message`` something that is no reply, at most once an hour.

        Never tried again: late, it would only confuse. Returns whether it was told.
        """
        self._store.count(f"notice_{what}")
        if not self._store.tell_once(message.user, what, seconds=TELL_AGAIN_SECONDS):
            return False
        self._sender(message).send(message, Part(text), callback="")
        return True

    def report(self, status: Status) -> str | None:
        """Take what the provider says became of a part; return the user whose outbox may go on.

        Returns ``None`` when nobody was waiting to know.
        """
        try:
            user, number, part = status.callback.rsplit(":", 2)
            waiting = self._store.report_part(user, int(number), int(part))
        except ValueError:
            log.warning("status.foreign", message_id=status.message_id)
            return None
        return user if waiting else None

    def _deliver_turn(self, claimed: Claimed) -> bool:
        """Deliver one turn; return whether the next one may follow."""
        if claimed.turn is None:
            log.error("delivery.reply_missing", number=claimed.number)
            return self._store.settle_done(claimed)
        to = claimed.turn.message
        try:
            if not self._send_parts(claimed, to, claimed.turn.reply):
                return False
        except OutcomeUnknown as err:
            log.warning("delivery.in_doubt", number=claimed.number, error=str(err))
            self._store.settle_doubt(claimed, pause=self._settle_seconds)
            return False
        except Transient as err:
            log.warning("delivery.postponed", number=claimed.number, error=str(err))
            self._store.settle_later(claimed, pause=max(err.retry_after or 0.0, REST_SECONDS))
            return False
        except Permanent as err:
            log.error("delivery.refused", number=claimed.number, error=str(err))
            self._bury(to, f"reply not delivered: {err}")
        else:
            log.info("delivery.done", number=claimed.number)
        return self._noted(lambda: self._store.settle_done(claimed))

    def _send_parts(self, claimed: Claimed, to: Message, reply: str) -> bool:
        """Send what is not sent yet; return ``False`` where that has to wait or is somebody else's by now."""
        sender = self._sender(to)
        parts = sender.compose(reply)
        for index in range(claimed.parts, len(parts)):
            if index == claimed.parts:
                if self._still_in_doubt(claimed):
                    return False
            elif not self._noted(partial(self._store.settle_part, claimed, index, seconds=CLAIM_SECONDS)):
                return False
            callback = f"{to.user}:{claimed.number}:{index}"
            if not self._send_part(claimed, partial(sender.send, to, parts[index], callback=callback)):
                return False
        return True

    def _send_part(self, claimed: Claimed, send: Callable[[], str]) -> bool:
        """Send one part, its claim renewed before each further try; return ``False`` once the claim is lost."""
        tries = itertools.count()

        def attempt() -> bool:
            if next(tries) and not self._store.settle_calling(claimed, seconds=CLAIM_SECONDS):
                return False
            send()
            return True

        return in_place(attempt, tries=self._tries, sleep=self._sleep)

    def _may_send_again(self, claimed: Claimed, doubt_since: float) -> bool:
        """Return whether a part in doubt was silent for long enough; wait for its status until then."""
        left = doubt_since + self._settle_seconds - self._clock()
        if left > 0:
            self._store.settle_doubt(claimed, pause=left)
            return False
        log.warning("delivery.sent_again", number=claimed.number)
        self._store.count("unknown_resent")
        return self._store.settle_calling(claimed, seconds=CLAIM_SECONDS)

    def _still_in_doubt(self, claimed: Claimed) -> bool:
        """Return whether the next part has to wait for its status. Raises ``OutcomeUnknown`` with Redis away."""
        try:
            return claimed.doubt_since is not None and not self._may_send_again(claimed, claimed.doubt_since)
        except Transient as err:
            raise OutcomeUnknown(f"in doubt before, and still: {err}") from err

    def _noted(self, settle: Callable[[], bool]) -> bool:
        """Have it written down what was sent. Raises ``OutcomeUnknown``: what is not written down is in doubt."""
        try:
            return in_place(settle, seconds=NOTE_SECONDS, sleep=self._sleep)
        except Transient as err:
            raise OutcomeUnknown(f"sent, and not written down: {err}") from err

    def _sender(self, message: Message) -> Sender:
        try:
            return self._senders[message.channel]
        except KeyError:
            raise Permanent(f"no channel {message.channel!r} is configured") from None
