"""What providers told beside messages: kept once, bounded, shown without what people wrote."""

from __future__ import annotations

import itertools
import json

import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from chatbot import app
from chatbot.app import Chatbot
from chatbot.cli import main
from chatbot.config import Settings
from chatbot.errors import Transient
from chatbot.identity import Names
from chatbot.messages import Notice
from chatbot.store import keys, notices
from chatbot.store.client import connect
from chatbot.store.notices import Notices

fresh = itertools.count()

PHONE = "5511999990001"
BANNED = Notice(
    "account_update", "200", 1000.0, "critical", "account_update DISABLED_UPDATE", details={"event": "DISABLED_UPDATE"}
)
STAFF = Notice(
    "smb_message_echoes", "100", 2000.0, summary="smb_message_echoes echo text", user=PHONE, phone=PHONE,
    message_id="wamid.1", text="segredo", details={"what": "echo"},
)  # fmt: skip


@pytest.fixture(params=["fakeredis", pytest.param("redis", marks=pytest.mark.server)])
def client(request):
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
    else:
        url = f"fakeredis://notices-{next(fresh)}"
    client = connect(url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def kept(client):
    return Notices(client)


def test_notices_of_all_kinds_come_back_newest_last(kept):
    kept.keep(STAFF)
    kept.keep(BANNED)
    assert kept.kept() == [BANNED, STAFF]


def test_a_notice_that_comes_again_is_kept_logged_and_counted_once(kept, client):
    with capture_logs() as logged:
        assert [kept.keep(BANNED) for _ in range(3)] == [True, False, False]
    assert [(entry["event"], entry["log_level"], entry["says"]) for entry in logged] == [
        ("notice.received", "critical", "account_update DISABLED_UPDATE")
    ]
    assert client.hgetall("chatbot:counts") == {"notice.critical": "1"}
    assert kept.kept() == [BANNED]


def test_a_log_line_holds_nobodys_words_and_number(kept):
    with capture_logs() as logged:
        kept.keep(STAFF)
    assert [entry["log_level"] for entry in logged] == ["info"]
    assert "segredo" not in str(logged)
    assert PHONE not in str(logged)


def test_many_of_one_kind_push_out_their_own_oldest_and_none_of_another(kept, monkeypatch):
    monkeypatch.setattr(notices, "MOST", 3)
    kept.keep(BANNED)
    for number in range(5):
        kept.keep(Notice("calls", at=3000.0 + number))
    assert [(n.kind, n.at) for n in kept.kept()] == [
        ("account_update", 1000.0), ("calls", 3002.0), ("calls", 3003.0), ("calls", 3004.0),
    ]  # fmt: skip


def test_what_came_long_ago_is_forgotten(kept, client):
    kept.keep(Notice("calls", at=1.0))
    [aged] = client.zrange("chatbot:notices:calls", 0, -1)
    client.zincrby("chatbot:notices:calls", -keys.NOTICES_SECONDS - 1, aged)
    kept.keep(Notice("calls", at=2.0))
    assert [n.at for n in kept.kept()] == [2.0]
    assert 0 < client.ttl("chatbot:notices:calls") <= keys.NOTICES_SECONDS


def test_a_notice_without_a_time_is_listed_by_when_it_came(kept):
    for notice in (Notice("security"), BANNED):
        kept.keep(notice)
    assert [n.kind for n in kept.kept()] == ["account_update", "security"]


def test_without_redis_a_notice_waits():
    with pytest.raises(Transient):
        Notices(connect("redis://127.0.0.1:1/0")).keep(BANNED)


def test_with_a_key_a_notice_names_a_pseudonym_and_no_number():
    named = Names(key="a key of 16 chars").notice(STAFF)
    assert (named.phone, named.bsuid, named.text) == ("", "", "segredo")
    assert len(named.user) == len(named.message_id) == 26
    assert PHONE not in named.to_json()
    assert Names(key="a key of 16 chars").notice(BANNED) == BANNED


# -- as a task and as a command -----------------------------------------------------


@pytest.fixture
def bot(monkeypatch):
    url = f"fakeredis://notices-{next(fresh)}"
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url="memory://", redis_url=url))
    monkeypatch.setattr(app, "from_environment", lambda: bot)
    yield bot
    bot.close()


def test_the_task_keeps_what_it_is_given(bot):
    bot.celery.tasks["chatbot.note"](STAFF.kind, STAFF.severity, STAFF.to_dict())
    assert bot.notices.kept() == [STAFF]


def test_notices_are_listed_without_what_people_wrote(bot):
    assert CliRunner().invoke(main, ["notices"]).output == "There are no notices.\n"
    bot.notices.keep(STAFF)
    bot.notices.keep(BANNED)
    listed = CliRunner().invoke(main, ["notices"]).output
    assert listed.splitlines() == [
        "1970-01-01 00:16:40  critical  200  account_update DISABLED_UPDATE  event=DISABLED_UPDATE",
        f"1970-01-01 00:33:20  info      100  {PHONE}  smb_message_echoes echo text  what=echo",
        "2 of 2 notices.",
    ]
    found = CliRunner().invoke(main, ["notices", "--json", "--kind", "smb_message_echoes"]).stdout
    assert json.loads(found) == STAFF.to_dict() | {"text": ""}
    assert CliRunner().invoke(main, ["notices", "--limit", "1"]).output.splitlines()[-1] == "1 of 2 notices."
