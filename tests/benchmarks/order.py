"""Each user's messages in order: ours against what else one could pick (``rivals.py``).

Three figures of each, every round: turns a second of a no-op; how long the next message of the
same user waits once the turn before it has ended, all being there before the first begins; how
long the others' messages wait (from published to the turn's start) while one user floods, against
the same without the flood.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from typing import NamedTuple

from tests.benchmarks.bench import Bench, Figures, percentile, ratio, table
from tests.benchmarks.rivals import LANES, Rival, Turn, rivals
from tests.servers import wait_until

GOAL_GAP_MS, GOAL_FLOOD = 10.0, 1.1
OURS = "ours"
#: The one who floods has a lane for that, so that others wait for workers and not for a publisher.
FLOODER, FLOOD_LANE = "5511222200000", LANES - 1


def run(bench: Bench) -> Figures:
    """Return the three figures of each, and ours against the best of the others."""
    with ExitStack() as stack:
        tried = {name: _Tried(rival, bench) for name, rival in rivals(bench, stack).items()}
        rates = bench.interleave({name: one.round for name, one in tried.items()}, what="turns/s")
    kept = {name: one.rounds[-bench.rounds :] for name, one in tried.items()}
    gaps = {name: [1000 * gap for figures in rounds for gap in figures.gaps] for name, rounds in kept.items()}
    p99 = {name: percentile(every, 0.99) for name, every in gaps.items()}
    floods = {name: ratio([r.flooded for r in rounds], [r.quiet for r in rounds]) for name, rounds in kept.items()}
    median = {name: statistics.median(every) for name, every in rates.items()}
    table(
        ("", "turns/s", "gap p50 ms", "gap p99 ms", "others' p99 ms", "in a flood", "ratio", "out of order", "at once"),
        [
            (
                name, median[name], statistics.median(gaps[name]), p99[name],
                1000 * statistics.median(r.quiet for r in kept[name]),
                1000 * statistics.median(r.flooded for r in kept[name]), floods[name],
                sum(r.disordered for r in kept[name]), sum(r.overlapped for r in kept[name]),
            )
            for name in tried
        ],
    )  # fmt: skip
    others = [name for name in tried if name != OURS]
    ahead = min((ratio(rates[OURS], rates[name]) for name in others), default=None)
    table(
        ("ours", "is", "goal"),
        [
            ("turns/s / the best of the others", ahead, "> 1"),
            ("gap p99 ms", p99[OURS], f"<= {GOAL_GAP_MS:g}, and the shortest"),
            ("others' p99 under a flood / without", floods[OURS], f"<= {GOAL_FLOOD}, and the lowest"),
        ],
    )
    return {
        "ratio": ahead,
        "goal": 1.0,
        "gap_p99_ms": p99[OURS],
        "gap_goal_ms": GOAL_GAP_MS,
        "flood_ratio": floods[OURS],
        "flood_goal": GOAL_FLOOD,
        "turns_per_second": median,
        "gap_p99_ms_of": p99,
        "flood_ratio_of": floods,
        "disordered": {name: sum(r.disordered for r in rounds) for name, rounds in kept.items()},
        "overlapped": {name: sum(r.overlapped for r in rounds) for name, rounds in kept.items()},
    }


class _Round(NamedTuple):
    """Seconds: each wait of a next message; the p99 of others' waits without and with a flood. Broken promises."""

    gaps: list[float]
    quiet: float
    flooded: float
    disordered: int
    overlapped: int


class _Taken(NamedTuple):
    user: str
    number: int
    began: float
    ended: float


class _Tried:
    """One rival and its rounds."""

    def __init__(self, rival: Rival, bench: Bench) -> None:
        self._rival = rival
        self._numbers: defaultdict[str, itertools.count[int]] = defaultdict(itertools.count)
        self._published: dict[tuple[str, int], float] = {}
        self._read: defaultdict[str, int] = defaultdict(int)
        self._users = bench.scaled(100, quick=50)
        self._each = bench.scaled(20, quick=2)
        self._waiting = bench.scaled(10, quick=2)
        self._paced_seconds = bench.scaled(6, quick=1)
        self._flood = bench.scaled(180, quick=10)
        self.rounds: list[_Round] = []

    def round(self) -> float:
        """Measure all three; keep a ``_Round`` and return the turns a second."""
        began = time.monotonic()
        taken = self._wait_taken(self._write(_backlog(self._users, self._each, seconds=0)))
        rate = len(taken) / (max(turn.ended for turn in taken) - began)
        with self._rival.held():
            count = self._write(_backlog(16, self._waiting, seconds=0.05))
        waits = self._wait_taken(count)
        quiet, flooded = self._paced(flood=0), self._paced(flood=self._flood)
        whole = [taken, waits, quiet, flooded]
        self.rounds.append(
            _Round(
                list(self._gaps(waits)), self._p99(quiet), self._p99(flooded),
                sum(map(_disordered, whole)), sum(map(_overlapped, whole)),
            )
        )  # fmt: skip
        return rate

    def _write(self, turns: Iterable[tuple[str, float]]) -> int:
        """Publish as fast as can be; return how many once all are confirmed."""
        count = sum(self._publish(user, seconds) for user, seconds in turns)
        self._rival.wait_published()
        return count

    def _paced(self, *, flood: int) -> list[_Taken]:
        """Have 20 people write 50 messages a second, while one more writes ``flood`` at once."""
        count = sum(self._publish(FLOODER, 0.02) for _ in range(flood))
        began = time.monotonic()
        for n in range(50 * self._paced_seconds):
            time.sleep(max(0.0, began + n / 50 - time.monotonic()))
            count += self._publish(f"55113333{n % 20:05}", 0.05)
        self._rival.wait_published()
        return self._wait_taken(count)

    def _publish(self, user: str, seconds: float) -> int:
        number = next(self._numbers[user])
        lane = FLOOD_LANE if user == FLOODER else int(user) % FLOOD_LANE
        self._published[user, number] = time.monotonic()
        self._rival.publish(Turn(user, number, seconds), lane)
        return 1

    def _wait_taken(self, count: int) -> list[_Taken]:
        taken: list[_Taken] = []

        def all_taken() -> bool:
            for path in self._rival.ledger.iterdir():
                with path.open() as lines:
                    lines.seek(self._read[path.name])
                    while (line := lines.readline()).endswith("\n"):
                        self._read[path.name] = lines.tell()
                        user, number, began, ended = line.split()
                        taken.append(_Taken(user, int(number), float(began), float(ended)))
            return len(taken) >= count

        wait_until(all_taken, seconds=300, what=f"{count} turns of {self._rival.name}")
        return taken

    def _gaps(self, taken: list[_Taken]) -> Iterable[float]:
        """Yield for how long each message waited that was there when the turn before it ended."""
        for turns in _by_user(taken).values():
            for before, turn in itertools.pairwise(turns):
                if self._published[turn.user, turn.number] < before.began:
                    yield max(0.0, turn.began - before.ended)

    def _p99(self, taken: list[_Taken]) -> float:
        waits = [t.began - self._published[t.user, t.number] for t in taken if t.user != FLOODER]
        return percentile(waits, 0.99)


def _backlog(users: int, each: int, *, seconds: float) -> list[tuple[str, float]]:
    return [(f"55111111{user:05}", seconds) for _ in range(each) for user in range(users)]


def _by_user(taken: list[_Taken]) -> dict[str, list[_Taken]]:
    users: defaultdict[str, list[_Taken]] = defaultdict(list)
    for turn in sorted(taken, key=lambda turn: turn.began):
        users[turn.user].append(turn)
    return users


def _disordered(taken: list[_Taken]) -> int:
    return sum(b.number < a.number for turns in _by_user(taken).values() for a, b in itertools.pairwise(turns))


def _overlapped(taken: list[_Taken]) -> int:
    return sum(b.began < a.ended for turns in _by_user(taken).values() for a, b in itertools.pairwise(turns))
