"""An independent reading of the Cloud API agrees with ours: npm's ``@kapso/whatsapp-cloud-api``.

It normalises the bodies we parse, and its client talks to the simulator's stand-in for the
Graph API. Skipped where there is no npm, or no package registry can be reached.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from chatbot.channels.cloud.payload import parse
from chatbot.simulator.faults import Fault
from chatbot.simulator.routes import create_app
from chatbot.simulator.simulator import Simulator
from tests import npm
from tests.payloads import FIXTURES, PAYLOADS, body_of

PACKAGE, VERSION = "@kapso/whatsapp-cloud-api", "0.3.0"
SCRIPT = Path(__file__).with_name("kapso.mjs")
NUMBER = "100000000000001"

BODIES = sorted([*FIXTURES.glob("*.json"), *(PAYLOADS.glob("*.json") if PAYLOADS.is_dir() else ())])
#: Where we say more than they do, or nothing: sentences, forms, and what is no text.
COMPARED = {"text", "button", "image", "video", "document", "interactive"}


@pytest.fixture(scope="module")
def package() -> Path:
    """The folder the package is installed in."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("npm and node are not installed")
    try:
        return npm.package(f"{PACKAGE}@{VERSION}")
    except npm.NotInstalled as err:
        pytest.skip(str(err))


def kapso(package: Path, *arguments: str, given: str = "") -> Any:
    """Return what the script says."""
    done = subprocess.run(
        ["node", str(SCRIPT), *arguments],
        cwd=package, input=given, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_both_read_the_same_messages(package):
    theirs = kapso(package, "normalize", given=json.dumps([json.loads(body_of(path)) for path in BODIES]))
    for path, read in zip(BODIES, theirs, strict=True):
        ours = parse(body_of(path)).messages
        assert [m.id for m in ours] == [m["id"] for m in read], path.name
        for message, other in zip(ours, read, strict=True):
            if message.kind in COMPARED and other["text"] is not None:
                # A choice from a list: they keep title and description apart.
                assert message.text.startswith(other["text"]), (path.name, message.id)
                assert message.kind == "interactive" or message.text == other["text"], (path.name, message.id)


@pytest.fixture
def stand_in() -> Iterator[tuple[str, Simulator]]:
    """The simulator on a free port, and the address of its Graph API."""
    simulator = Simulator(webhook_url="http://127.0.0.1:9/", app_secret="s", phone_number_id=NUMBER)
    server = make_server("127.0.0.1", 0, create_app(simulator), threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/simulator/graph", simulator
    simulator.close()
    server.shutdown()
    thread.join(5)
    server.server_close()


def test_their_client_is_served_by_the_stand_in(package, stand_in):
    url, simulator = stand_in
    simulator.faults.script([Fault("error", to="5511988880002", status=400, code=131056)])
    said = kapso(package, "talk", url, NUMBER)
    [sent] = simulator.state.sent(None)
    assert (sent["to"], sent["text"]) == ("5511999990001", "olá")
    assert said["sent"]["messages"][0]["id"] == sent["id"]
    assert said["read"] == {"success": True}
    assert said["limited"] == {"known": True, "code": 131056, "limit": True, "retry": "retry_after"}
