"""``chatbot``: the commands of a developer and an operator."""

from __future__ import annotations

import code
import contextlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from chatbot.errors import BrokerRefused, BrokerUnavailable, ChatbotError

if TYPE_CHECKING:
    from chatbot.ops.dead_letters import Letter

#: A person who is asked whether to drop letters is named so many of them.
SHOWN_BEFORE_DROP = 20
#: Letters whose lines are lined up with each other.
PAGE = 1_000


@click.group()
@click.version_option(package_name="chatbot")
def main() -> None:
    """Conversations on WhatsApp through an LLM agent, one queue per user."""


@main.command()
def demo() -> None:
    """Run everything in one process on embedded parts, with a page to chat on."""
    from chatbot.demo.run import run

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
        "counts": tasks["chatbot.counts"],
        "user": bot.names.user,
    }
    banner = (
        'chat("maria", "Oi")          say something and wait for the reply\n'
        'answer.delay("maria", "Oi")  say something and go on\n'
        "sessions()                   who is being served\n"
        'history("maria")             what was said\n'
        "counts()                     what should stay rare, and how often it happened\n"
        'user("5511988887777")        who that is here'
    )
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # gives the prompt history and editing
    code.interact(banner=banner, local=names, exitmsg="")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(*, as_json: bool) -> None:
    """Check the broker, its queues, Redis, the agent, the model, the channel and the clock; say what to fix.

    Exits with 1 when there is something to fix; a hint is nothing that must be.
    """
    from chatbot.app import from_environment
    from chatbot.ops.doctor import examine

    findings = examine(from_environment())
    for finding in findings:
        label = "FIX" if finding.level == "fix" else finding.level
        click.echo(json.dumps(finding.to_dict()) if as_json else f"{label:<4} {finding.part:<11} {finding.says}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)


@main.command(name="settings")
def show_settings() -> None:
    """Print the table of settings as Markdown, as it stands in the manual."""
    from chatbot.config import table

    click.echo(table())


@main.command()
@click.option("--kind", help="Only notices of this kind.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Show the newest so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def notices(*, kind: str | None, limit: int, as_json: bool) -> None:
    """List what WhatsApp told beside messages, newest last, without what people wrote."""
    from chatbot.app import from_environment
    from chatbot.store.notices import line

    with _told():
        found = [n for n in from_environment().notices.kept() if kind in (None, n.kind)]
    for notice in found[-limit:]:
        click.echo(json.dumps(notice.to_dict() | {"text": ""}) if as_json else line(notice))
    shown = min(len(found), limit)
    click.echo(f"{shown} of {len(found)} notices." if found else "There are no notices.", err=as_json)


@main.command()
@click.argument("kind", type=click.Choice(["worker", "sender", "beat"]))
def alive(*, kind: str) -> None:
    """Say whether a process of this kind on this host lives and does not hang: a health check.

    Exits with 1 when it does not.
    """
    from chatbot.app import from_environment
    from chatbot.ops import process_checks

    with _told():
        finding = process_checks.alive(from_environment(), kind)
    click.echo(finding.says)
    if not finding.ok:
        sys.exit(1)


# -- dead letters ----------------------------------------------------------------


@main.group()
def dead() -> None:
    """Look at the dead letters, send them back on their way, or drop them.

    Exits with 1 when something that was asked for was not done.
    """


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what went wrong on purpose in one line and exit with 1."""
    try:
        yield
    except BrokerRefused as err:
        raise click.ClickException(str(err)) from err
    except BrokerUnavailable as err:
        raise click.ClickException(
            f"{err}; is RabbitMQ running, and is CHATBOT_BROKER_URL right? `chatbot doctor` checks them"
        ) from err
    except ChatbotError as err:
        raise click.ClickException(str(err)) from err


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--reason", help="Only letters whose reason contains this.")(command)
    return click.option("--user", help="Only letters of this user.")(command)


def _chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--all", "everything", is_flag=True, help="All letters that match.")(_filters(command))
    return click.argument("ids", nargs=-1)(command)


def _check_choice(ids: tuple[str, ...], *, everything: bool, filters: tuple[str | None, ...]) -> None:
    if bool(ids) == everything:
        raise click.UsageError("name letters by their ids, or say --all")
    if ids and any(filters):
        raise click.UsageError("--user and --reason go with --all")


def _count(letters: int) -> str:
    return "1 dead letter" if letters == 1 else f"{letters} dead letters"


@dead.command(name="list")
@_filters
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Show the oldest so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_letters(*, user: str | None, reason: str | None, limit: int, as_json: bool) -> None:
    """List the dead letters, oldest first, without what people wrote."""
    from chatbot.app import from_environment
    from chatbot.ops import dead_letters

    found = 0
    with _told(), dead_letters.hold(from_environment()) as held:
        matching = dead_letters.choose(held, user=user, reason=reason)
        for page in _pages(itertools.islice(matching, limit)):
            if as_json:
                lines = [json.dumps(letter.to_dict()) for letter in page]
            else:
                lines = list(dead_letters.table(page, header=not found))
            click.echo("\n".join(lines))
            found += len(page)
        shown = found
        found += sum(1 for _ in matching)
    if not held.seen:
        says = "There are no dead letters."
    elif not found:
        says = f"None of the {held.seen} dead letters matches."
    elif shown < found:
        says = f"{shown} of {found} dead letters; --limit shows more."
    else:
        says = f"{_count(found)}."
    click.echo(says, err=as_json)


def _pages(letters: Iterator[Letter]) -> Iterator[list[Letter]]:
    while page := list(itertools.islice(letters, PAGE)):
        yield page


@dead.command()
@click.argument("letter_id", metavar="ID")
def show(letter_id: str) -> None:
    """Show everything of one letter, what the person wrote included."""
    from chatbot.app import from_environment
    from chatbot.ops import dead_letters

    with _told(), dead_letters.hold(from_environment()) as held:
        found = list(dead_letters.choose(held, ids=[letter_id]))
    click.echo("\n\n".join(dead_letters.page(letter) for letter in found))


@dead.command()
@_chosen
def replay(*, ids: tuple[str, ...], everything: bool, user: str | None, reason: str | None) -> None:
    """Send letters back on their way: a message gets a turn of its own, once.

    A letter is taken out of the dead letters when the broker has its replay, never before.
    """
    from chatbot.app import from_environment
    from chatbot.ops import dead_letters

    _check_choice(ids, everything=everything, filters=(user, reason))
    bot = from_environment()
    chosen = replayed = 0

    def counted(letters: Iterator[Letter]) -> Iterator[Letter]:
        nonlocal chosen
        for letter in letters:
            chosen += 1
            yield letter

    with _told(), dead_letters.hold(bot) as held:
        letters = dead_letters.choose(held, ids=ids, user=user, reason=reason)
        try:
            for outcome in dead_letters.replay(held, counted(letters), bot.router):
                replayed += not outcome.left
                became = f"left      {{}}: {outcome.left}" if outcome.left else "replayed  {}"
                click.echo(became.format(dead_letters.label(outcome.letter)))
        finally:
            click.echo(f"{replayed} replayed, {chosen - replayed} left.")
    if replayed < chosen:
        sys.exit(1)


@dead.command()
@_chosen
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(*, ids: tuple[str, ...], everything: bool, user: str | None, reason: str | None, yes: bool) -> None:
    """Drop letters for good, after asking."""
    from chatbot.app import from_environment
    from chatbot.ops import dead_letters

    _check_choice(ids, everything=everything, filters=(user, reason))
    bot = from_environment()
    chosen: list[str] = []
    first: list[str] = []
    with _told(), dead_letters.hold(bot) as held:
        for letter in dead_letters.choose(held, ids=ids, user=user, reason=reason):
            chosen.append(letter.id)
            if len(first) < SHOWN_BEFORE_DROP:
                first.append(dead_letters.label(letter))
    if not chosen:
        click.echo("There is nothing to drop.")
        return
    if not yes:
        # Nothing is held while a person thinks.
        click.echo("\n".join(first))
        if len(chosen) > len(first):
            click.echo(f"… and {len(chosen) - len(first)} more")
        click.confirm(f"Drop {_count(len(chosen))} for good?", abort=True)
    with _told(), dead_letters.hold(bot) as held:
        dropped = dead_letters.drop(held, chosen)
    click.echo(f"{dropped} dropped.")
    if dropped < len(chosen):
        click.echo(f"{len(chosen) - dropped} were gone meanwhile, or are held by another command.", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
