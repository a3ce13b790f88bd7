"""A reply as it is written for WhatsApp: nothing raises, no word is lost, limits and time are kept."""

from __future__ import annotations

import json
import sys
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot.channels import formatting
from chatbot.channels.formatting import CUT, LIMIT, LONGEST, LONGEST_FORMATTED, to_whatsapp
from chatbot.messages import Part
from tests.fuzz.replies import CHANNELS, SHELL, Reply, build, check


@pytest.mark.parametrize(
    ("markdown", "whatsapp"),
    [
        ("- 1) Pix", "- 1) Pix"),
        ("* 1. Abra o app", "- 1. Abra o app"),
        ("- 2024. Ano bom", "- 2024. Ano bom"),
        ("1.\n   - Café", "1. - Café"),
        ("- - - a\n    - b", "- - - a\n    - b"),
        ("> 1. > - a\n>   > - b", "> 1. > - a\n>\n> > - b"),
        ("- > a\n- ```\n  b\n  ```\n-", "- > a\n- ```\n  b\n  ```\n-"),
        ("1. Pix\n3. Boleto\n3. Cartão", "1. Pix\n3. Boleto\n3. Cartão"),
        ("- a\n\n  b\n- c\n\nfim", "- a\n  b\n- c\n\nfim"),
    ],
)  # fmt: skip
def test_lists_in_lists(markdown, whatsapp):
    assert to_whatsapp(markdown) == whatsapp


@pytest.mark.parametrize(
    ("markdown", "whatsapp"),
    [
        ("``` Olá, tudo bem\ntexto\n```", "```\nOlá, tudo bem\ntexto\n```"),
        ("~~~ Pix\n1\n~~~", "```\nPix\n1\n```"),
        ("```Python\nx\n```", "```\nx\n```"),
        ("| a | b |\n|---|---|\n| 1 | 2 | 3 | sobra |\n| só |", "a | b\n1 | 2 | 3 | sobra\nsó"),
        ("Veja:\n| a | b |\n|:-:|---|\n| x \\| y | |", "Veja:\na | b\nx | y |"),
        ('[site](https://a.br "o título")', "site (https://a.br – o título)"),
        ('![foto](https://a.br/f.png "praia")', "foto (https://a.br/f.png – praia)"),
        ("[https://a.br/](https://a.br/)", "https://a.br/"),
        ("[ação](https://a.br/ação)", "ação (https://a.br/ação)"),
        ("[]()", "[]()"), ("#", "#"), (">", ">"), ("# **", "**"),
        ("> " * 30 + "fundo", "> " * 30 + "fundo"),
        ("- " * 15 + "fundo", "- " * 15 + "fundo"),
        ("[a](https://x.br?b=1&amp;c=2)", "[a](https://x.br?b=1&amp;c=2)"),
    ],
)  # fmt: skip
def test_no_word_is_left_out(markdown, whatsapp):
    assert to_whatsapp(markdown) == whatsapp


def test_the_signs_of_a_deep_quote_do_not_make_many_messages_of_one():
    text = "> " * 18 + "a\n" * 1000
    assert len(to_whatsapp(text)) <= 2 * len(text) + 200


def written(text):
    """What the writer makes of a text, without the check that replaces it where it lost something."""
    return formatting._Writer().write(formatting._MARKDOWN.parse(text))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_writer_itself_loses_no_word(rng):
    reply = build(rng)
    if max((token.level for token in formatting._MARKDOWN.parse(reply.text)), default=0) >= 18:
        return  # the parser ignores what is nested deeper
    said, at = written(reply.text), 0
    for word in reply.words:
        at = said.find(word, at)
        assert at >= 0, word


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_reply_is_composed_whole_and_within_the_limits(rng):
    found = check(build(rng))
    assert found.lost == found.broken == ()


SIGNS = st.sampled_from(
    ["- ", "* ", "+ ", "1. ", "1) ", "2024. ", "\n", "\n\n", "  ", "    ", "\t", "> ", "```", "~~~", "`", "|", "|-|",
     "#", "*", "**", "_", "~~", "[", "](", ")", "![", "[[", "]]", "<", ">", "\\", "---", "\ud800", "\0", "\r", "😀",
     "é", "x", "."]
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(SIGNS, SIGNS, st.characters()), max_size=40).map("".join))
def test_any_text_at_all_is_composed(text):
    found = check(Reply(text))
    assert found.broken == ()


# -- what is bounded ------------------------------------------------------------------


def calls_of(function, *arguments):
    """Return how many calls a function leads to."""
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize(
    "pump",
    ["[", "![", "[*", "](", "[a](", "[a](<", '[a](b "', "*", "**a", "*a ", "_ ", "~~", "`", "``` ", "> ", "- ", "1. ",
     "- > ", "|", "|a\n|-\n", "> a\n", "- a\n", "# ", "```\n", "`` [!", "\\", "<"],
)  # fmt: skip
def test_formatting_costs_a_bounded_number_of_calls_a_character(pump):
    short, long = (calls_of(to_whatsapp, "x " + pump * (size // len(pump))) for size in (2000, 8000))
    assert short <= 500 * 2000
    assert long <= 4.5 * short + 4000, "more than in proportion"


def test_only_so_much_is_read_as_markdown():
    text = "**a** " * (LONGEST_FORMATTED // 6) + "\n\n**b**\n\n" + "c " * 1000
    told = to_whatsapp(text)
    assert told.startswith("*a* *a*")
    assert "\n\n**b**\n\nc c" in told
    assert calls_of(to_whatsapp, "[" * 10 * LONGEST_FORMATTED) <= 500 * LONGEST_FORMATTED


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("piece", ["palavra ", "x", "- item\n", "[[a]]\n"])
@pytest.mark.parametrize("way", ["compose", "plain"])
def test_a_reply_that_is_too_long_is_cut_where_all_can_see_it(name, piece, way):
    parts = getattr(CHANNELS[name], way)("Olá:\n" + piece * (100_000 // len(piece)))
    assert all(0 < len(part.text) <= LIMIT for part in parts)
    if piece != "[[a]]\n" or way == "plain":
        assert parts[-1].text.endswith(CUT)
        assert LONGEST // 2 < sum(len(part.text) for part in parts) <= LONGEST + 200


def test_a_reply_that_is_just_not_too_long_goes_out_whole():
    text = "palavra " * (LONGEST // 8)
    assert "".join(part.text for part in CHANNELS["whatsapp"].compose(text)).count("palavra") == LONGEST // 8


# -- the plain way --------------------------------------------------------------------


@pytest.mark.parametrize("name", CHANNELS)
def test_plain_parts_are_as_the_reply_was_written(name):
    assert CHANNELS[name].plain("**Olá** \ud800\0\n- 1) Pix\n[[Sim]]") == [Part("**Olá** \ufffd\n- 1) Pix\n[[Sim]]")]
    assert SHELL.plain("a\0\ud800" + "b" * 5000) == [Part("a\ufffd" + "b" * 5000)]


@pytest.mark.parametrize("name", CHANNELS)
def test_a_stored_reply_with_a_lone_surrogate_can_be_sent(name):
    for way in (CHANNELS[name].compose, CHANNELS[name].plain):
        [part] = way("Olá \ud83d\n\n\ud83d\ude00 fim\x00")
        assert json.dumps(part.text, ensure_ascii=False).encode()
        assert part.text == "Olá \ufffd\n\n😀 fim"


def test_replies_of_the_generator_differ():
    assert len({build(Random(number)).text for number in range(200)}) > 180
