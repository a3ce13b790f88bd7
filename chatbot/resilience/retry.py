"""Trying again, in place: with growing pauses, jitter, and the pause the other side asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from chatbot.errors import (
    ChannelDown,
    CircuitOpen,
    ModelTimeout,
    NoRoom,
    OutcomeUnknown,
    TooFast,
    Transient,
    TurnUnderWay,
)

T = TypeVar("T")

_grow = wait_random_exponential(multiplier=0.5, min=0.2, max=20)


def in_place(
    call: Callable[[], T], *, tries: int | None = None, seconds: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:  # fmt: skip
    """Return ``call()``, trying again after ``Transient`` up to ``tries`` times or for ``seconds``.

    The last ``Transient`` is raised as it is; what is waited for elsewhere (``OutcomeUnknown``,
    ``TooFast``, …) and other errors at once. A ``retry_after`` is honoured up to 60 seconds.
    """
    if tries is not None:
        stop: stop_after_attempt | stop_after_delay = stop_after_attempt(tries)
    else:
        stop = stop_after_delay(seconds or 0.0)
    retrying = Retrying(stop=stop, wait=_pause, retry=retry_if_exception(_helps), sleep=sleep, reraise=True)
    return retrying(call)


#: What may have been carried out is settled, never blindly done again; what was refused
#: until later, or until a person acts, is not asked again meanwhile; what waits for another run, or
#: for a place, waits in its queue and holds no thread.
_ELSEWHERE = (OutcomeUnknown, CircuitOpen, TooFast, ChannelDown, TurnUnderWay, NoRoom, ModelTimeout)


def _helps(error: BaseException) -> bool:
    return isinstance(error, Transient) and not isinstance(error, _ELSEWHERE)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, Transient) else None
    return max(_grow(state), min(asked or 0.0, 60.0))
