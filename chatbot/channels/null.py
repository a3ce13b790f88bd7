"""The channel of a developer's shell: the caller reads the reply from the store."""

from __future__ import annotations

from chatbot.errors import Permanent
from chatbot.messages import Limits, Message, Part, Status, writable


class Shell:
    """Delivers nothing to nobody; ``chat()`` finds the committed turn by itself."""

    limits: Limits | None = None
    window: float | None = None
    reopening: Part | None = None

    def compose(self, reply: str) -> list[Part]:
        """Return the reply as one part."""
        return [Part(reply)]

    def plain(self, reply: str) -> list[Part]:
        """Return the reply as one part."""
        return [Part(writable(reply))]

    def send(self, to: Message, part: Part, *, callback: str) -> str:  # noqa: ARG002  # as every channel
        """Return the message's own id: there is nothing to send."""
        return to.id

    def mark_read(self, to: Message, *, typing: bool) -> None:
        """Do nothing: a shell shows neither."""

    def failed(self, status: Status) -> Permanent:
        """Never asked: a shell sends no statuses."""
        return Permanent(f"a shell reports nothing, and yet {status.status!r}")
