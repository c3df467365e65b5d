"""The documents of a corpus as JSON lines with the key `text`, whatever its files are. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tiny_transformers.common.contents import corpus_fingerprint, files_at, state
from tiny_transformers.common.files import whole_folder
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data.sources import numbered_lines, numbered_rows
from tiny_transformers.settings.corpora import END_OF_TEXT, Corpus, Documents

NAME = "documents.jsonl"


def json_lines(path: Path, corpus: Corpus, cache: Path) -> Path:
    """Return the file of JSON lines with what is at `path`, a file or a folder of them: itself, if it is one; else one
    in cache/documents, for each content one, which stays as the first that made it left it: others may be reading it.

    Raises TinyTransformersError naming the file and the line that is not as it should be."""
    if corpus.is_plain and path.is_file():
        return path
    folder = cache / "documents" / corpus_fingerprint(path, corpus, cache)[:16]
    if not folder.is_dir():
        before = [state(file) for file in files_at(path)]
        with whole_folder(folder) as draft, open(draft / NAME, "w", encoding="utf-8") as lines:
            for text in read(path, corpus):
                lines.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            if [state(file) for file in files_at(path)] != before:
                raise TinyTransformersError(f"{path}: changed while it was read. Start again.")
    return folder / NAME


def read(path: Path, corpus: Corpus) -> Iterator[str]:
    """The documents at `path`, without those that are empty."""
    for file in files_at(path):
        if corpus.format == "jsonl":
            texts: Iterable[str] = (row[corpus.field] for _, row in numbered_rows(file, texts=[corpus.field]))
        else:
            texts = parted(file, corpus.documents)
        yield from filter(None, map(str.strip, texts))


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
            f"{file}: line {number}: holds {END_OF_TEXT}, which would be learnt as text. Say documents: endoftext."
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
