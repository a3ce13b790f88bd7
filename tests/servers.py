"""Private RabbitMQ and Redis for tests: own ports, own folders, gone when the test is.

Nothing of the machine's own brokers is touched. Processes run in a group of their own
and are ended by its id.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RABBITMQ = Path("/usr/lib/rabbitmq/bin")
#: A Debian root to run RabbitMQ from (see ``rabbitmq4.sh``); by default this machine's own.
RABBITMQ_ROOT = Path(os.environ.get("CHATBOT_TEST_RABBITMQ_ROOT", "/"))
#: Below those that Linux takes for outgoing connections (from 32,768 on): one of these could have
#: a server's port when it starts, or while it is stopped by a test.
#: Tests that run side by side (pytest-xdist) draw from shares of their own.
_SHARE, _SHARES = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), 8
PORTS = range(20_000, 32_000)[_SHARE % _SHARES :: _SHARES]
_given: set[int] = set()


def free_port() -> int:
    """Return a port of the loopback nobody listens on, another one each time."""
    while True:
        port = PORTS[secrets.randbelow(len(PORTS))]
        if port not in _given:
            with socket.socket() as sock, suppress(OSError):
                sock.bind(("127.0.0.1", port))
                _given.add(port)
                return port


def wait_until(holds: Callable[[], Any], *, seconds: float = 30.0, what: str = "condition", every: float = 0.02) -> Any:
    """Return what ``holds()`` returns once it is true; fail loudly after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:g} s (last: {value!r})")
        time.sleep(every)


def accepts(port: int) -> bool:
    """Return whether something listens on that port of the loopback."""
    with socket.socket() as sock:
        sock.settimeout(0.2)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def end_in_order() -> None:
    """Have SIGTERM end this program as Ctrl-C does, so that what it started is ended too."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


class Process:
    """One process of ours, in a group of its own, with its output in a file."""

    def __init__(
        self, command: list[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        self.command, self.log, self.env, self.cwd = command, log, dict(env or os.environ), cwd
        self._started_at = 0
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Process:
        """Start it."""
        with self.log.open("ab") as output:
            self._started_at = output.tell()
            self._popen = subprocess.Popen(
                self.command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=self.env, cwd=self.cwd, start_new_session=True,
            )  # fmt: skip
        return self

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    def kill(self) -> None:
        """End the whole group at once, as a power cut would."""
        self._signal(signal.SIGKILL)

    def terminate(self, *, seconds: float = 30.0) -> None:
        """Ask it to end; after ``seconds`` it is killed, and that is an error."""
        if self._popen is None or not self.alive:
            return self.kill()
        self._popen.terminate()
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.command[:4]} did not end within {seconds:g} s") from None
        finally:
            self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """Hold the whole group where it is; its connections stay, until ``resume``."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.killpg(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The process's id, which is its group's. Raises ``RuntimeError`` before it was started."""
        if self._popen is None:
            raise RuntimeError("not started")
        return self._popen.pid

    @property
    def cpu_seconds(self) -> float:
        """The processor time that the processes of its group used so far, to a hundredth of a second."""
        ticks = 0
        for process in Path("/proc").glob("[0-9]*/stat"):
            try:
                stat = process.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if int(stat[2]) == self.pid:
                ticks += int(stat[11]) + int(stat[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _signal(self, number: int) -> None:
        if self._popen is None:
            return
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            pass
        self._popen.wait(10)

    def output(self, *, since_start: bool = False) -> str:
        """Return what it printed so far, in this run or in all."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._started_at if since_start else 0 :].decode(errors="replace")


@contextmanager
def held(processes: Iterable[Process]) -> Iterator[None]:
    """Hold processes inside the block; their connections stay."""
    processes = list(processes)
    for process in processes:
        process.pause()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


class RabbitMQ:
    """A broker of our own. ``url`` for clients; ``stop``/``kill``/``start`` keep its data.

    It lets nobody publish while it holds more than two fifths of ``memory``.
    """

    def __init__(self, folder: Path, *, memory: str = "4GB") -> None:
        self._chroot = []
        inside = folder
        if Path("/") != RABBITMQ_ROOT:
            inside = Path(f"/var/tmp/chatbot-{secrets.token_hex(4)}")
            folder = RABBITMQ_ROOT / inside.relative_to("/")
            self._chroot = ["chroot", str(RABBITMQ_ROOT)]
        self.folder = folder
        self.port, self._dist = free_port(), free_port()
        self.node = f"chatbot-{secrets.token_hex(4)}@localhost"
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plugins").write_text("[].\n")
        # Told its memory: in a root without /proc the broker cannot see it and would set no alarm.
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.default = 127.0.0.1:{self.port}\n"
            f"total_memory_available_override_value = {memory}\n"
            "vm_memory_calculation_strategy = allocated\n"
        )
        self.env = {
            "PATH": f"{RABBITMQ}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(inside),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._dist),
            "RABBITMQ_MNESIA_BASE": str(inside / "mnesia"),
            "RABBITMQ_LOG_BASE": str(inside / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(inside / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(inside / "rabbitmq"),
            "RABBITMQ_PID_FILE": str(inside / "pid"),
            "ERL_EPMD_PORT": str(free_port()),
            "LANG": "C.UTF-8",
        }
        self.process = Process(
            [*self._chroot, str(RABBITMQ / "rabbitmq-server")], log=folder / "out.log", env=self.env, cwd=folder
        )

    def start(self) -> RabbitMQ:
        """Start it and return once it takes connections."""
        self.process.start()
        wait_until(self._ready, seconds=90, what="RabbitMQ up")
        return self

    def _ready(self) -> bool:
        if not self.process.alive:
            raise AssertionError(f"RabbitMQ ended: {self.process.output()[-2000:]}")
        if not accepts(self.port):
            return False
        import kombu

        try:
            with kombu.Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()

    def stop(self) -> None:
        """Shut it down in order."""
        self.ctl("stop")
        self.process.kill()

    def close(self) -> None:
        """End it and its port mapper, and remove its data."""
        self.process.kill()
        wait_until(self._no_port_mapper, seconds=10, what="port mapper gone")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _no_port_mapper(self) -> bool:
        # It stays as long as it has not noticed that its node is gone.
        subprocess.run([*self._chroot, "epmd", "-kill"], env=self.env, capture_output=True, check=False)
        return not accepts(int(self.env["ERL_EPMD_PORT"]))

    def ctl(self, *arguments: str, seconds: float = 60) -> str:
        """Run ``rabbitmqctl`` against this broker and return what it printed."""
        done = subprocess.run(
            [*self._chroot, str(RABBITMQ / "rabbitmqctl"), "-q", "-n", self.node, *arguments],
            env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=seconds, check=True,
        )  # fmt: skip
        return done.stdout

    def wait_for(self, expression: str, *, seconds: float) -> None:
        """Return once an Erlang expression is ``true`` in the broker.

        The broker itself looks again and again: each ``rabbitmqctl`` takes half a second of a processor.
        """
        ask = f"(fun Wait() -> case {expression} of true -> ok; _ -> timer:sleep(100), Wait() end end)()."
        self.ctl("eval", ask, seconds=seconds)

    @property
    def cpu_seconds(self) -> float:
        """The processor time it used since it was started."""
        return self.process.cpu_seconds

    def crashed_queues(self) -> list[str]:
        """Return what the broker's own log says each time before it starts the process of a queue anew."""
        logs = (self.folder / "log").glob("*.log")
        texts = (log.read_text(errors="replace").split("Restarting crashed queue")[:-1] for log in logs)
        return [before[-4000:] for text in texts for before in text]

    def add_vhost(self) -> str:
        """Make a virtual host of its own, so that two systems share this broker unseen; return its name."""
        name = f"v{secrets.token_hex(4)}"
        self.ctl("add_vhost", name)
        self.ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        return name

    def queues(self, vhost: str = "/") -> dict[str, tuple[int, int]]:
        """Return the queues: name → (messages, consumers)."""
        columns = ("name", "messages", "consumers")
        lines = self.ctl("list_queues", "-p", vhost, *columns, "--no-table-headers").splitlines()
        rows = (line.split("\t") for line in lines if line.count("\t") == 2)
        return {name: (int(messages), int(consumers)) for name, messages, consumers in rows}


class Redis:
    """A Redis of our own with an append-only file, so that it remembers across a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--databases", "1024",
        ]  # fmt: skip
        self._process = Process(command, log=folder / "out.log", cwd=folder)
        self._databases = itertools.count(1)

    def add_database(self) -> str:
        """Return the URL of a database nobody else was given."""
        return self.url.removesuffix("0") + str(next(self._databases))

    def start(self) -> Redis:
        """Start it and return once it answers."""
        import redis

        self._process.start()

        def answers() -> bool:
            try:
                with redis.Redis.from_url(self.url) as client:
                    return bool(client.ping())
            except redis.exceptions.RedisError:
                return False

        wait_until(answers, what="Redis up")
        return self

    @property
    def cpu_seconds(self) -> float:
        """The processor time it used since it was started."""
        return self._process.cpu_seconds

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()

    def stop(self) -> None:
        """Shut it down in order."""
        self._process.terminate()

    def close(self) -> None:
        """End it and remove its data."""
        self._process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


PYTHON = sys.executable


def process_at(port: int) -> int:
    """Return the process that has a TCP connection of this machine from ``port``, 0 where none has."""
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            sockets.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if any(str(link.readlink()) in sockets for link in (process / "fd").iterdir()):
                    return int(process.name)
    return 0
