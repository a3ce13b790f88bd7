"""What of a conversation a model is shown: it fits, it is stable, and the words are those of who said them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot import texts
from chatbot.agent.prompt import LEFT_OUT, Room, cut_middle, cut_to, messages, tokens
from chatbot.messages import Message, Turn

WIDE = Room(turns=20, chars=24_000, tokens=100_000)


def said(text, id_=""):
    return Message(user="ana", id=id_ or text[:30], text=text)


def turn(number, text="oi", reply="olá", failure=""):
    return Turn(number, said(text, f"m{number}"), reply, 0.0, failure)


def users(shown):
    return [message["content"] for message in shown if message["role"] == "user"]


#: Texts and their tokens in a vocabulary of 65,000 (Claude 2's); today's have fewer for all of these.
COUNTED = [
    ("Olá, tudo bem? Gostaria de saber o preço do bolo de chocolate para domingo.", 22),
    ("Não consigo acessar minha conta, já tentei redefinir a senha três vezes e não chegou nenhum e-mail!!!", 33),
    ("Bom dia 😊😊 qual o horário de funcionamento?? 🙏🏽", 22),
    ("Pedido 123456789-00, CPF 529.982.247-25, valor R$ 1.234,56", 26),
    ("こんにちは、元気ですか。今日はいい天気ですね。", 24),
    ("Привет, как дела? Хочу заказать торт на воскресенье.", 29),
    ("مرحبا كيف حالك اليوم", 17),
]


def test_tokens_are_counted_on_the_safe_side():
    for text, counted in COUNTED:
        assert counted <= tokens(text) <= 2 * counted, text


def test_the_past_is_trimmed_in_blocks():
    history = [turn(n) for n in range(1, 61)]
    shown = [len(users(messages(said("e agora?"), history[max(0, n - 30) : n], WIDE))) - 1 for n in range(61)]
    assert shown[:21] == list(range(21))
    assert shown[21:31] == list(range(11, 21))
    assert shown[31:41] == list(range(11, 21))


def test_where_fewer_turns_are_kept_than_may_be_shown_all_are():
    history = [turn(n) for n in range(1, 61)][-20:]
    assert len(users(messages(said("e agora?"), history, WIDE))) == 21


def test_no_turns_is_no_past():
    shown = messages(said("e agora?"), [turn(1), turn(2)], Room(turns=0, chars=24_000, tokens=100_000))
    assert users(shown) == ["e agora?"]


@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900), st.sampled_from(["", "", "", "x"])), max_size=30),
    st.integers(0, 9_000),
    st.integers(100, 2_000),
)
def test_it_fits_and_the_roles_take_turns(lengths, asked, room):
    history = [turn(n, "a á1 " * (a // 5), "b é2 " * (b // 5), failure) for n, (a, b, failure) in enumerate(lengths, 1)]
    shown = messages(said("w á3 " * (asked // 5)), history, Room(turns=20, chars=24_000, tokens=room))
    assert sum(tokens(message["content"]) + 8 for message in shown) <= room
    assert [message["role"] for message in shown] == ["user", "assistant"] * (len(shown) // 2) + ["user"]


@given(st.lists(st.integers(1, 1_500), min_size=2, max_size=60))
def test_where_the_past_begins_depends_on_nothing_that_comes_later(lengths):
    """Within a block of ten turns the beginning moves only where the room for the past is used up."""
    room = Room(turns=20, chars=24_000, tokens=2_000)
    history = [turn(n, f"{n} " + "a" * length) for n, length in enumerate(lengths, 1)]
    moved = 0
    for n in range(1, len(history)):
        before, after = (users(messages(said("?"), history[:m], room))[:-1] for m in (n, n + 1))
        moved += after[: len(before)] != before
    used = sum(tokens(text.message.text) + 30 for text in history)
    assert moved <= len(history) // 10 + 1 + used // 700


PASTE = "COMEÇO do contrato. " + "cláusula e mais cláusula, " * 2_000 + "FIM do contrato?"


def test_one_long_paste_leaves_the_turns_before_it_in_sight():
    """It used to drop itself and everything before it, for as long as it was among the turns that are kept."""
    history = [turn(1, "meu nome é Ana"), turn(2, PASTE), turn(3, "e o prazo?")]
    first, pasted, *_ = users(messages(said("qual é o meu nome?"), history, Room(turns=20, chars=24_000, tokens=2_000)))
    assert first == "meu nome é Ana"
    assert pasted.startswith("COMEÇO")
    assert pasted.endswith("FIM do contrato?")
    assert LEFT_OUT in pasted
    assert 200 < tokens(pasted) + tokens("olá") + 16 <= 2_000 * 3 / 4 / 4


def test_of_the_characters_of_the_past_one_exchange_takes_a_quarter_at_most():
    history = [turn(1, "meu nome é Ana"), turn(2, PASTE)]
    first, pasted, _ = users(messages(said("e agora?"), history, WIDE))
    assert first == "meu nome é Ana"
    assert 5_000 < len(pasted) <= 6_000


@pytest.mark.parametrize("room", [Room(turns=20, chars=120, tokens=9_000), Room(turns=20, chars=24_000, tokens=128)])
def test_where_a_cut_would_leave_nothing_what_is_too_long_is_left_out_alone(room):
    history = [turn(1, "Abrem no domingo de manhã?", "Só à tarde."), turn(2, PASTE), turn(3)]
    assert users(messages(said("e agora?"), history, room)) == ["Abrem no domingo de manhã?", "oi", "e agora?"]


def test_of_an_exchange_what_is_longer_is_cut_first():
    history = [turn(1, PASTE, "Sim, até sexta."), turn(2, "e depois?", PASTE), turn(3, PASTE, PASTE)]
    shown = messages(said("e agora?"), history, Room(turns=20, chars=24_000, tokens=2_000))
    takes = [tokens(message["content"]) for message in shown]
    assert shown[1]["content"] == "Sim, até sexta."
    assert shown[2]["content"] == "e depois?"
    assert all(takes[n] + takes[n + 1] + 16 <= 2_000 * 3 / 4 / 4 for n in (0, 2, 4))
    assert shown[3]["content"].startswith("COMEÇO")
    assert LEFT_OUT not in shown[3]["content"], "the model would take it for words of its own"
    assert min(takes[4], takes[5]) > 150


@given(st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 4_000)), min_size=1, max_size=8), st.integers(0, 4_000))
def test_what_a_message_is_cut_to_depends_on_nothing_that_comes_later(lengths, asked):
    history = [turn(n, f"{n} " + "a á1 " * (a // 5), "b é2 " * (b // 5)) for n, (a, b) in enumerate(lengths, 1)]

    def shown(turns, message, image=0):
        past = messages(message, turns, Room(turns=20, chars=6_000, tokens=3_000, image=image))[:-1]
        texts = [message["content"] for message in past]
        return {text.partition(" ")[0]: (text, answer) for text, answer in zip(texts[::2], texts[1::2], strict=True)}

    whole = shown(history, said("a á1 " * (asked // 5)), image=1_500)
    for n in range(1, len(history) + 1):
        earlier = shown(history[:n], said("?"))
        assert all(whole[key] == earlier[key] for key in whole.keys() & earlier.keys())


def test_what_is_shown_with_an_image_fits_beside_it():
    history = [turn(n, "a á1 " * 60) for n in range(1, 10)]
    room = Room(turns=20, chars=24_000, tokens=2_000, image=1_500)
    shown = messages(said("o que é isto?"), history, room)
    assert sum(tokens(message["content"]) + 8 for message in shown) <= 500
    assert len(shown) > 1


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("Abrimos às 8h. …", "Abrimos às 8h."),
        ("Custa R$ 1.234,56 e o frete sai…", "Custa R$ 1.234,56 e o frete sai"),
        ("Veja:\n```python\nprint(1)\n…\n```", "Veja:\n```python\nprint(1)\n```"),
        ("Bem… abrimos às 8h.", "Bem… abrimos às 8h."),
    ],
)
def test_the_mark_of_an_answer_that_was_cut_off_is_not_shown_as_the_models_own(reply, read):
    """Models repeat what they seem to have said."""
    shown = messages(said("e agora?"), [turn(1, "oi", reply)], WIDE)
    assert shown[1] == {"role": "assistant", "content": read}


def test_what_was_not_answered_is_shown_with_what_comes_next():
    history = [turn(1, "abrem domingo?", texts.APOLOGY["pt"], "Transient"), turn(2, "e sábado?", "Sim!"),
               turn(3, "quanto custa?", texts.APOLOGY["en"], "Permanent")]  # fmt: skip
    assert users(messages(said("alô"), history, WIDE)) == ["abrem domingo?\n\ne sábado?", "quanto custa?\n\nalô"]


def test_a_sticker_nobody_could_read_leaves_nothing():
    history = [turn(1, "", texts.UNREADABLE["pt"]), turn(2, "", "")]
    assert users(messages(said("oi"), history, WIDE)) == ["oi"]


def test_a_message_that_ended_what_answered_it_is_shown_to_no_model_again():
    """It would end that, too, and the next message would be taken for what did it."""
    ended = turn(1, "veneno", texts.APOLOGY["pt"], "EndsItsProcess: it ended the process that answered it")
    passing = turn(2, "oi", texts.APOLOGY["pt"], "Transient: the model is away")
    assert users(messages(said("e agora?"), [ended, passing], WIDE)) == ["oi\n\ne agora?"]


def test_only_the_latest_of_many_unanswered_messages_are_shown():
    history = [turn(n, f"pergunta {n} " + "x" * 300, texts.APOLOGY["pt"], "Transient") for n in range(1, 21)]
    [shown] = users(messages(said("alô"), history, Room(turns=20, chars=24_000, tokens=1_000)))
    assert shown.endswith("alô")
    assert "pergunta 20" in shown
    assert "pergunta 15" not in shown
    assert tokens(shown) < 500


def test_a_long_message_keeps_its_beginning_and_its_end():
    text = cut_middle("COMEÇO " + "meio " * 5_000 + "FIM", 200)
    assert text.startswith("COMEÇO")
    assert text.endswith("FIM")
    assert text.count(LEFT_OUT.strip()) == 1, "also where it was cut more than once"
    assert tokens(text) <= 200
    assert cut_to("curto", 200) == "curto"
