"""``python -m chatbot.simulator``: the simulator as a process of its own.

Served by gunicorn, which keeps connections open between requests as Meta's servers do.
"""

from __future__ import annotations

import argparse
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from chatbot.simulator.routes import create_app
from chatbot.simulator.simulator import Simulator

#: Requests at a time; pages and faults of the script may keep one waiting for long.
THREADS = 64
#: Longer than a client keeps an idle connection: one that is closed while it asks leaves it in doubt.
KEEPALIVE_SECONDS = 75


class _Server(BaseApplication):
    """One process, for the state lives in its memory; ``load`` runs there."""

    def __init__(self, simulator: Simulator, bind: str) -> None:
        self._simulator, self._bind = simulator, bind
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": self._bind,
            "worker_class": "gthread",
            "threads": THREADS,
            "keepalive": KEEPALIVE_SECONDS,
            "control_socket_disable": True,
            "when_ready": lambda _: print(f"http://{self._bind}/simulator", flush=True),
            "worker_exit": lambda _, __: self._simulator.close(),
        }
        for name, setting in settings.items():
            self.cfg.set(name, setting)

    def load(self) -> Flask:
        self._simulator.start()
        return create_app(self._simulator)


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m chatbot.simulator", description=__doc__)
    parser.add_argument("--webhook-url", required=True, help="where signed webhooks are posted")
    parser.add_argument("--app-secret", required=True, help="what they are signed with")
    parser.add_argument("--phone-number-id", default="100000000000001")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    given = parser.parse_args()
    simulator = Simulator(
        webhook_url=given.webhook_url, app_secret=given.app_secret, phone_number_id=given.phone_number_id
    )
    _Server(simulator, f"{given.host}:{given.port}").run()


if __name__ == "__main__":
    main()
