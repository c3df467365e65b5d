import pytest

from tiny_transformers.settings.order import blocks_of, groups, modules, sandwich

EXAMPLES = [  # string; modules by the README's reading; groups by the code's. None: refused
    ("sfsf", "sfsf", ("sfsf",)),
    ("ssff", "ssff", ("ssff",)),
    ("fsfs", "fsfs", ("fsfs",)),
    ("sgfgfg", "sgfgfg", ("sgfgfg",)),
    ("s.sf.f", "ssff", ("s", "sf", "f")),
    ("s.sfsf.f", "ssfsff", ("s", "sfsf", "f")),  # the README's k=1 of 4
    ("s.s.sf.f.f", "sssfff", ("s", "s", "sf", "f", "f")),  # and k=2 of 5
    ("sg.sg", None, ("sg", "sg")),  # five slots are no pairs
    ("sgfgfg.sgfgfg", None, ("sgfgfg", "sgfgfg")),
    ("s..f", "sf", None),  # an empty group
    (".fs.", "fs", None),
    ("s.f", None, ("s", "f")),
    ("sxf", None, None),
    ("ff", None, None),
    ("s", None, None),
    ("..", None, None),
    ("", None, None),
    ("fs.", None, None),
]


@pytest.mark.parametrize(("text", "readme", "code"), EXAMPLES)
def test_the_two_readings_of_a_string(text, readme, code):
    if readme is None:
        with pytest.raises(ValueError, match="order"):
            modules(text, letters="sfg")
    else:
        assert modules(text, letters="sfg") == readme
        assert "".join(groups(text, "readme")) == readme
    if code is None:
        with pytest.raises(ValueError, match="order"):
            groups(text)
    else:
        assert groups(text) == code


def test_an_unknown_letter_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"'x' is no module; there are s \(self-attention\), f \(feed-forward\), g"):
        groups("sgxg")
    with pytest.raises(ValueError, match="'g' is no module"):
        modules("sgsg")


def test_sandwich_coefficients():
    assert [sandwich(3, k) for k in range(3)] == ["sfsfsf", "ssfsff", "sssfff"]
    assert sandwich(3, 3) == sandwich(3, 2)  # s^3 f^3, whichever way it is put
    assert modules("sandwich(4, 1)") == sandwich(4, 1) == "ssfsfsff"
    assert groups("sandwich(3,1,g)", "readme") == ("s", "sg", "sg", "g")
    with pytest.raises(ValueError, match="one tied group; set reading to readme"):
        groups("sandwich(3,1,g)")
    with pytest.raises(ValueError, match="0 to the number of layers"):
        sandwich(2, 3)


def test_many_equal_groups_are_written_once():
    assert groups("repeat(3, sgf)") == ("sgf", "sgf", "sgf")


def test_a_block_is_attention_and_what_follows_it():
    assert [blocks_of(order) for order in ("sfsf", "ssff", "fsfs", "ffss", "sgfg")] == [
        ["sf", "sf"], ["s", "sf", "f"], ["f", "sf", "s"], ["f", "f", "s", "s"], ["sg", "f", "g"],
    ]  # fmt: skip
