"""The table of breaks.py is in order: each break is one token of its file, and its tests exist. None is made here."""

import ast
import io
import tokenize
from functools import cache

import pytest
from breaks import BREAKS, PACKAGES, ROOT, End, judge

LEAST = 40
LONG = 100  # lines; a longer module has a break


@cache
def text_of(file):
    return (ROOT / file).read_text(encoding="utf-8")


@cache
def tokens(text):
    """What a file says, without its comments and line breaks."""
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    return [each.string for each in tokenize.generate_tokens(io.StringIO(text).readline) if each.type not in ignored]


@cache
def functions_of(file):
    return {node.name for node in ast.parse(text_of(file)).body if isinstance(node, ast.FunctionDef)}


def test_every_break_has_its_place_and_is_one_token():
    wrong = []
    for one in BREAKS:
        before, after = tokens(text_of(one.file)), tokens(one.of(text_of(one.file)))
        first = next((place for place, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
        left, new = before[first:], after[first:]
        if left == new or new not in (left[1:], [*new[:1], *left[1:]], [*new[:1], *left]):  # left out, changed, put in
            wrong.append(f"{one.file}: {one.old} -> {one.new}")
    assert wrong == []


def test_no_break_is_there_twice():
    assert len({(one.file, one.old) for one in BREAKS}) == len(BREAKS)


def test_every_long_module_has_a_break():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    long = {path.relative_to(ROOT).as_posix() for path in files if len(path.read_text().splitlines()) > LONG}
    assert long - {one.file for one in BREAKS} == set()
    assert len(BREAKS) >= LEAST


def test_every_test_that_is_named_exists():
    assert all(one.names for one in BREAKS)
    named = {(one.test_file, name.partition("[")[0]) for one in BREAKS for name in one.names}
    assert [(file, name) for file, name in sorted(named) if name not in functions_of(f"tests/{file}")] == []


def test_a_break_that_is_no_longer_there_is_refused():
    one = BREAKS[0]
    for text in (text_of(one.file).replace(one.old, one.new), text_of(one.file) * 2):
        with pytest.raises(ValueError, match="times, not once"):
            one.of(text)


@pytest.mark.parametrize(
    ("phase", "outcome", "why", "verdict"),
    [
        ("call", "failed", "", "caught by a"),
        ("call", "passed", "", "NOT CAUGHT"),
        ("call", "failed", "NameError: x", "WRONG REASON: a in call: NameError: x"),
        ("setup", "failed", "", "WRONG REASON: a in setup: an assertion"),
        ("setup", "skipped", "", "WRONG REASON: no test ran: 1 skipped"),
    ],
)
def test_only_an_assertion_in_a_tests_call_catches_a_break(phase, outcome, why, verdict):
    caught, said = judge([End("a", phase, outcome, why)], "1 skipped")
    assert (caught, said) == (verdict.startswith("caught"), verdict)
