"""Builds a chatbot from its settings; nothing here connects before it is used."""

from __future__ import annotations

import gc
import sys
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from celery import Celery

from chatbot import config, extras, tls
from chatbot.broker import topology
from chatbot.broker.internals.connection import Connection
from chatbot.broker.router import Router
from chatbot.broker.sharding import ShardedRouter, sharded
from chatbot.errors import Permanent
from chatbot.identity import Names
from chatbot.observability.logging import configure_logging

if TYPE_CHECKING:  # loaded when first used: the webhook needs none of them
    from chatbot.agent.crew import CrewAgent
    from chatbot.channels.protocols import Channel, Sender
    from chatbot.conversation.media import MediaReader
    from chatbot.conversation.quarantine import Quarantine
    from chatbot.conversation.turn import Conversation
    from chatbot.delivery.sender import Delivery
    from chatbot.messages import Message
    from chatbot.sessions.housekeeping import Sessions
    from chatbot.simulator.simulator import Simulator
    from chatbot.store.notices import Notices
    from chatbot.store.presence import Presence, Redeliveries, Runs
    from chatbot.store.slots import Slots
    from chatbot.store.store import Store


class Chatbot:
    """Everything one process needs, each part built on first use."""

    def __init__(self, settings: config.Settings) -> None:
        self.settings = settings
        self.celery = _celery(settings)
        self.celery.chatbot = self

    @property
    def queue_arguments(self) -> dict[str, Any]:
        """The arguments of every user's queue."""
        return topology.user_queue_arguments(
            reply_window=self.settings.reply_window, max_waiting=self.settings.max_waiting
        )

    @cached_property
    def dead_queue(self) -> topology.Fixed:
        """The queue of dead letters."""
        return topology.dead_queue(letters=self.settings.dead_letters_max, size=self.settings.dead_letters_max_bytes)

    @cached_property
    def router(self) -> Router | ShardedRouter:
        """Publishes to users' queues."""
        shards = self.settings.broker_shards
        return sharded(shards, own=self.settings.broker_url, connect=self._router) if shards else self._router()

    def _router(self, url: str | None = None) -> Router:
        timeout = self.settings.publish_timeout
        return Router(
            self.celery, timeout=timeout, queue_arguments=self.queue_arguments, url=url, dead_queue=self.dead_queue
        )

    @cached_property
    def names(self) -> Names:
        """Names users."""
        home = self.settings.whatsapp_phone_number_id or self.settings.evolution_instance
        return Names(home=home, key=config.secret(self.settings.pseudonym_key))

    @cached_property
    def store(self) -> Store:
        """Conversations in Redis."""
        from chatbot.store.store import Store

        return Store(
            self.redis,
            history_turns=self.settings.history_turns,
            retention=self.settings.retention,
            names=self.names,
        )

    @cached_property
    def redis(self) -> Any:
        """The client of Redis, which all stores share."""
        from chatbot.store.client import connect

        return connect(self.settings.redis_url, tls=tls.of_redis(self.settings))

    @cached_property
    def presence(self) -> Presence:
        """Tells the other processes that this one lives."""
        from chatbot.store.presence import Presence

        return Presence(self.redis)

    @cached_property
    def runs(self) -> Runs:
        """The runs of this process, by their fencing tokens."""
        from chatbot.store.presence import Runs

        return Runs(self.presence.id, self.presence)

    @cached_property
    def redeliveries(self) -> Redeliveries:
        """Counts the processes that ended under one task."""
        from chatbot.store.presence import Redeliveries

        return Redeliveries(self.redis, self.runs)

    @cached_property
    def notices(self) -> Notices:
        """What providers told beside messages, for an operator."""
        from chatbot.store.notices import Notices

        return Notices(self.redis)

    @cached_property
    def agent(self) -> CrewAgent:
        """The CrewAI agent; importing it takes seconds. Raises ``MissingExtra``."""
        extras.require("agent")
        from chatbot.agent.crew import from_settings

        return from_settings(self.settings, self.slots)

    @property
    def slots(self) -> Slots | None:
        """Bounds the calls to the model that are in flight; ``None`` for no bound."""
        from chatbot.store.slots import Slots

        places = self.settings.llm_concurrency
        return Slots(self.redis, "llm", places) if places else None

    @cached_property
    def conversation(self) -> Conversation:
        """Takes turns."""
        from chatbot.conversation.turn import Conversation
        from chatbot.resilience.breaker import Breaker

        breaker = Breaker(failures=self.settings.breaker_failures, rest=self.settings.breaker_rest)
        return Conversation(
            self.store,
            lambda: self.agent,
            self.router,
            runs=self.runs,
            llm_tries=self.settings.llm_tries,
            breaker=breaker,
            read=self.media_reader.read,
            apart=self.quarantine.think,
        )

    @cached_property
    def quarantine(self) -> Quarantine:
        """Answers what may have ended its worker, in processes of its own."""
        from chatbot.conversation.quarantine import Quarantine

        return Quarantine(self.settings)

    @cached_property
    def media_reader(self) -> MediaReader:
        """Reads the voice notes and images people send."""
        from chatbot.conversation.media import MediaReader, transcriber

        return MediaReader(
            self._download,
            transcriber(self.settings),
            vision=self.settings.llm_vision,
            max_bytes=self.settings.media_max_bytes,
        )

    def _download(self, message: Message, limit: int) -> bytes:
        channel = self.channels.get(message.channel)
        if channel is None or message.media is None:
            raise Permanent(f"no file can be fetched through the channel {message.channel!r}")
        return channel.download(message, limit=limit)

    @cached_property
    def delivery(self) -> Delivery:
        """Delivers replies."""
        from chatbot.delivery.sender import Delivery

        return Delivery(
            self.store,
            self.senders,
            self.router,
            runs=self.runs,
            tries=self.settings.send_tries,
            settle_seconds=self.settings.settle_timeout,
        )

    @cached_property
    def sessions(self) -> Sessions:
        """Closes and rescues sessions."""
        from chatbot.sessions.housekeeping import Sessions

        return Sessions(self.celery, self.store, self.router, idle_timeout=self.settings.idle_timeout)

    @cached_property
    def channels(self) -> dict[str, Channel]:
        """The channels in use, by the name messages carry."""
        from chatbot.channels.registry import build

        return {name: build(name, self.settings) for name in self.settings.channels}

    @cached_property
    def senders(self) -> dict[str, Sender]:
        """The ways out: every channel, and the shell, which is no way in."""
        from chatbot.channels.null import Shell

        return {**self.channels, "shell": Shell()}

    @cached_property
    def simulator(self) -> Simulator:
        """The WhatsApp on your desk, which posts to this process's own webhook."""
        from chatbot.simulator.instance import Instance
        from chatbot.simulator.simulator import Simulator

        return Simulator(
            webhook_url=f"http://127.0.0.1:{self.settings.port}/webhook/whatsapp",
            app_secret=config.secret(self.settings.whatsapp_app_secret),
            phone_number_id=self.settings.whatsapp_phone_number_id or "100000000000001",
            evolution=Instance(
                name=self.settings.evolution_instance or "demo",
                api_key=config.secret(self.settings.evolution_api_key),
                webhook_url=f"http://127.0.0.1:{self.settings.port}/webhook/evolution",
                webhook_secret=config.secret(self.settings.evolution_webhook_secret),
            )
            if "evolution" in self.settings.channels
            else None,
        )

    def warm_up(self) -> None:
        """Build what a first turn would otherwise wait for; after a lost connection it is there already."""
        built = "agent" in vars(self)
        _ = self.conversation, self.agent
        if not built:
            # CrewAI leaves 300,000 objects that live as long as the process. No collection of
            # garbage need look at them: a full one takes 200 ms, and every turn waits.
            gc.collect()
            gc.freeze()

    def close(self) -> None:
        """Close the connections of this process."""
        if "presence" in vars(self):
            self.presence.stop()
        if "quarantine" in vars(self):
            self.quarantine.close()
        self.router.close()
        self.celery.close()


@cache
def from_environment() -> Chatbot:
    """Return this process's chatbot. Exits with what to write where settings are wrong."""
    try:
        settings = config.load()
    except config.SettingsError as err:
        sys.exit(f"chatbot: {err}")
    configure_logging(settings)
    return Chatbot(settings)


class _App(Celery):
    @cached_property
    def Beat(self) -> Any:  # noqa: N802  # as Celery calls it
        return self.subclass_with_self("chatbot.sessions.beat:Beat")


def _celery(settings: config.Settings) -> Celery:
    import chatbot.tasks  # noqa: F401  # registers tasks with every app
    from chatbot.broker.internals.task_events import TaskEvents
    from chatbot.sessions.bootstep import Subscriptions
    from chatbot.sessions.heartbeat import Heartbeat, Pulse

    app = _App("chatbot")
    app.config_from_object("celeryconfig")
    app.conf.update(
        broker_url=settings.broker_url,
        broker_use_ssl=tls.of_broker(settings),
        broker_transport_options={"polling_interval": 0.02} if settings.embedded_broker else {},
        beat_schedule={
            "close idle sessions": _every(settings.housekeeping_interval, "chatbot.close_idle_sessions"),
            "rescue sessions": _every(settings.housekeeping_interval, "chatbot.rescue_sessions"),
        },
    )
    app.amqp.Connection = Connection
    app.steps["worker"].add(Heartbeat)
    app.steps["consumer"].update((Pulse, Subscriptions, TaskEvents))
    app.set_default()
    return app


def _every(seconds: float, task: str) -> dict[str, Any]:
    # A missed beat is not made up for: the next one does the same. The broker counts how long it may
    # wait; ``expires`` would be a time of beat's clock, which a worker compares with its own.
    return {"task": task, "schedule": seconds, "options": {"expiration": seconds}}
