"""A short chaos run; ``make chaos`` is the long one."""

from __future__ import annotations

import json

import pytest

from tests.faults.chaos import ZEROS, chaos


@pytest.mark.timeout(600)  # it gives up by itself before that, and says what is missing
def test_promises_hold_while_things_break(tmp_path, rabbitmq, redis_server):
    figures = chaos(tmp_path, messages=500, faults=8, seed=3, users=60, poisons=1)
    assert [name for name in ZEROS if figures[name]] == [], json.dumps(figures, indent=1)
    assert figures["apologised"] >= 1, "the poison was apologised for"
