"""What travels goes through JSON and back, whatever its fields hold."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.messages import Callback, Media, Message, Notice, Pricing, Status, Turn, writable

TEXTS, NUMBERS, SECONDS = st.text(max_size=20), st.integers(0, 2**53), st.floats(0, 2e9)
MEDIA = st.builds(Media, id=TEXTS, mime_type=TEXTS, filename=TEXTS, url=TEXTS, voice=st.booleans())
MESSAGES = st.builds(
    Message, user=TEXTS, id=TEXTS, text=TEXTS, sent_at=SECONDS, media=st.none() | MEDIA, quoted=TEXTS, replays=NUMBERS
)
VALUES = st.one_of(
    MESSAGES,
    st.builds(Turn, number=NUMBERS, message=MESSAGES, reply=TEXTS, committed_at=SECONDS, failure=TEXTS),
    st.builds(
        Status, message_id=TEXTS, status=TEXTS, error_code=NUMBERS,
        pricing=st.none() | st.builds(Pricing, category=TEXTS, billable=st.booleans()),
    ),
    st.builds(Notice, kind=TEXTS, at=SECONDS, text=TEXTS, details=st.dictionaries(TEXTS, TEXTS, max_size=3)),
)  # fmt: skip


@given(value=VALUES)
def test_what_travels_comes_back_the_same(value: Message | Turn | Status | Notice) -> None:
    assert type(value).from_json(value.to_json()) == value


def test_fields_with_their_default_do_not_travel() -> None:
    message = Message(user="5511999990001", id="wamid.1", text="oi", media=Media(id="7", voice=True))

    assert message.to_dict() == {
        "user": "5511999990001", "id": "wamid.1", "text": "oi", "media": {"id": "7", "voice": True},
    }  # fmt: skip


def test_a_field_of_a_newer_version_is_ignored() -> None:
    stored = json.loads(Status("wamid.1", "sent").to_json()) | {"invented": 1}

    assert Status.from_dict(stored) == Status("wamid.1", "sent")


@pytest.mark.parametrize("stored", ["[]", "7", '"x"', "{}", '{"user": "a", "id": "b"}'])
def test_what_is_no_message_is_refused(stored: str) -> None:
    with pytest.raises(ValueError, match="stored Message"):
        Message.from_json(stored)


@pytest.mark.parametrize(
    ("text", "can_travel"),
    [
        ("ol\u00e1 \ud83d\ude00 \t\n", "ol\u00e1 \U0001f600 \t\n"), ("a\ud800b\udfff", "a\ufffdb\ufffd"),
        ("a\0b\x07\x7f\x9b", "ab"), ("a\x0bb\x85c", "a b c"), ("a\r\nb\rc", "a\nb\nc"),
        ("\ufeff\u2028", "\ufeff\u2028"),
    ],
)  # fmt: skip
def test_what_cannot_travel_is_taken_out(text: str, can_travel: str) -> None:
    assert writable(text) == can_travel


@given(st.text(st.characters(codec=None) | st.characters(categories=["Cs", "Cc"])))
def test_any_text_can_be_made_to_travel(text: str) -> None:
    told = writable(text)
    assert json.loads(json.dumps(told, ensure_ascii=False).encode()) == told == writable(told)


@pytest.mark.parametrize("user", ["5511999990001", "BR.1", "100:5511", "a:1:2"])
def test_a_callback_comes_back_as_it_went_out(user):
    callback = Callback(user, 12, 3)
    assert str(callback) == f"{user}:12:3"
    assert Callback.parse(str(callback)) == callback


@pytest.mark.parametrize("text", ["", "ana", "ana:1", "ana:1:", "ana:one:0", "ana::0"])
def test_what_is_no_callback_of_ours_is_an_error(text):
    with pytest.raises(ValueError):
        Callback.parse(text)
