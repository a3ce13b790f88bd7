"""``python -m tests.benchmarks.drain URL QUEUE…``: take whatever arrives on these queues, and throw it away."""

from __future__ import annotations

import sys

import kombu


def main() -> None:
    """Consume without acknowledging, until ended."""
    url, *queues = sys.argv[1:]
    with kombu.Connection(url) as connection:
        channel = connection.default_channel
        for queue in queues:
            channel.basic_consume(queue, no_ack=True, callback=lambda _: None)
        while True:
            connection.drain_events()


if __name__ == "__main__":
    main()
