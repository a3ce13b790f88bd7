"""One format for every log line, ours and the libraries', on standard error.

In come the settings; from then on no line holds what people wrote or where to: the loggers
that would show it are kept at WARNING, and Celery's own lines are shortened (``library_logs``).
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from celery import signals

from chatbot.config import Settings
from chatbot.observability.library_logs import OneLine


@signals.setup_logging.connect
def _keep_our_logging(**_: Any) -> None:
    """Have Celery leave logging as ``configure_logging`` set it."""


def configure_logging(settings: Settings) -> None:
    """Send every log line, ours and the libraries', through one format on standard error."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                render,
            ],
        )
    )
    handler.addFilter(OneLine())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    # Below WARNING these write what people wrote, or where to: celery.pool whole message bodies.
    for name in ("celery.pool", "httpx", "httpcore", "amqp", "werkzeug", "openai", "crewai", "crewai_core"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Two lines for each task, which name neither user nor message; Flower shows the same.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
