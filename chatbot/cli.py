"""``chatbot``: the commands of a developer and an operator."""

from __future__ import annotations

import code
import contextlib
import sys

import click


@click.group()
@click.version_option(package_name="chatbot")
def main() -> None:
    """Conversations on WhatsApp through an LLM agent, one queue per user."""


@main.command()
def demo() -> None:
    """Run everything in one process on embedded parts, with a page to chat on."""
    from chatbot.demo import run

    run()


@main.command()
def shell() -> None:
    """Open a Python shell on the running system."""
    from chatbot.app import from_environment

    bot = from_environment()
    tasks = bot.celery.tasks
    names = {
        "bot": bot,
        "answer": tasks["chatbot.answer"],
        "send": tasks["chatbot.send"],
        "chat": tasks["chatbot.chat"],
        "sessions": tasks["chatbot.sessions"],
        "history": tasks["chatbot.history"],
    }
    banner = (
        'chat("maria", "Oi")          say something and wait for the reply\n'
        'answer.delay("maria", "Oi")  say something and go on\n'
        "sessions()                   who is being served\n"
        'history("maria")             what was said'
    )
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives the prompt history and editing
    code.interact(banner=banner, local=names, exitmsg="")


@main.command()
def doctor() -> None:
    """Check the broker, Redis, the model, the channel and the clock; say what to fix."""
    from chatbot.app import from_environment
    from chatbot.ops.doctor import examine

    findings = examine(from_environment())
    for finding in findings:
        click.echo(f"{'ok  ' if finding.ok else 'FIX '} {finding.part:<10} {finding.says}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)


@main.command(name="settings")
def show_settings() -> None:
    """Print the table of settings as Markdown, as it stands in the README."""
    from chatbot.config import table

    click.echo(table())


if __name__ == "__main__":
    main()
