"""Scripted failures: what the stand-in does wrong on purpose, and how often.

A fault is taken by the next text message it matches, in the order they were scripted.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from typing import Any

KINDS = frozenset({"error", "error_after", "timeout", "drop_answer", "drop_all", "duplicate_status", "no_status"})
LONGEST_DELAY = 60.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One scripted failure, for ``times`` messages to ``to`` (``None``: to anybody).

    ``error`` answers ``status`` with Meta's error ``code`` after ``delay`` seconds, and
    ``retry_after`` as a header; ``timeout`` does the same after a long ``delay``;
    ``error_after`` accepts the message and answers ``status`` with a page of HTML, as a gateway does;
    ``drop_answer`` accepts the message and cuts the connection, ``drop_all`` posts no
    status either; ``duplicate_status`` posts every status twice, ``no_status`` none.
    """

    kind: str
    to: str | None = None
    times: int = 1
    status: int = 500
    code: int = 131000
    retry_after: float | None = None
    delay: float = 0.0

    @classmethod
    def from_dict(cls, scripted: Any) -> Fault:
        """Build one from JSON. Raises ``ValueError`` saying what is wrong."""
        if not isinstance(scripted, dict):
            raise ValueError("a fault is a JSON object")
        unknown = set(scripted) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
        if scripted.get("kind") not in KINDS:
            raise ValueError(f"kind is one of {', '.join(sorted(KINDS))}")
        given = {name: value for name, value in scripted.items() if value is not None}
        for name in given.keys() - {"kind", "to"}:
            if isinstance(given[name], bool) or not isinstance(given[name], int | float):
                raise ValueError(f"{name} is a number")
        fault = cls(**given)
        to = str(fault.to).lstrip("+") if fault.to is not None else None
        delay = min(max(fault.delay, 0.0), LONGEST_DELAY)
        return replace(fault, to=to, delay=delay, times=int(fault.times))

    @property
    def refuses(self) -> bool:
        """Whether the message is not accepted."""
        return self.kind in ("error", "timeout")


class Faults:
    """The failures still to come; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []

    def script(self, faults: list[Fault]) -> None:
        """Add these behind the ones that wait."""
        with self._lock:
            self._waiting += [fault for fault in faults if fault.times > 0]

    def take(self, to: str) -> Fault | None:
        """Return the first fault for this user and count it down."""
        with self._lock:
            for index, fault in enumerate(self._waiting):
                if fault.to in (None, to):
                    left = replace(fault, times=fault.times - 1)
                    self._waiting[index : index + 1] = [left] if left.times else []
                    return fault
        return None

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._waiting.clear()

    def to_list(self) -> list[dict[str, Any]]:
        """Return what is still to come, as JSON."""
        with self._lock:
            return [asdict(fault) for fault in self._waiting]
