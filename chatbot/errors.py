"""How a failure wants to be treated.

The place that raises knows best, so it chooses the class; nobody downstream
parses messages. ``Transient`` is tried again in place, ``Permanent`` goes to the
dead-letter queue, ``Discard`` is acknowledged and counted.
"""

from __future__ import annotations


class ChatbotError(Exception):
    """Anything this package raises on purpose."""


class MissingExtra(ChatbotError):
    """A package that this process needs is not installed."""


class Transient(ChatbotError):
    """Trying again later can help.

    ``retry_after`` is the pause in seconds the other side asked for, if it did.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Permanent(ChatbotError):
    """Trying again cannot help: keep the message aside, with this reason."""


class EndsItsProcess(Permanent):
    """Whatever answers this message ends, or never does: no model is shown it again."""


class Discard(ChatbotError):
    """There is nothing to do and nothing to keep."""


class BrokerUnavailable(Transient):
    """The broker did not confirm in time, so the message was not taken."""


class BrokerRefused(BrokerUnavailable):
    """The broker, or we ourselves, refuse the connection (password, virtual host, certificate): a person must act."""


class SendQueueFull(BrokerUnavailable):
    """The queue of the senders takes no more: what is asked of them was not taken."""


class StoreRefused(Transient):
    """What Redis holds was written in a form that this release does not know: a person must act."""


class TooFast(Transient):
    """The channel takes no more for now from us to this person, or from ``whole_number``.

    With ``alert`` a person has to look at the number.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, whole_number: bool = False, alert: bool = False
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.whole_number = whole_number
        self.alert = alert


class WindowClosed(Permanent):
    """The person wrote too long ago: the channel takes no free text to them."""


class QueueFull(Permanent):
    """The user's bounded queue refused the message."""


class StaleTurn(Transient):
    """A newer run took over; this one may write nothing.

    Its message goes back to the queue: where it was answered meanwhile, that is found out.
    """


class TurnUnderWay(Transient):
    """A message of the same user is being answered, by the run ``fence`` where that is known: this one waits."""

    def __init__(self, message: str, *, fence: str = "") -> None:
        super().__init__(message)
        self.fence = fence


class NoRoom(Transient):
    """Every place where this could be done is taken: it is asked for again, as often as it takes."""


class BadSignature(ChatbotError):
    """The webhook body was not signed with our app secret."""


class BadPayload(ChatbotError):
    """The webhook body is not what the channel documents."""


class ChannelDown(Transient):
    """The channel refuses us altogether (token, permission, billing): a person must act."""


class CircuitOpen(Transient):
    """The service failed so often that it is spared for a while: nothing was asked."""


class OutcomeUnknown(Transient):
    """The request went out and no answer came back: it may have been carried out."""


class ServiceDown(Transient):
    """The model's server fails whoever asks: unreachable, loading, refusing our key, or answering with no answer."""


class ModelTimeout(Transient):
    """The model took too long. To ask again at once would have it do the same work twice."""
