"""Every command of README and the manual, in both languages: run as it stands there, or listed here with why not.

What is run is run with a bare PATH, as by somebody who just opened a shell.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager

import httpx
import pytest

from tests.servers import ROOT, free_port, wait_until

#: Page → the same page in Portuguese.
PAIRS = {"README.md": "README.pt-BR.md"} | {
    f"docs/{page.name}": f"docs/pt-BR/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))
}
#: Pages for developers, in English only.
DEVELOPERS = [
    ".github/CONTRIBUTING.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs/dev").rglob("*.md"))),
]  # fmt: skip
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_COMMAND = re.compile(
    r"(?:[A-Z_]+=\S* )*(?:make|curl|cp|docker|(?:\.venv/bin/)?(?:chatbot|celery|python|pytest)|whisper-server"
    r"|rabbitmq-plugins) \S"
)

#: What is not run here, and why.
NOT_RUN = {
    r"OPENAI_API_KEY=\S+ make demo": "it needs an account",
    r"CHATBOT_LLM_(MODEL|BASE_URL)=\S+ make demo": "it needs a model server",
    r"docker compose .*": "no container engine runs where the tests do",
    r"make (test|unit|bench|chaos|fuzz|pace|lock|test-rabbitmq4)\b.*": "it takes minutes; make knows it, see below",
    r"make (setup|check)": "the tests run where the first made everything, and beside the second",
    r"curl -X POST \$CHATBOT_EVOLUTION_URL/.*": "it needs a server of Evolution API",
    "chatbot doctor": "the table of settings, which the code prints, names it however it is started",
    r"whisper-server .*": "it is another project's server",
    r"rabbitmq-plugins .*": "it changes the machine's own broker",
    r"\.venv/bin/chatbot dead": "it is a group of commands, named as such",
    r"\.venv/bin/chatbot dead (replay|drop|show) .*": "it names letters of an example (test_dead_letters.py runs it)",
    r"\.venv/bin/celery -A chatbot shell": "it is interactive (test_operations.py runs it)",
    r"\.venv/bin/python -m tests\..*": "it takes minutes, or is run by the tests of what it names",
}


def commands(page):
    """Return the commands of one page: lines of its blocks, and those named in its text. ``<…>`` is any placeholder."""
    text = (ROOT / page).read_text()
    found = []
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        lines = block.replace("\\\n", " ").splitlines()
        found += [re.sub(r"\s+#.*$", "", line.strip().removeprefix("$ ")).strip() for line in lines]
    found += re.findall(
        r"(?<!`)`([^`]+)`(?!`)", re.sub(r"^ *```\w*\n.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    )
    found = [re.sub(r"<[^>]*>", "<…>", re.sub(r"\s+", " ", command)) for command in found]
    return list(dict.fromkeys(command for command in found if _COMMAND.match(command) and "…" not in command[-1:]))


def all_commands():
    """Return the commands of all English pages, each once."""
    return list(dict.fromkeys(command for page in (*PAIRS, *DEVELOPERS) for command in commands(page)))


def environment(home, **values):
    """Return what a user has who opened a shell: no virtual environment on PATH, no settings but these."""
    return {"PATH": PATH, "HOME": str(home), "LANG": "C.UTF-8", **{name: str(value) for name, value in values.items()}}


def run(command, env, **options):
    return subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False, **options
    )


@contextmanager
def running(command, env, log):
    """Run a command that does not end by itself, in a group of its own."""
    with log.open("w") as output:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}" if "=" not in command.split()[0] else command],
            cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url):
    try:
        return httpx.get(url, timeout=5, follow_redirects=True).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("page", PAIRS)
def test_a_page_has_the_same_commands_in_both_languages(page):
    assert sorted(commands(page)) == sorted(commands(PAIRS[page]))


def test_commands_are_found_on_readme_and_on_the_pages():
    assert {"make demo", "make test"} <= set(commands("README.md"))
    assert len(all_commands()) > 40


def test_every_command_is_run_here_or_listed_with_a_reason():
    ours = (*RUN, *NOT_RUN)
    unlisted = [command for command in all_commands() if not any(re.fullmatch(one, command) for one in ours)]
    assert unlisted == []


@pytest.mark.parametrize("command", [c for c in all_commands() if re.match(r"(\S+=\S* )*make ", c)])
def test_make_knows_what_a_page_asks_of_it(command, tmp_path):
    asked = run(f"{re.sub('make ', 'make -n ', command, count=1)}", environment(tmp_path))
    assert asked.returncode == 0, asked.stderr


# -- what is run, one test for each --------------------------------------------------

RUN = (
    "make demo", r"PORT=\d+ make demo", "CHATBOT_BROKER_URL=.* CHATBOT_REDIS_URL=.* make demo", "make up",
    r"curl -X POST http://127\.0\.0\.1:8000/simulator/.*",
    "make help", "make doctor", "make shell", "make docs", r"\.venv/bin/pytest tests/unit/[\w/]+\.py",
    r"cp docker/\.env\.example docker/\.env",
    r"\.venv/bin/chatbot (settings|doctor|notices|dead list|shell).*", r"\.venv/bin/chatbot alive .*",
)  # fmt: skip


def test_make_demo_serves_the_page_and_takes_the_faults_of_the_manual(tmp_path):
    [curl] = [command for command in all_commands() if re.match("curl .*/simulator/", command)]
    port = free_port()
    with running("make demo", environment(tmp_path, PORT=port), tmp_path / "log"):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), seconds=90, what=(tmp_path / "log").read_text())
        faulted = run(curl.replace(":8000/", f":{port}/"), environment(tmp_path))
        assert faulted.returncode == 0, faulted.stderr
        assert "error" not in faulted.stdout.lower() or '"kind"' in faulted.stdout


def test_make_up_needs_no_path_and_runs_twice_on_one_machine(tmp_path, rabbitmq, redis_server):
    """``honcho`` finds the programs of the virtual environment, which nobody put on PATH."""
    port, other = free_port(), free_port()

    def env(at):
        return environment(
            tmp_path, PORT=at, FLOWER_PORT=free_port(), CHATBOT_REDIS_URL=redis_server.add_database(),
            CHATBOT_BROKER_URL=rabbitmq.url.removesuffix("/") + rabbitmq.add_vhost(),
            FLOWER_UNAUTHENTICATED_API="true",
        )  # fmt: skip

    with (
        running("make up", env(port), tmp_path / "one.log"),
        running("make up", env(other), tmp_path / "two.log"),
    ):
        for log, at in (("one.log", port), ("two.log", other)):
            output = tmp_path / log
            wait_until(lambda at=at: answers(f"http://127.0.0.1:{at}/ready"), seconds=90, what=f"web of {log}")
            wait_until(lambda output=output: output.read_text().count(" ready.") >= 2, seconds=90, what=f"all of {log}")
            for kind in ("web", "worker", "sender", "beat", "flower"):
                assert f"{kind}.1" in output.read_text()
            assert "not found" not in output.read_text()


def test_the_commands_that_end_by_themselves_do_so_without_a_fault_of_their_own(tmp_path, rabbitmq, redis_server):
    env = environment(tmp_path, CHATBOT_REDIS_URL=redis_server.url, CHATBOT_BROKER_URL=rabbitmq.url)
    ending = (
        r"make help|make docs|\.venv/bin/pytest tests/unit/[\w/]+\.py|\.venv/bin/chatbot (settings|notices|dead list).*"
    )
    found = [command for command in all_commands() if re.fullmatch(ending, command)]
    assert len(found) >= 5
    for command in found:
        ended = run(command, env)
        assert ended.returncode == 0, (command, ended.stderr)
    for command in ("make doctor", ".venv/bin/chatbot doctor"):
        ended = run(command, env)
        assert "broker" in ended.stdout, (command, ended.stderr)
    ended = run("make shell", env, input="1 + 1\n")
    assert "chat(" in ended.stdout + ended.stderr
    assert ended.returncode == 0, ended.stderr


def test_the_example_of_an_environment_can_be_copied(tmp_path):
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    copied = subprocess.run(
        ["sh", "-c", "cp docker/.env.example docker/.env"], cwd=tmp_path, env=environment(tmp_path), check=False
    )
    assert copied.returncode == 0
    assert (tmp_path / "docker" / ".env").read_text()
