"""What of a conversation a model is shown: it fits, it is stable, and the words are those of who said them."""

from __future__ import annotations

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
