"""The project's pages as their readers have them: headings, links, what they tell to write and to type."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


def pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *sorted(DOCS.rglob("*.md"))]


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[str]:
    """What the page links to or shows, as it writes it."""
    for inline in tokens(page):
        for child in inline.children or ():
            if child.type in ("link_open", "image"):
                yield str(child.attrs.get("href", child.attrs.get("src")))


def anchors(page: Path) -> set[str]:
    """The #names of the page's headings that the site and GitHub have alike; a title that is there twice has none."""
    titles = Counter(
        "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))
        for before, inline in zip(tokens(page), tokens(page)[1:], strict=False)
        if before.type == "heading_open"
    )
    once = [title for title, times in titles.items() if times == 1]
    return {_on_github(title) for title in once} & {_in_the_site(title) for title in once}


def _on_github(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _in_the_site(title: str) -> str:  # as Python-Markdown's toc does it
    ascii_only = title.encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def files(page: Path) -> dict[str, str]:
    """Name -> text, of each block that is a file to be written; what stands under one name twice is one text."""
    found: dict[str, str] = {}
    for block in tokens(page):
        if block.type == "fence" and (name := re.search(r'title="(.*)"', block.info)):
            found[name[1]] = found.get(name[1], "") + block.content
    return found


@dataclass(frozen=True)
class Typed:
    line: str  # as a shell is given it
    printed: tuple[str, ...]  # what it prints, by the page; "..." stands for lines that are left out

    @property
    def words(self) -> list[str]:
        """Those of a command of ours, without the name of the program; of another none."""
        words = shlex.split(self.line, comments=True)
        if words[:1] == ["tiny-transformers"]:
            return words[1:]
        return words if words[:1] and words[0] in ("submit", "status", "rerun") else []


def typed(page: Path) -> list[Typed]:
    """What the page's console blocks tell to type, in order."""
    found = []
    for block in tokens(page):
        if block.type == "fence" and block.info.startswith("console"):
            parts = re.split(r"^\$ ", block.content, flags=re.M)
            assert parts[0] == "", f"{page.name}: a console block begins with a command"
            for part in parts[1:]:
                line, *printed = part.replace("\\\n", "").splitlines()
                found.append(Typed(line, tuple(printed)))
    return found
