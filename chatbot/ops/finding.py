"""What ``chatbot doctor`` found out about one part."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds that a check waits for an answer.
TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one part; ``says`` tells how to fix what is not ``ok``, or what a ``hint`` is good for."""

    part: str
    ok: bool
    says: str
    hint: bool = False

    @property
    def level(self) -> str:
        """``ok``, ``hint`` (it works, and could be better) or ``fix``."""
        return "fix" if not self.ok else "hint" if self.hint else "ok"

    def to_dict(self) -> dict[str, str]:
        """Return it JSON-ready."""
        return {"part": self.part, "level": self.level, "says": self.says}


def hint(part: str, says: str) -> Finding:
    """Return a finding of which nothing must be fixed."""
    return Finding(part, ok=True, says=says, hint=True)
