"""What TLS needs to know, made of the settings: the one place for RabbitMQ and for Redis.

In come settings, out go the arguments of kombu and of redis-py. Promise: with ``amqps://`` and
``rediss://`` the server's certificate is checked, and its name against the address, unless a
setting says otherwise; without a CA of one's own the machine's are trusted.
"""

from __future__ import annotations

import ssl
from typing import Any

from chatbot.config import Settings


def of_broker(settings: Settings) -> dict[str, Any]:
    """Return the ``ssl`` of a kombu connection; ``Connection`` leaves it out where the address is no ``amqps://``.

    ``server_hostname`` is there, and empty, where the name is to be checked: each connection fills in its own.
    """
    options: dict[str, Any] = {
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": _path(settings.broker_tls_ca),
        "certfile": _path(settings.broker_tls_cert),
        "keyfile": _path(settings.broker_tls_key),
    }
    if settings.broker_tls_check_name:
        options["server_hostname"] = None
    return options


def context_of_broker(settings: Settings) -> ssl.SSLContext:
    """Return what the management API of a broker is asked with, over ``https://``."""
    context = ssl.create_default_context(cafile=_path(settings.broker_tls_ca))
    context.check_hostname = settings.broker_tls_check_name
    if settings.broker_tls_cert:
        context.load_cert_chain(settings.broker_tls_cert, settings.broker_tls_key)
    return context


def of_redis(settings: Settings) -> dict[str, Any]:
    """Return what redis-py's client is to be given beside its address: nothing where that is no ``rediss://``."""
    if not settings.redis_url.startswith("rediss:"):
        return {}
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": settings.redis_tls_check_name,
        "ssl_ca_certs": _path(settings.redis_tls_ca),
        "ssl_certfile": _path(settings.redis_tls_cert),
        "ssl_keyfile": _path(settings.redis_tls_key),
    }


def _path(path: object) -> str | None:
    return None if path is None else str(path)
