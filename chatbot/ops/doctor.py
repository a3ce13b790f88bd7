"""``chatbot doctor``: is everything there that the settings name, and fit for the job?

In come settings, out go findings; each that is not ok, and each hint, says what to do. Every check
has a timeout of a few seconds and changes nothing but to declare queues, as every process does.

Not looked at here: what processes tell of themselves (that they live, their clocks) and the age of
the oldest reply that was not delivered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import httpx
from amqp.exceptions import NotFound

from chatbot import tls, topology
from chatbot.config import secret
from chatbot.errors import BrokerRefused, ChatbotError, Transient
from chatbot.fill_level import NEARLY_FULL
from chatbot.redis_client import reachable

if TYPE_CHECKING:
    from chatbot.app import Chatbot

TIMEOUT = 5.0
#: Below this many file descriptors, RabbitMQ 3.x does not survive 10,000 user queues.
ENOUGH_DESCRIPTORS = 50_000
#: RabbitMQ shares files among queues from here on.
SHARES_FILES = 4
#: So many people who wait for a worker, and wake-ups that wait for a sender, are more than a moment's.
MANY_WAIT, MANY_TO_SEND = 100, 1_000
#: From this share on Redis soon refuses to write.
MEMORY_USED = 0.8
#: WhatsApp and TLS both tolerate minutes; logs and windows of 24 h want seconds.
CLOCK_TOLERANCE = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one part; ``says`` tells how to fix what is not ``ok``, or what a ``hint`` is good for."""

    part: str
    ok: bool
    says: str
    hint: bool = False

    @property
    def level(self) -> str:
        """``ok``, ``hint`` (it works, and could be better) or ``fix``."""
        return "fix" if not self.ok else "hint" if self.hint else "ok"

    def to_dict(self) -> dict[str, str]:
        """Return it JSON-ready."""
        return {"part": self.part, "level": self.level, "says": self.says}


def _hint(part: str, says: str) -> Finding:
    return Finding(part, ok=True, says=says, hint=True)


def examine(bot: Chatbot) -> list[Finding]:
    """Run every check and return the findings; a check that breaks is a finding too."""
    checks: dict[str, Callable[[Chatbot], Finding]] = {
        "broker": _broker,
        "descriptors": _descriptors,
        "queues": _queues,
        topology.OPEN: _waiting_for_workers,
        topology.SEND: _waiting_for_senders,
        topology.DEAD_QUEUE.name: _dead_letters,
        "redis": _redis,
        # Here is the place of what processes tell of themselves: heartbeats, clocks, the oldest reply.
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
        if check in _NEED_BROKER and not findings[0].ok:
            continue  # said once
        try:
            findings.append(check(bot))
        except (ChatbotError, OSError, httpx.HTTPError, ValueError) as err:
            findings.append(Finding(part, ok=False, says=f"{type(err).__name__}: {err}"))
    return findings


# -- broker ----------------------------------------------------------------------


def _broker(bot: Chatbot) -> Finding:
    if bot.settings.embedded_broker:
        return Finding("broker", False, "memory:// ends with its process; set CHATBOT_BROKER_URL=amqp://…")
    try:
        bot.router.ping()
    except BrokerRefused as err:
        return Finding("broker", False, str(err))
    except ChatbotError as err:
        return Finding("broker", False, f"{err}; is RabbitMQ running, and is CHATBOT_BROKER_URL right?")
    properties = _properties(bot)
    return Finding("broker", True, f"{properties.get('product')} {properties.get('version')} answers")


def _connection(bot: Chatbot) -> Any:
    limits = {"read_timeout": TIMEOUT, "write_timeout": TIMEOUT}
    return bot.celery.connection_for_read(connect_timeout=TIMEOUT, transport_options=limits)


def _properties(bot: Chatbot) -> dict[str, Any]:
    with _connection(bot) as connection:
        return dict(connection.connection.server_properties)


def _descriptors(bot: Chatbot) -> Finding:
    """Ask the management API: AMQP itself does not tell."""
    part = "descriptors"
    version = str(_properties(bot).get("version", ""))
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) >= SHARES_FILES:
        return Finding(part, True, f"RabbitMQ {version} shares files among queues: it needs few")
    try:
        totals = [int(node["fd_total"]) for node in _management(bot, "/api/nodes") if "fd_total" in node]
    except (httpx.HTTPError, ValueError, TypeError) as err:
        return _hint(
            part,
            f"not known: the management API at {_management_url(bot)} does not answer ({type(err).__name__}); run "
            "`rabbitmq-plugins enable rabbitmq_management`, or set CHATBOT_BROKER_MANAGEMENT_URL. With more queues "
            f"than descriptors RabbitMQ 3 cannot start again: give it {ENOUGH_DESCRIPTORS} (systemd: LimitNOFILE)",
        )
    if not totals:
        return Finding(part, True, "this RabbitMQ no longer counts them: its queues share files")
    if min(totals) < ENOUGH_DESCRIPTORS:
        return Finding(
            part, False,
            f"the broker may open {min(totals)} files; start it with `ulimit -n {ENOUGH_DESCRIPTORS}` "
            "(systemd: LimitNOFILE), or it cannot start again with many user queues",
        )  # fmt: skip
    return Finding(part, True, f"the broker may open {min(totals)} files")


def _management_url(bot: Chatbot) -> str:
    """Return the address of RabbitMQ's management API, without a password."""
    broker = urlsplit(bot.settings.broker_url)
    scheme, port = ("https", 15671) if broker.scheme == "amqps" else ("http", 15672)
    url = urlsplit(bot.settings.broker_management_url or f"{scheme}://{broker.hostname}:{port}")
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()


def _management(bot: Chatbot, path: str) -> Any:
    """Return what RabbitMQ's management API answers. Raises ``httpx.HTTPError`` or ``ValueError``."""
    broker, given = urlsplit(bot.settings.broker_url), urlsplit(bot.settings.broker_management_url or "")
    who = given if given.username else broker
    answer = httpx.get(
        f"{_management_url(bot)}{path}",
        auth=(unquote(who.username or "guest"), unquote(who.password or "guest")),
        timeout=TIMEOUT,
        verify=tls.context_of_broker(bot.settings),
    )
    answer.raise_for_status()
    return answer.json()


def _queues(bot: Chatbot) -> Finding:
    """Look whether the queues that are no user's are as this release declares them."""
    fixed = (topology.OPEN_QUEUE, topology.HOUSEKEEPING_QUEUE, topology.SEND_QUEUE, bot.dead_queue)
    with _connection(bot) as connection:
        for queue in fixed:
            queue(connection.default_channel).declare()
    other = [queue.name for queue in fixed if queue.name in topology.Fixed.found_other]
    if other:
        advice = "; ".join(topology.migration(name) for name in other)
        return Finding("queues", False, f"{', '.join(other)}: declared by another release or other settings; {advice}")
    return Finding("queues", True, "declared as this release has them")


def _waiting_for_workers(bot: Chatbot) -> Finding:
    waiting, consumers = _depth(bot, topology.OPEN)
    if not consumers:
        return _unattended(topology.OPEN, waiting, "worker")
    if waiting >= MANY_WAIT:
        says = f"{waiting} people wait for a worker that has room: start more, or raise CHATBOT_MAX_SESSIONS"
        return Finding(topology.OPEN, False, says)
    return Finding(topology.OPEN, True, f"{consumers} workers, {waiting} wait for one")


def _waiting_for_senders(bot: Chatbot) -> Finding:
    waiting, consumers = _depth(bot, topology.SEND)
    if not consumers:
        return _unattended(topology.SEND, waiting, "sender")
    if waiting >= topology.MAX_TO_SEND * NEARLY_FULL:
        says = f"{waiting} of {topology.MAX_TO_SEND} wait, what comes beyond is refused: start more senders"
        return Finding(topology.SEND, False, says)
    if waiting >= MANY_TO_SEND:
        return _hint(topology.SEND, f"{waiting} wait: where that number does not fall, start more senders")
    return Finding(topology.SEND, True, f"{consumers} senders, {waiting} wait for one")


def _unattended(queue: str, waiting: int, process: str) -> Finding:
    if waiting:
        return Finding(queue, False, f"{waiting} wait and no {process} runs: start one (see Procfile)")
    return _hint(queue, f"no {process} runs; start one (see Procfile) before people write")


def _dead_letters(bot: Chatbot) -> Finding:
    part, most, most_bytes = bot.dead_queue.name, bot.settings.dead_letters_max, bot.settings.dead_letters_max_bytes
    waiting, _ = _depth(bot, part)
    size = _bytes_waiting(bot, part) if waiting else 0
    if waiting >= most * NEARLY_FULL or size >= most_bytes * NEARLY_FULL:
        return Finding(
            part, False,
            f"{waiting} of {most} letters and {size or 'an unknown number'} of {most_bytes} bytes wait; at the bound "
            "the oldest are lost: replay or drop some (`chatbot dead`), or raise CHATBOT_DEAD_LETTERS_MAX, …_BYTES",
        )  # fmt: skip
    if waiting:
        return _hint(part, f"{waiting} letters wait: look at them with `chatbot dead list`, then replay or drop them")
    return Finding(part, True, "no letters wait")


def _depth(bot: Chatbot, queue: str) -> tuple[int, int]:
    """Return how many messages of a queue wait, and how many consume it."""
    with _connection(bot) as connection:
        try:
            declared = connection.default_channel.queue_declare(queue, passive=True)
        except NotFound:
            return 0, 0
    return int(declared.message_count), int(declared.consumer_count)


def _bytes_waiting(bot: Chatbot, queue: str) -> int:
    """Return the bytes that wait in a queue, as the management API has them; 0 where that does not answer."""
    vhost = urlsplit(bot.settings.broker_url).path[1:]
    vhost = quote("/", safe="") if vhost in {"", "/"} else vhost
    try:
        return int(_management(bot, f"/api/queues/{vhost}/{quote(queue)}").get("message_bytes_ready", 0))
    except (httpx.HTTPError, ValueError, AttributeError):
        return 0


_NEED_BROKER = (_descriptors, _queues, _waiting_for_workers, _waiting_for_senders, _dead_letters)


# -- Redis and the agent -----------------------------------------------------------


def _redis(bot: Chatbot) -> Finding:
    if bot.settings.redis_url.startswith("fakeredis:"):
        return Finding("redis", False, "fakeredis:// forgets everything; set CHATBOT_REDIS_URL=redis://…")
    try:
        with reachable():
            info = bot.redis.info()
    except ChatbotError as err:
        return Finding("redis", False, f"{err}; is Redis running, and is CHATBOT_REDIS_URL right?")
    problems = [*_persistence(bot, info), *_memory(info)]
    if problems:
        return Finding("redis", False, "; ".join(problems))
    return Finding("redis", True, f"Redis {info.get('redis_version')} answers, with an append-only file")


def _persistence(bot: Chatbot, info: dict[str, Any]) -> Iterator[str]:
    """Yield what may be lost, and what to do about it."""
    if info.get("role") == "slave":
        yield "it is a replica, which takes no writes: let CHATBOT_REDIS_URL name the master"
    if not int(info.get("aof_enabled", 0)):
        yield "conversations can be lost in a crash: set `appendonly yes`"
    elif (fsync := _setting(bot, "appendfsync")) not in {"always", ""}:
        lost = "the last second or two" if fsync == "everysec" else "what the system had not written yet"
        yield (
            f"`appendfsync {fsync}`: a power cut loses {lost}: turns that were taken are forgotten, replies that "
            "were sent may be sent again: set `appendfsync always`"
        )
    failed = [what for what in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(what, "ok") != "ok"]
    if failed:
        yield f"it could not write to its disk ({', '.join(failed)}) and may refuse writes: is the disk full?"


def _memory(info: dict[str, Any]) -> Iterator[str]:
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        yield "Redis may drop conversations when full: set `maxmemory-policy noeviction`"
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    most = most or int(info.get("total_system_memory", 0))
    if most and used >= most * MEMORY_USED:
        yield (
            f"{used * 100 // most} % of its memory is used; full, it refuses writes and nobody is answered: give it "
            "more (`maxmemory`), or shorten CHATBOT_RETENTION"
        )


def _setting(bot: Chatbot, name: str) -> str:
    """Return one of Redis' own settings, ``""`` where it does not tell, as hosted ones do not."""
    try:
        with reachable():
            return str(bot.redis.config_get(name).get(name, ""))
    except Transient:
        return ""


def _agent(bot: Chatbot) -> Finding:
    if bot.settings.agent_file is None:
        return Finding("agent", True, "its texts are those of the settings")
    from chatbot.agent import persona  # CrewAI comes with it, which takes seconds

    persona(bot.settings)
    return Finding("agent", True, f"{bot.settings.agent_file} has its texts")


# -- outside -----------------------------------------------------------------------


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
    headers = {"Authorization": f"Bearer {key}"}
    # Without a file nothing is written down, but who answers anything else than 404 is there.
    if httpx.post(f"{base_url}/audio/transcriptions", headers=headers, timeout=TIMEOUT).status_code in {404, 405}:
        return Finding(part, False, f"{base_url} has no /audio/transcriptions; check {prefix}_BASE_URL")
    if httpx.get(f"{base_url}/models", headers=headers, timeout=TIMEOUT).status_code == 404:
        return Finding(part, True, "the server answers; it does not list its models")
    return _served(part, f"{base_url}/models", settings.transcription_model, key=key, prefix=prefix)


def _served(part: str, address: str, name: str, *, key: str, prefix: str) -> Finding:
    """Look for a model in the list an OpenAI-compatible server gives."""
    answer = httpx.get(address, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT)
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
    assert settings.whatsapp_access_token is not None  # it is among the needed ones
    answer = httpx.get(
        f"{settings.whatsapp_graph_url}/{settings.whatsapp_phone_number_id}",
        headers={"Authorization": f"Bearer {settings.whatsapp_access_token.get_secret_value()}"},
        timeout=TIMEOUT,
    )
    if answer.status_code != 200:
        return Finding(
            "whatsapp", False, f"the Graph API answers {answer.status_code}; check the access token and the number's id"
        )
    return Finding("whatsapp", True, "the Graph API knows this number and token")


def _evolution(bot: Chatbot) -> Finding:
    settings = bot.settings
    assert settings.evolution_api_key is not None  # settings that name the channel have it
    answer = httpx.get(
        f"{settings.evolution_url}/instance/connectionState/{settings.evolution_instance}",
        headers={"apikey": settings.evolution_api_key.get_secret_value()},
        timeout=TIMEOUT,
    )
    if answer.status_code != 200:
        says = "check CHATBOT_EVOLUTION_URL, CHATBOT_EVOLUTION_API_KEY and CHATBOT_EVOLUTION_INSTANCE"
        return Finding("evolution", False, f"Evolution answers {answer.status_code}; {says}")
    state = (answer.json().get("instance") or {}).get("state")
    if state != "open":
        return Finding("evolution", False, f"the instance is {state!r}, not connected; scan its QR code again")
    return Finding("evolution", True, "the instance is connected")


_CHANNELS = {"whatsapp": _whatsapp, "evolution": _evolution}


def _clock(bot: Chatbot) -> Finding:
    """Compare our clock with the one in the Graph API's ``Date`` header."""
    answer = httpx.head(bot.settings.whatsapp_graph_url, timeout=TIMEOUT)
    if "date" not in answer.headers:
        return Finding("clock", False, "not known: the Graph API sent no Date; check with `timedatectl`")
    off = time.time() - parsedate_to_datetime(answer.headers["date"]).timestamp()
    if abs(off) > CLOCK_TOLERANCE:
        return Finding("clock", False, f"off by {off:.0f} s; switch NTP on (`timedatectl set-ntp true`)")
    return Finding("clock", True, "agrees with the Graph API's")
