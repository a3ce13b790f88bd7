"""Processes whose clock is wrong (``sitecustomize.py``)."""

from __future__ import annotations

import os
from pathlib import Path


def skewed(seconds: float) -> dict[str, str]:
    """Return the environment of a Python whose clock is so many seconds ahead."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))))
    return {"PYTHONPATH": path, "CHATBOT_TEST_CLOCK_AHEAD": str(seconds)}
