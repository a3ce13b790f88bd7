"""Files people sent, fetched from Meta: where the file lies is asked first, then it is read.

In come a media id and a limit, out come the bytes. Promises: the access token goes to the
Graph API and to Meta's own hosts, whatever an answer or a redirect says; no more than the
limit is ever read, and for no longer than ``SECONDS``; a file that is not what its
``sha256`` says is not returned; no error tells the file's address, which holds a token.
Source: Meta, "WhatsApp Cloud API: media", v26.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin

from chatbot import http
from chatbot.channels.cloud.errors import BY_SUBCODE, classified, codes_in
from chatbot.errors import ChannelDown, OutcomeUnknown, Permanent, TooFast, Transient

if TYPE_CHECKING:
    import httpx  # imported by the first call

#: Where Meta keeps files; over HTTPS only.
HOSTS = ("lookaside.fbsbx.com",)
DOMAINS = (".whatsapp.net", ".fbcdn.net")
REDIRECTS = 3
#: Fetching one file takes so many seconds at most, both questions and redirects included.
SECONDS = 60.0
#: Longest answer, in bytes, to the question where a file lies.
ANSWER_BYTES = 65_536


def fetch(service: http.Service, graph_url: str, media_id: str, *, limit: int) -> bytes:
    """Return the file of ``limit`` bytes at most; ``service`` sends the access token along.

    The address of a file lives 5 minutes, so it is asked for each time; without
    ``phone_number_id``, which is optional: a channel may serve several numbers. Raises
    ``Transient`` (also ``ChannelDown``) and ``Permanent``.
    """
    if not media_id:
        raise Permanent("the file has no id")
    ends = time.monotonic() + SECONDS
    answer = _get(service, graph_url, f"{graph_url}/{quote(media_id, safe='')}", limit=ANSWER_BYTES, ends=ends)
    url, size, sha256 = _described(answer)
    if size > limit:
        raise Permanent(f"the file is over {limit} bytes")
    content = _get(service, graph_url, url, limit=limit, ends=ends, expires=True)
    if sha256 and hashlib.sha256(content).digest() != sha256:
        raise Transient("the file is not what its sha256 says")
    return content


def _described(answer: bytes) -> tuple[str, int, bytes]:
    """Return a file's address, its size in bytes and its hash; 0 and ``b""`` where they are not told."""
    try:
        body: Any = json.loads(answer)
    except (ValueError, RecursionError):
        raise Transient("the Graph API's answer about a file is not JSON") from None
    url = body.get("url") if isinstance(body, dict) else None
    if not isinstance(url, str) or not url:
        raise Transient("the Graph API gave no address of the file")
    size = str(body.get("file_size", ""))
    return url, int(size) if size.isdecimal() and len(size) < 20 else 0, _hash(str(body.get("sha256") or ""))


def _hash(text: str) -> bytes:
    """Return the 32 bytes of a hash in hex or base64 (Meta writes both), ``b""`` for anything else."""
    for decode in (bytes.fromhex, base64.b64decode):
        try:
            digest = decode(text)
        except (ValueError, binascii.Error):
            continue
        if len(digest) == hashlib.sha256().digest_size:
            return digest
    return b""


def _get(service: http.Service, graph_url: str, url: str, *, limit: int, ends: float, expires: bool = False) -> bytes:
    with service.calling(sends=False):
        for _ in range(REDIRECTS + 1):
            address = _ours(url, graph_url)
            left = ends - time.monotonic()
            if left <= 0:
                raise Transient(f"the file did not arrive within {SECONDS:g} s")
            with service.client().stream("GET", address, timeout=left, extensions=http.allow(limit)) as answer:
                if not answer.has_redirect_location:
                    return _content(answer, expires=expires)
                url = urljoin(str(address), answer.headers["Location"])
    raise Permanent(f"the address of the file leads on {REDIRECTS} times and more")


def _ours(url: str, graph_url: str) -> httpx.URL:
    """Return an address that the access token may go to. Raises ``Permanent``.

    Like the Graph API itself: a simulator serves its files over plain HTTP.
    """
    import httpx

    graph = httpx.URL(graph_url)
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise Permanent("the address of the file is none") from None
    same = (address.scheme, address.host, address.port) == (graph.scheme, graph.host, graph.port)
    named = address.host in HOSTS or address.host.endswith(DOMAINS)
    if address.userinfo or not (same or (named and address.scheme == "https" and address.port is None)):
        raise Permanent("the file lies on a host that is not Meta's")
    return address


def _content(answer: httpx.Response, *, expires: bool) -> bytes:
    content = answer.read()
    if not answer.is_success:
        raise _refused(answer, expires=expires)
    return content


def _refused(answer: httpx.Response, *, expires: bool) -> Transient | Permanent:
    codes = codes_in(answer)
    if expires and answer.status_code in {404, 410}:
        return Transient("the address of the file is no longer valid")  # the next try asks for a new one
    if codes in BY_SUBCODE:  # asked about a number it is the number that is missing, here the file
        return Permanent("the Graph API knows no such file")
    error = classified(answer)
    if isinstance(error, TooFast | OutcomeUnknown):  # nobody's pace, and nothing was sent: it is asked again later
        return Transient(str(error), retry_after=error.retry_after)
    if expires and isinstance(error, ChannelDown) and codes[0] is None:  # the file's host speaks for the file only
        return Permanent(f"the file's host answered {answer.status_code}")
    return error
