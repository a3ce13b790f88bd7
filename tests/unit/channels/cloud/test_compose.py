"""What a reply becomes on WhatsApp: its formatting, its choices, its parts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.channels.choices import as_text, offered
from chatbot.channels.cloud.channel import BUTTONS, INTERACTIVE_BODY, ROWS, WhatsApp
from chatbot.channels.formatting import LIMIT, to_whatsapp
from chatbot.messages import Choice, Message, Part, Status

TO = Message(user="5511999990001", id="wamid.in", text="oi", channel="whatsapp", account="77", phone="5511999990001")


@pytest.fixture
def channel():
    return WhatsApp(
        graph_url="http://127.0.0.1:1", phone_number_id="42", access_token="t", app_secret="s", verify_token="v",
        timeout=1.0, template="retorno:pt_BR",
    )  # fmt: skip


def sent(channel, part, monkeypatch):
    """What the Graph API is asked for one part."""
    asked = []
    monkeypatch.setattr(
        channel, "_call", lambda _, content: asked.append(content) or {"messages": [{"id": "wamid.out"}]}
    )
    channel.send(TO, part, callback="cb")
    return asked[0]


# -- formatting -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markdown", "whatsapp"),
    [
        ("**Olá**, _Ana_ ~~não~~ `x = 1`", "*Olá*, _Ana_ ~não~ `x = 1`"),
        ("***tudo***", "_*tudo*_"),
        ("# Pedido\n\nfeito", "*Pedido*\n\nfeito"),
        ("veja [o site](https://a.br/c?d=1&e=2_f)", "veja o site (https://a.br/c?d=1&e=2_f)"),
        ("https://x.br/a_b_c?q=*1*", "https://x.br/a_b_c?q=*1*"),
        ("- um\n- dois\n  - sub\n\n1. a\n2. b", "- um\n- dois\n  - sub\n\n1. a\n2. b"),
        ("> cita\n> mais", "> cita\n> mais"),
        ("```py\nx = 1\n  y\n```", "```\nx = 1\n  y\n```"),
        ("| item | preço |\n|---|---|\n| pão | R$ 1 |", "item | preço\npão | R$ 1"),
        ("linha um\nlinha dois\n\n\noutra", "linha um\nlinha dois\n\noutra"),
        ("*já* é do WhatsApp", "*já* é do WhatsApp"),
        ("2 * 3 * 4, R$ 10,00, nome_de_campo, <b>, a &amp; b", "2 * 3 * 4, R$ 10,00, nome_de_campo, <b>, a &amp; b"),
        ("10) dez\n11) onze", "10) dez\n11) onze"),
        ("", ""),
    ],
)  # fmt: skip
def test_markdown_becomes_whatsapps_formatting(markdown, whatsapp):
    assert to_whatsapp(markdown) == whatsapp


@given(st.text(alphabet=st.sampled_from("ab1 *_~`#>-[]()|!\n.\\"), max_size=60))
def test_no_word_is_lost_whatever_the_signs(text):
    def words(of):
        return re.findall(r"[ab1]", of)

    assert words(to_whatsapp(text)) == words(text)


# -- choices ----------------------------------------------------------------------


def test_choices_end_a_reply():
    text, choices = offered("Qual?\n\n[[Azul]]\n- [[Verde | o mais claro]]\n\n[[Azul]]\n")
    assert text == "Qual?"
    assert choices == (Choice("Azul"), Choice("Verde", "o mais claro"))
    assert offered("[[não]] no meio\nfim") == ("[[não]] no meio\nfim", ())
    assert as_text("Qual?", choices) == "Qual?\n\n1. Azul\n2. Verde: o mais claro"


def test_few_short_choices_are_buttons(channel, monkeypatch):
    [part] = channel.compose("**Qual**?\n[[Sim]]\n[[Não]]")
    content = sent(channel, part, monkeypatch)
    assert content["interactive"] == {
        "type": "button",
        "body": {"text": "*Qual*?"},
        "action": {"buttons": [
            {"type": "reply", "reply": {"id": "0", "title": "Sim"}},
            {"type": "reply", "reply": {"id": "1", "title": "Não"}},
        ]},
    }  # fmt: skip
    assert content["type"] == "interactive"
    assert content["biz_opaque_callback_data"] == "cb"


@pytest.mark.parametrize("lines", [["[[Um | com descrição]]"], [f"[[opção {n}]]" for n in range(BUTTONS + 1)]])
def test_more_choices_are_a_list(channel, monkeypatch, lines):
    [part] = channel.compose("\n".join(["Escolha", *lines]))
    interactive = sent(channel, part, monkeypatch)["interactive"]
    assert interactive["type"] == "list"
    rows = interactive["action"]["sections"][0]["rows"]
    assert len(rows) == len(lines)
    assert all(len(row["id"]) > 0 for row in rows)
    assert 0 < len(interactive["action"]["button"]) <= 20


@pytest.mark.parametrize("lines", [[f"[[{n}]]" for n in range(ROWS + 1)], ["[[" + "x" * 25 + "]]"]])
def test_what_no_list_can_hold_is_written_out(channel, lines):
    [part] = channel.compose("\n".join(["Escolha", *lines]))
    assert part.choices == ()
    assert part.text.startswith("Escolha\n\n1. ")


def test_a_long_text_goes_before_its_choices(channel):
    parts = channel.compose("a" * (LIMIT + 50) + " " + "b" * (INTERACTIVE_BODY + 1) + "\n[[Sim]]")
    assert parts[-1] == Part("Escolha uma opção:", (Choice("Sim"),))
    assert all(part.choices == () for part in parts[:-1])
    assert channel.compose("[[Sim]]") == [Part("Escolha uma opção:", (Choice("Sim"),))]


@given(st.text(max_size=40), st.lists(st.text("ab |", min_size=1, max_size=30), max_size=12))
def test_every_part_is_within_what_the_api_takes(text, titles):
    channel = WhatsApp(
        graph_url="http://127.0.0.1:1", phone_number_id="42", access_token="t", app_secret="s", verify_token="v",
        timeout=1.0,
    )  # fmt: skip
    for part in channel.compose("\n".join([text, *(f"[[{title}]]" for title in titles)])):
        assert part.text.strip()
        assert len(part.text) <= (INTERACTIVE_BODY if part.choices else LIMIT)
        titles_sent = [choice.title for choice in part.choices]
        assert len(set(titles_sent)) == len(titles_sent) <= ROWS


# -- templates and failed statuses ------------------------------------------------


def test_the_template_that_reopens_the_window(channel, monkeypatch):
    assert sent(channel, channel.reopening, monkeypatch)["template"] == {
        "name": "retorno", "language": {"code": "pt_BR"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "kind"),
    [(131047, "WindowClosed"), (131026, "Permanent"), (131042, "ChannelDown"), (0, "Permanent"), (7, "Permanent")],
)
def test_a_failed_status_stands_for_an_error(channel, code, kind):
    assert type(channel.failed(Status("wamid.x", "failed", error_code=code))).__name__ == kind
