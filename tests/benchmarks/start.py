"""What a process costs before its first message: seconds and memory of its imports.

Each kind of process against the least that a Flask, Celery or CrewAI program of its kind
imports, in a fresh interpreter each time, the bytecode compiled before. Ours is built as in
production, up to but not including its first connection.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections import defaultdict

from tests.benchmarks.bench import Bench, Figures, ratio, table
from tests.servers import PYTHON, ROOT

GOAL = 2.0

#: Put before and behind what is measured, in one interpreter; kilobytes as Linux says them.
_BEFORE = "import json, sys, time\nbegan = time.perf_counter()\n"
_AFTER = """
seconds = time.perf_counter() - began
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "seconds": seconds, "rss": int(status["VmRSS"].split()[0]) / 1024, "peak": int(status["VmHWM"].split()[0]) / 1024,
    "modules": len(sys.modules), "crewai": "crewai" in sys.modules,
}))
"""

_BARE_APP = """
from celery import Celery
app = Celery("bare", broker="amqp://")
@app.task
def answer(text):
    pass
"""
_OUR_APP = "from chatbot.celery import app\n"
#: As ``celery worker`` does it, up to its connection.
_WORKER = """
import celery.bin.celery
from celery.worker import WorkController
WorkController(app=app, pool_cls="threads", concurrency=1{queues})
"""
_CREWAI = """
import crewai
llm = crewai.LLM(model="any", provider="openai", base_url="http://127.0.0.1:1/v1", api_key="none")
crewai.Agent(role="r", goal="g", backstory="b", llm=llm)
"""
SCRIPTS = {
    "web": "from chatbot.web.serving import application\napplication()\n",
    "bare Flask + Celery": "from flask import Flask\nFlask('bare')\n" + _BARE_APP + "app.finalize()\n",
    "worker": _OUR_APP + _WORKER.format(queues=", queues='chat.open,housekeeping'") + "app.chatbot.warm_up()\n",
    "bare Celery + CrewAI": _BARE_APP + _WORKER.format(queues="") + _CREWAI,
    "sender": _OUR_APP + _WORKER.format(queues=", queues='send'") + "app.chatbot.delivery\n",
    "bare Celery": _BARE_APP + _WORKER.format(queues=""),
}
PAIRS = {"web": "bare Flask + Celery", "worker": "bare Celery + CrewAI", "sender": "bare Celery"}


def run(bench: Bench) -> Figures:
    """Return the ratios of the seconds, the web process's as ``ratio``."""
    seen: dict[str, list[dict[str, float]]] = defaultdict(list)
    env = _environment(bench)

    def measure(name: str) -> float:
        script = _BEFORE + SCRIPTS[name] + _AFTER
        done = subprocess.run(
            [PYTHON, "-c", script], env=env, cwd=bench.folder, capture_output=True, text=True, check=True
        )
        seen[name].append(json.loads(done.stdout.splitlines()[-1]))
        return seen[name][-1]["seconds"]

    pairs = {ours: bare for ours, bare in PAIRS.items() if ours != "worker" or not bench.quick}  # CrewAI takes long
    contenders = {name: lambda name=name: measure(name) for pair in pairs.items() for name in pair}
    seconds = bench.interleave(contenders, what="seconds")
    counted = {name: seen[name][-len(figures) :] for name, figures in seconds.items()}
    table(
        ("process", "s", "RSS MiB", "peak MiB", "modules"),
        [(name, *(_median(counted[name], what) for what in ("seconds", "rss", "peak", "modules"))) for name in counted],
    )
    ratios = {ours: ratio(seconds[ours], seconds[bare]) for ours, bare in pairs.items()}
    table(("ours / bare", "ratio", "goal"), [(o, r, f"<= {GOAL:g}" if o == "web" else "") for o, r in ratios.items()])
    return {
        "ratio": ratios["web"],
        "goal": GOAL,
        **{f"{ours}_ratio": figure for ours, figure in ratios.items() if ours != "web"},
        "crewai_in_sender": any(figures["crewai"] for figures in seen["sender"]),
        "crewai_in_web": any(figures["crewai"] for figures in seen["web"]),
        "seconds": {name: _median(figures, "seconds") for name, figures in counted.items()},
        "rss_mib": {name: _median(figures, "rss") for name, figures in counted.items()},
    }


def _median(figures: list[dict[str, float]], what: str) -> float:
    return statistics.median(float(figure[what]) for figure in figures)


def _environment(bench: Bench) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHATBOT_")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "CHATBOT_ENV": "test",
        "CHATBOT_BROKER_URL": bench.rabbitmq.url,
        "CHATBOT_REDIS_URL": bench.redis.url,
        "CHATBOT_LLM_MODEL": "any",
        "CHATBOT_LLM_BASE_URL": "http://127.0.0.1:1/v1",
        # Bare CrewAI as quiet as ours (``chatbot/agent/models.py``).
        "CREWAI_DISABLE_TELEMETRY": "true",
        "CREWAI_TRACING_ENABLED": "false",
        "CREWAI_DISABLE_VERSION_CHECK": "true",
        "CREWAI_STORAGE_DIR": str(bench.folder / "crewai"),
    }
