"""Stage 5: replies reach the person in order, each once.

In comes a wake-up that names a user; what to say lies in the user's outbox. One run of a sender
at a time holds the user's claim and empties the outbox turn by turn, so wake-ups may
come late, twice or in any order. A claim is renewed while its run lives, and taken over within seconds
once the run's process is gone. A reply the channel refuses for good goes to the dead
letters and the next one follows; one that only has to wait is due again later. Where
nobody knows whether a part went out (no answer came, the sender died), the provider's
status webhook settles it; only if none comes within ``settle_seconds`` is it sent again.
What a run knows to be sent or refused is written down, also once its claim is lost; after every wait
the claim is asked for again before anything is sent.
A reply that cannot be formatted goes out plainly. No reply is tried for ever: one that breaks
its runs again and again is given up, becomes a dead letter, and the next one follows.
What a channel allows per second and per person is kept before it complains, by a schedule
that all senders share; a person who wrote too long ago gets the template that is set.
"""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from chatbot.channels.protocols import Sender
from chatbot.errors import ChannelDown, Discard, OutcomeUnknown, Permanent, TooFast, Transient, WindowClosed
from chatbot.messages import Callback, Limits, Message, Part, Status, Turn
from chatbot.resilience.retry import in_place
from chatbot.store.keys import DEDUPE_SECONDS
from chatbot.store.outbox import Busy, Claimed, Noted, Rests
from chatbot.store.pacing import LONGEST_REST_SECONDS
from chatbot.store.presence import ALIVE_SECONDS, Runs
from chatbot.store.store import Store

log = structlog.get_logger(__name__)

DOWN_HELP = "nothing can be sent: run `chatbot doctor`, look at token, permissions and payment of this number"
RESTRICTED_HELP = "people block or report this number: look at its quality in the WhatsApp Manager before it is stopped"
#: How long an undeliverable outbox rests before the next attempt.
REST_SECONDS = 60.0
#: Of a longer rest this process remembers nothing: rescue wakes a sender when it is over.
LONGEST_COUNTDOWN_SECONDS = 600.0
#: Whoever finds an outbox claimed comes back once its run may be known to be gone.
LOOK_AGAIN_SECONDS = ALIVE_SECONDS + 1.0
#: This long after it was confirmed, a claim counts as held; a run that waited longer asks again before it sends.
SURE_SECONDS = 1.0
#: An answer to that may come too late itself: it is asked so often.
ASKS = 3
#: From this run of a turn on, earlier ones having broken or never ended, it goes out without formatting …
PLAIN_RUNS = 3
#: … and after so many it is given up: that went out in part and cannot become plain any more, or that is plain.
MOST_RUNS_IN_PART, MOST_RUNS = 3, 4
#: So many runs may break in a way that nobody foresaw.
MOST_BROKEN = 3
#: Redis may be away this long before a part that went out counts as one in doubt.
NOTE_SECONDS = 60.0
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
#: A message is marked as read this soon or never.
MARK_READ_SECONDS = 20.0


class Outbound(Protocol):
    """What the sender itself publishes (``Router``)."""

    def bury(self, message: Message, reason: str) -> None: ...
    def wake_sender(self, user: str, number: int, *, countdown: float) -> None: ...


class _NotOurTurn(TooFast):
    """Our own schedule has no place now; ``retry_after`` says when."""


class _StillInDoubt(OutcomeUnknown):
    """An earlier run may have sent the part: a status may come for ``seconds`` yet."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it may have been sent: a status may come for {seconds:.0f} s yet")
        self.seconds = seconds


class _NotNoted(OutcomeUnknown):
    """What was sent could not be written down."""


class _Lost(Exception):
    """Another run has the claim by now: this one sends nothing more by its own."""


@dataclass(slots=True)
class _Progress:
    """How far a run is with the turn it claimed.

    ``part`` is the next one, ``sent`` the provider's id of the one before. ``in_doubt`` while an earlier
    run may have sent ``part``, ``repeated`` once it was counted that this one does so too. ``sure_at`` is
    when the claim was confirmed last, by this process's clock.
    """

    claimed: Claimed
    part: int
    in_doubt: bool
    sure_at: float
    sent: str = ""
    repeated: bool = False


class Delivery:
    """Empties outboxes through the channels. ``clock`` is this process's own: it measures waits, and is no date."""

    def __init__(
        self,
        store: Store,
        senders: Mapping[str, Sender],
        outbound: Outbound,
        *,
        runs: Runs,
        tries: int,
        settle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._senders = senders
        self._outbound = outbound
        self._runs = runs
        self._tries = tries
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._sleep = sleep

    def deliver(self, user: str) -> int:
        """Deliver everything that waits for ``user``, oldest first; return how many turns.

        Raises ``Transient`` while Redis cannot be used.
        """
        delivered = lost = 0
        with self._runs.run(partial(self._store.renew_delivery, user)) as fence:
            while lost < 2 and (progress := self._begin(user, fence)):
                try:
                    if not self._deliver_turn(progress):
                        break
                    delivered += 1
                except _Lost:
                    # What this run knew is written down. Whoever took over may rest by now: it is asked for once more.
                    log.info("delivery.taken_over", number=progress.claimed.number)
                    lost += 1
        return delivered

    def mark_read(self, message: Message, *, asked_at: float) -> None:
        """Mark ``message`` as read and, while it is being answered, show typing.

        Raises ``Discard`` where it was asked for too long ago (``asked_at``, Redis' time).
        """
        answering, now = self._store.answering(message)
        if now - asked_at > MARK_READ_SECONDS:
            raise Discard("too late to mark as read")
        self._sender(message).mark_read(message, typing=answering)

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
            sent = Callback.parse(status.callback)
            if status.status == "failed":
                self._take_failure(sent, status)
            waiting = self._store.report_part(sent.user, sent.number, sent.part)
        except ValueError:
            log.warning("status.foreign", message_id=status.message_id)
            return None
        return sent.user if waiting else None

    def _take_failure(self, sent: Callback, status: Status) -> None:
        """Act on a part that the provider took and could not deliver after all."""
        turn, told = self._store.turn_numbered(sent.user, sent.number), f"failed:{sent}"
        if turn is None or self._store.was_told(sent.user, told):
            return
        sender = self._sender(turn.message)
        error = sender.failed(status)
        log.error("delivery.failed", number=sent.number, error=str(error))
        self._store.count("reply_failed")
        if isinstance(error, ChannelDown):
            self._stop_number(turn.message, error)
        if isinstance(error, TooFast):
            self._slow_down(turn.message, error)
        if isinstance(error, WindowClosed) and sender.reopening:
            self._reopen(sender, turn.message)
        else:
            self._bury_once(turn.message, str(error))
        self._store.tell_once(sent.user, told, seconds=OLDEST_SECONDS)

    def _reopen(self, sender: Sender, to: Message) -> None:
        """Invite a person to write again, if they were not today. It is tried once, then an operator has to know."""
        for invitation in self._invitation(sender, to):
            try:
                sender.send(to, invitation, callback="")
            except (Transient, Permanent) as err:
                self._bury_once(to, f"too late for it, and not invited to write again: {err}")
            else:
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

    # -- one turn ---------------------------------------------------------------

    def _begin(self, user: str, fence: str) -> _Progress | None:
        """Claim the next turn; ``None`` where there is none, it rests, or another run has it."""
        now = self._clock()
        try:
            claimed = self._claim(user, fence)
        except Rests as err:
            # This wake-up may have been the only one: of those that wait, the sooner took the place of the later.
            if err.seconds <= LONGEST_COUNTDOWN_SECONDS:
                self._outbound.wake_sender(user, 0, countdown=err.seconds)
            return None
        if claimed is None:
            return None
        return _Progress(claimed, claimed.parts, claimed.doubt_since is not None, now)

    def _claim(self, user: str, fence: str) -> Claimed | None:
        try:
            return self._store.claim_delivery(user, fence=fence)
        except Busy as err:
            busy = err
        if self._runs.is_gone(busy.fence):
            try:
                return self._store.claim_delivery(user, fence=fence, gone=busy.fence)
            except Busy as err:
                busy = err  # somebody was faster
        # Its run looks again before it lets go, and sees this turn too. Should it end without a word
        # meanwhile, it is known to be gone by the time that this wake-up comes back.
        log.debug("delivery.busy")
        if busy.look_again:
            self._outbound.wake_sender(user, 0, countdown=LOOK_AGAIN_SECONDS)
        return None

    def _deliver_turn(self, progress: _Progress) -> bool:
        """Deliver one turn; return whether the next one may follow. Raises ``_Lost``."""
        try:
            turn = progress.claimed.turn
            if turn is None:
                log.error("delivery.reply_missing", number=progress.claimed.number)
                return self._settle_done(progress)
            return self._deliver_reply(progress, turn)
        except (Transient, _Lost):
            raise
        except Exception as err:  # noqa: BLE001  # the outermost loop of a reply: the next one is to follow
            return self._broke(progress, err)

    def _deliver_reply(self, progress: _Progress, turn: Turn) -> bool:
        number, to = progress.claimed.number, turn.message
        if _is_hopeless(progress.claimed):
            if self._is_all_sent(progress.claimed, turn):
                return self._settle_done(progress)
            return self._refuse(progress, to, f"given up: {progress.claimed.runs - 1} runs of it never ended")
        try:
            self._send_parts(progress, to, turn.reply)
            log.info("delivery.done", number=number)
            return self._settle_done(progress)
        except OutcomeUnknown as err:
            return self._wait_for_status(progress, err)
        except Transient as err:
            return self._rest(progress, err, self._pause(to, err))
        except Permanent as err:
            return self._refuse(progress, to, str(err))

    def _is_all_sent(self, claimed: Claimed, turn: Turn) -> bool:
        """Return whether nothing of a reply is left: its senders ended beside others, and a status told of its end.

        Asked once only, because formatting may be what ends them.
        """
        if not claimed.parts or claimed.runs != _most_runs(claimed) + 1:
            return False
        sender = self._sender(turn.message)
        return len(sender.plain(turn.reply) if claimed.plain else sender.compose(turn.reply)) <= claimed.parts

    def _wait_for_status(self, progress: _Progress, error: OutcomeUnknown) -> bool:
        """Leave the part in doubt until a status settles it, or its time is up. Raises ``_Lost``."""
        if isinstance(error, _StillInDoubt):
            self._store.settle_doubt(progress.claimed, pause=error.seconds)
            return False
        claimed = progress.claimed
        log.warning("delivery.in_doubt", number=claimed.number, error=str(error))
        kept = self._store.settle_doubt(claimed, pause=self._settle_seconds)
        if isinstance(error, _NotNoted) and progress.sent:  # Redis came back just now
            self._store.report_part(claimed.user, claimed.number, progress.part - 1)
            if kept:
                self._outbound.wake_sender(claimed.user, claimed.number, countdown=0.0)
        if not kept:
            raise _Lost  # or it was written down after all, and only the answers were lost
        return False

    def _rest(self, progress: _Progress, error: Transient, pause: float) -> bool:
        """Leave the turn for later; a part that an earlier run may have sent stays in doubt."""
        claimed, pause = progress.claimed, _bounded(pause)
        log.info("delivery.postponed", number=claimed.number, seconds=round(pause, 3), error=str(error))
        settle = self._store.settle_doubt if progress.in_doubt else self._store.settle_later
        if settle(claimed, pause=pause) and pause <= LONGEST_COUNTDOWN_SECONDS:
            try:
                self._outbound.wake_sender(claimed.user, claimed.number, countdown=pause)
            except Transient as err:
                log.warning("delivery.left_to_rescue", error=str(err))
        return False

    def _refuse(self, progress: _Progress, to: Message, reason: str) -> bool:
        """Make the reply a dead letter and let the next one follow."""
        claimed = progress.claimed
        log.error("delivery.refused", number=claimed.number, error=reason)
        try:
            self._bury_once(to, reason)
        except Transient as err:
            return self._rest(progress, err, REST_SECONDS)
        if not self._noted(partial(self._store.settle_done, claimed)):
            self._noted(partial(self._store.report_refused, claimed.user, claimed.number, progress.part))
            raise _Lost
        return True

    def _broke(self, progress: _Progress, error: Exception) -> bool:
        """Leave for later what broke this run in a way that nobody foresaw, or give it up."""
        claimed = progress.claimed
        # Where it broke, and not what the error says: that may be what a person wrote.
        where, error_class = "".join(traceback.format_tb(error.__traceback__)), type(error).__name__
        log.error("delivery.broke", number=claimed.number, runs=claimed.runs, error=error_class, traceback=where)
        if claimed.runs < MOST_BROKEN:
            self._store.settle_failed(claimed, pause=REST_SECONDS)
            return False
        try:
            turn = claimed.turn
        except ValueError:
            turn = None  # unreadable: nothing is there to be kept
        if turn:
            return self._refuse(progress, turn.message, f"given up: {claimed.runs} runs of it broke ({error_class})")
        return self._settle_done(progress)

    def _settle_done(self, progress: _Progress) -> bool:
        """Write down that the turn is delivered, the part sent last included. Raises ``_Lost``."""
        if not self._noted(partial(self._store.settle_done, progress.claimed, sent=progress.sent)):
            self._report_and_stop(progress)
        return True

    def _report_and_stop(self, progress: _Progress) -> None:
        """Tell whoever has the claim by now of the part this run sent last. Raises ``_Lost``."""
        claimed = progress.claimed
        if progress.sent:
            self._noted(partial(self._store.report_part, claimed.user, claimed.number, progress.part - 1))
        raise _Lost

    def _bury_once(self, to: Message, reason: str) -> None:
        """Keep the message of a reply as a dead letter, unless it is one already."""
        dead = f"undelivered:{to.key}"
        if not self._store.was_told(to.user, dead):
            self._outbound.bury(to, f"reply not delivered: {reason}")
            self._store.tell_once(to.user, dead, seconds=DEDUPE_SECONDS)

    # -- how fast ---------------------------------------------------------------

    def _pause(self, to: Message, error: Transient) -> float:
        """Return for how long a reply is to rest that could not be sent; have the others wait that are concerned."""
        if isinstance(error, TooFast):
            return self._slow_down(to, error)
        if isinstance(error, ChannelDown):
            self._stop_number(to, error)
        return max(error.retry_after or 0.0, REST_SECONDS)

    def _slow_down(self, to: Message, error: TooFast) -> float:
        """Have all senders wait where the channel asked for it; return the seconds to wait here."""
        limits, pause = self._limits(to), _bounded(error.retry_after or REST_SECONDS)
        if limits is None or isinstance(error, _NotOurTurn):
            return pause
        self._store.count("too_fast")
        if error.alert and self._store.alert_once(f"restricted:{_number(to)}", seconds=ALERT_SECONDS):
            log.critical(
                "channel.restricted", channel=to.channel, account=to.account, error=str(error), help=RESTRICTED_HELP
            )
        if not error.whole_number:
            return self._store.hold_pair(to.user, limits, pause=pause)
        self._store.hold_number(_number(to), pause=pause)
        return pause

    def _stop_number(self, to: Message, error: ChannelDown) -> None:
        """Send nothing from that number for a while, and call a person."""
        self._store.hold_number(_number(to), pause=_bounded(max(error.retry_after or 0.0, DOWN_SECONDS)))
        self._store.count("channel_down")
        if self._store.alert_once(f"down:{_number(to)}", seconds=ALERT_SECONDS):
            log.critical("channel.down", channel=to.channel, account=to.account, error=str(error), help=DOWN_HELP)

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

    # -- its parts --------------------------------------------------------------

    def _send_parts(self, progress: _Progress, to: Message, reply: str) -> None:
        """Send what is not sent yet.

        Raises ``_Lost``, ``_StillInDoubt`` where a status may come yet, ``WindowClosed`` where the person
        wrote too long ago and no template invites them.
        """
        sender = self._sender(to)
        self._check_doubt(progress)
        if self._is_window_closed(sender, to, progress.claimed.at):
            self._invite(progress, to, sender, skip=0)
            return
        try:
            self._send_all(progress, to, sender, self._compose(progress, sender, reply))
        except WindowClosed as err:
            log.info("delivery.window_closed", number=progress.claimed.number, error=str(err))
            self._invite(progress, to, sender, skip=progress.part)

    def _invite(self, progress: _Progress, to: Message, sender: Sender, *, skip: int) -> None:
        """Send the template instead of the reply, of which ``skip`` parts are sent. Raises ``WindowClosed``."""
        invitation = self._invitation(sender, to)
        self._send_all(progress, to, sender, [Part("")] * skip + invitation)
        if invitation and progress.sent:
            self._note_invitation(sender, to)

    def _check_doubt(self, progress: _Progress) -> None:
        """Raise ``_StillInDoubt`` while a status of the next part may come."""
        claimed = progress.claimed
        if claimed.doubt_since is not None:
            left = claimed.doubt_since + self._settle_seconds - claimed.at
            if left > 0:
                raise _StillInDoubt(left)

    def _compose(self, progress: _Progress, sender: Sender, reply: str) -> list[Part]:
        """Return the parts of a reply: without formatting where that broke a run or raises, unless a part is sent."""
        claimed = progress.claimed
        if claimed.plain:
            return sender.plain(reply)
        if claimed.parts or claimed.runs < PLAIN_RUNS:
            try:
                return sender.compose(reply)
            except Exception as err:  # a model wrote it: whatever it makes us stumble over is to go out
                if claimed.parts:
                    raise
                log.error("delivery.not_formatted", number=claimed.number, error=type(err).__name__)
        if not self._store.settle_plain(claimed):
            raise _Lost
        self._store.count("sent_plainly")
        return sender.plain(reply)

    def _send_all(self, progress: _Progress, to: Message, sender: Sender, parts: list[Part]) -> None:
        claimed = progress.claimed
        for part in range(progress.part, len(parts)):
            if part > claimed.parts:
                self._next_part(progress, part)
            callback = str(Callback(to.user, claimed.number, part))
            progress.sent = self._send_part(progress, to, partial(sender.send, to, parts[part], callback=callback))
            progress.part = part + 1

    def _next_part(self, progress: _Progress, part: int) -> None:
        """Write down what was sent and that ``part`` is next. Raises ``_Lost``."""
        now = self._clock()
        if not self._noted(partial(self._store.settle_part, progress.claimed, part, sent=progress.sent)):
            self._report_and_stop(progress)
        progress.sure_at, progress.in_doubt, progress.repeated = now, False, False

    def _is_window_closed(self, sender: Sender, to: Message, now: float) -> bool:
        if not sender.window or not sender.window < now - to.sent_at < OLDEST_SECONDS:
            return False
        newest = max(turn.message.sent_at for turn in [*self._store.history(to.user), Turn(0, to, "", 0.0)])
        return now - newest > sender.window

    def _send_part(self, progress: _Progress, to: Message, send: Callable[[], str]) -> str:
        """Send one part; return its id, ``""`` where a status says that an earlier run did. Raises ``_Lost``."""
        tries = itertools.count()

        def attempt() -> str:
            again = next(tries) > 0
            self._await_place(to)
            return send() if self._may_send(progress, again=again) else ""

        return in_place(attempt, tries=self._tries, sleep=self._sleep)

    def _may_send(self, progress: _Progress, *, again: bool) -> bool:
        """Return whether the next part is still to be sent: after a wait, in doubt or once more, that is asked.

        Raises ``_Lost``, ``Transient`` where each answer comes too late to be relied on.
        """
        if not again and not progress.in_doubt and self._is_sure(progress):
            return True
        for _ in range(ASKS):
            now = self._clock()
            answer = self._store.settle_calling(progress.claimed, progress.part)
            if answer == Noted.LOST:
                raise _Lost
            progress.sure_at = now
            if answer != Noted.WRITTEN:
                return False
            self._count_repeat(progress)
            if self._is_sure(progress):
                return True
        raise Transient("whether the claim is still held was answered too late")

    def _is_sure(self, progress: _Progress) -> bool:
        return self._clock() - progress.sure_at <= SURE_SECONDS

    def _count_repeat(self, progress: _Progress) -> None:
        if progress.in_doubt and not progress.repeated:
            log.warning("delivery.sent_again", number=progress.claimed.number)
            self._store.count("unknown_resent")
            progress.repeated = True

    def _noted(self, settle: Callable[[], bool]) -> bool:
        """Have it written down what was sent. Raises ``_NotNoted``: what is not written down is in doubt."""
        try:
            return in_place(settle, seconds=NOTE_SECONDS, sleep=self._sleep)
        except Transient as err:
            raise _NotNoted(f"sent, and not written down: {err}") from err

    def _sender(self, message: Message) -> Sender:
        try:
            return self._senders[message.channel]
        except KeyError:
            raise Permanent(f"no channel {message.channel!r} is configured") from None


def _number(message: Message) -> str:
    return f"{message.channel}:{message.account}"


def _bounded(pause: float) -> float:
    """Return the pause that somebody asked for, between none and the longest."""
    return max(0.0, min(LONGEST_REST_SECONDS, pause))


def _most_runs(claimed: Claimed) -> int:
    """Return how many runs of a reply may never end."""
    return MOST_RUNS_IN_PART if claimed.parts and not claimed.plain else MOST_RUNS


def _is_hopeless(claimed: Claimed) -> bool:
    """Return whether so many runs of it never ended that another one would not either."""
    return claimed.runs > _most_runs(claimed)
