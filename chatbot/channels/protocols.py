"""What a channel is asked for: by the webhook (``Channel``) and by the sender (``Sender``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from chatbot.errors import Permanent, Transient
from chatbot.messages import Inbound, Limits, Message, Part, Status


class Sender(Protocol):
    """The way out: how a person is reached. Calls raise ``Transient`` and ``Permanent``.

    ``limits`` says how fast it may be used, ``window`` for how many seconds after their
    last message a person can be written to, ``reopening`` what is sent later than that.
    """

    limits: Limits | None
    window: float | None
    reopening: Part | None

    def compose(self, reply: str) -> list[Part]:
        """Return the parts one reply is sent as, always the same for the same reply."""

    def plain(self, reply: str) -> list[Part]:
        """Return the parts of a reply as it was written, with no formatting and no choices.

        A sender falls back to it; it does nothing that could fail.
        """

    def send(self, to: Message, part: Part, *, callback: str) -> str:
        """Send one part in reply to ``to``; return the provider's id.

        ``callback`` comes back in the statuses of it, where the vendor can do that.
        """

    def mark_read(self, to: Message, *, typing: bool) -> None:
        """Mark ``to`` as read and, with ``typing``, show that an answer is being written."""

    def failed(self, status: Status) -> Transient | Permanent:
        """Return what a ``failed`` status stands for, as if the call had failed that way."""


class Channel(Sender, Protocol):
    """One vendor, both ways. ``too_large`` says what makes its webhooks larger than we take, ``""`` for nothing."""

    too_large: str

    def challenge(self, query: Mapping[str, str]) -> str:
        """Return what the vendor wants to read back when it checks our address. Raises ``BadSignature``."""

    def check_head(self, header: Callable[[str], str | None]) -> None:
        """Return when the headers alone do not show that ``verify`` would refuse any body. Raises ``BadSignature``."""

    def verify(self, body: bytes, header: Callable[[str], str | None]) -> None:
        """Return when ``body``, with what ``header(name)`` says, comes from the vendor. Raises ``BadSignature``."""

    def parse(self, body: bytes) -> Inbound:
        """Return every message, status and notice of ``body``, in its order. Raises ``BadPayload``."""

    def download(self, message: Message, *, limit: int) -> bytes:
        """Return the file of a message, of ``limit`` bytes at most. Raises ``Transient``, ``Permanent``."""
