"""One HTTP/1.1 request while it comes in: where its head ends, and where its body does.

In come bytes as a socket gives them; out go the bytes of one whole request, for a parser that
then never has to wait for more. What follows them belongs to the next request. Promise: the work
is linear in what comes in, and what is held is bounded. Whether a head is well formed is left to the
parser, which ends the connection where it is not.

Source: RFC 9112, sections 2, 6 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Larger heads are refused. Those of Meta and of proxies have 1 to 4 KiB.
LARGEST_HEAD = 64 * 1024
#: In ``extensions`` of a Flask application: an object with ``largest`` (bytes of a body) and
#: ``check(head)``, which raises ``Refused`` for what need not be read.
HEAD_CHECK = "chatbot.head_check"
#: Longer lines before a chunk are no size.
_LONGEST_SIZE_LINE = 1024
_MOST_DIGITS = 12
_NO_SIZE = "a chunk of the body does not say its size"


class Refused(Exception):
    """This request is answered with ``status`` and goes no further."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """What a request says before its body; names of ``fields`` are in lower case, the last of a name counts."""

    method: str = ""
    path: str = ""
    version: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    def header(self, name: str) -> str | None:
        """Return the value of a header field."""
        return self.fields.get(name.lower())

    @property
    def chunked(self) -> bool:
        """Whether the body says where it ends only as it goes on."""
        return "transfer-encoding" in self.fields

    @property
    def length(self) -> int:
        """The bytes of the body: 0 where none are announced, or not as a number."""
        digits = self.fields.get("content-length", "")
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS else 0

    @property
    def keeps_alive(self) -> bool:
        """Whether the client may send another request on its connection."""
        return self.version == "HTTP/1.1" and self.fields.get("connection", "").lower() != "close"


class Incoming:
    """The bytes of one connection that no parser has had yet. ``largest`` bounds a body."""

    def __init__(self, *, largest: int) -> None:
        self._largest = largest
        self._data = bytearray()
        self._forget()

    def _forget(self) -> None:
        self.head: Head | None = None
        self._at = 0  # everything before was looked at
        self._last_chunk: int | None = None  # where its line ends
        self._end: int | None = None  # of the request, once that is known

    def feed(self, data: bytes) -> None:
        """Take bytes in. Raises ``Refused`` when the request is too large, or its chunks are none."""
        self._data += data
        if self.head is None:
            self._find_head()
        if self.head is not None and self.head.chunked and self._end is None:
            self._find_last_chunk()

    @property
    def size(self) -> int:
        """How many bytes are held."""
        return len(self._data)

    @property
    def complete(self) -> bool:
        """Whether a whole request is there."""
        return self._end is not None and len(self._data) >= self._end

    @property
    def missing(self) -> int | None:
        """How many bytes are still to come; ``None`` while nobody knows."""
        return None if self._end is None else max(0, self._end - len(self._data))

    def take(self) -> bytes:
        """Give out the request, as far as it is there; what follows is the next one's."""
        end = len(self._data) if self._end is None else self._end
        request, rest = bytes(self._data[:end]), self._data[end:]
        self._data = rest
        self._forget()
        return request

    def drop(self) -> None:
        """Throw away what is there of the request; ``missing`` stays what is still to come."""
        if self._end is not None:
            here = min(self._end, len(self._data))
            del self._data[:here]
            self._end -= here

    def _find_head(self) -> None:
        ends = self._data.find(b"\r\n\r\n", self._at)
        if max(ends, len(self._data) if ends < 0 else 0) > LARGEST_HEAD:
            raise Refused(431, f"the head of the request is over {LARGEST_HEAD} bytes")
        if ends < 0:
            self._at = max(0, len(self._data) - 3)
            return
        self.head = _read(bytes(self._data[:ends]))
        self._at = ends + 4
        if not self.head.chunked:
            self._end = self._at + self.head.length
        if self.head.length > self._largest:
            raise Refused(413, f"the body is over {self._largest} bytes")

    def _find_last_chunk(self) -> None:
        if self._last_chunk is not None:
            self._find_trailer_end(self._last_chunk)
            return
        while (line_end := self._data.find(b"\r\n", self._at, self._at + _LONGEST_SIZE_LINE)) >= 0:
            size = _chunk_size(bytes(self._data[self._at : line_end]))
            if size == 0:
                self._last_chunk = self._at = line_end
                self._find_trailer_end(line_end)
                return
            if size is None:
                raise Refused(400, _NO_SIZE)
            self._at = line_end + 2 + size + 2
            if self._at > self._largest + LARGEST_HEAD:
                raise Refused(413, f"the body is over {self._largest} bytes")
        if len(self._data) - self._at >= _LONGEST_SIZE_LINE:
            raise Refused(400, _NO_SIZE)

    def _find_trailer_end(self, last_chunk: int) -> None:
        """Find the empty line behind the last chunk, of size 0."""
        ends = self._data.find(b"\r\n\r\n", self._at)
        if ends >= 0:
            self._end = ends + 4
        elif len(self._data) - last_chunk > LARGEST_HEAD:
            raise Refused(431, f"the trailers are over {LARGEST_HEAD} bytes")
        self._at = max(last_chunk, len(self._data) - 3)


def _read(head: bytes) -> Head:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    target, _, version = rest.rpartition(" ")
    pairs = (line.partition(":") for line in lines)
    fields = {name.lower(): value.strip(" \t") for name, _, value in pairs}
    return Head(method, target.partition("?")[0], version, fields)


def _chunk_size(line: bytes) -> int | None:
    digits = line.partition(b";")[0].strip(b" \t")
    if not digits or len(digits) > _MOST_DIGITS or digits.strip(b"0123456789abcdefABCDEF"):
        return None
    return int(digits, 16)
