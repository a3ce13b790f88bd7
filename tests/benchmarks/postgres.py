"""A private PostgreSQL, for what is compared with us and needs one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.servers import Process, free_port, wait_until


def programs() -> Path | None:
    """Return the folder of the newest server's programs on this machine, ``None`` without one."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


class Postgres:
    """A server of our own, every commit on disk (its default). It refuses root: then it runs as ``postgres``."""

    def __init__(self, folder: Path, bin_folder: Path) -> None:
        self._bin, self._data = bin_folder, folder / "data"
        self.folder, self.port = folder, free_port()
        self.url = f"postgresql://bench@127.0.0.1:{self.port}/postgres"
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        command = ["-D", self._data, "-p", self.port, "-k", folder, "-h", "127.0.0.1", "-c", "max_connections=200"]
        folder.mkdir()
        self._process = Process(
            [*self._as, str(bin_folder / "postgres"), *map(str, command)], log=folder.with_suffix(".log"), cwd=folder
        )

    def start(self) -> None:
        """Make its data and start it; return once it takes connections."""
        if self._as:
            self.folder.parent.chmod(0o711)  # to be walked through
            shutil.chown(self.folder, "postgres", "postgres")
        subprocess.run(
            [*self._as, self._bin / "initdb", "-D", self._data, "-U", "bench", "-A", "trust", "-E", "UTF8"],
            cwd=self.folder, check=True, capture_output=True,
        )  # fmt: skip
        self._process.start()
        ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, what="PostgreSQL up")

    def close(self) -> None:
        """End it; its data goes with the folder."""
        self._process.kill()
