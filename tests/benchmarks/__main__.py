"""``python -m tests.benchmarks [--only a,b] [--quick]``: run benchmarks; the last line is JSON.

One that raises is printed with its traceback and is ``{"broke_off": …}`` in the JSON; the others
run all the same, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path

import structlog

from tests.benchmarks.bench import Figures, note, servers
from tests.servers import end_in_order

NAMES = (
    "router", "open", "order", "webhook", "slow_clients", "llm_bound", "scale", "turn", "send", "store", "start",
    "whole",
)  # fmt: skip


def main() -> None:
    """Run what was asked for, each on servers of its own, and print the figures of all."""
    end_in_order()
    # What is counted in this very process logs nothing between the figures.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    options = argparse.ArgumentParser(description="Benchmarks on private servers; the last line is JSON.")
    options.add_argument("--only", default="", help=f"some of: {','.join(NAMES)}")
    options.add_argument("--quick", action="store_true", help="each within 40 s")
    chosen = options.parse_args()
    only = [name for name in chosen.only.split(",") if name] or NAMES
    if unknown := set(only) - set(NAMES):
        options.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    figures: dict[str, Figures] = {}
    for name in only:
        began = time.monotonic()
        note(f"{name} …")
        print(f"## {name}")
        try:
            figures[name] = _run(name, quick=chosen.quick)
        except Exception as err:  # of any: what the others took minutes for is not thrown away
            traceback.print_exc()
            figures[name] = {"broke_off": repr(err)}
        note(f"{name}: {time.monotonic() - began:.0f} s")
    print(json.dumps(figures))
    sys.exit(1 if any("broke_off" in of for of in figures.values()) else 0)


def _run(name: str, *, quick: bool) -> Figures:
    with tempfile.TemporaryDirectory(prefix="chatbot-bench-") as folder, servers(Path(folder), quick=quick) as bench:
        figures: Figures = import_module(f"tests.benchmarks.{name}").run(bench)
        return figures


if __name__ == "__main__":
    main()
