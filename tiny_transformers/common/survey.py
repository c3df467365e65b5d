"""Look through a corpus before anything is submitted: it is read as a job will read it, and its documents are counted.

What was found is kept in cache/surveys, by the content of the corpus. Of a large one the beginning is read, which shows
what is wrong everywhere, such as another encoding or another field. No torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tiny_transformers.common import progress
from tiny_transformers.common.contents import corpus_fingerprint, files_at, state
from tiny_transformers.common.files import whole_file
from tiny_transformers.common.texts import every
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.settings.corpora import Corpus

FORMAT = 1  # raised when the same corpus would be counted otherwise
MOST = 64 << 20  # characters that are read: two or three seconds' work
LONGEST = 8_192  # words: documents that have more are counted with those that have so many
ENDS = 2  # <s> and </s>
SPECIAL = re.compile("<(?:pad|s|/s|unk|mask)>")


@dataclass(frozen=True)
class Survey:
    """The documents of a corpus, or of its beginning."""

    words: Mapping[int, int]  # of a document, at most LONGEST -> how many documents have so many
    all_words: int
    empty: int  # JSON lines without text
    special: Mapping[str, int]  # a token that a tokenizer takes for its own -> in how many texts it stands
    whole: bool  # it was read to its end

    @property
    def documents(self) -> int:
        """Those with text."""
        return sum(self.words.values())

    def longer(self, max_length: int) -> int:
        """Count the documents with more words than so many tokens have room for. A token is a part of a word, so at
        least these are cut."""
        return sum(number for words, number in self.words.items() if words > max_length - ENDS)

    def beyond(self, max_length: int) -> float:
        """Return the share of the words that lie behind so many."""
        read = sum(number * min(words, max_length - ENDS) for words, number in self.words.items())
        return 1 - read / self.all_words


def survey(path: Path, corpus: Corpus, cache: Path | None) -> Survey:
    """Return what is at `path`, a file or a folder of them. `cache`: where to keep it; None: nowhere.

    Raises TinyTransformersError where a job that reads it would."""
    if cache is None:
        return _survey(path, corpus)
    record = cache / "surveys" / f"{corpus_fingerprint(path, corpus, cache)[:16]}-{FORMAT}.json"
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # gone or spoilt: counted again
        known = json.loads(record.read_text(encoding="utf-8"))
        return Survey(**{**known, "words": {int(words): number for words, number in known["words"].items()}})
    before = [state(file) for file in files_at(path)]
    found = _survey(path, corpus)
    if [state(file) for file in files_at(path)] == before:
        with suppress(OSError), whole_file(record) as draft:  # a cache that may not be written is none
            draft.write_text(json.dumps(asdict(found)), encoding="utf-8")
    return found


def _survey(path: Path, corpus: Corpus) -> Survey:
    words: Counter[int] = Counter()
    special: Counter[str] = Counter()
    all_words = empty = read = 0
    with progress.shown(f"looking through {path.name}", lambda: f"{read >> 20:,} MB"):
        for text in every(path, corpus):
            number = len(text.split())
            if text:
                words[min(number, LONGEST)] += 1
            elif corpus.format == "jsonl":  # in text it is a part between two blank lines
                empty += 1
            all_words += number
            special.update(set(SPECIAL.findall(text)))
            read += len(text)
            if read >= MOST:
                break
    if not words:
        raise TinyTransformersError(f"{path}: holds no document with text. Put it right, or bring it again.")
    return Survey(dict(words), all_words, empty, dict(special), whole=read < MOST)
