"""The channel of a developer's shell: the caller reads the reply from the store."""

from __future__ import annotations

from chatbot.messages import Message


class Shell:
    """Delivers nothing to nobody; ``chat()`` finds the committed turn by itself."""

    def split(self, text: str) -> list[str]:
        """Return the reply as one part."""
        return [text]

    def send(self, to: Message, text: str, *, callback: str) -> str:  # noqa: ARG002  # as every channel
        """Return the message's own id: there is nothing to send."""
        return to.id

    def mark_read(self, to: Message, *, typing: bool) -> None:
        """Do nothing: a shell shows neither."""
