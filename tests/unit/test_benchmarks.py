"""What starts the benchmarks; what they measure is measured, not tested."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import __main__ as benchmarks


def test_a_benchmark_that_breaks_off_takes_no_other_with_it(monkeypatch, capsys):
    def run(name, *, quick):
        assert quick
        if name == "open":
            raise TimeoutError("the broker is away")
        return {"ratio": 1.0, "goal": 0.9}

    monkeypatch.setattr(benchmarks, "end_in_order", lambda: None)
    monkeypatch.setattr(benchmarks.structlog, "configure", lambda **_: None)
    monkeypatch.setattr(benchmarks, "_run", run)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--only", "router,open,turn", "--quick"])
    with pytest.raises(SystemExit) as ended:
        benchmarks.main()
    assert ended.value.code == 1
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == {
        "router": {"ratio": 1.0, "goal": 0.9},
        "open": {"broke_off": "TimeoutError('the broker is away')"},
        "turn": {"ratio": 1.0, "goal": 0.9},
    }
