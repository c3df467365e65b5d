"""Texts of others are printed without what a terminal obeys."""

import io

import pytest
from rich.table import Table
from rich.text import Text

from cluster.console import PLAIN, CleanConsole, clean, hours, some

ODD = "a\x1b]0;title\x07b\x1b[32mc\x9b2Jd\re\x08\u202e\udc80f"


@pytest.mark.parametrize("wrapped", [str, Text, lambda text: Text(text, style="bold")])
def test_nothing_that_is_printed_has_control_characters(wrapped):
    console = CleanConsole(**PLAIN, file=io.StringIO(), width=80)
    console.print(wrapped(ODD))
    shown = console.file.getvalue()
    assert shown.removesuffix("\n").isprintable()
    assert shown.endswith("cdef\n")


def test_a_cell_of_a_table_has_none_either_and_colours_of_our_own_stay():
    console = CleanConsole(**PLAIN, file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    table = Table(title=ODD)
    table.add_column(ODD)
    table.add_row(Text(ODD, style="red"))
    console.print(table)
    shown = console.file.getvalue()
    assert shown.count("\x1b]") == shown.count("\x9b") == shown.count("\x07") == shown.count("\r") == 0
    assert "cdef" in shown
    assert "\x1b[31m" in shown  # the cell's own


def test_what_a_terminal_obeys_is_no_part_of_a_clean_text():
    assert clean(ODD) == "abcdef"
    assert clean("half of an escape \x1b\nand \x1b[31") == "half of an escape \nand 31"
    assert clean("two\nlines\tand a tab") == "two\nlines\tand a tab"


def test_of_many_names_the_first_are_told():
    assert (some("cab"), some("edcba")) == ("a, b, c", "a, b, c and 2 more")


def test_hours_that_are_few_are_not_told_as_none():
    assert [hours(value) for value in (0.0, 0.0004, 0.026, 0.96, 1.0, 1234.56)] == [
        "0.0", "0.01", "0.03", "0.96", "1.0", "1,234.6"
    ]  # fmt: skip
