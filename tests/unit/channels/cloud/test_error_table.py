"""The table of the Cloud API's error codes: nothing that another library knows is unknown to us."""

from __future__ import annotations

import httpx
import pytest
from pywa.errors import WhatsAppError

from chatbot.channels.cloud.channel import WhatsApp
from chatbot.channels.cloud.errors import MEANINGS, Treatment, classified, meaning_of
from chatbot.errors import ChannelDown, Permanent, TooFast, Transient
from chatbot.messages import Status


def pywas() -> dict[int, set[str]]:
    """Return the codes that pywa knows, with the names of their errors and of the groups these belong to."""
    found: dict[int, set[str]] = {}
    waiting = list(WhatsAppError.__subclasses__())
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        for code in error.__error_codes__ or ():
            found.setdefault(code, set()).update({error.__name__, error.__mro__[1].__name__})
    return found


def test_every_code_that_pywa_knows_is_judged():
    known = pywas()
    assert len(known) > 200
    unjudged = {code: names for code, names in known.items() if meaning_of(code) is None}
    assert unjudged == {}, "add them to cloud_errors.py"


def test_what_pywa_calls_authorization_or_throttling_is_no_failure_of_one_message():
    for code, names in pywas().items():
        if "AuthorizationError" in names:
            assert meaning_of(code).treatment is Treatment.STOP, code
        if "ThrottlingError" in names and code != 133016:  # registration: we register nothing
            assert meaning_of(code).treatment not in {Treatment.NEVER, Treatment.STOP}, code


def answered(code: int, subcode: int | None = None, *, status: int = 400) -> Transient | Permanent:
    error = {"code": code} | ({} if subcode is None else {"error_subcode": subcode})
    return classified(httpx.Response(status, json={"error": error}))


def reported(code: int) -> Transient | Permanent:
    channel = WhatsApp(
        graph_url="http://127.0.0.1:1", phone_number_id="1", access_token="", app_secret="", verify_token="", timeout=1
    )
    return channel.failed(Status("wamid.out", "failed", error_code=code))


@pytest.mark.parametrize("code", [2494100, 17, 613, 80008])
def test_what_passes_is_tried_again(code):
    for error in (answered(code), reported(code)):
        assert type(error) is Transient
        assert error.retry_after


@pytest.mark.parametrize(("code", "alert"), [(131064, False), (131048, True), (130429, False)])
def test_what_the_account_or_the_number_is_limited_by_slows_it_and_a_spam_limit_calls_a_person(code, alert):
    for error in (answered(code), reported(code)):
        assert type(error) is TooFast
        assert (error.whole_number, error.alert) == (True, alert)


def test_a_number_that_is_not_ours_stops_and_another_wrong_parameter_does_not():
    assert type(answered(100, 33)) is ChannelDown
    assert "subcode 33" in str(answered(100, 33))
    for error in (answered(100), answered(100, 2494010), answered(100, True), reported(100)):
        assert type(error) is Permanent
    assert type(answered(131026, 33)) is Permanent


def test_a_code_that_nobody_knows_is_left_to_the_http_status():
    assert type(answered(999_999)) is Permanent
    assert type(answered(999_999, status=503)) is Transient
    assert type(reported(999_999)) is Permanent


def test_every_meaning_has_words_and_a_pause_where_it_waits():
    for code, meaning in MEANINGS.items():
        assert meaning.what, code
        waits = meaning.treatment in {
            Treatment.RETRY, Treatment.SLOW_PAIR, Treatment.SLOW_NUMBER, Treatment.ALERT,
        }  # fmt: skip
        assert (meaning.pause is not None) == waits, code
