"""Where a request ends, whatever pieces it comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.web.incoming import LARGEST_HEAD, Incoming, Refused

LARGEST = 1000
BODIES = st.binary(max_size=LARGEST)


def chunked(body: bytes, sizes: list[int]) -> bytes:
    parts, at = [], 0
    for size in sizes:
        if part := body[at : at + size]:
            parts.append(b"%X;a=b\r\n%s\r\n" % (len(part), part))
        at += size
    if rest := body[at:]:
        parts.append(b"%x\r\n%s\r\n" % (len(rest), rest))
    return b"".join(parts)


@st.composite
def requests(draw) -> bytes:
    body = draw(BODIES)
    if draw(st.booleans()):
        return b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    if draw(st.booleans()):
        return b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    trailers = draw(st.sampled_from([b"", b"X: 1\r\n", b"X: 1\r\nY: 2\r\n"]))
    sizes = draw(st.lists(st.integers(1, 300), max_size=5))
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    return b"%s%s0\r\n%s\r\n" % (head, chunked(body, sizes), trailers)


@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(1, 400), min_size=1))
def test_requests_come_out_as_they_were_sent_whatever_the_pieces(sent, sizes):
    incoming, stream, taken, at, number = Incoming(largest=LARGEST), b"".join(sent), [], 0, 0
    while at < len(stream):
        piece = stream[at : at + sizes[number % len(sizes)]]
        at, number = at + len(piece), number + 1
        incoming.feed(piece)
        while incoming.complete:
            taken.append(incoming.take())
            incoming.feed(b"")
    assert taken == sent
    assert incoming.size == 0


def test_a_head_says_what_a_gate_asks():
    incoming = Incoming(largest=LARGEST)
    incoming.feed(b"POST /webhook/x?y=1 HTTP/1.1\r\nX-A:  1 \r\nConnection: close\r\ncontent-length: 7\r\n\r\n123")
    head = incoming.head
    assert (head.method, head.path, head.header("x-a"), head.length) == ("POST", "/webhook/x", "1", 7)
    assert not head.keeps_alive
    assert (incoming.complete, incoming.missing) == (False, 4)
    incoming.drop()
    assert (incoming.size, incoming.missing) == (0, 4)
    incoming.feed(b"4567GET")
    incoming.drop()
    assert (incoming.missing, incoming.take(), incoming.size) == (0, b"", 3)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nX: " + b"x" * LARGEST_HEAD, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * LARGEST_HEAD + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 12_000, 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 2000, 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: 1\r\n" * 20_000, 431),
    ],
)
def test_what_is_too_large_is_refused_at_once_and_bytewise(data, status):
    with pytest.raises(Refused) as refused:
        Incoming(largest=LARGEST).feed(data)
    assert refused.value.status == status
    incoming = Incoming(largest=LARGEST)

    def bytewise():
        for byte in data:
            incoming.feed(bytes([byte]))

    with pytest.raises(Refused) as refused:
        bytewise()
    assert refused.value.status == status


@pytest.mark.parametrize("length", [b"", b"-1", b"+5", b"5_0", "²".encode("latin-1"), b"9" * 5000, b"x"])
def test_a_length_that_is_none_leaves_the_request_to_the_parser(length):
    incoming = Incoming(largest=LARGEST)
    incoming.feed(b"POST / HTTP/1.1\r\nContent-Length: " + length + b"\r\n\r\n")
    assert incoming.complete
