"""What only some processes need: named where it is missing, pinned alike in every lock."""

from __future__ import annotations

import re
import sys
import tomllib

import click
import pytest
from celery.bin.celery import celery

from chatbot import extras, flower_command
from chatbot.app import Chatbot
from chatbot.config import Settings
from chatbot.errors import MissingExtra
from chatbot.ops.doctor import _agent
from chatbot.store.client import connect
from tests.servers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {
    "front": "docker/front.lock", "worker": "docker/worker.lock", "flower": "docker/flower.lock",
    "local": "requirements.lock", "tests": "tests/requirements.lock",
}  # fmt: skip


def name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-")


def pins(lock: str) -> dict[str, set[str]]:
    """Return what a lock pins: a package has several versions where Pythons differ."""
    found: dict[str, set[str]] = {}
    text = (ROOT / LOCKS[lock]).read_text()
    for package, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE):
        found.setdefault(name(package), set()).add(version)
    return found


def excluded() -> set[str]:
    lines = (ROOT / "docker/excluded.txt").read_text().splitlines()
    return {name(line) for line in lines if line and not line.startswith("#")}


@pytest.fixture
def without(monkeypatch):
    """Make packages unknown to this process."""

    def hide(*packages):
        for package in packages:
            monkeypatch.setitem(sys.modules, package, None)

    return hide


def test_every_package_of_the_list_is_in_its_extra():
    for extra, packages in extras.PACKAGES.items():
        asked = {name(requirement) for requirement in PROJECT["optional-dependencies"][extra]}
        assert set(packages) <= asked


def test_what_is_installed_is_not_missing():
    extras.require(*extras.PACKAGES)
    extras.exit_without(*extras.PACKAGES)


def test_what_is_missing_is_named_with_what_to_install(without):
    without("openai", "fakeredis")
    says = r"^not installed here: openai, fakeredis; install chatbot\[agent,demo\] .*'\.\[agent,demo\]'"
    with pytest.raises(MissingExtra, match=says) as error:
        extras.require("agent", "demo", "flower")
    assert "\n" not in str(error.value)


def test_a_process_that_cannot_do_without_ends_with_that_line(without):
    without("crewai")
    with pytest.raises(SystemExit, match=r"^chatbot: .*install chatbot\[agent\]"):
        extras.exit_without("agent")


def test_the_agent_the_embedded_store_and_doctor_name_their_extra(without, tmp_path):
    without("crewai", "fakeredis")
    file = tmp_path / "agent.yaml"
    file.touch()
    bot = Chatbot(Settings(_env_file=None, agent_file=file))
    with pytest.raises(MissingExtra, match=r"chatbot\[agent\]"):
        _ = bot.agent
    with pytest.raises(MissingExtra, match=r"chatbot\[agent\]"):
        _agent(bot)
    with pytest.raises(MissingExtra, match=r"chatbot\[demo\]"):
        connect("fakeredis://extras")


def test_celery_flower_is_flowers_own_where_it_is_installed():
    from flower.command import flower

    assert flower_command.command is flower
    assert celery.commands["flower"] is flower


def test_celery_flower_says_what_to_install_where_it_is_not(without):
    without("flower")
    command = flower_command._command()
    assert (command.name, isinstance(command, click.Command)) == ("flower", True)
    with pytest.raises(SystemExit, match=r"^chatbot: not installed here: flower; install chatbot\[flower\]"):
        command.main(["--address=127.0.0.1", "--port=5555"], standalone_mode=False)


# -- the locks -----------------------------------------------------------------------


@pytest.mark.parametrize("lock", LOCKS)
def test_make_lock_makes_every_lock_with_hashes(lock):
    assert f"-o {LOCKS[lock]}\n" in (ROOT / "Makefile").read_text()
    entries = re.split(r"\n(?=\S)", (ROOT / LOCKS[lock]).read_text())
    assert all("--hash=sha256:" in entry for entry in entries if not entry.startswith("#"))


def test_there_is_no_other_lock():
    found = {path for folder in (ROOT, ROOT / "docker", ROOT / "tests") for path in folder.glob("*.lock")}
    assert found == {*(ROOT / lock for lock in LOCKS.values()), ROOT / "tests/docs.lock"}


def test_the_locks_agree():
    """One version of a package runs here, in the tests and in every image."""
    tests = pins("tests")
    for lock in LOCKS:
        assert {package: tests.get(package) for package in pins(lock)} == pins(lock), lock


def test_each_lock_has_what_is_asked_for_and_no_other_extra():
    base = {name(requirement) for requirement in PROJECT["dependencies"]}
    of = {extra: {name(r) for r in asked} for extra, asked in PROJECT["optional-dependencies"].items()}
    wanted = {"front": (), "worker": ("agent",), "flower": ("flower",), "local": ("agent", "demo", "flower")}
    for lock, chosen in wanted.items():
        pinned = set(pins(lock))
        assert base.union(*(of[extra] for extra in chosen)) <= pinned, lock
        for other in set(extras.PACKAGES) - set(chosen):
            assert not of[other] & pinned, lock


def test_what_crewai_never_loads_is_in_no_lock():
    assert {"lancedb", "kubernetes", "onnxruntime", "crewai-cli"} <= excluded()
    for lock in LOCKS:
        assert not (excluded() | {"pyarrow", "uv", "textual"}) & set(pins(lock)), lock
