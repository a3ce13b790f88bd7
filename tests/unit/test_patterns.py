"""No pattern of the package costs more than a bounded number of steps a character, whatever it reads."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chatbot
from tests.backtracking import Program, TooManyStepsError, steps, worst

FOLDER = Path(chatbot.__file__).parent
FUNCTIONS = {"compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn", "template"}
#: What is asked of a pattern whose uses cannot all be seen.
ANY_WAY = frozenset({"search", "fullmatch"})
NODES = {path: list(ast.walk(ast.parse(path.read_text(encoding="utf-8")))) for path in sorted(FOLDER.rglob("*.py"))}


def calls() -> Iterator[tuple[str, ast.Call, frozenset[str]]]:
    """Yield every call of a function of ``re`` that takes a pattern: where it stands, and the ways of its use."""
    for path, nodes in NODES.items():
        names = {
            node.value: node.targets[0].id
            for node in nodes
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in nodes:
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr in FUNCTIONS
            ):
                yield f"{path.relative_to(FOLDER)}:{node.lineno}", node, ways_of(node, names.get(node))


def ways_of(call: ast.Call, name: str | None) -> frozenset[str]:
    """Return ``search`` and, where they are all that is asked of it, ``match`` or ``fullmatch``."""
    assert isinstance(call.func, ast.Attribute)
    if call.func.attr != "compile":
        return frozenset({way(call.func.attr, others=0)})
    if name is None:
        return ANY_WAY
    seen = {way(used.func.attr, others=len(used.args) - 1) for used in uses(name)}
    # A pattern that is also handed over, or put in a table, is used in ways that are not seen here.
    return frozenset(seen) if LOADS[name] == len(list(uses(name))) > 0 else ANY_WAY


def way(method: str, *, others: int) -> str:
    """Return how a method looks for its pattern; with a position it may be called at each one."""
    return method if method in ("match", "fullmatch") and others == 0 else "search"


def uses(name: str) -> Iterator[Any]:
    """Yield the calls of a method of what ``name`` names, wherever that is."""
    return (call for call, called in METHOD_CALLS if called == name)


def named(node: ast.AST) -> str | None:
    """Return the name that an expression loads, with or without an object before it."""
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
        return node.id if isinstance(node, ast.Name) else node.attr
    return None


ALL_NODES = [node for nodes in NODES.values() for node in nodes]
METHOD_CALLS = [
    (node, named(node.func.value))
    for node in ALL_NODES
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FUNCTIONS
]
LOADS = Counter(map(named, ALL_NODES))


def flags_of(call: ast.Call) -> int:
    """Return the flags a call names."""
    flags = [
        getattr(re, node.attr)
        for value in (*call.args[1:], *(keyword.value for keyword in call.keywords))
        for node in ast.walk(value)
        if isinstance(node, ast.Attribute) and isinstance(getattr(re, node.attr, None), re.RegexFlag)
    ]
    return int(sum(flags))


CALLS = list(calls())


@pytest.mark.parametrize(("call", "ways"), [held for _, *held in CALLS], ids=[where for where, *_ in CALLS])
def test_a_pattern_costs_a_bounded_number_of_steps_a_character(call, ways):
    pattern = call.args[0]
    assert isinstance(pattern, ast.Constant), "a pattern that is made at run time cannot be checked"
    assert isinstance(pattern.value, str)
    for asked in ways:
        assert worst(pattern.value, flags_of(call), way=asked) < float("inf"), asked


def test_every_use_of_re_is_found():
    assert len(CALLS) > 10
    for path, nodes in NODES.items():
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("re", "regex"), f"{path}: patterns are made by re.…"
            if isinstance(node, ast.Import):
                assert all(alias.name != "regex" and (alias.name != "re" or not alias.asname) for alias in node.names)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\s*(?:[-*]\s+)?\[\[\s*([^\[\]|]+?)\s*(?:\|\s*([^\[\]]*?)\s*)?\]\]\s*",  # choices, once
        r"(a+)+$", r"(a|a)*b", r"(a|ab?)*c", r"\s+$", r"x+x+y", r"(?:\d+,?)+;", r"<.*?>.*?</b>", r"(?i:é+É+)z", r"a+b",
        r"(?>a+)+b", r"(?:a++)+b", r"[^,]*;",
    ],
)  # fmt: skip
def test_a_pattern_that_backtracks_without_bound_is_told(pattern):
    assert worst(pattern) == float("inf")


def test_how_a_pattern_is_used_counts():
    assert worst(r"\s*x") == float("inf")
    assert worst(r"\s*x", way="match") < float("inf")
    assert worst(r"a*a*", way="match") < float("inf")
    assert worst(r"a*a*", way="fullmatch") == float("inf")
    assert worst(r"a*  # a comment", re.VERBOSE, way="fullmatch") < float("inf")
    assert {way for where, _, ways in CALLS if where.startswith("identity") for way in ways} >= {"fullmatch"}


@pytest.mark.parametrize("pattern", [r"\d{1,20}x", r"(?<=[.!?])\s", r"a|b", r"[^\W\d_]+", r"b(?:a++)+", r"(?>a|b)c"])
def test_a_pattern_that_does_not_is_not(pattern):
    assert worst(pattern) < float("inf")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"a{2,3}b|c", "aab caaab"), (r"(?<=x)y+?", "xyy"), (r"(?!a)\w++", "ab b"), (r"^a.*?b$", "acb\n"),
        (r"(?i)É[^a-c\d]\b", "éd 1"), (r"(?>a|ab)c", "abc ac"), (r"\S\s\W\D", "a  b"),
    ],
)  # fmt: skip
def test_the_matcher_finds_what_re_finds(pattern, text):
    for start in range(len(text) + 1):
        found = re.compile(pattern).match(text, start)
        assert Program(pattern, 0).match(text, start) == (found.end() if found else None)


def test_steps_are_counted():
    assert steps("a", 0, "ba") < steps("a", 0, "ba" * 10)
    with pytest.raises(TooManyStepsError):
        steps("(a+)+$", 0, "a" * 50 + "b")
