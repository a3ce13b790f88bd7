"""A short chaos run; ``make chaos`` is the long one."""

from __future__ import annotations

import json

from tests.faults.chaos import broken, chaos


def test_promises_hold_while_things_break(tmp_path, rabbitmq, redis_server):
    figures = chaos(tmp_path, messages=500, faults=8, seed=3, users=60, poisons=1)
    assert broken(figures) == [], json.dumps(figures, indent=1)
    assert figures["apologised"] >= 1, "the poison was apologised for"
