"""``make demo``: the whole system in one process, and a page to chat with it.

Web server, worker, sender and beat run as threads. Broker, store and model are
embedded ones unless the environment names real ones; the way of a message is the same.
"""

from __future__ import annotations

import signal
import sys
import threading

from werkzeug.serving import BaseWSGIServer, make_server

from chatbot import config, extras
from chatbot.app import Chatbot
from chatbot.demo import embedded
from chatbot.observability.logging import configure_logging
from chatbot.web.webhook import create_app

CONCURRENCY = 16


def run() -> None:
    """Run until Ctrl-C or SIGTERM. Exits with what to write or to install where something is wrong."""
    try:
        settings = config.load(config.DemoSettings)
    except config.SettingsError as err:
        sys.exit(f"chatbot: {err}")
    extras.exit_without("agent", *(["demo"] if settings.redis_url.startswith("fakeredis:") else []))
    configure_logging(settings)
    bot = Chatbot(settings)
    print(f"  broker {_named(settings.broker_url)}, store {_named(settings.redis_url)}, model {settings.llm_model}")
    server = _listen(bot)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    print("  loading the agent (CrewAI takes a few seconds) …", flush=True)
    bot.warm_up()
    web = threading.Thread(target=server.serve_forever, name="web", daemon=True)
    with embedded.worker(bot, concurrency=CONCURRENCY), embedded.beat(bot):
        web.start()
        print(f"\n  Chat at http://{settings.host}:{settings.port}/simulator   (Ctrl-C stops it)", flush=True)
        ended.wait()
        print("\n  stopping …", flush=True)
        server.shutdown()
        bot.simulator.close()
    bot.close()


def _listen(bot: Chatbot) -> BaseWSGIServer:
    settings = bot.settings
    try:
        return make_server(settings.host, settings.port, create_app(bot), threaded=True)
    except (OSError, SystemExit) as err:
        sys.exit(f"chatbot: cannot listen on {settings.host}:{settings.port} ({err}); move it with PORT=… make demo")


def _named(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return {"memory": "embedded", "fakeredis": "embedded"}.get(scheme) or f"{scheme}://{rest.rpartition('@')[2]}"
