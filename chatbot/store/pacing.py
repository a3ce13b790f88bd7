"""How fast a channel may be used: the schedule of each of our numbers, and of each person.

All senders take their places in the same schedules, so that together they keep what the channel allows.
"""

from __future__ import annotations

from chatbot.messages import Limits
from chatbot.store import keys
from chatbot.store.client import Records

#: A person whom the channel refuses is left in peace this long at most; refused again later
#: than this and twice the rest, it is no longer "in a row".
LONGEST_REST_SECONDS = 3600.0
FIRST_AGAIN_SECONDS = 60
#: A number that rested is slower at first: its first calls open connections and take longer
#: than those behind them, so at full rate they would arrive crowded, and be refused.
WARM_UP_SECONDS, WARM_UP_SLOWER = 1.0, 1.33


class Pacing(Records):
    """The schedules of numbers and persons. Raises ``Transient`` while Redis cannot be used."""

    def pace(
        self, user: str, account: str, limits: Limits, *, longest: float, missed: bool = False
    ) -> tuple[bool, float]:
        """Take the next place of ``account`` and of ``user`` in their schedules, for all senders.

        With ``missed`` the place before was not used in time: only the account's is taken anew.
        A number that rested warms up first (``WARM_UP_SECONDS``).

        Returns ``(True, s)``: send in ``s`` seconds (``longest`` at most), or ``(False, s)``:
        nothing is taken, ask again in ``s`` seconds.
        """
        names = [keys.PAIR.of(user), keys.NUMBER.of(account)]
        taken, wait = self._run(
            "pace", names, limits.pair_seconds, limits.pair_burst, 1 / limits.per_second, longest, int(missed),
            WARM_UP_SECONDS, WARM_UP_SLOWER,
        )  # fmt: skip
        return bool(taken), float(wait)

    def hold_pair(self, user: str, limits: Limits, *, pause: float) -> float:
        """Have nothing sent to ``user`` for ``pause`` seconds, longer each time in a row; return for how long.

        Meta asks for 4^n seconds after its n-th refusal.
        """
        names = [keys.PAIR.of(user), keys.REFUSED.of(user)]
        rest = self._run(
            "hold_pair", names, pause, LONGEST_REST_SECONDS, limits.pair_seconds, limits.pair_burst, FIRST_AGAIN_SECONDS
        )
        return float(rest)

    def hold_number(self, account: str, *, pause: float) -> None:
        """Have nothing sent from ``account`` for ``pause`` seconds."""
        self._run("hold_number", [keys.NUMBER.of(account)], pause)
