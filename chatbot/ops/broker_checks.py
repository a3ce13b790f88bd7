"""``chatbot doctor`` on RabbitMQ: is it there, can it hold what comes, and does somebody take it out?

In comes a chatbot, out goes a finding a check. All but ``broker`` need a broker that answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import httpx
from amqp.exceptions import NotFound

from chatbot import tls
from chatbot.broker import topology
from chatbot.broker.fill_level import NEARLY_FULL
from chatbot.errors import BrokerRefused, ChatbotError
from chatbot.ops.finding import TIMEOUT, Finding, hint

if TYPE_CHECKING:
    from chatbot.app import Chatbot

#: Below this many file descriptors, RabbitMQ 3.x does not survive 10,000 user queues.
ENOUGH_DESCRIPTORS = 50_000
#: RabbitMQ shares files among queues from here on.
SHARES_FILES = 4
#: So many people who wait for a worker, and wake-ups that wait for a sender, are more than a moment's.
MANY_WAIT, MANY_TO_SEND = 100, 1_000


def broker(bot: Chatbot) -> Finding:
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


def descriptors(bot: Chatbot) -> Finding:
    """Ask the management API: AMQP itself does not tell."""
    part = "descriptors"
    version = str(_properties(bot).get("version", ""))
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) >= SHARES_FILES:
        return Finding(part, True, f"RabbitMQ {version} shares files among queues: it needs few")
    try:
        totals = [int(node["fd_total"]) for node in _management(bot, "/api/nodes") if "fd_total" in node]
    except (httpx.HTTPError, ValueError, TypeError) as err:
        return hint(
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


def queues(bot: Chatbot) -> Finding:
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


def waiting_for_workers(bot: Chatbot) -> Finding:
    waiting, consumers = _depth(bot, topology.OPEN)
    if not consumers:
        return _unattended(topology.OPEN, waiting, "worker")
    if waiting >= MANY_WAIT:
        says = f"{waiting} people wait for a worker that has room: start more, or raise CHATBOT_MAX_SESSIONS"
        return Finding(topology.OPEN, False, says)
    return Finding(topology.OPEN, True, f"{consumers} workers, {waiting} wait for one")


def waiting_for_senders(bot: Chatbot) -> Finding:
    waiting, consumers = _depth(bot, topology.SEND)
    if not consumers:
        return _unattended(topology.SEND, waiting, "sender")
    if waiting >= topology.MAX_TO_SEND * NEARLY_FULL:
        says = f"{waiting} of {topology.MAX_TO_SEND} wait, what comes beyond is refused: start more senders"
        return Finding(topology.SEND, False, says)
    if waiting >= MANY_TO_SEND:
        return hint(topology.SEND, f"{waiting} wait: where that number does not fall, start more senders")
    return Finding(topology.SEND, True, f"{consumers} senders, {waiting} wait for one")


def _unattended(queue: str, waiting: int, process: str) -> Finding:
    if waiting:
        return Finding(queue, False, f"{waiting} wait and no {process} runs: start one (see Procfile)")
    return hint(queue, f"no {process} runs; start one (see Procfile) before people write")


def dead_letters(bot: Chatbot) -> Finding:
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
        return hint(part, f"{waiting} letters wait: look at them with `chatbot dead list`, then replay or drop them")
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
