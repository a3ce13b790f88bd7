"""Files people sent, fetched from Meta: where the file lies is asked first, then it is read.

In come a media id and a limit, out come the bytes. Promises: the access token goes to the
Graph API and to Meta's own hosts, whatever an answer or a redirect says; no more than the
limit is ever held; a file that is not what its ``sha256`` says is not returned.
Source: Meta, "WhatsApp Cloud API: media", v26.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from chatbot.channels.cloud_errors import classified
from chatbot.errors import ChannelDown, Permanent, TooFast, Transient

if TYPE_CHECKING:
    import httpx

#: Where Meta keeps files; over HTTPS only.
HOSTS = ("lookaside.fbsbx.com",)
DOMAINS = (".whatsapp.net", ".fbcdn.net")
REDIRECTS = 3
#: Fetching one file takes so many seconds at most, and then the client's timeout once.
SECONDS = 60.0
#: Longest answer, in bytes, to the question where a file lies.
ANSWER_BYTES = 65_536


def fetch(client: httpx.Client, graph_url: str, media_id: str, *, limit: int) -> bytes:
    """Return the file of ``limit`` bytes at most; ``client`` sends the access token along.

    The address of a file lives 5 minutes, so it is asked for each time; without
    ``phone_number_id``, which is optional: a channel may serve several numbers. Raises
    ``Transient`` (also ``ChannelDown``) and ``Permanent``.
    """
    if not media_id:
        raise Permanent("the file has no id")
    ends = time.monotonic() + SECONDS
    answer = _get(client, graph_url, f"{graph_url}/{quote(media_id, safe='')}", limit=ANSWER_BYTES, ends=ends)
    url, size, sha256 = _described(answer)
    if size > limit:
        raise Permanent(f"the file has {size} bytes, more than {limit}")
    content = _get(client, graph_url, url, limit=limit, ends=ends, expires=True)
    if sha256 and hashlib.sha256(content).digest() != sha256:
        raise Transient("the file is not what its sha256 says")
    return content


def _described(answer: bytes) -> tuple[str, int, bytes]:
    """Return a file's address, its size in bytes and its hash; 0 and ``b""`` where they are not told."""
    try:
        body: Any = json.loads(answer)
    except ValueError as err:
        raise Transient("the Graph API's answer about a file is not JSON") from err
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


def _get(client: httpx.Client, graph_url: str, url: str, *, limit: int, ends: float, expires: bool = False) -> bytes:
    import httpx

    try:
        for _ in range(REDIRECTS + 1):
            _refuse_strangers(httpx.URL(url), httpx.URL(graph_url))
            with client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
                if not answer.has_redirect_location:
                    return _content(answer, limit=limit, ends=ends, expires=expires)
                url = str(answer.url.join(answer.headers["Location"]))
    except httpx.InvalidURL as err:
        raise Permanent("the address of the file is none") from err
    except httpx.LocalProtocolError as err:  # a line break in the token: nothing went out
        raise ChannelDown("the access token is no header value (CHATBOT_WHATSAPP_ACCESS_TOKEN)") from err
    except httpx.RequestError as err:
        raise Transient(f"the file cannot be fetched: {type(err).__name__}") from err
    raise Permanent(f"the address of the file leads on {REDIRECTS} times and more")


def _refuse_strangers(url: httpx.URL, graph: httpx.URL) -> None:
    """Return where the access token may go. Raises ``Permanent``.

    Like the Graph API itself: a simulator serves its files over plain HTTP.
    """
    same = (url.scheme, url.host, url.port) == (graph.scheme, graph.host, graph.port)
    metas = url.scheme == "https" and url.port is None and (url.host in HOSTS or url.host.endswith(DOMAINS))
    if url.userinfo or not (same or metas):
        raise Permanent(f"the file lies on {url.scheme}://{url.host}, which is not Meta's")


def _content(answer: httpx.Response, *, limit: int, ends: float, expires: bool) -> bytes:
    if not answer.is_success:
        answer.read()
        raise _refused(answer, expires=expires)
    content = bytearray()
    for chunk in answer.iter_raw():
        content += chunk
        if len(content) > limit:
            raise Permanent(f"the file has more than {limit} bytes")
        if time.monotonic() > ends:
            raise Transient(f"the file did not arrive within {SECONDS:g} s")
    return bytes(content)


def _refused(answer: httpx.Response, *, expires: bool) -> Transient | Permanent:
    if expires and answer.status_code in {404, 410}:
        return Transient("the address of the file is no longer valid")  # the next try asks for a new one
    error = classified(answer)
    # No message is held back by this, so nobody's pace: it is simply asked again later.
    return Transient(str(error), retry_after=error.retry_after) if isinstance(error, TooFast) else error
