"""Fixtures: private servers, started once a session and only when a test asks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from tests.servers import RABBITMQ, RABBITMQ_ROOT, RabbitMQ, Redis

for name in [name for name in os.environ if name.startswith("CHATBOT_") and not name.startswith("CHATBOT_TEST_")]:
    del os.environ[name]  # a developer's own settings never reach a test
os.environ.pop("OPENAI_API_KEY", None)

# A timing decides no test.
hypothesis.settings.register_profile("chatbot", deadline=None)
hypothesis.settings.load_profile("chatbot")

# As the processes do: a log line of a worker's thread never lands in what a command under test prints.
structlog.configure(
    processors=[structlog.stdlib.add_log_level, structlog.dev.ConsoleRenderer(colors=False)],
    logger_factory=structlog.stdlib.LoggerFactory(),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many sessions ``test_churn`` opens and closes."""
    parser.addoption("--churn", type=int, default=1500)


#: What a test asks for that not every machine has → the mark it gets; ``make unit`` leaves these out.
MARKS = {"rabbitmq": "server", "redis_server": "server", "browser": "browser", "chromium": "browser"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they ask for."""
    for item in items:
        for fixture in MARKS.keys() & getattr(item, "fixturenames", ()):
            item.add_marker(MARKS[fixture])


def _missing(what: str) -> None:
    """Skip on a laptop, fail where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed; `make setup` installs it")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A broker for the whole session; tests leave no queue of theirs behind."""
    if not (RABBITMQ_ROOT / RABBITMQ.relative_to("/") / "rabbitmq-server").exists():
        _missing("RabbitMQ")
    broker = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    try:
        yield broker.start()
    finally:
        broker.close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis for the whole session."""
    if not shutil.which("redis-server"):
        _missing("redis-server")
    server = Redis(tmp_path_factory.mktemp("redis"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the test's own."""
    return tmp_path
