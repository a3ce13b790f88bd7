"""Stage 5: replies reach the person in order, each once.

In comes a wake-up that names a user; what to say lies in the user's outbox. One sender
at a time holds the user's claim and empties the outbox turn by turn, so wake-ups may
come late, twice or in any order. A reply the channel refuses for good goes to the dead
letters and the next one follows; one that only has to wait is due again later. Where
nobody knows whether a part went out (no answer came, the sender died), the provider's
status webhook settles it; only if none comes within ``settle_seconds`` is it sent again.
What a channel allows per second and per person is kept before it complains, by a schedule
that all senders share; a person who wrote too long ago gets the template that is set.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import structlog

from chatbot.channels import Sender
from chatbot.errors import ChannelDown, OutcomeUnknown, Permanent, TooFast, Transient, WindowClosed
from chatbot.messages import Limits, Message, Part, Status, Turn
from chatbot.retry import in_place
from chatbot.store import Busy, Claimed, Store

log = structlog.get_logger(__name__)

DOWN_HELP = "nothing can be sent: run `chatbot doctor`, look at token, permissions and payment of this number"
#: How long an undeliverable outbox rests before the next attempt.
REST_SECONDS = 60.0
#: A sender that stopped without a word loses its claim after this long. Longer than all
#: tries of one part together, pauses included; every part sent renews it.
CLAIM_SECONDS = 900.0
#: Redis may be away this long before a part that went out counts as one in doubt.
NOTE_SECONDS = 20.0
#: A sender sleeps this long at most for its number's next free place; for more, it comes back.
LONGEST_SLEEP = 2.0
#: Whoever comes so late to its place would crowd those behind: it asks for another, a few times.
LATE_SECONDS = 0.05
PLACES = 5
#: Below what the channel allows, for a pair and for a number: what is sent on time arrives a
#: little early or late, and for a number by many senders.
HEADROOM, NUMBER_HEADROOM = 0.95, 0.93
#: A channel that refuses us altogether is asked again this often; its people are called this often.
DOWN_SECONDS = 60.0
ALERT_SECONDS = 3600.0
#: WhatsApp delivers a webhook again for 7 days. A message that says it is older has a wrong clock.
OLDEST_SECONDS = 8 * 86_400.0
#: What is no reply (there is trouble, there are too many messages) is said this often at most.
TELL_AGAIN_SECONDS = 3600.0


class Outbound(Protocol):
    """What the sender itself publishes (``Router``)."""

    def bury(self, message: Message, reason: str) -> None: ...
    def wake_sender(self, user: str, number: int, *, countdown: float) -> None: ...


class _NotOurTurn(TooFast):
    """Our own schedule has no place now; ``retry_after`` says when."""


class Delivery:
    """Empties outboxes through the channels."""

    def __init__(
        self,
        store: Store,
        senders: Mapping[str, Sender],
        outbound: Outbound,
        *,
        tries: int,
        settle_seconds: float,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._senders = senders
        self._outbound = outbound
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
        """Mark ``message`` as read and, while it is being answered, show typing."""
        self._sender(message).mark_read(message, typing=self._store.is_being_answered(message))

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
            if status.status == "failed":
                self._take_failure(user, int(number), status)
            waiting = self._store.report_part(user, int(number), int(part))
        except ValueError:
            log.warning("status.foreign", message_id=status.message_id)
            return None
        return user if waiting else None

    def _take_failure(self, user: str, number: int, status: Status) -> None:
        """Act on a part that the provider took and could not deliver after all."""
        turn = self._store.turn_numbered(user, number)
        if turn is None or self._store.was_told(user, f"failed:{status.callback}"):
            return
        sender = self._sender(turn.message)
        error = sender.failed(status)
        log.error("delivery.failed", number=number, error=str(error))
        self._store.count("reply_failed")
        if isinstance(error, ChannelDown):
            self._stop_number(turn.message, error)
        if isinstance(error, WindowClosed) and sender.reopening:
            self._reopen(sender, turn.message)
        else:
            self._outbound.bury(turn.message, f"reply not delivered: {error}")
        self._store.tell_once(user, f"failed:{status.callback}", seconds=OLDEST_SECONDS)

    def _reopen(self, sender: Sender, to: Message) -> None:
        """Invite a person to write again, if they were not today."""
        for invitation in self._invitation(sender, to):
            sender.send(to, invitation, callback="")
            self._note_invitation(sender, to)

    def _invitation(self, sender: Sender, to: Message) -> list[Part]:
        """Return what is sent instead of a reply that comes too late: the template, once a day.

        Raises ``WindowClosed`` where none is set.
        """
        if sender.reopening is None:
            raise WindowClosed("more than 24 h since the person's last message, and no template is set")
        return [] if self._store.was_told(to.user, "reopening") else [sender.reopening]

    def _note_invitation(self, sender: Sender, to: Message) -> None:
        if self._store.tell_once(to.user, "reopening", seconds=sender.window or 0):
            self._store.count("reopened")

    def _deliver_turn(self, claimed: Claimed) -> bool:
        """Deliver one turn; return whether the next one may follow."""
        if claimed.turn is None:
            log.error("delivery.reply_missing", number=claimed.number)
            return self._store.settle_done(claimed)
        to, sent = claimed.turn.message, ""
        try:
            last = self._send_parts(claimed, to, claimed.turn.reply)
            if last is None:
                return False
            sent = last
        except OutcomeUnknown as err:
            log.warning("delivery.in_doubt", number=claimed.number, error=str(err))
            self._store.settle_doubt(claimed, pause=self._settle_seconds)
            return False
        except TooFast as err:
            self._come_back(claimed, err, self._slow_down(to, err))
            return False
        except Transient as err:
            if isinstance(err, ChannelDown):
                self._stop_number(to, err)
            self._come_back(claimed, err, max(err.retry_after or 0.0, REST_SECONDS))
            return False
        except Permanent as err:
            log.error("delivery.refused", number=claimed.number, error=str(err))
            self._outbound.bury(to, f"reply not delivered: {err}")
        else:
            log.info("delivery.done", number=claimed.number)
        return self._noted(lambda: self._store.settle_done(claimed, sent=sent))

    def _come_back(self, claimed: Claimed, error: Transient, pause: float) -> None:
        log.info("delivery.postponed", number=claimed.number, seconds=round(pause, 3), error=str(error))
        if self._store.settle_later(claimed, pause=pause):
            try:
                self._outbound.wake_sender(claimed.user, claimed.number, countdown=pause)
            except Transient as err:
                log.warning("delivery.left_to_rescue", error=str(err))

    def _slow_down(self, to: Message, error: TooFast) -> float:
        """Have all senders wait where the channel asked for it; return the seconds to wait here."""
        limits, pause = self._limits(to), error.retry_after or REST_SECONDS
        if limits is None or isinstance(error, _NotOurTurn):
            return pause
        self._store.count("too_fast")
        if not error.whole_number:
            return self._store.hold_pair(to.user, limits, pause=pause)
        self._store.hold_number(_number(to), pause=pause)
        return pause

    def _stop_number(self, to: Message, error: ChannelDown) -> None:
        """Send nothing from that number for a while, and call a person."""
        self._store.hold_number(_number(to), pause=max(error.retry_after or 0.0, DOWN_SECONDS))
        self._store.count("channel_down")
        if self._store.alert_once(f"down:{_number(to)}", seconds=ALERT_SECONDS):
            log.critical("channel.down", channel=to.channel, account=to.account, error=str(error), help=DOWN_HELP)

    def _send_parts(self, claimed: Claimed, to: Message, reply: str) -> str | None:
        """Send what is not sent yet; return the provider's id of the last part.

        Returns ``None`` where that has to wait or is somebody else's by now. Raises
        ``WindowClosed`` where the person wrote too long ago and no template invites them.
        """
        sender = self._sender(to)
        if not self._is_window_closed(sender, to):
            try:
                return self._send_all(claimed, to, sender, sender.compose(reply))
            except WindowClosed as err:
                log.info("delivery.window_closed", number=claimed.number, error=str(err))
        invitation = self._invitation(sender, to)
        sent = self._send_all(claimed, to, sender, invitation)
        if sent:
            self._note_invitation(sender, to)
        return sent

    def _send_all(self, claimed: Claimed, to: Message, sender: Sender, parts: list[Part]) -> str | None:
        sent = ""
        for index in range(claimed.parts, len(parts)):
            if index == claimed.parts:
                if self._still_in_doubt(claimed):
                    return None
            elif not self._noted(partial(self._store.settle_part, claimed, index, seconds=CLAIM_SECONDS, sent=sent)):
                return None
            callback = f"{to.user}:{claimed.number}:{index}"
            went = self._send_part(claimed, to, partial(sender.send, to, parts[index], callback=callback))
            if went is None:
                return None
            sent = went
        return sent

    def _is_window_closed(self, sender: Sender, to: Message) -> bool:
        now = self._clock()
        if not sender.window or not sender.window < now - to.sent_at < OLDEST_SECONDS:
            return False
        newest = max(turn.message.sent_at for turn in [*self._store.history(to.user), Turn(0, to, "", 0.0)])
        return now - newest > sender.window

    def _send_part(self, claimed: Claimed, to: Message, send: Callable[[], str]) -> str | None:
        """Send one part, its claim renewed before each further try; return its id, ``None`` once the claim is lost."""
        tries = itertools.count()

        def attempt() -> str | None:
            if next(tries) and not self._store.settle_calling(claimed, seconds=CLAIM_SECONDS):
                return None
            self._await_place(to)
            return send()

        return in_place(attempt, tries=self._tries, sleep=self._sleep)

    def _await_place(self, to: Message) -> None:
        """Return when the channel takes one more message to that person. Raises ``TooFast`` where that is not soon."""
        limits = self._limits(to)
        if limits is None:
            return
        for tried in range(PLACES):
            asked_at = self._clock()
            taken, wait = self._store.pace(to.user, _number(to), limits, longest=LONGEST_SLEEP, missed=tried > 0)
            if not taken:
                raise _NotOurTurn(f"no place in the schedule for {wait:.3f} s", retry_after=wait)
            if wait > 0:
                self._sleep(wait)
            if self._clock() - asked_at - wait <= LATE_SECONDS:
                return

    def _limits(self, to: Message) -> Limits | None:
        limits = self._sender(to).limits
        return limits and Limits(limits.per_second * NUMBER_HEADROOM, limits.pair_seconds / HEADROOM, limits.pair_burst)

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


def _number(message: Message) -> str:
    return f"{message.channel}:{message.account}"
