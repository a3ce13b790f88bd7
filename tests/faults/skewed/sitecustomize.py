"""A host whose clock is wrong, for one process: put this folder on its PYTHONPATH.

The clock is ``CHATBOT_TEST_CLOCK_AHEAD`` seconds ahead for whoever asks for the time of day, by ``time`` or by
``datetime``. ``time.monotonic`` is right: it measures, and no clock that is set changes it.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from typing import Any

AHEAD = float(os.environ["CHATBOT_TEST_CLOCK_AHEAD"])

_real_time, _real_time_ns = time.time, time.time_ns
_real_localtime, _real_gmtime, _real_strftime = time.localtime, time.gmtime, time.strftime
_real_datetime = dt.datetime


def _time() -> float:
    return _real_time() + AHEAD


class _Dates(type):
    """Whoever asks whether something is a date is told so of all of them, those made by C code included."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _real_datetime)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _real_datetime)


class _Datetime(_real_datetime, metaclass=_Dates):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        return _real_datetime.fromtimestamp(_time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return _real_datetime.fromtimestamp(_time(), dt.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Any:
        return _real_datetime.fromtimestamp(_time())  # as ``today`` does

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _real_datetime(*args, **kwargs)


time.time = _time
time.time_ns = lambda: _real_time_ns() + int(AHEAD * 1e9)
time.localtime = lambda seconds=None: _real_localtime(_time() if seconds is None else seconds)
time.gmtime = lambda seconds=None: _real_gmtime(_time() if seconds is None else seconds)
time.strftime = lambda form, at=None: _real_strftime(form, time.localtime() if at is None else at)
dt.datetime = _Datetime  # type: ignore[misc]  # for this process only
