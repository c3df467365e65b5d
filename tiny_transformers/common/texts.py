"""The documents of a corpus as text, whatever its files are: jobs read them so, and a submission looks through them. No
torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tiny_transformers.common.contents import files_at
from tiny_transformers.common.rows import numbered_lines, numbered_rows
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.corpora import END_OF_TEXT, Corpus, Documents


def read(path: Path, corpus: Corpus) -> Iterator[str]:
    """The documents at `path`, a file or a folder of them, without those that are empty.

    Raises TinyTransformersError naming the file and the line that is not as it should be."""
    return filter(None, every(path, corpus))


def every(path: Path, corpus: Corpus) -> Iterator[str]:
    """The same with those that are empty."""
    for file in files_at(path):
        if corpus.format == "jsonl":
            texts: Iterable[str] = (row[corpus.field] for _, row in numbered_rows(file, texts=[corpus.field]))
        else:
            texts = parted(file, corpus.documents)
        yield from map(str.strip, texts)


def parted(file: Path, documents: Documents) -> Iterator[str]:
    """The documents of a text file, by what parts them; some may be empty.

    Raises TinyTransformersError for a file with <|endoftext|> that another rule would make part of its texts."""
    if documents == "endoftext":
        return _between((line for _, line in numbered_lines(file)), lambda line: line.strip() == END_OF_TEXT)
    lines = (_without_end(line, file, number) for number, line in numbered_lines(file))
    if documents == "line":
        return lines
    return _between(lines, lambda line: documents == "blank_line" and not line.strip())


def _without_end(line: str, file: Path, number: int) -> str:
    if END_OF_TEXT in line:
        raise TinyTransformersError(
            f"{file}: line {number}: holds {END_OF_TEXT}, which would be learnt as text. "
            "Say documents: endoftext, if it parts them, or take it out."
        )
    return line


def _between(lines: Iterable[str], parts: Callable[[str], bool]) -> Iterator[str]:
    document: list[str] = []
    for line in lines:
        if not parts(line):
            document.append(line)
            continue
        yield "".join(document)
        document = []
    yield "".join(document)
