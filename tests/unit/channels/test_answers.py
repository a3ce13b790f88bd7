"""The pause that an answer asks for: seconds or a date, an hour at most, whatever the header holds."""

from __future__ import annotations

from email.utils import formatdate

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.channels.answers import LONGEST_PAUSE, json_in, retry_after


def pause(asked: str | bytes, **headers: str | bytes) -> float | None:
    return retry_after(httpx.Response(503, headers={"Retry-After": asked, **headers}))


@pytest.mark.parametrize(("later", "seconds"), [(90, 90.0), (0, 0.0), (-50, 0.0), (7200, 3600.0), (10**9, 3600.0)])
def test_a_date_is_read_by_the_clock_of_who_wrote_it(later, seconds):
    now = 1_000_000_000  # years before ours: a wrong clock changes nothing
    assert pause(formatdate(now + later, usegmt=True), Date=formatdate(now, usegmt=True)) == seconds


def test_a_date_without_another_one_is_read_by_our_clock():
    assert pause("Fri, 31 Dec 2100 23:59:59 GMT") == LONGEST_PAUSE
    assert pause("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0
    assert pause("Sunday, 06-Nov-94 08:49:37 GMT", Date="Sunday, 06-Nov-94 08:49:30 GMT") == 7.0


def test_no_header_no_pause():
    assert retry_after(httpx.Response(503)) is None


@given(st.one_of(st.binary(max_size=80), st.from_regex(r"[\dA-Za-z:,+ -]{1,40}").map(str.encode)))
def test_whatever_it_holds_it_is_a_pause_of_an_hour_at_most_or_none(header):
    seconds = pause(header, Date=header)
    assert seconds is None or 0 <= seconds <= LONGEST_PAUSE


@given(st.binary(max_size=200))
def test_what_is_no_json_is_nothing(content):
    json_in(httpx.Response(200, content=content))
    assert json_in(httpx.Response(200, content=b"[" * 100_000 + content)) is None
