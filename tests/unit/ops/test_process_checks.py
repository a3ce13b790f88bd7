"""What doctor and the health check make of what processes say of themselves."""

from __future__ import annotations

import itertools
import socket

import pytest

from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.ops import process_checks
from chatbot.store.presence import Presence, Process

fresh = itertools.count()
HERE = socket.gethostname()


@pytest.fixture
def bot(monkeypatch):
    bot = Chatbot(Settings(_env_file=None, env="test", broker_url="memory://", redis_url="redis://127.0.0.1:1/0"))
    seen = []
    monkeypatch.setattr(Presence, "look", lambda self: tuple(seen))
    bot.seen = seen
    return bot


def process(kind, *, silent=0.5, skew=0.0, stuck=0.0, host=HERE):
    return Process(id=f"{kind}.{next(fresh)}", kind=kind, silent=silent, skew=skew, stuck=stuck, host=host)


def test_one_of_each_kind_has_to_live(bot):
    bot.seen += [process("worker"), process("worker"), process("sender"), process("beat", silent=60)]
    finding = process_checks.processes(bot)
    assert not finding.ok
    assert "no beat lives" in finding.says
    assert "start one" in finding.says
    assert "no worker" not in finding.says
    bot.seen.append(process("beat"))
    assert process_checks.processes(bot).says == "2 worker, 1 sender, 1 beat: all of them live"


def test_before_they_are_started_it_is_no_fault_that_none_lives(bot):
    assert process_checks.processes(bot).level == "hint"
    bot.seen += [process(kind, silent=600) for kind in ("worker", "sender", "beat")]
    assert process_checks.processes(bot).level == "fix", "they lived a while ago"


def test_one_that_hangs_is_named(bot):
    bot.seen += [process("worker+sender"), process("beat", stuck=45.0)]
    finding = process_checks.processes(bot)
    assert not finding.ok
    assert "beat beat." in finding.says
    assert "45 s" in finding.says


@pytest.mark.parametrize("skew", [1.5, -25.0])
def test_a_clock_that_is_off_is_named_with_its_host(bot, skew):
    bot.seen += [process("worker", skew=0.4), process("sender", skew=skew, host="other")]
    finding = process_checks.clocks(bot)
    assert not finding.ok
    assert f"sender on other by {skew:+.1f} s" in finding.says
    bot.seen.pop()
    assert process_checks.clocks(bot).ok


@pytest.mark.parametrize(
    ("seen", "ok"),
    [
        ([], False),
        ([process("sender")], False),
        ([process("worker")], True),
        ([process("worker", host="elsewhere")], False),
        ([process("worker", silent=30)], False),
        ([process("worker", stuck=31)], False),
        ([process("worker", silent=30), process("worker")], True),  # it was started anew
    ],
)
def test_the_health_check_asks_for_one_of_this_host_that_lives_and_does_not_hang(bot, seen, ok):
    bot.seen += seen
    assert process_checks.alive(bot, "worker").ok is ok


def test_a_reply_that_waits_for_long_is_a_finding(bot, monkeypatch):
    monkeypatch.setattr(bot.store, "oldest_overdue", lambda: 100.0)
    assert process_checks.oldest_reply(bot).ok
    monkeypatch.setattr(bot.store, "oldest_overdue", lambda: 300.0)
    finding = process_checks.oldest_reply(bot)
    assert not finding.ok
    assert "300 s" in finding.says
