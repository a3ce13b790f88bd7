"""Webhook bodies for tests: our own, and those of other projects where they are at hand."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import ROOT

#: Bodies we wrote, of every type.
FIXTURES = ROOT / "tests" / "fixtures" / "cloud_api"
#: Bodies from public projects' tests; they stay out of this repository.
PAYLOADS = Path(os.environ.get("CHATBOT_TEST_PAYLOADS", ROOT.parent / "shared" / "payloads" / "cloud_api"))

_COUNTS = ROOT / "tests" / "fixtures" / "cloud_api_counts.tsv"


@dataclass(frozen=True)
class Row:
    """What a person counted in one body; ``texts`` has ``None`` for what is no text message."""

    file: str
    messages: int
    statuses: int
    ids: list[str]
    texts: list[str | None]


def counts() -> list[Row]:
    """Return what ``PAYLOADS`` should yield, as it was read by hand."""
    lines = [line.split("\t") for line in _COUNTS.read_text().splitlines() if not line.startswith("#")][1:]
    return [Row(file, int(m), int(s), json.loads(ids), json.loads(texts)) for file, m, s, ids, texts in lines]


def body_of(path: Path) -> bytes:
    """Return one body; a file that holds only a ``value`` gets an envelope."""
    held = json.loads(path.read_bytes())
    if "entry" not in held:
        held = {"entry": [{"changes": [{"field": "messages", "value": held}]}]}
    return json.dumps(held).encode()


def places(inside: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in ``inside``."""
    items = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def put(inside: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return ``inside`` with ``value`` at ``path``."""
    changed = copy.deepcopy(inside)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed
