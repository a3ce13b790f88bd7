"""The extras of ``pyproject.toml``: packages that only some processes need.

In comes the name of an extra; where it is not installed, ``MissingExtra`` comes out, or the process
ends. One line names the packages and what to install, before anything is imported.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from chatbot.errors import MissingExtra

#: What the code imports of each extra.
PACKAGES = {
    "agent": ("crewai", "openai"),
    "demo": ("fakeredis",),
    "flower": ("flower",),
}


def missing(*extras: str) -> list[str]:
    """Return the packages of these extras that are not installed."""
    return [package for extra in extras for package in PACKAGES[extra] if find_spec(package) is None]


def require(*extras: str) -> None:
    """Raise ``MissingExtra`` where a package of these extras is not installed."""
    absent = missing(*extras)
    if absent:
        wanted = ",".join(extra for extra in extras if missing(extra))
        raise MissingExtra(
            f"not installed here: {', '.join(absent)}; install chatbot[{wanted}] "
            f"(`pip install '.[{wanted}]'` in a checkout)"
        )


def exit_without(*extras: str) -> None:
    """End this process with one line where a package of these extras is not installed."""
    try:
        require(*extras)
    except MissingExtra as err:
        sys.exit(f"chatbot: {err}")
