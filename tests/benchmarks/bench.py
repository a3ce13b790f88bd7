"""What the benchmarks share: private servers, rounds A B A B …, medians, a table.

A benchmark is a module here with ``run(bench) -> Figures``. Each contender is measured
once a round, in turn, so that a machine whose speed drifts is the same for all.
"""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import RabbitMQ, Redis

#: A benchmark's figures by name: ``{"ratio": 0.93, "goal": 0.9, …}``, numbers that JSON can hold.
Figures = dict[str, Any]
ROUNDS = 5
#: Descriptors of a broker beside those of its queues.
DESCRIPTORS = 1_000


@dataclass(frozen=True, slots=True)
class Bench:
    """A place to measure in: broker and store of our own, a folder, and how thorough to be."""

    folder: Path
    rabbitmq: RabbitMQ
    redis: Redis
    quick: bool = False

    @property
    def rounds(self) -> int:
        """How many rounds to measure."""
        return 2 if self.quick else ROUNDS

    def scaled(self, count: int, *, quick: int) -> int:
        """Return ``count``, or what is enough to see that it works."""
        return quick if self.quick else count

    def interleave(self, contenders: Mapping[str, Callable[[], float]], *, what: str) -> dict[str, list[float]]:
        """Measure each contender once a round, after one that does not count; return every figure."""
        measured: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(self.rounds + 1):
            for name, measure in contenders.items():
                figure = measure()
                note(f"  {what}, {f'round {turn}' if turn else 'warm-up'}: {name} {figure:.4g}")
                if turn:
                    measured[name].append(figure)
        return measured


@contextmanager
def servers(folder: Path, *, quick: bool) -> Iterator[Bench]:
    """Start a broker and a store for the benchmarks, and end them afterwards."""
    with ExitStack() as stack:
        rabbitmq, redis = RabbitMQ(folder / "rabbitmq"), Redis(folder / "redis")
        for server in (rabbitmq, redis):
            stack.callback(server.close)
            server.start()
        yield Bench(folder, rabbitmq, redis, quick)


def allow_queues(count: int) -> int:
    """Let brokers that start from now on have open files for so many queues (one each on RabbitMQ 3).

    Returns the count, or how many this machine has room for where that is fewer.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return count
    enough = max(most, count + DESCRIPTORS)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, enough))  # root may have more than it was given
    except ValueError:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        note(f"  {most} open files are allowed (`ulimit -Hn`): {most - DESCRIPTORS} queues instead of {count}")
        return most - DESCRIPTORS
    return count


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios ours to theirs, round by round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def percentile(figures: Sequence[float], share: float) -> float:
    """Return the figure below which that share of all lie (0.99: the p99)."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under their heads; numbers are shortened."""
    cells = [list(heads), *([_shown(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


def note(line: str) -> None:
    """Say what goes on, beside the results."""
    print(line, file=sys.stderr, flush=True)


def _shown(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
