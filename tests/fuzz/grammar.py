"""Broken webhook bodies from a seeded generator, with known good messages planted in them.

``build(rng)`` makes a ``Body``: a fixture with things missing, extra, of the wrong type,
huge, deeply nested, not UTF-8, with doubled keys, lone surrogates, NaN, endless numbers.
Three in four are still JSON in shape, and then their ``good`` messages must come out, in
order; the others are damaged byte by byte, or no JSON at all, and need only be refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

from tests.payloads import FIXTURES, body_of

SEEDS = [body_of(path) for path in sorted(FIXTURES.glob("*.json"))]

#: Values no document allows at their place, as JSON can carry them.
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, 2**63, 10**400, float("nan"), float("inf"), -float("inf"), "", " ", "\0", "a\nb",
    "é" * 300, "\ud800", "\udfff x", "😀", "x" * 5000, [], [[]], {}, {"": {}}, [None], {"body": []}, "2026-01-01",
    "1e5", "messages", {"id": "x", "from": "x"}, "🙂" * 70, "%2E", "chat.open", "a.b.*.#", "\u202e", "\x7f",
]  # fmt: skip

#: What only bytes can say: put in place of a string that stands for it.
RAW: list[bytes] = [
    b"NaN", b"-Infinity", b"9" * 5000, b"-" + b"1" * 4400, b"1" * 6000 + b".5e9", b"1e99999",
    b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\xc3"', b'"\x00\x01\n\t"', b'"\\ud800\\u0000"', b'"\\ud83d\\ud83d\\ude00"',
    b'{"id":"a","id":"b","type":"text","type":[]}', b'{"":1,"":2,"\\ud800":3}',
    b"[" * 70 + b"]" * 70, b"[" * 1200 + b"]" * 1200, b'{"a":' * 1500 + b"1" + b"}" * 1500,
    b'{"]":[' * 900 + b"]}" * 900,
]  # fmt: skip
#: The same, and slow: one body in some hundreds has one.
HEAVY: list[bytes] = [
    b"[" * 60_000 + b"]" * 60_000, b'"' + b"\\u0041" * 30_000 + b'"', b'"' + b"x" * 300_000 + b'"', b"7" * 100_000,
    b"[" + b"{}," * 20_000 + b"{}]", b'"' + b'\\"' * 60_000 + b'"',
]  # fmt: skip

_KEYS = [
    "entry", "changes", "field", "value", "messages", "statuses", "contacts", "errors", "metadata", "id", "from",
    "from_user_id", "user_id", "wa_id", "type", "text", "body", "image", "audio", "context", "referral", "group_id",
    "system", "interactive", "location", "order", "reaction", "edit", "timestamp", "code", "", "\ud800", "x" * 300,
    "unsupported", "previous_user_id", "product", "payment_method", "payment", "pricing", "ctwa_clid", "event",
    "message_echoes", "calls", "standby", "message", "to", "user_preferences", "alert_info", "sender", "time",
]  # fmt: skip


#: Stands where an entry with good messages will be.
_PLANTED = object()


@dataclass(frozen=True)
class Body:
    """One POST: its bytes, and the ids of the messages that must come out of it, in order."""

    content: bytes
    good: tuple[str, ...] = ()


def good_message(number: int) -> dict[str, Any]:
    """Return a message as documented; a later one was written later."""
    return {
        "from": "5511900000000",
        "id": f"good-{number}",
        "timestamp": str(1_700_000_000 + number),
        "type": "text",
        "text": {"body": f"oi {number}"},
    }


def good_entry(*numbers: int) -> dict[str, Any]:
    """Return an entry as documented, holding these messages."""
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "1", "phone_number_id": "1"},
        "messages": [good_message(number) for number in numbers],
    }
    return {"id": "1", "changes": [{"field": "messages", "value": value}]}


def build(rng: Random) -> Body:
    """Return the next body of this generator."""
    kind = rng.random()
    if kind < 0.75:
        return _odd(rng)
    if kind < 0.95:
        return Body(_damaged(rng, _odd(rng).content))
    return Body(rng.randbytes(rng.randrange(0, 400)))


def _odd(rng: Random) -> Body:
    """Return JSON in which anything may be odd but the planted messages and what holds them."""
    tree: Any = json.loads(rng.choice(SEEDS))
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        _change(rng, tree)
    entries = tree["entry"] if isinstance(tree.get("entry"), list) else [tree.pop("entry", None)]
    for _ in range(rng.randrange(1, 4)):
        entries.insert(rng.randrange(len(entries) + 1), _PLANTED)
    numbers = count()
    tree["entry"] = [_among(rng, numbers) if entry is _PLANTED else entry for entry in entries]
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.7)
    good = tuple(f"good-{number}" for number in range(next(numbers)))
    return Body(_finished(rng, text.encode("utf-8", "surrogatepass")), good)


def _among(rng: Random, numbers: Iterator[int]) -> dict[str, Any]:
    """Return an intact entry whose list holds good messages, odd ones between them."""
    entry = good_entry(next(numbers), next(numbers))
    value = entry["changes"][0]["value"]
    if rng.random() < 0.5:
        odd = good_message(99)
        odd["id"] = "odd"
        for _ in range(rng.randrange(4)):
            _change(rng, odd)
        value["messages"].insert(rng.randrange(3), odd)
    if rng.random() < 0.5:
        beside = ("contacts", "statuses", "errors", "metadata", "calls", "message_echoes", "\ud800")
        value[rng.choice(beside)] = _odd_value(rng)
    return entry


# -- one change ------------------------------------------------------------------


def _odd_value(rng: Random) -> Any:
    if rng.random() < 0.3:
        return f"@raw{rng.randrange(len(RAW))}@"
    if rng.random() < 0.003:
        return f"@heavy{rng.randrange(len(HEAVY))}@"
    return deepcopy(rng.choice(ODD))  # changed later, perhaps


def _change(rng: Random, tree: dict[str, Any]) -> None:
    """Change one place of ``tree``; the tree itself stays a dict."""
    inside = rng.choice(list(_containers(tree)))
    rng.choice(_CHANGES)(rng, inside)


def _containers(tree: Any) -> Iterator[Any]:
    waiting = [tree]
    while waiting:
        at = waiting.pop()
        yield at
        waiting += [held for held in (at.values() if isinstance(at, dict) else at) if isinstance(held, (dict, list))]


def _key(rng: Random, inside: Any) -> Any:
    return rng.choice(list(inside)) if isinstance(inside, dict) else rng.randrange(len(inside))


def _replace(rng: Random, inside: Any) -> None:
    if inside:
        inside[_key(rng, inside)] = _odd_value(rng)


def _remove(rng: Random, inside: Any) -> None:
    if inside:
        del inside[_key(rng, inside)]


def _add(rng: Random, inside: Any) -> None:
    if isinstance(inside, dict):
        inside[rng.choice(_KEYS)] = _odd_value(rng)
    else:
        inside.insert(rng.randrange(len(inside) + 1), _odd_value(rng))


def _wrap(rng: Random, inside: Any) -> None:
    if inside:
        key = _key(rng, inside)
        inside[key] = rng.choice(([inside[key]], {"value": inside[key]}, str(inside[key])[:500]))


def _repeat(rng: Random, inside: Any) -> None:
    if inside and isinstance(inside, list):
        inside += [inside[_key(rng, inside)]] * rng.choice((1, 2, 30))


def _rename(rng: Random, inside: Any) -> None:
    if inside and isinstance(inside, dict):
        inside[rng.choice(_KEYS)] = inside.pop(_key(rng, inside))


_CHANGES: list[Callable[[Random, Any], None]] = [_replace, _replace, _remove, _add, _wrap, _repeat, _rename]


# -- bytes -----------------------------------------------------------------------


def with_raw(content: bytes) -> bytes:
    """Return ``content`` with the bytes that stand-ins stand for: ``"@raw3@"`` for ``RAW[3]``."""
    for name, values in (("raw", RAW), ("heavy", HEAVY)):
        if f"@{name}".encode() in content:
            for number, value in enumerate(values):
                content = content.replace(f'"@{name}{number}@"'.encode(), value)
    return content


def _finished(rng: Random, content: bytes) -> bytes:
    """Return ``content`` with the bytes that stand-ins stand for, and perhaps a key given twice."""
    content = with_raw(content)
    if rng.random() < 0.1:
        content = content.replace(b'"object"', b'"object": [], "object"', 1)
    return content


def _damaged(rng: Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(damaged) + 1)
        until = min(len(damaged), at + rng.choice((1, 1, 2, 10, 1000)))
        how = rng.randrange(4)
        if how == 0:
            damaged[at:until] = b""
        elif how == 1:
            damaged[at:at] = rng.randbytes(rng.randrange(1, 6))
        elif how == 2:
            damaged[at:at] = damaged[at:until]
        else:
            damaged[at:until] = rng.choice((b"[", b"{", b'"', b"\\", b"}", b"]", b",", b":", b"\xff", b"e9", b"\\u"))
    return bytes(damaged)
