"""Packages of npm for tests: installed once, into the user's cache."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chatbot-tests"


class NotInstalled(RuntimeError):
    """npm could not install them; the text says why."""


def package(*specifiers: str) -> Path:
    """Return the folder that holds them (``name@version`` each) under ``node_modules``. Raises ``NotInstalled``."""
    folder = CACHE / "+".join(specifiers).replace("/", "-").removeprefix("@")
    done = folder / "installed"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=30000"]
    command = ["npm", "install", "--prefix", str(folder), *quiet, *specifiers]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired as err:
        raise NotInstalled("npm did not finish: the package registry cannot be reached") from err
    if ran.returncode != 0:
        why = next((line for line in ran.stderr.splitlines() if "error code" in line), f"exit {ran.returncode}")
        raise NotInstalled(f"npm could not install {', '.join(specifiers)}: {why}")
    done.touch()
    return folder
