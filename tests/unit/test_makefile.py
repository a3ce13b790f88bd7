"""What make hands on to the programs it starts."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.servers import ROOT


@pytest.mark.parametrize(("target", "program"), [("demo", "chatbot"), ("up", "honcho")])
@pytest.mark.parametrize(("given", "how"), [({}, []), ({"PORT": "9000"}, []), ({}, ["PORT=9000"])])
def test_a_port_is_handed_on_only_where_one_was_given(tmp_path, target, program, given, how):
    """``CHATBOT_PORT`` in ``.env`` counts less than a ``PORT`` in the environment. honcho would count from 5000."""
    (tmp_path / "bin").mkdir()
    started = tmp_path / "bin" / program
    started.write_text('#!/bin/sh\necho "port=$PORT"\n')
    started.chmod(0o755)
    (tmp_path / ".runtime").touch()
    env = {name: value for name, value in os.environ.items() if name != "PORT"} | given
    done = subprocess.run(
        ["make", "-s", target, f"VENV={tmp_path}", *how, "-o", f"{tmp_path}/.runtime"],
        cwd=ROOT, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    alone = {"demo": "", "up": "8000"}[target]
    assert done.stdout.strip() == f"port={'9000' if given or how else alone}"
