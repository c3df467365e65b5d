"""What people write as YAML is read as it looks, or refused by its line."""

import pytest

from cluster import yaml_text
from cluster.errors import InputError


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("seeds: [1, 042]", r"m\.yaml: 042 is not read as it looks .*: write 42 for a number; .*: '042'\."),
        ("a: 1\nsteps: 08", r"m\.yaml, line 2: 08 is not read as it looks .*: write 8 for a number"),
        ("sbatch: {begin: 16:00}", r"16:00 is not read as it looks .*: put it in quotes if it is text: '16:00'\."),
        ("rate: 00.5", "00.5 is not read as it looks"),
        ("048: a", "048 is not read as it looks"),
        ("a: 1\na: 2", r"m\.yaml, line 2: a is here twice\."),
        ("a: [1,\n", r"m\.yaml, line 2: not valid YAML: while parsing a flow node: "),
        ("a:\n  b: 1\n\tc: 2\n", r"m\.yaml, line 3: not valid YAML: .* It begins with a tab: YAML takes spaces only\."),
        ("a: \x07", r"m\.yaml: not valid YAML: "),
    ],
)
def test_what_would_be_read_as_something_else_is_refused_by_its_line(text, refused):
    with pytest.raises(InputError, match=refused):
        yaml_text.read(text, "m.yaml")


def test_what_looks_like_what_it_is_is_read():
    text = "{a: 0, b: -10, c: 0.5, d: 1_000, e: '042', f: \"16:00\", g: 0x1f, h: 1.0e-4, i: a042, j: |-\n  042\n}"
    read = {"a": 0, "b": -10, "c": 0.5, "d": 1000, "e": "042", "f": "16:00", "g": 31, "h": 1e-4, "i": "a042"}
    assert yaml_text.read(text.replace(", j: |-\n  042\n", ""), "m.yaml") == read
    assert yaml_text.read("j: |-\n  042\n", "m.yaml") == {"j": "042"}
