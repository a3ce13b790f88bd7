"""``chatbot doctor``: is everything there that the settings name, and fit for the job?

In come settings, out go findings; each that is not ok, and each hint, says what to do. Every check
has a timeout of a few seconds and changes nothing but to declare queues, as every process does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from amqp.exceptions import AMQPError
from kombu.exceptions import OperationalError

from chatbot import extras, http
from chatbot.broker import topology
from chatbot.config import secret
from chatbot.errors import ChatbotError
from chatbot.ops import broker_checks, process_checks, redis_checks
from chatbot.ops.finding import TIMEOUT, Finding

if TYPE_CHECKING:
    from chatbot.app import Chatbot

#: No answer that is looked at has more bytes; OpenRouter's list of models has the most.
MOST_BYTES = 8 * 1024 * 1024
#: WhatsApp and TLS both tolerate minutes; logs and windows of 24 h want seconds.
CLOCK_TOLERANCE = 30.0


def examine(bot: Chatbot) -> list[Finding]:
    """Run every check and return the findings; a check that breaks is a finding too."""
    checks: dict[str, Callable[[Chatbot], Finding]] = {
        "broker": broker_checks.broker,
        "descriptors": broker_checks.descriptors,
        "queues": broker_checks.queues,
        topology.OPEN: broker_checks.waiting_for_workers,
        topology.SEND: broker_checks.waiting_for_senders,
        topology.DEAD_QUEUE.name: broker_checks.dead_letters,
        "redis": redis_checks.redis,
        "processes": process_checks.processes,
        "clocks": process_checks.clocks,
        "replies": process_checks.oldest_reply,
        "agent": _agent,
        "model": _model,
        **{name: _CHANNELS[name] for name in bot.settings.channels},
    }
    if "whatsapp" in bot.settings.channels:
        checks["clock"] = _clock
    if bot.settings.transcription_base_url:
        checks["transcription"] = _transcription
    findings: list[Finding] = []
    for part, check in checks.items():
        if findings and not findings[0].ok and check.__module__ == broker_checks.__name__:
            continue  # the others need the broker, and it has been said
        try:
            findings.append(check(bot))
        except (ChatbotError, AMQPError, OperationalError, OSError, ValueError) as err:
            findings.append(Finding(part, ok=False, says=f"{type(err).__name__}: {err}"))
    return findings


def _agent(bot: Chatbot) -> Finding:
    if bot.settings.agent_file is None:
        return Finding("agent", True, "its texts are those of the settings")
    extras.require("agent")
    from chatbot.agent.crew import persona  # CrewAI comes with it, which takes seconds

    persona(bot.settings)
    return Finding("agent", True, f"{bot.settings.agent_file} has its texts")


# -- outside -----------------------------------------------------------------------


def _service(name: str, setting: str, key: str = "") -> http.Service:
    """Return a service to look at; ``key`` is a bearer's token, of ``setting``."""
    headers = {b"Authorization": f"Bearer {key}".encode("utf-8", "replace")} if key else {}
    return http.Service(name, setting=setting, timeout=TIMEOUT, max_bytes=MOST_BYTES, headers=headers)


def _model(bot: Chatbot) -> Finding:
    settings = bot.settings
    model = settings.llm_model
    if model == "offline":
        return Finding("model", True, "offline: it only plays an assistant; set CHATBOT_LLM_MODEL for a real one")
    if model.startswith("ollama/"):
        address, name = f"{settings.llm_base_url or 'http://127.0.0.1:11434'}/v1/models", model.removeprefix("ollama/")
    else:
        address, name = f"{settings.llm_base_url or 'https://api.openai.com/v1'}/models", model
    return _served("model", address, name, key=secret(settings.llm_api_key) or "none", prefix="CHATBOT_LLM")


def _transcription(bot: Chatbot) -> Finding:
    settings = bot.settings
    part, prefix, base_url = "transcription", "CHATBOT_TRANSCRIPTION", settings.transcription_base_url
    key = secret(settings.transcription_api_key) or "none"
    server = _service("the transcription server", f"{prefix}_API_KEY", key)
    # Without a file nothing is written down, but who answers anything else than 404 is there.
    if server.look(f"{base_url}/audio/transcriptions", method="POST").status_code in {404, 405}:
        return Finding(part, False, f"{base_url} has no /audio/transcriptions; check {prefix}_BASE_URL")
    if server.look(f"{base_url}/models").status_code == 404:
        return Finding(part, True, "the server answers; it does not list its models")
    return _served(part, f"{base_url}/models", settings.transcription_model, key=key, prefix=prefix)


def _served(part: str, address: str, name: str, *, key: str, prefix: str) -> Finding:
    """Look for a model in the list an OpenAI-compatible server gives."""
    answer = _service(f"the {part} server", f"{prefix}_API_KEY", key).look(address)
    if answer.status_code in {401, 403}:
        return Finding(part, False, f"{address} refuses the key; check {prefix}_API_KEY")
    if answer.status_code != 200:
        return Finding(part, False, f"{address} answers {answer.status_code}; check {prefix}_BASE_URL")
    served = [str(item.get("id")) for item in answer.json().get("data", [])]
    if served and name not in served and f"{name}:latest" not in served:
        return Finding(part, False, f"{name} is not among the models served: {', '.join(served[:8])}")
    return Finding(part, True, f"{name} is served")


def _whatsapp(bot: Chatbot) -> Finding:
    settings = bot.settings
    needed = {
        "CHATBOT_WHATSAPP_APP_SECRET": settings.whatsapp_app_secret,
        "CHATBOT_WHATSAPP_VERIFY_TOKEN": settings.whatsapp_verify_token,
        "CHATBOT_WHATSAPP_ACCESS_TOKEN": settings.whatsapp_access_token,
        "CHATBOT_WHATSAPP_PHONE_NUMBER_ID": settings.whatsapp_phone_number_id,
    }
    missing = [name for name, value in needed.items() if not value]
    if missing:
        return Finding("whatsapp", False, f"set {', '.join(missing)} (Meta for Developers → your app → WhatsApp)")
    graph = _service("the Graph API", "CHATBOT_WHATSAPP_ACCESS_TOKEN", secret(settings.whatsapp_access_token))
    answer = graph.look(f"{settings.whatsapp_graph_url}/{settings.whatsapp_phone_number_id}")
    if answer.status_code != 200:
        return Finding(
            "whatsapp", False, f"the Graph API answers {answer.status_code}; check the access token and the number's id"
        )
    return Finding("whatsapp", True, "the Graph API knows this number and token")


def _evolution(bot: Chatbot) -> Finding:
    from chatbot.channels.evolution.channel import gateway, webhook_trouble

    settings = bot.settings
    url = f"{settings.evolution_url}/instance/connectionState/{settings.evolution_instance}"
    answer = gateway(secret(settings.evolution_api_key), timeout=TIMEOUT).look(url)
    if answer.status_code != 200:
        says = "check CHATBOT_EVOLUTION_URL, CHATBOT_EVOLUTION_API_KEY and CHATBOT_EVOLUTION_INSTANCE"
        return Finding("evolution", False, f"Evolution answers {answer.status_code}; {says}")
    state = (answer.json().get("instance") or {}).get("state")
    if state != "open":
        return Finding("evolution", False, f"the instance is {state!r}, not connected; scan its QR code again")
    if trouble := webhook_trouble(settings, timeout=TIMEOUT):
        return Finding("evolution", False, trouble)
    return Finding("evolution", True, "the instance is connected")


_CHANNELS = {"whatsapp": _whatsapp, "evolution": _evolution}


def _clock(bot: Chatbot) -> Finding:
    """Compare our clock with the one in the Graph API's ``Date`` header."""
    answer = _service("the Graph API", "CHATBOT_WHATSAPP_GRAPH_URL").look(
        bot.settings.whatsapp_graph_url, method="HEAD"
    )
    if "date" not in answer.headers:
        return Finding("clock", False, "not known: the Graph API sent no Date; check with `timedatectl`")
    off = time.time() - parsedate_to_datetime(answer.headers["date"]).timestamp()
    if abs(off) > CLOCK_TOLERANCE:
        return Finding("clock", False, f"off by {off:.0f} s; switch NTP on (`timedatectl set-ntp true`)")
    return Finding("clock", True, "agrees with the Graph API's")
