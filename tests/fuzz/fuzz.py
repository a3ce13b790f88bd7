"""``make fuzz``: broken webhook bodies and odd replies by the million.

In come a number of bodies, a number of replies and a seed; out goes one JSON object as the
last line, and an exit code of 1 when anything was unexpected. Every body goes, signed, through the channel's
own ``verify`` and ``parse``. One in ``APP_SHARE`` goes through the whole Flask
application instead, with a router that keeps what it is given; one in ``FORGED_SHARE`` of
those carries random bytes as its signature.

Unexpected is: an exception, an answer other than 200, 400 and (over 3 MB) 413, a forged body that is not
refused with 401, a planted good message that is lost or out of order, a message that cannot
travel on, a body that takes longer than ``SLOWEST`` seconds. Each body is made from the seed
and its own number, so ``--only NUMBER`` brings one back.

Every reply is composed for each channel and as plain text (``replies.py``). Counted are
exceptions (a reply that takes longer than ``SLOWEST`` is one), planted words that are lost,
and broken limits; ``--only-reply NUMBER`` brings one back.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import structlog
from flask.testing import FlaskClient

from chatbot.app import Chatbot
from chatbot.channels.json_fields import LONGEST_ID, LONGEST_NAME
from chatbot.config import Settings
from chatbot.errors import BadPayload, BadSignature
from chatbot.messages import Message
from chatbot.web.webhook import MAX_BODY_BYTES, create_app
from tests.fuzz import replies
from tests.fuzz.grammar import Body, build
from tests.fuzz.router import Router
from tests.system import APP_SECRET, sign

#: One body in so many goes through the whole application, and of those one carries a forged signature.
APP_SHARE, FORGED_SHARE = 10, 10
#: Seconds one body may take, on a machine that does other work too.
SLOWEST = 20
#: Bodies or replies a process takes at once.
CHUNK = 2000
#: Unexpected bodies and replies that are described.
MOST_SHOWN = 20


class TooSlowError(BaseException):
    """A body or a reply took longer than ``SLOWEST``; no ``except Exception`` hides it."""


class Target:
    """One application, its channel and its router."""

    def __init__(self) -> None:
        settings = Settings(_env_file=None, env="test", broker_url="memory://", whatsapp_app_secret=APP_SECRET)
        self.router = Router()
        self._bot = Chatbot(settings)
        self._bot.router = self.router
        self.channel = self._bot.channels["whatsapp"]
        self.client: FlaskClient = create_app(self._bot).test_client()

    def post(self, content: bytes, signature: str | None) -> int:
        """Return the status of one POST; ``signature`` as WSGI hands header bytes over (Latin-1)."""
        self.router.forget()
        environ = {} if signature is None else {"HTTP_X_HUB_SIGNATURE_256": signature}
        return self.client.post("/webhook/whatsapp", data=content, environ_overrides=environ).status_code

    def check_app(self, body: Body) -> int:
        """Return the status of a signed body. Raises ``AssertionError``."""
        status = self.post(body.content, sign(body.content))
        if len(body.content) > MAX_BODY_BYTES:
            assert status == 413, f"status {status} for {len(body.content)} bytes"
        else:
            assert status == 200 or (status == 400 and not body.good), f"status {status}"
        if status == 200:
            check_messages([message for message in self.router.messages if message.user], body.good)
        return status

    def check_forged(self, body: Body, header: bytes) -> int:
        """Return the status of a body whose signature is ``header``. Raises ``AssertionError``."""
        status = self.post(body.content, header.decode("latin-1"))
        expected = 413 if len(body.content) > MAX_BODY_BYTES else 401  # what is too large is not even read
        assert status == expected, f"status {status} for a forged signature over {len(body.content)} bytes"
        return status

    def check_channel(self, body: Body) -> int:
        """Return the status that ``verify`` and ``parse`` lead to. Raises ``AssertionError``."""
        try:
            self.channel.verify(body.content, {"X-Hub-Signature-256": sign(body.content)}.get)
            inbound = self.channel.parse(body.content)
        except BadSignature:
            raise AssertionError("a true signature was refused") from None
        except BadPayload:
            assert not body.good, "the body was refused, and good messages with it"
            return 400
        check_messages(list(inbound.messages), body.good)
        for status in inbound.statuses:
            json.dumps(status.to_dict(), allow_nan=False).encode()
        return 200


def check_messages(messages: list[Message], good: tuple[str, ...]) -> None:
    """Raise ``AssertionError`` unless the good ones are there, in order and whole, and all can travel."""
    came = [message for message in messages if message.id.startswith("good-")]
    if good:
        assert tuple(message.id for message in came) == good, f"good messages came as {[m.id for m in came]}"
        assert all(m.text == f"oi {m.id[5:]}" and m.phone == "5511900000000" and m.starts_turn for m in came)
    for message in messages:
        json.dumps(message.to_dict(), allow_nan=False).encode()
        longest = max(map(len, (message.user, message.id, message.kind, message.quoted, message.group)))
        assert longest <= LONGEST_ID, "an id does not fit into the headers of a message"
        assert len(message.name) <= LONGEST_NAME, "a name does not fit"


def check(target: Target, seed: int, number: int) -> tuple[str, int]:
    """Return how body ``number`` went, and its status. Raises ``AssertionError`` or what it broke with."""
    rng = Random(f"{seed}:{number}")
    body = build(rng)
    if number % APP_SHARE:
        return "channel", target.check_channel(body)
    if number // APP_SHARE % FORGED_SHARE:
        return "app", target.check_app(body)
    return "app", target.check_forged(body, rng.randbytes(rng.randrange(0, 200)))


def run(seed: int, numbers: range) -> tuple[Counter[str], list[str]]:
    """Check these bodies; return the counts and what was unexpected."""
    target = _target()
    counts: Counter[str] = Counter()
    unexpected = []
    for number in numbers:
        signal.alarm(SLOWEST)
        try:
            way, status = check(target, seed, number)
            counts[way] += 1
            counts[str(status)] += 1
        except (Exception, TooSlowError) as err:
            counts["unexpected"] += 1
            unexpected.append(f"body {number}: {type(err).__name__}: {str(err)[:300]}")
        finally:
            signal.alarm(0)
    return counts, unexpected[:MOST_SHOWN]


def run_replies(seed: int, numbers: range) -> tuple[Counter[str], list[str]]:
    """Compose these replies; return the counts and what was wrong."""
    signal.signal(signal.SIGALRM, _too_slow)
    counts: Counter[str] = Counter()
    wrong = []
    for number in numbers:
        signal.alarm(SLOWEST)
        try:
            found = replies.check(reply(seed, number))
        except (Exception, TooSlowError) as err:
            counts["reply_exceptions"] += 1
            wrong.append(f"reply {number}: {type(err).__name__}: {str(err)[:300]}")
            continue
        finally:
            signal.alarm(0)
        counts["lost_words"] += len(found.lost)
        counts["broken_limits"] += len(found.broken)
        if found.lost or found.broken:
            wrong.append(f"reply {number}: lost {found.lost[:5]}, broken {found.broken[:5]}")
    return counts, wrong[:MOST_SHOWN]


def reply(seed: int, number: int) -> replies.Reply:
    """Return reply ``number`` of this seed."""
    return replies.build(Random(f"reply:{seed}:{number}"))


_targets: list[Target] = []


def _target() -> Target:
    if not _targets:
        signal.signal(signal.SIGALRM, _too_slow)
        # Every log line is written out, to nowhere: what cannot be logged is a failure too.
        nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # as long as the process
        structlog.configure(
            processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(nowhere)
        )
        _targets.append(Target())
    return _targets[0]


def _too_slow(*_: Any) -> None:
    raise TooSlowError(f"longer than {SLOWEST} s")


def _run(work: tuple[str, int, range]) -> tuple[Counter[str], list[str]]:
    kind, seed, numbers = work
    return run(seed, numbers) if kind == "bodies" else run_replies(seed, numbers)


def _chunks(kind: str, seed: int, many: int) -> Iterator[tuple[str, int, range]]:
    for begin in range(0, many, CHUNK):
        yield kind, seed, range(begin, min(begin + CHUNK, many))


def main() -> int:
    """Check the bodies and the replies in several processes; print the verdict."""
    options = _options()
    if options.only is not None:
        print(build(Random(f"{options.seed}:{options.only}")))
        print(check(_target(), options.seed, options.only))
        return 0
    if options.only_reply is not None:
        print(reply(options.seed, options.only_reply))
        print(replies.check(reply(options.seed, options.only_reply)))
        return 0
    started = time.monotonic()
    counts: Counter[str] = Counter()
    shown = 0
    work = [*_chunks("bodies", options.seed, options.bodies), *_chunks("replies", options.seed, options.replies)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for counted, unexpected in pool.imap_unordered(_run, work):
            counts += counted
            for line in unexpected[: MOST_SHOWN - shown]:
                print(line, file=sys.stderr)
                shown += 1
    wrong = ("unexpected", "reply_exceptions", "lost_words", "broken_limits")
    verdict = {
        "bodies": options.bodies,
        "by_status": {status: counts[status] for status in sorted(counts) if status.isdigit()},
        "through_app": counts["app"],
        "replies": options.replies,
        **{what: counts[what] for what in wrong},
        "seed": options.seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(verdict))
    return 1 if any(counts[what] for what in wrong) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Broken webhook bodies and odd replies, by the million.")
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--replies", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int, help="check this body alone, and show it")
    parser.add_argument("--only-reply", type=int, help="compose this reply alone, and show it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
