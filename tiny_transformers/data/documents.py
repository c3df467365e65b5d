"""The documents of a corpus as JSON lines with the key `text`, whatever its files are. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_transformers.common.contents import corpus_fingerprint, files_at, state
from tiny_transformers.common.files import whole_folder
from tiny_transformers.common.texts import read
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.corpora import Corpus

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
