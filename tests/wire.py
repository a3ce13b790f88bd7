"""What goes over the wire, counted: AMQP methods, Redis commands, and how often somebody waits for an answer."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping

from amqp import spec

from tests.proxy import Watcher

_METHODS = {
    signature: f"{cls.__name__.lower()}.{re.sub(r'(?<!^)(?=[A-Z])', '-', name).lower()}"
    for cls in (spec.Connection, spec.Channel, spec.Exchange, spec.Queue, spec.Basic, spec.Confirm, spec.Tx)
    for name, signature in vars(cls).items()
    if isinstance(signature, tuple)
}
_METHOD_FRAME = 1


class Amqp:
    """The methods of all connections that ``watch`` was given to, by who sent them, in their order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.heard: list[str] = []

    @property
    def round_trips(self) -> int:
        """How often somebody waited for the broker: answers, and confirms of what was published."""
        return sum(method.endswith("-ok") or method == "basic.ack" for method in self.heard)

    def clear(self) -> None:
        """Count from here on."""
        self.asked.clear()
        self.heard.clear()

    def watch(self) -> tuple[Watcher, Watcher]:
        """Watch one connection."""
        return _Frames(self.asked.append), _Frames(self.heard.append)


class _Frames:
    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        self._rest += data
        if self._rest.startswith(b"AMQP"):
            self._rest = self._rest[8:]  # the protocol header
        while len(self._rest) >= 7:
            kind, _, size = struct.unpack(">BHL", self._rest[:7])
            if len(self._rest) < size + 8:
                return
            if kind == _METHOD_FRAME:
                self._note(_METHODS[struct.unpack(">HH", self._rest[7:11])])
            self._rest = self._rest[size + 8 :]


class Resp:
    """The Redis commands of all connections that ``watch`` was given to; ``scripts`` names them by their SHA-1.

    What is sent before an answer came takes one round trip, however many commands it is.
    """

    def __init__(self, scripts: Mapping[str, str] | None = None) -> None:
        self.scripts = scripts or {}
        self.asked: list[str] = []
        self.round_trips = 0

    def clear(self) -> None:
        """Count from here on."""
        self.asked.clear()
        self.round_trips = 0

    def watch(self) -> tuple[Watcher, Watcher]:
        """Watch one connection."""
        rest, waits = b"", False

        def there(data: bytes) -> None:
            nonlocal rest, waits
            self.round_trips += not waits
            waits = True
            rest += data
            while found := _command(rest):
                words, rest = found
                name = words[0].decode().upper()
                self.asked.append(self.scripts.get(words[1].decode(), name) if name == "EVALSHA" else name)

        def back(_: bytes) -> None:
            nonlocal waits
            waits = False

        return there, back


def _command(data: bytes) -> tuple[list[bytes], bytes] | None:
    """Return the words of the first command and what follows it; ``None`` while it is not all there."""
    head, ended, rest = data.partition(b"\r\n")
    if not ended:
        return None
    words = []
    for _ in range(int(head[1:])):
        size, ended, rest = rest.partition(b"\r\n")
        if not ended or len(rest) < (length := int(size[1:])) + 2:
            return None
        words.append(rest[:length])
        rest = rest[length + 2 :]
    return words, rest
