"""What gunicorn serves (``gunicorn -c python:chatbot.web.serving 'chatbot.web.serving:application()'``) and how.

Threads, because a request only waits for the broker; a thread gets whole requests only
(``web/slow_clients.py``), because anybody can send half a one. The simulator keeps its state in
memory, so with it there is one process.
"""

from flask import Flask

from chatbot.app import from_environment
from chatbot.web.webhook import create_app

_settings = from_environment().settings

bind = f"{_settings.host}:{_settings.port}"
worker_class = "chatbot.web.slow_clients.Worker"
workers = 1 if _settings.simulator else _settings.web_workers
threads = 64 if _settings.simulator else _settings.web_threads
timeout = 30
graceful_timeout = 10
#: Longer than a load balancer keeps an idle connection (60 s as a rule), which otherwise
#: sends a request into a connection that is being closed.
keepalive = 75
control_socket_disable = True


def application() -> Flask:
    """Return the WSGI application, built from the environment."""
    return create_app(from_environment())
