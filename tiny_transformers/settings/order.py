"""Strings that say in which order a model's modules stand.

Letters: s self-attention, f feed-forward, g a sparse mixture of experts, and '.'. What '.' means depends on how the
string is read, and the original code (Brainformer-SMOE) and its README do it differently:

readme  with dots the string is read in pairs of slots, one for s and one for f or g, and '.' is an empty slot; without
        dots the modules stand one behind the other. Every letter is a module of its own. (Press et al. 2020,
        arXiv:1911.03864, call such models sandwiches.)
code    dots separate groups. A group has one module of each kind that it names, and every letter of it applies that
        module again: weights are tied within the group."""

from __future__ import annotations

import re

LETTERS = {"s": "self-attention", "f": "feed-forward", "g": "mixture of experts"}
SLOTS = "s., sf, sg, .f or .g"
READINGS = ("readme", "code")


def sandwich(layers: int, coefficient: int, feed_forward: str = "f") -> str:
    """s^k (sf)^(n-k) f^k: k attention modules first, as many feed-forward modules last. (Press et al. 2020, section 4)

    `sandwich(4, 1)` -> ssfsfsff. Raises ValueError unless 0 <= k <= n."""
    if not 0 <= coefficient <= layers or not layers:
        raise ValueError(f"sandwich({layers}, {coefficient}): the coefficient must be 0 to the number of layers")
    middle = f"s{feed_forward}" * (layers - coefficient)
    return "s" * coefficient + middle + feed_forward * coefficient


def spelled_out(text: str) -> str:
    """With `sandwich(n, k)`, `sandwich(n, k, g)` or `repeat(n, group)` in place of what it stands for."""
    if found := re.fullmatch(r"sandwich\((\d+),\s*(\d+)(?:,\s*([fg]))?\)", text.strip()):
        return sandwich(int(found[1]), int(found[2]), found[3] or "f")
    if found := re.fullmatch(r"repeat\((\d+),\s*([sfg]+)\)", text.strip()):
        return repeat(int(found[1]), found[2])
    return text


def repeat(times: int, group: str) -> str:
    """So many groups of the same letters: `repeat(2, sgfgfg)` -> sgfgfg.sgfgfg."""
    return ".".join([group] * times)


def modules(text: str, letters: str = "sf") -> str:
    """The modules that a string names in the README's reading, in order: `s.sf.f` -> `ssff`. Raises ValueError."""
    text = spelled_out(text)
    _check_letters(text, letters)
    if "." in text:
        pairs = [text[start : start + 2] for start in range(0, len(text), 2)]
        wrong = [pair for pair in pairs if not re.fullmatch(r"s\.|s[fg]|\.[fg]", pair)]
        if wrong:
            raise ValueError(f"order {text!r}: with dots it is read in pairs {SLOTS}, but one is {wrong[0]!r}")
    return text.replace(".", "")


def groups(text: str, reading: str = "code") -> tuple[str, ...]:
    """The groups of modules that a string names, each with the letters that it applies; those of a group share weights.

    In the README's reading, where nothing is shared, a group is an s and the f or g behind it: `s.sf.f` -> s, sf, f.
    Raises ValueError."""
    if reading == "readme":
        return tuple(blocks_of(modules(text, letters="sfg")))
    if text.strip().startswith("sandwich"):
        raise ValueError(f"order {text!r}: read as the code does it would be one tied group; set reading to readme")
    text = spelled_out(text)
    _check_letters(text, "sfg")
    found = tuple(text.split("."))
    if "" in found:
        raise ValueError(f"order {text!r}: read as the code does, dots separate groups, and one of them is empty")
    return found


def blocks_of(order: str) -> list[str]:
    """The modules of each block: an s and the f or g behind it make one. `ssff` -> s, sf, f."""
    blocks: list[str] = []
    for module in order:
        if module in "fg" and blocks and blocks[-1] == "s":
            blocks[-1] += module
        else:
            blocks.append(module)
    return blocks


def _check_letters(text: str, letters: str) -> None:
    known = ", ".join(f"{letter} ({LETTERS[letter]})" for letter in letters)
    if unknown := sorted(set(text) - set(letters) - {"."}):
        raise ValueError(f"order {text!r}: {unknown[0]!r} is no module; there are {known} and '.'")
    if "s" not in text or not set(text) & set("fg"):
        raise ValueError(f"order {text!r} must have attention (s) and at least one other module of {known}")
