"""Web, sender and beat with nothing but what ``front.lock`` pins; the agent without what no lock has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import PYTHON, ROOT, wait_until
from tests.stub_llm import StubLLM
from tests.system import PROCFILE, System

UV = Path(sys.executable).parent / "uv"
#: What the front does without.
ABSENT = ("crewai", "openai", "numpy", "fakeredis", "honcho", "flower", "tornado", "pytest")


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """Return the programs of a fresh virtual environment like that of the front's image."""
    if not UV.exists():
        pytest.skip("uv is not installed; `make setup` installs it")
    venv = tmp_path_factory.mktemp("front") / "venv"
    env = {**os.environ, "VIRTUAL_ENV": str(venv)}
    for command in (
        ["venv", "--quiet", "--python", sys.executable, str(venv)],
        ["pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", "docker/front.lock"],
        ["pip", "install", "--quiet", "--no-deps", "-e", "."],
    ):
        subprocess.run([UV, *command], cwd=ROOT, env=env, check=True, timeout=120)
    return venv / "bin"


def environment(front: Path, **values: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{front}:{os.environ['PATH']}", "C_FORCE_ROOT": "1", **values}


def test_the_front_has_no_agent_no_demo_and_no_flower(front):
    code = "from importlib.util import find_spec; import sys; print(*(n for n in sys.argv[1:] if find_spec(n)))"
    found = subprocess.run([front / "python", "-c", code, *ABSENT], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_web_sender_and_beat_serve_a_message_without_the_agents_packages(front, folder, rabbitmq, redis_server):
    """Only the worker runs with CrewAI; beat is heard by what it asks for: idle sessions are closed."""

    def env_of(name: str) -> dict[str, str]:
        return {} if name == "worker" else environment(front)

    with (
        StubLLM() as llm,
        System(folder, rabbitmq, redis_server, llm, env_of=env_of, idle_timeout=1) as system,
    ):
        system.start("web", "worker", "sender", "beat")
        assert system.post(("5511900000001", "wamid.1", "oi")).status_code == 200
        assert system.wait_replies("5511900000001", 1) == ["eco: oi"]
        wait_until(lambda: not system.user_queues(), what="idle session closed, as beat asks for")
        env = environment(front, **system.env) | {"PATH": f"{front}:{os.environ['PATH']}"}
        for kind in ("sender", "beat"):
            says = subprocess.run(
                [front / "chatbot", "alive", kind], env=env, capture_output=True, text=True, check=False
            )
            assert says.returncode == 0, says.stdout + says.stderr
        assert all(process.alive for process in system.processes.values())


@pytest.mark.parametrize(
    ("command", "extra"),
    [(PROCFILE["worker"], "agent"), ("chatbot demo", "agent,demo"), (PROCFILE["flower"], "flower")],
)
def test_a_process_whose_extra_is_missing_says_so_in_one_line(front, folder, command, extra):
    """No broker is there: it is said before anything is waited for."""
    env = environment(front, CHATBOT_BROKER_URL="amqp://127.0.0.1:1//", CHATBOT_REDIS_URL="redis://127.0.0.1:1/0")
    if extra == "agent,demo":
        del env["CHATBOT_REDIS_URL"]
    ended = subprocess.run(
        ["sh", "-c", f"exec {command}"], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in ended.stderr.splitlines() if line.startswith("chatbot: ")]
    assert ended.returncode == 1
    assert len(said) == 1
    assert f"install chatbot[{extra}]" in said[0]
    assert "Traceback" not in ended.stderr + ended.stdout


# -- what CrewAI asks for and never loads --------------------------------------------

WITHOUT = f'''
import sys
sys.path.insert(0, {str(ROOT)!r})
EXCLUDED = {{"lancedb", "lance_namespace", "pyarrow", "onnxruntime", "tokenizers", "huggingface_hub", "kubernetes",
            "uvloop", "httptools", "watchfiles", "crewai_cli", "textual"}}

class Refuses:
    """Whatever is in no lock cannot be imported, though an older environment may still have it."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXCLUDED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuses())
'''

TURNS = '''
from chatbot.agent.crew import CrewAgent, Persona
from chatbot.config import Settings
from chatbot.agent.models import build
from chatbot.messages import Message
from crewai import Agent
from crewai.project import load_agent_from_definition
from crewai.project.crew_loader import load_crew_from_definition
from crewai.tools import BaseTool
import yaml

class Hours(BaseTool):
    name: str = "hours"
    description: str = "Tells when we are open"

    def _run(self, day: str = "") -> str:
        return "9-18"

settings = Settings(_env_file=None, llm_model="stub", llm_base_url=sys.argv[1])
message = Message(user="ana", id="1", text="oi")
for tools in ([], [Hours()]):
    agent = CrewAgent(Persona("papel", "meta", "história"), build(settings), history_chars=1000, tools=tools)
    print("TURN", agent.reply(message, []))

about = {"role": "papel", "goal": "meta", "backstory": "história"}
print("KICKOFF", Agent(**about, llm=build(settings)).kickoff("oi").raw)
loaded, _ = load_agent_from_definition({**about, "input": "oi"}, source="agents.yaml")
loaded.llm = build(settings)
print("YAML AGENT", loaded.kickoff("oi").raw)

CREW = """
name: padaria
agents:
  ana: {role: papel, goal: meta, backstory: história}
tasks:
  - {name: write, description: "diga {what}", expected_output: texto, agent: ana}
  - {name: check, description: revise, expected_output: texto, agent: ana}
"""
crew, _ = load_crew_from_definition(yaml.safe_load(CREW))
for one in crew.agents:
    one.llm = build(settings)
print("YAML CREW", bool(crew.kickoff(inputs={"what": "oi"}).raw))
'''


def test_turns_kickoff_and_a_yaml_crew_need_nothing_that_no_lock_has(folder):
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    with StubLLM() as llm:
        ran = subprocess.run(
            [PYTHON, "-c", WITHOUT + TURNS, llm.url],
            cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        calls = len(llm.calls)
    assert ran.returncode == 0, ran.stderr[-3000:]
    said = [line for line in ran.stdout.splitlines() if line.startswith(("TURN", "KICKOFF", "YAML"))]
    assert said == ["TURN eco: oi", "TURN eco: oi", "KICKOFF eco: oi", "YAML AGENT eco: oi", "YAML CREW True"]
    assert calls == 6
