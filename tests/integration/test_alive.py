"""The health check that compose uses, on real processes: one that hangs fails it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import wait_until
from tests.system import System

COMMAND = Path(sys.executable).parent / "chatbot"


@pytest.mark.parametrize("kind", ["worker", "sender", "beat"])
def test_a_process_that_hangs_fails_its_health_check_and_is_found_by_doctor(tmp_path, rabbitmq, redis_server, kind):
    with System(tmp_path, rabbitmq, redis_server, None) as system:

        def run(*arguments):
            return subprocess.run(
                [COMMAND, *arguments], env=system.env, cwd=tmp_path, capture_output=True, text=True, check=False
            )

        def passes():
            return run("alive", kind).returncode == 0

        def processes():
            [line] = [line for line in run("doctor").stdout.splitlines() if line[5:].startswith("processes")]
            return line

        wait_until(lambda: not passes(), what="none is there, and those of the test before are known to be gone")
        system.start("worker", "sender", "beat")
        wait_until(passes, what="alive")
        wait_until(lambda: processes().startswith("ok"), what="doctor sees all of them")
        system.processes[kind].pause()
        try:
            wait_until(lambda: not passes(), what="it hangs")
            assert f"no {kind} lives" in processes()
        finally:
            system.processes[kind].resume()
        wait_until(passes, what="it goes on")
