"""A process whose clock is wrong: by every way to ask for the time, and for that process only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from tests.faults.skewed import skewed

ASK = """
import datetime, json, time
from datetime import datetime as date
utc = date.now(datetime.timezone.utc)
assert isinstance(date(2026, 1, 1), date) and isinstance(utc, date)
print(json.dumps({
    "time": time.time(), "ns": time.time_ns() / 1e9, "now": date.now().timestamp(), "aware": utc.timestamp(),
    "utcnow": date.utcnow().replace(tzinfo=datetime.timezone.utc).timestamp(),
    "localtime": time.mktime(time.localtime()), "given": time.mktime(time.localtime(1e9)),
    "monotonic": time.monotonic(), "later": (utc + datetime.timedelta(seconds=1)).timestamp(),
}))
"""


def test_every_clock_of_the_day_is_ahead_and_the_one_that_measures_is_right():
    asked = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK],
        env={**os.environ, **skewed(25.0)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = json.loads(asked.stdout)
    assert abs(said.pop("monotonic") - time.monotonic()) < 10
    assert said.pop("given") == 1e9
    for way, at in said.items():
        assert 15 < at - time.time() < 30, way
