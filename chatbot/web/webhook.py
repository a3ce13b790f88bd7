"""Stage 1: take what a channel posts, and answer 200 only once the broker has it.

In come HTTP requests; out go routed messages. Promise: 200 means every message of the
body is confirmed by the broker. Needs the broker and nothing else, so it keeps taking
messages while Redis, the workers or the model are down.

=====  ==================================================================
200    every message is on the broker, or there was none to take
400    the body is not a JSON object
401    the signature is missing or wrong
403    the verification token is wrong
404    the channel is not among those in use (``CHATBOT_CHANNELS``)
408    the request was not there in time (``web/slow_clients.py``)
413    the body is over 3 MB (the most Meta sends)
503    the broker did not confirm within 5 s: WhatsApp delivers again
=====  ==================================================================

What the head alone shows to be 401 or 413 is refused before the body is read (``HeadCheck``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog
from flask import Blueprint, Flask, Response, abort, current_app, jsonify, redirect, request, url_for

from chatbot import texts
from chatbot.errors import BadPayload, BadSignature, BrokerUnavailable, QueueFull
from chatbot.messages import Message
from chatbot.web.incoming import HEAD_CHECK, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chatbot.broker.router import Router
    from chatbot.broker.sharding import ShardedRouter
    from chatbot.channels.protocols import Channel
    from chatbot.config import Settings
    from chatbot.identity import Names
    from chatbot.simulator.simulator import Simulator
    from chatbot.web.incoming import Head

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 3 * 1024 * 1024

#: Of a larger body, how much is read away so that its connection stays usable.
DISCARDED_BODY_BYTES = 16 * MAX_BODY_BYTES

#: Statuses that say the provider has our message; "read" says nothing new.
SETTLING = frozenset({"sent", "delivered", "failed"})

#: Why a message is kept that nobody can be answered to.
NOBODY = "nothing that can be used says who wrote it (an id has 200 printable characters at most)"

blueprint = Blueprint("webhook", __name__)


class Parts(Protocol):
    """What the webhook needs of its process; ``Chatbot`` has it."""

    settings: Settings

    @property
    def router(self) -> Router | ShardedRouter:
        """Publishes what came."""

    @property
    def names(self) -> Names:
        """Names who wrote."""

    @property
    def channels(self) -> Mapping[str, Channel]:
        """Reads what came, by the channel's name."""

    @property
    def simulator(self) -> Simulator:
        """The page to try it with, where the settings ask for it."""


@blueprint.get("/webhook/<name>")
def verify(name: str) -> Response:
    """Answer the vendor's verification of the callback address."""
    return Response(_channel(name).challenge(request.args), mimetype="text/plain")


@blueprint.post("/webhook/<name>")
@blueprint.post("/webhook/<name>/<path:event>")
def receive(name: str, event: str = "") -> Response:  # noqa: ARG001  # the body says it too
    """Publish every message of the body that starts a turn or moves its author, in its order, and its notices."""
    channel = _channel(name)
    body = request.get_data(cache=False)
    channel.verify(body, request.headers.get)
    inbound, names = channel.parse(body), _bot().names
    statuses = tuple(map(names.status, inbound.statuses))
    for status in statuses:
        log.info("status.received", message_id=status.message_id, status=status.status, code=status.error_code)
    settling = [status for status in statuses if status.callback and status.status in SETTLING]
    deadline = _bot().router.deadline()
    messages = tuple(map(names.name, inbound.messages))
    refused = _route(_in_order(_served(messages)), deadline) + _keep_nobodys(messages, deadline)
    if settling:
        _bot().router.report_all(settling, deadline=deadline)
    if inbound.notices:
        _bot().router.note_all([names.notice(notice) for notice in inbound.notices], deadline=deadline)
    return jsonify(messages=len(inbound.messages), statuses=len(inbound.statuses), refused=refused)


@blueprint.get("/health")
def health() -> Response:
    """Say that this process is up."""
    return jsonify(status="ok")


@blueprint.get("/ready")
def ready() -> tuple[Response, int]:
    """Say whether the broker can be reached: 200, or 503 when messages would be refused."""
    try:
        _bot().router.ping()
    except BrokerUnavailable as err:
        return jsonify(status="broker unavailable", error=str(err)), 503
    return jsonify(status="ready"), 200


def _served(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return those the rest of the way has something to do for; the others are only counted."""
    served = []
    for message in messages:
        if message.starts_turn or (message.user and message.moved_to):
            served.append(message)
        elif not message.is_nobodys:
            where = "group" if message.group else "person" if message.user else "nobody"
            log.info("message.ignored", message_id=message.id, kind=message.kind, source=where)
    return tuple(served)


def _keep_nobodys(messages: tuple[Message, ...], deadline: float) -> int:
    """Keep what somebody wrote whom nothing names as dead letters; return how many."""
    nobodys = [message for message in messages if message.is_nobodys]
    for message in nobodys:
        log.warning("message.refused", message_id=message.id, reason=NOBODY)
        _bot().router.bury(message, NOBODY, deadline=deadline)
    return len(nobodys)


def _in_order(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the messages of one POST by the time they were written: a batch comes in any order.

    The time has whole seconds, so those of one second stay as they came.
    """
    if all(message.sent_at for message in messages):
        return tuple(sorted(messages, key=lambda message: message.sent_at))
    return messages


def _route(messages: tuple[Message, ...], deadline: float) -> int:
    """Route the messages; one that finds no room or no queue is kept as a dead letter and counted."""
    router = _bot().router
    refused = router.route_all(messages, deadline=deadline)
    for message, err in refused:
        log.warning("message.refused", message_id=message.id, reason=str(err))
        router.bury(message, str(err), deadline=deadline)
        if isinstance(err, QueueFull):
            told = texts.TOO_MANY[texts.guess(message.text, message.phone)]
            router.notify(message, "too_many", told, deadline=deadline)
    return len(refused)


def _channel(name: str) -> Channel:
    try:
        return _bot().channels[name]
    except KeyError:
        abort(404)


def _bot() -> Parts:
    return current_app.config["CHATBOT"]  # type: ignore[no-any-return]  # Flask's config holds anything


def _failed(error: Exception, code: int) -> tuple[Response, int]:
    log.warning("webhook.refused", status=code, reason=str(error))
    return jsonify(error=str(error)), code


def _too_large(error: Exception) -> tuple[Response, int]:
    """Answer 413, the rest of the body read away first.

    Gunicorn announces keep-alive, then closes a connection with more than 64 KiB unread on
    it: the client's next request would be lost.
    """
    rest = request.environ["wsgi.input"]
    for _ in range(DISCARDED_BODY_BYTES // MAX_BODY_BYTES):
        if not rest.read(MAX_BODY_BYTES):
            break
    channel = _bot().channels.get((request.view_args or {}).get("name", ""))
    return _failed(ValueError(f"{error} {channel.too_large}") if channel and channel.too_large else error, 413)


class HeadCheck:
    """Says by the head of a request that its body need not be read; ``largest`` bounds every body."""

    def __init__(self, bot: Parts) -> None:
        self._bot = bot
        self.largest = MAX_BODY_BYTES
        if bot.settings.simulator:
            from chatbot.simulator.routes import LARGEST_SAID

            self.largest = LARGEST_SAID

    def check(self, head: Head) -> None:
        """Return when the body may be worth reading. Raises ``Refused``, as the webhook would answer."""
        parts = head.path.split("/")
        channel = self._bot.channels.get(parts[2]) if parts[:2] == ["", "webhook"] and len(parts) > 2 else None
        if channel is None or head.method != "POST":
            return
        if head.length > MAX_BODY_BYTES:
            raise _refusal(413, f"the body is over {MAX_BODY_BYTES} bytes")
        try:
            channel.check_head(head.header)
        except BadSignature as err:
            raise _refusal(401, str(err)) from err


def _refusal(status: int, reason: str) -> Refused:
    log.warning("webhook.refused", status=status, reason=reason)
    return Refused(status, reason)


def create_app(bot: Parts) -> Flask:
    """Return the WSGI application."""
    app = Flask(__name__)
    app.config["CHATBOT"] = bot
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.extensions[HEAD_CHECK] = HeadCheck(bot)
    app.register_blueprint(blueprint)
    verification_code = {"GET": 403}
    app.register_error_handler(BadSignature, lambda e: _failed(e, verification_code.get(request.method, 401)))
    app.register_error_handler(BadPayload, lambda e: _failed(e, 400))
    app.register_error_handler(BrokerUnavailable, lambda e: _failed(e, 503))
    app.register_error_handler(413, _too_large)
    if bot.settings.simulator:
        from chatbot.simulator.routes import create_blueprint

        bot.simulator.start()
        app.register_blueprint(create_blueprint(bot.simulator))
        app.add_url_rule("/", "to_simulator", lambda: redirect(url_for("simulator.page").rstrip("/")))
    return app
