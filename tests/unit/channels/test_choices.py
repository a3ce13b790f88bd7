"""The choices that end a reply, however a model writes them."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.channels import choices as module
from chatbot.channels.choices import offered
from chatbot.messages import Choice

A, B = Choice("a"), Choice("b")


@pytest.mark.parametrize(
    ("reply", "text", "choices"),
    [
        ("Qual?\n[[a]] [[b]]", "Qual?", (A, B)),
        ("Qual?\n- [[a]], [[b]]\n[[c | d]]", "Qual?", (A, B, Choice("c", "d"))),
        ("Qual? [[a]] [[b]]", "Qual?", (A, B)),
        ("Um:\n  - Qual? [[a]][[b]]\n\n[[a]]", "Um:\n  - Qual?", (A, B)),
        ("[[a | x]] [[b | y]]", "", (Choice("a", "x"), Choice("b", "y"))),
        ("[[a]]\n[[a | x]]\n[[a | y]]", "", (Choice("a", "x"), Choice("a", "y"))),
    ],
)
def test_choices_stand_on_lines_of_their_own_or_behind_the_last_sentence(reply, text, choices):
    assert offered(reply) == (text, choices)


@pytest.mark.parametrize(
    "reply",
    ["[[ ]]", "[[]]", "[[\u3000]]", "[[ | d]]", "veja [[isto]]", "[[a", "a]]",
      "[[[a]]", "[[a]]]", "[[a]] b", "[[a\nb]]", ""],
)  # fmt: skip
def test_what_is_no_choice_stays_text(reply):
    assert offered(reply) == (reply, ())


@given(st.text(st.sampled_from("[]|ab \n-,"), max_size=60))
def test_no_letter_is_lost_and_no_title_is_empty(reply):
    text, choices = offered(reply)
    assert all(choice.title.strip() == choice.title != "" for choice in choices)
    for letter in "ab":
        # A choice that is given twice is offered once.
        kept = text + "".join(choice.title + choice.description for choice in choices)
        assert (letter in reply) == (letter in kept)


@pytest.mark.parametrize(
    "pump",
    ["[[a" + " " * 400 + "|" + " " * 400 + "x",
     "[[a]] ", "[[", "]]", "[[a]]", " ", "[[a|", "- ", "[[a]]\n", "\n", "|", "[[ ]]", ", "],
)  # fmt: skip
@pytest.mark.parametrize("end", ["", "x", "]]", "\n[[a]]"])
def test_a_character_costs_a_bounded_number_of_steps(pump, end):
    """Lines of our code are counted; what they call looks at each character once."""
    text = (pump * 4000)[:4000] + end
    lines = 0

    def count(frame, event, _):
        nonlocal lines
        lines += event == "line"
        return count if frame.f_code.co_filename == module.__file__ else None

    sys.settrace(count)
    try:
        offered(text)
    finally:
        sys.settrace(None)
    assert lines <= 20 * len(text)
