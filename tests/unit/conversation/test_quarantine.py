"""Suspects in processes of their own: they really run there, and end nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from chatbot import config
from chatbot.conversation.quarantine import Quarantine
from chatbot.errors import EndsItsProcess, NoRoom, Permanent, Transient
from chatbot.messages import Message, Turn
from tests.servers import wait_until

SETTINGS = {"broker_url": "memory://localhost/", "redis_url": "fakeredis://apart", "llm_model": "offline"}
MESSAGE = Message(user="ana", id="m", text="Oi, meu nome é Ana", phone="5511999990001")

#: The other end of the pipe, which does what the message says.
SCRIPT = """
import json, os, sys, time
settings = json.loads(sys.stdin.readline())
for line in sys.stdin:
    asked = json.loads(line)
    text = asked["message"]["text"]
    if text == "end":
        os.abort()
    if text == "hang":
        time.sleep(600)
    if text == "garbage":
        print("no JSON", flush=True)
        continue
    if text == "flood":
        sys.stdout.write("x" * 10**7)
        sys.stdout.flush()
    if text == "model":
        outcome = {"error": "CircuitOpen", "says": "it rests", "retry_after": 3.0}
    elif text == "refuse":
        outcome = {"error": "Permanent", "says": "no"}
    else:
        reply = f"{os.getpid()} {settings['llm_model']} {len(asked['history'])}"
        outcome = {"message": asked["message"], "reply": reply}
    print(json.dumps(outcome), flush=True)
"""


def quarantine(**options):
    return Quarantine(config.load(**SETTINGS), command=[sys.executable, "-c", SCRIPT], **options)


def saying(text):
    return replace(MESSAGE, text=text)


@pytest.mark.slow
def test_a_suspect_is_answered_by_another_process_as_it_would_be_here():
    apart = Quarantine(config.load(**SETTINGS, pseudonym_key="k" * 32))
    try:
        message, reply = apart.think(MESSAGE, [])
        assert (message, reply) == (MESSAGE, "Prazer, Ana! Vou me lembrar do seu nome.")
        turn = Turn(1, MESSAGE, reply, 0.0)
        asked = saying("Qual é o meu nome?")
        assert apart.think(asked, [turn]) == (asked, "Seu nome é Ana.")
        unreadable, refusal = apart.think(replace(MESSAGE, text="", kind="sticker"), [])
        assert "texto" in refusal
        assert unreadable.text == ""
    finally:
        apart.close()


def test_a_process_is_kept_for_the_next_suspect_and_gets_the_settings_once():
    apart = quarantine()
    try:
        replies = [apart.think(saying("oi"), [])[1] for _ in range(3)]
        assert len(set(replies)) == 1
        pid, model, turns = replies[0].split()
        assert (model, turns) == ("offline", "0")
        assert int(pid) != os.getpid()
    finally:
        apart.close()


@pytest.mark.parametrize("text", ["end", "garbage", "flood"])
def test_a_suspect_that_ends_its_process_is_known_for_it_and_the_next_has_another(text):
    apart = quarantine()
    try:
        before = apart.think(saying("oi"), [])[1]
        with pytest.raises(EndsItsProcess, match="ended the process"):
            apart.think(saying(text), [])
        assert apart.think(saying("oi"), [])[1] != before
    finally:
        apart.close()


def test_a_suspect_that_never_ends_is_ended():
    apart = quarantine(seconds=0.5)
    with pytest.raises(EndsItsProcess, match="TimeoutError"):
        apart.think(saying("hang"), [])
    apart.close()


@pytest.mark.parametrize(("text", "kind", "after"), [("model", Transient, 3.0), ("refuse", Permanent, None)])
def test_what_is_raised_there_is_raised_here(text, kind, after):
    apart = quarantine()
    try:
        with pytest.raises(kind) as raised:
            apart.think(saying(text), [])
        assert getattr(raised.value, "retry_after", None) == after
    finally:
        apart.close()


def test_suspects_beyond_the_processes_wait_and_hold_nobody_up():
    apart = quarantine(processes=1, seconds=30)

    def hang():
        with pytest.raises(Permanent):
            apart.think(saying("hang"), [])

    first = threading.Thread(target=hang)
    first.start()
    try:
        wait_until(lambda: apart._places._value == 0, what="the first is being answered")
        with pytest.raises(NoRoom):
            apart.think(saying("oi"), [])
    finally:
        wait_until(_children, what="its process")
        for pid in _children():
            os.kill(pid, 9)
        first.join()
        apart.close()


def _children() -> list[int]:
    """Return the processes of ours that run the script."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"os.abort" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_process_whose_worker_is_gone_ends_without_a_word():
    """Its answer reaches nobody any more: that is foreseen, and no traceback is written for it."""
    first = {name: value for name, value in SETTINGS.items() if isinstance(value, str)}
    asked = {"message": MESSAGE.to_dict(), "history": []}
    child = subprocess.Popen(
        [sys.executable, "-m", "chatbot.isolated_turn"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    child.stdout.close()
    said = child.communicate(f"{json.dumps(first)}\n{json.dumps(asked)}\n", timeout=60)[1]
    assert "Traceback" not in said
    assert "Exception" not in said
    assert child.returncode == 0
