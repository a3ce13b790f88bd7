"""A short chaos run; ``make chaos`` is the long one."""

from __future__ import annotations

import json

import pytest

from tests.faults.chaos import ZEROS, chaos
from tests.faults.faults import WEIGHTS, Faults

#: What takes no minute to get over. A Redis that was set back (``test_set_back.py``) knows claims until they run out;
#: workers that end twice (``test_claims.py``) leave suspects, as poison does here.
KINDS = ("llm_hostile", "worker_kill", "graph_504", "broker_cuts", "sender_pause", "sender_clock", "redis_kill")


@pytest.mark.timeout(600)  # it gives up by itself before that, and says what is missing
def test_promises_hold_while_things_break(tmp_path, rabbitmq, redis_server):
    figures = chaos(tmp_path, messages=400, faults=len(KINDS), seed=3, users=60, poisons=1, only=KINDS, pause=8)
    assert [name for name in ZEROS if figures[name]] == [], json.dumps(figures, indent=1)
    assert figures["apologised"] >= 1, "the poison was apologised for"
    assert figures["hostile_replies"] >= 1
    assert set(KINDS) <= set(figures["kinds"])


@pytest.mark.parametrize("kind", WEIGHTS)
def test_every_kind_has_something_that_breaks_it(kind):
    """A name that nothing answers to would be found only once it is drawn."""
    part, how = kind.split("_", 1)
    ends = how in {"kill", "term"}
    assert ends or hasattr(Faults, f"_{kind}") or hasattr(Faults, f"_{part}")
