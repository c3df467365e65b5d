"""Say what is wrong with a DATA_ROOT that lacks files: whether it is there at all, what it has instead, and what brings
them. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from tiny_transformers.settings.config import Data, fetch_command, lacking_files, tokenizer_file
from tiny_transformers.settings.corpora import CORPORA, STREAMS

NAMED = 5  # files, or what is there instead
LOOKED_AT = 100  # folders in it, in which the files may be
PUBLISHED = ("tinystories/", "filter-data/", "lambada/", "blimp/", "corpora/babylm_", tokenizer_file(Data()))


def explain(root: Path, lacking: Sequence[str], given: Path | None = None) -> str:
    """Say that files are not below `root`, and what to do. `given`: how the user named it, for commands."""
    published = [file for file in lacking if file.startswith(PUBLISHED) or file in STREAMS.values()]
    fetch = f"`{fetch_command(published, given)}`" if published else ""
    if not root.is_dir():
        where = "" if root.is_absolute() else f" in {Path.cwd()}"
        what = "is no folder" if root.exists() else f"there is no such folder{where}"
        brings = f"; {fetch} brings what is published" if fetch else ""
        return f"{root}: {what}. {_elsewhere(root, lacking) or f'Say with --data-root where the data is{brings}.'}"
    more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
    put = f"Put it there, or run {fetch}." if fetch else "Put it there, or name it in the manifest as it is there."
    advice = _elsewhere(root, lacking) or f"{_has(root, lacking)}{put}"
    return f"{root}: lacks {', '.join(lacking[:NAMED])}{more}. {advice}"


def _elsewhere(root: Path, lacking: Sequence[str]) -> str:
    """Say where all of these files are, if that is one folder up or down."""
    for near in (root.parent, *_folders(root)):
        if not lacking_files(near, lacking):
            return f"{'It is' if len(lacking) == 1 else 'They are'} below {near}: is that the --data-root?"
    return ""


def _has(root: Path, lacking: Sequence[str]) -> str:
    """Say which corpora are there, or else what is; nothing where the folders of what is lacking are there."""
    if any((root / Path(file).parts[0]).exists() for file in lacking):
        return ""
    corpora = [name for name, corpus in CORPORA.items() if not lacking_files(root, corpus.files)]
    if corpora:
        return f"It has the files of {', '.join(corpora)}. "
    there = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
    return f"It has {', '.join(there[:NAMED])}{more}. " if there else "It is empty. "


def _folders(root: Path) -> Iterator[Path]:
    return islice((path for path in sorted(root.iterdir()) if path.is_dir()), LOOKED_AT) if root.is_dir() else iter(())
