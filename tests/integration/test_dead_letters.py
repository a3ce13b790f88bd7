"""``chatbot dead`` on a real broker: nothing is lost, nothing is answered twice, order stays."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import weakref
from types import SimpleNamespace

import pytest
from amqp.exceptions import NotFound
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from chatbot import app, cli
from chatbot.broker import topology
from chatbot.cli import main
from chatbot.errors import Permanent
from chatbot.messages import Media, Message
from chatbot.ops import dead_letters
from tests.integration.test_sessions import Echo, chatbot, replies, say, serving
from tests.servers import PYTHON, ROOT, wait_until

DEAD = topology.DEAD_QUEUE.name
SECRET = "segredo do cliente"
fresh = itertools.count(1)


@pytest.fixture(scope="module")
def url(rabbitmq):
    """A virtual host of this file's own, so that its dead letters are all there are."""
    return rabbitmq.url.removesuffix("/") + rabbitmq.add_vhost()


@pytest.fixture
def bot(rabbitmq, redis_server, url):
    bot = chatbot(rabbitmq, redis_server, broker_url=url)
    bot.store._redis.flushdb()
    yield bot
    bot.close()


@pytest.fixture
def broker(bot):
    """A channel to look at queues with; a leaked queue of a user fails the test that leaked it."""
    bot.router.ping()
    with bot.celery.connection_for_read() as connection:
        channel = connection.channel()
        for queue in (DEAD, topology.OPEN, topology.SEND):
            channel.queue_purge(queue)
        yield channel
        left = [user for user in ("ana", "beto") if depth(connection, topology.queue_name(user)) is not None]
        for user in left:
            connection.channel().queue_delete(topology.queue_name(user))
        assert left == []


@pytest.fixture
def dead(url, monkeypatch):
    """Run ``chatbot dead …`` as from a terminal, with no Redis anywhere."""
    monkeypatch.setattr(app, "configure_logging", lambda _: None)  # pytest's logging stays

    def run(*arguments, answer=None, code=0, **settings):
        values = {
            "broker_url": url, "redis_url": "redis://127.0.0.1:1/0", "env": "test", "publish_timeout": "2", **settings
        }  # fmt: skip
        app.from_environment.cache_clear()
        env = {f"CHATBOT_{name.upper()}": str(value) for name, value in values.items()}
        with monkeypatch.context() as patch:
            patch.setattr("celery.Celery.set_default", lambda _: None)  # a worker of this process keeps its own app
            result = CliRunner(env=env).invoke(main, ["dead", *arguments], input=answer)
        if app.from_environment.cache_info().currsize:
            app.from_environment().close()
            app.from_environment.cache_clear()
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


def depth(connection, queue):
    """Return how many messages are ready in ``queue``, ``None`` where there is no such queue."""
    try:
        with connection.channel() as channel:
            return channel.queue_declare(queue, passive=True).message_count
    except NotFound:
        return None


def ready(broker, queue=DEAD):
    return broker.queue_declare(queue, passive=True).message_count


def listed(dead, *arguments):
    return [json.loads(line) for line in dead("list", "--json", *arguments).stdout.splitlines()]


def bury(bot, user="ana", reason="Permanent: no", text=SECRET, **more):
    message = Message(user=user, id=f"wamid.{next(fresh)}", text=text, sent_at=1_700_000_000.0, **more)
    bot.router.bury(message, reason)
    return message.id


def reject(broker, queue):
    """Treat the next message of ``queue`` as a worker does that meets an unforeseen error."""
    broker.basic_reject(broker.basic_get(queue).delivery_tag, requeue=False)


def in_order(broker):
    """Return the message ids in ``chat.dead``, first to last, and leave all as it is."""
    with broker.connection.channel() as channel:
        raws = iter(lambda: channel.basic_get(DEAD), None)
        return [json.loads(raw.body)[1]["id"] for raw in raws]


def delete(broker, *users):
    for user in users:
        broker.queue_delete(topology.queue_name(user))


# -- list and show ---------------------------------------------------------------


def test_no_letters_are_said_to_be_none(broker, dead):
    assert dead("list").output == "There are no dead letters.\n"
    assert dead("list", "--json").stdout == ""
    assert dead("replay", "--all").output == "0 replayed, 0 left.\n"
    assert dead("drop", "--all").output == "There is nothing to drop.\n"


def test_letters_are_listed_oldest_first_without_what_people_wrote(broker, bot, dead):
    first, second = bury(bot), bury(bot, "beto", "Transient: 503\nagain\x1b[2J")
    lines = dead("list").stdout.splitlines()
    assert [line.split()[4] for line in lines[:3]] == ["MESSAGE", first, second]
    assert re.fullmatch(
        rf"[0-9a-f]{{12}}  2023-11-14T22:13:20Z  answer  ana   {first} +{len(SECRET)}     Permanent: no", lines[1]
    )
    assert lines[2].endswith(r"Transient: 503\nagain\x1b[2J"), "one line, and nothing a terminal would obey"
    assert lines[3:] == ["2 dead letters."]
    assert listed(dead)[0] == {
        "id": lines[1].split()[0], "died_at": None, "sent_at": "2023-11-14T22:13:20Z", "kind": "answer",
        "user": "ana", "message_id": first, "length": len(SECRET), "reason": "Permanent: no", "replayable": True,
    }  # fmt: skip
    for command in (["list"], ["list", "--json"], ["replay", "--all"]):
        assert "segredo" not in dead(*command).output
    delete(broker, "ana", "beto")


def test_letters_are_filtered_by_user_and_reason_and_limited(broker, bot, dead):
    ids = [bury(bot), bury(bot, "beto"), bury(bot, "beto", "the user's queue is full"), bury(bot, "beto")]
    assert [letter["message_id"] for letter in listed(dead, "--user", "beto")] == ids[1:]
    assert [letter["message_id"] for letter in listed(dead, "--reason", "FULL")] == [ids[2]]
    assert [letter["message_id"] for letter in listed(dead, "--user", "ana", "--reason", "no")] == [ids[0]]
    assert dead("list", "--user", "caio").output == "None of the 4 dead letters matches.\n"
    output = dead("list", "--user", "beto", "--limit", "2").output
    assert ids[1] in output
    assert ids[3] not in output
    assert output.splitlines()[-1] == "2 of 3 dead letters; --limit shows more."


def test_show_tells_everything_of_one_letter(broker, bot, dead):
    bury(bot)
    bury(bot, "beto", "Transient: 503", text="outro \x1b]0;x\x07 👩🏽‍🍳\nsegunda linha", phone="5511")
    page = dead("show", listed(dead, "--user", "beto")[0]["id"]).output
    for part in (
        "Transient: 503",
        '"task": "chatbot.answer"',
        "outro \\x1b]0;x\\x07 👩🏽‍🍳\nsegunda linha",
        "possible",
    ):
        assert part in page
    assert SECRET not in page


def test_ids_stay_the_same_and_tell_copies_apart(broker, bot, dead):
    message = Message(user="ana", id="wamid.copied", text="oi")
    for _ in range(2):
        bot.router.bury(message, "Permanent: no")
    before = [letter["id"] for letter in listed(dead)]
    assert len(set(before)) == 2
    assert [letter["id"] for letter in listed(dead)] == before


def test_every_letter_is_reached_page_by_page(broker, bot, dead, monkeypatch):
    monkeypatch.setattr(cli, "PAGE", 3)
    ids = [bury(bot, "beto" if number == 9 else "ana") for number in range(11)]
    assert [letter["message_id"] for letter in listed(dead)] == ids
    lines = dead("list").stdout.splitlines()
    assert [line.split()[4] for line in lines[:-1]] == ["MESSAGE", *ids], "one header"
    assert lines[-1] == "11 dead letters."
    assert dead("list", "--limit", "4").stdout.splitlines()[-1] == "4 of 11 dead letters; --limit shows more."
    last = listed(dead)[-1]["id"]
    assert ids[-1] in dead("show", last).output
    assert in_order(broker) == ids
    assert "1 dropped." in dead("drop", last, "--yes").output
    assert "1 replayed, 0 left." in dead("replay", "--all", "--user", "beto").output
    assert in_order(broker) == ids[:9]
    assert "9 dropped." in dead("drop", "--all", "--yes").output
    assert ready(broker) == 0
    delete(broker, "beto")


def test_one_letter_at_a_time_is_in_memory(broker, bot, monkeypatch):
    """More of them than could be held at once before, and each in its place afterwards."""
    letters, alive, most = 10_050, weakref.WeakSet(), 0
    producer = bot.celery.amqp.Producer(broker)
    for number in range(letters):
        producer.publish({"n": number}, exchange="chat.dead", routing_key="", serializer="json")
    wait_until(lambda: ready(broker) == letters, what="letters there")

    class Watched(dead_letters.Letter):
        __slots__ = ("__weakref__",)
        __hash__ = object.__hash__

    monkeypatch.setattr(dead_letters, "Letter", Watched)
    with dead_letters.hold(bot) as held:
        for number, letter in enumerate(held.letters()):
            alive.add(letter)
            most = max(most, len(alive))
            assert letter.text == json.dumps({"n": number})
    assert held.seen == letters
    assert most <= 2
    first = json.loads(broker.basic_get(DEAD).body)
    assert first == {"n": 0}
    broker.queue_purge(DEAD)


def test_what_dies_while_letters_are_replayed_is_not_replayed_with_them(broker, bot, dead):
    """A message that fails again comes back behind the others: it would be replayed for ever."""
    first = bury(bot)
    with dead_letters.hold(bot) as held:
        seen = []
        for letter in dead_letters.choose(held):
            seen.append(letter.message_id)
            bury(bot)
    assert seen == [first]
    assert ready(broker) == 2


def test_a_letter_another_command_holds_is_not_seen_and_not_lost(broker, bot, dead):
    ids = [bury(bot) for _ in range(4)]
    first = listed(dead)[0]["id"]
    with broker.connection.channel() as other:
        other.basic_get(DEAD)
        assert [letter["message_id"] for letter in listed(dead)] == ids[1:]
        assert first in dead("drop", first, "--yes", code=1).output
    wait_until(lambda: ready(broker) == 4)
    assert in_order(broker) == ids


# -- replay ----------------------------------------------------------------------


class Refuses(Echo):
    def reply(self, message, history):
        raise Permanent("no")


def test_a_message_that_was_apologised_for_gets_a_real_answer(broker, bot, dead):
    bot.agent = Refuses()
    with serving(bot):
        say(bot, "primeira")
        wait_until(lambda: ready(broker) == 1)
        [apology] = replies(bot)
        bot.agent = Echo()
        say(bot, "segunda")
        wait_until(lambda: replies(bot) == [apology, "2: segunda"])
        [letter] = listed(dead)
        assert (letter["user"], letter["kind"], letter["reason"]) == ("ana", "answer", "Permanent: no")
        output = dead("replay", letter["id"]).output
        assert output.startswith(f"replayed  {letter['id']}  answer  ana")
        assert output.endswith("1 replayed, 0 left.\n")
        wait_until(lambda: replies(bot) == [apology, "2: segunda", "3: primeira"])
    assert ready(broker) == 0


def test_a_message_with_a_file_can_be_replayed(broker, bot, dead):
    bury(bot, kind="image", media=Media("file-1", "image/jpeg"))
    with serving(bot):
        [letter] = listed(dead)
        assert letter["kind"] == "answer"
        dead("replay", letter["id"])
        wait_until(lambda: len(replies(bot)) == 1)
    assert ready(broker) == 0


def test_a_replay_that_fails_again_can_be_replayed_again(broker, bot, dead):
    bot.agent = Refuses()
    with serving(bot):
        say(bot, "oi")
        for turns in (1, 2, 3):
            wait_until(lambda n=turns: len(replies(bot)) == n and ready(broker) == 1)
            if turns == 3:
                bot.agent = Echo()
            dead("replay", "--all")
        wait_until(lambda: replies(bot)[3:] == ["4: oi"])


def test_a_replay_killed_before_the_letter_was_used_up_makes_one_turn_with_the_next(broker, bot, dead, url):
    """The process ends between the broker's confirm and the acknowledgement."""
    bury(bot, text="oi")
    die = "from chatbot.ops.dead_letters import Held; import os; Held.use_up = lambda *_: os.kill(os.getpid(), 9)"
    killed = subprocess.run(
        [PYTHON, "-c", f"{die}; from chatbot.cli import main; main(['dead', 'replay', '--all'])"],
        env={**os.environ, "CHATBOT_BROKER_URL": url, "CHATBOT_ENV": "test"}, cwd=ROOT, check=False, timeout=60,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert ready(broker, "chat.ana") == 1, "it was sent on its way"
    wait_until(lambda: ready(broker) == 1, what="the letter is back by itself")
    assert "1 replayed" in dead("replay", "--all").output
    assert ready(broker, "chat.ana") == 2
    with serving(bot):
        say(bot, "depois")
        wait_until(lambda: replies(bot) == ["1: oi", "2: depois"])
    assert bot.agent.seen == ["oi", "depois"]


def test_two_copies_of_a_letter_make_one_turn(broker, bot, dead):
    message = Message(user="ana", id="wamid.twice", text="oi")
    for _ in range(2):
        bot.router.bury(message, "Permanent: no")
    assert "2 replayed, 0 left." in dead("replay", "--all").output
    with serving(bot):
        say(bot, "depois")
        wait_until(lambda: replies(bot) == ["1: oi", "2: depois"])
    assert bot.agent.seen == ["oi", "depois"]


def test_an_expired_message_is_answered_after_all(broker, bot, dead, rabbitmq, redis_server, url):
    impatient = chatbot(rabbitmq, redis_server, broker_url=url, reply_window=0.05)
    say(impatient, "velha")
    wait_until(lambda: ready(broker) == 1, what="expired")
    impatient.close()
    bot.celery.set_default()
    delete(broker, "ana")
    [letter] = listed(dead)
    assert (letter["reason"], letter["user"], letter["kind"]) == ("expired in chat.ana", "ana", "answer")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", letter["died_at"])
    assert '"reason": "expired"' in dead("show", letter["id"]).output
    dead("replay", letter["id"])
    with serving(bot):
        wait_until(lambda: replies(bot) == ["1: velha"])
    assert ready(broker) == 0


def test_a_wake_up_of_the_sender_is_repeated(broker, bot, dead):
    bot.router.wake_sender("ana", 7)
    reject(broker, topology.SEND)
    wait_until(lambda: ready(broker) == 1)
    [letter] = listed(dead)
    assert (letter["kind"], letter["user"], letter["reason"]) == ("send", "ana", "rejected from send")
    dead("replay", letter["id"])
    raw = broker.basic_get(topology.SEND, no_ack=True)
    assert raw.headers["task"] == "chatbot.send"
    assert json.loads(raw.body)[0] == ["ana", 7]
    assert ready(broker) == 0


def test_what_is_no_message_is_shown_and_stays(broker, bot, dead):
    bodies = [b"\xff\x00 what?", b"[" * 100_000, b'[["ana", "oi"], {}, {}]', b"{}", b""]
    producer = bot.celery.amqp.Producer(broker)
    for body in bodies:
        producer.publish(
            body, exchange="chat", routing_key="chat.open", content_type="x", content_encoding="binary", serializer=None
        )
        reject(broker, "chat.open")
    bot.router.mark_read(Message(user="ana", id="wamid.read", text=""), at=0.0)
    wait_until(lambda: ready(broker, topology.SEND) == 1)
    reject(broker, topology.SEND)
    bot.celery.send_task("chatbot.answer", ("ana", 7), exchange="chat.dead", queue=None, routing_key="")
    bot.router.bury(Message(user="", id="wamid.nobody", text=SECRET), "a user id has 1 to 200 bytes")
    wait_until(lambda: ready(broker) == len(bodies) + 3)
    letters = listed(dead)
    assert [letter["kind"] for letter in letters] == [*["unreadable"] * len(bodies), "mark_read", "answer", "answer"]
    assert letters[0]["reason"] == "rejected from chat.open"
    assert not any(letter["replayable"] for letter in letters)
    assert "\\xff\\x00 what?" in dead("show", letters[0]["id"]).output
    output = dead("replay", letters[0]["id"], code=1).output
    assert f"left      {letters[0]['id']}  unreadable  -  -: only answer and send letters can be replayed" in output
    output = dead("replay", "--all", code=1).output
    assert output.endswith(f"0 replayed, {len(letters)} left.\n")
    assert "text is of type int" in output
    assert "a user id has 1 to 200 bytes" in output
    assert listed(dead) == letters


def test_a_full_queue_keeps_the_letter_and_the_users_later_ones(broker, dead, rabbitmq, redis_server, url):
    bot = chatbot(rabbitmq, redis_server, broker_url=url, max_waiting=1)
    say(bot, "cheia")
    ids = [bury(bot), bury(bot, "beto"), bury(bot)]
    output = dead("replay", "--all", code=1, max_waiting=1).output
    assert "the user's queue is full" in output
    assert "an older letter of this user found no room" in output
    assert output.endswith("1 replayed, 2 left.\n")
    assert in_order(broker) == [ids[0], ids[2]]
    assert ready(broker, "chat.ana") == 1
    assert ready(broker, "chat.beto") == 1
    delete(broker, "ana", "beto")
    bot.close()


def test_a_broker_that_takes_nothing_keeps_the_letter(rabbitmq, redis_server, dead):
    """Its exchange ``chat`` may not be published to: no confirm ever comes."""
    vhost = rabbitmq.add_vhost()
    url = rabbitmq.url.removesuffix("/") + vhost
    bot = chatbot(rabbitmq, redis_server, broker_url=url)
    id_ = bury(bot)
    rabbitmq.ctl("set_permissions", "-p", vhost, "guest", ".*", r"^chat\.dead$", ".*")
    result = dead("replay", "--all", code=1, broker_url=url, publish_timeout=0.5)
    assert "0 replayed, 1 left." in result.stdout
    assert "the broker cannot be used" in result.stderr
    assert "chatbot doctor" in result.stderr
    with bot.celery.connection_for_read() as connection:
        assert in_order(connection.channel()) == [id_]
    bot.close()


@pytest.mark.parametrize("command", [["list"], ["show", "x"], ["replay", "--all"], ["drop", "--all"]])
@pytest.mark.parametrize("address", ["amqp://127.0.0.1:1//", "memory://"])
def test_a_broker_that_is_away_is_named_with_what_to_do(dead, command, address):
    result = dead(*command, code=1, broker_url=address, publish_timeout=0.5)
    assert "CHATBOT_BROKER_URL" in result.stderr


# -- drop ------------------------------------------------------------------------


def test_letters_are_dropped_only_after_a_yes(broker, bot, dead):
    ids = [bury(bot), bury(bot, "beto"), bury(bot, "beto")]
    letters = listed(dead)
    result = dead("drop", letters[0]["id"], answer="n\n", code=1)
    assert "Drop 1 dead letter for good?" in result.output
    assert in_order(broker) == ids
    assert "1 dropped." in dead("drop", letters[0]["id"], answer="y\n").output
    assert in_order(broker) == ids[1:]
    bury(bot)
    assert "2 dropped." in dead("drop", "--all", "--user", "beto", "--yes").output
    assert [letter["user"] for letter in listed(dead)] == ["ana"]


def test_what_dies_while_the_question_is_open_is_not_dropped(broker, bot, dead, monkeypatch):
    bury(bot)
    later = []
    monkeypatch.setattr("click.confirm", lambda *_, **__: later.append(bury(bot)))
    assert "1 dropped." in dead("drop", "--all").output
    assert in_order(broker) == later


@pytest.mark.parametrize("command", [["show"], ["replay"], ["drop", "--yes"]])
def test_an_unknown_id_is_named_and_nothing_is_done(broker, bot, dead, command):
    bury(bot)
    before = listed(dead)
    known = [before[0]["id"]] if command != ["show"] else []
    output = dead(*command, *known, "0123456789ab", code=1).output
    assert "no dead letter has the id 0123456789ab; nothing was done" in output
    assert listed(dead) == before


@pytest.mark.parametrize("arguments", [[], ["--user", "ana"], ["--all", "x"], ["x", "--reason", "no"]])
@pytest.mark.parametrize("command", ["replay", "drop"])
def test_a_choice_is_ids_or_all(dead, command, arguments):
    dead(command, *arguments, code=2)


def test_untouched_letters_keep_their_order(broker, bot, dead):
    ids = [bury(bot) for _ in range(30)]
    letters = listed(dead)
    dead("show", letters[3]["id"])
    assert in_order(broker) == ids
    dead("drop", "--yes", *[letter["id"] for letter in letters[1::3]])
    del ids[1::3], letters[1::3]
    assert in_order(broker) == ids
    dead("replay", letters[7]["id"], letters[2]["id"])
    del ids[7], ids[2]
    assert in_order(broker) == ids
    newer = bury(bot)
    assert [letter["message_id"] for letter in listed(dead)] == [*ids, newer]
    delete(broker, "ana")


# -- reading ---------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["user", "text", "id", "number", "message", "message_id", "sent_at", "replays"])
calls = st.tuples(
    st.lists(json_values, max_size=3), st.dictionaries(names, json_values | st.text(), max_size=6), st.just({})
)
deaths = st.lists(st.fixed_dictionaries({"queue": st.text(max_size=5), "reason": st.text(max_size=5)}), max_size=1)


@given(
    st.binary(max_size=30) | (json_values | calls).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {},
        optional={
            "task": st.sampled_from(["chatbot.answer", "chatbot.send", "chatbot.notify", "x"]) | json_values,
            "id": json_values, "user": json_values, "reason": json_values, "x-death": deaths | json_values,
        },
    ),
)  # fmt: skip
def test_whatever_lies_there_is_read_and_shown_in_one_line(body, headers):
    raw = SimpleNamespace(body=body, headers=headers, properties={}, delivery_tag=1)
    letter, again = dead_letters._read(raw), dead_letters._read(raw)
    assert letter.id == again.id
    assert re.fullmatch("[0-9a-f]{12}", letter.id)
    [_, line] = dead_letters.table([letter])
    assert line.isprintable() or {*line} & {"\u200d"}
    for shown in (line, dead_letters.page(letter), dead_letters.label(letter), json.dumps(letter.to_dict())):
        shown.encode()
    if not letter.obstacle:
        assert letter.kind in {"answer", "send"}
        assert letter.user
