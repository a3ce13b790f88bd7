"""``celery flower``: Flower's own command or, where Flower is not installed, one that says so."""

from __future__ import annotations

import click

from chatbot import extras


@click.command(name="flower", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def _not_installed(arguments: tuple[str, ...]) -> None:  # noqa: ARG001  # Flower's own options
    """Say what to install for Flower."""
    extras.exit_without("flower")


def _command() -> click.Command:
    if extras.missing("flower"):
        return _not_installed
    from flower.command import flower

    return flower  # type: ignore[no-any-return]  # flower ships no types


command = _command()
