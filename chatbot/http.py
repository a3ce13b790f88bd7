"""Calls out: one client for all of them, and one place where its errors become ours.

In come a service's name, its headers and its bounds; out go answers, or one of our errors.
Promises: a call is over after ``timeout`` seconds with all that belongs to it (waiting for a
connection, connecting, sending, every read), an answer is bounded while it is read
(``resilience/deadline.py``), and no error says more than the classes of what failed: the texts of the
libraries hold what the other side wrote, addresses with tokens, and our own keys.

httpx is imported by the first call: the webhook makes none.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chatbot.errors import ChannelDown, OutcomeUnknown, Permanent, Transient

if TYPE_CHECKING:
    import httpx

#: A connection that takes longer is given up, whatever the call may take.
CONNECT_SECONDS = 10.0


def client(
    *, timeout: float, max_bytes: int, headers: Mapping[bytes, bytes] | None = None, connect: float = CONNECT_SECONDS
) -> httpx.Client:
    """Return a client whose requests take ``timeout`` seconds at most, from the first to the last byte.

    It reads at most ``max_bytes`` of an answer (``transport.AnswerTooLong``), follows no
    redirect, asks for no compression, and may be shared by threads. One request can bring its
    own ``timeout=`` and ``extensions=allow(max_bytes)``. The OpenAI client takes it as
    ``http_client``.
    """
    import httpx

    from chatbot.resilience.deadline import Transport

    return httpx.Client(
        transport=Transport(timeout=timeout, max_bytes=max_bytes),
        headers={b"Accept-Encoding": b"identity", **(headers or {})},
        timeout=httpx.Timeout(timeout, connect=min(connect, timeout)),
    )


def allow(max_bytes: int) -> dict[str, Any]:
    """Return the extension of a request whose answer may have ``max_bytes``."""
    return {"max_bytes": max_bytes}


class Service:
    """One service that is called; ``name`` and ``setting`` (of its key) stand in its errors."""

    def __init__(
        self, name: str, *, setting: str, timeout: float, max_bytes: int, headers: Mapping[bytes, bytes]
    ) -> None:
        self._name = name
        self._setting = setting
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._headers = headers
        self._opening = threading.Lock()
        self._opened: httpx.Client | None = None

    def client(self) -> httpx.Client:
        """Return its client, the same for every thread."""
        with self._opening:
            if self._opened is None:
                self._opened = client(timeout=self._timeout, max_bytes=self._max_bytes, headers=self._headers)
            return self._opened

    def post(self, url: str, content: Any, *, max_bytes: int | None = None) -> httpx.Response:
        """Post ``content`` as JSON; return the answer, read. For use inside ``calling``.

        What no UTF-8 can hold (half of a surrogate pair) goes out as a ``?``.
        """
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        headers = {"Content-Type": "application/json"}
        bound = {} if max_bytes is None else allow(max_bytes)
        return self.client().post(url, content=body, headers=headers, extensions=bound)

    def look(self, url: str, *, method: str = "GET") -> httpx.Response:
        """Return the answer to one request that changes nothing, and close. Raises ``Transient``, ``Permanent``."""
        try:
            with self.calling(sends=False, unusable=Permanent):
                return self.client().request(method, url)
        finally:
            self.close()

    def close(self) -> None:
        """Close the connections, if there are any; a later call opens new ones."""
        with self._opening:
            opened, self._opened = self._opened, None
        if opened:
            opened.close()

    @contextmanager
    def calling(self, *, sends: bool = True, unusable: type[Transient | Permanent] = ChannelDown) -> Iterator[None]:
        """Raise the errors of the calls inside the block as ours.

        ``Transient``: nothing went out. ``OutcomeUnknown``: a call that ``sends`` may have been
        carried out, and no answer came that can be read. A call that only reads can be made
        again (``Transient``), but not for an answer that is too long (``Permanent``).
        ``unusable``: our address or our key is none.
        """
        import httpx

        from chatbot.resilience.deadline import AnswerTooLong

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as err:
            raise Transient(f"{self._name} cannot be reached: {_classes(err)}") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise unusable(f"the address of {self._name} is none") from None
        except httpx.LocalProtocolError:  # a line break in the key: nothing went out
            raise unusable(f"the key of {self._name} is no header value ({self._setting})") from None
        except AnswerTooLong:
            raise (OutcomeUnknown if sends else Permanent)(f"{self._name} answered with too much") from None
        except httpx.RequestError as err:
            unanswered = OutcomeUnknown if sends else Transient
            raise unanswered(f"{self._name} did not answer: {_classes(err)}") from None


def _classes(error: BaseException) -> str:
    """Return the class of an error, and of the system's error that it came from: no text of theirs."""
    came_from: BaseException | None = error
    while came_from is not None and not isinstance(came_from, OSError):
        came_from = came_from.__cause__ or came_from.__context__
    return type(error).__name__ + (f" of {type(came_from).__name__}" if came_from else "")
