"""The corpora that are known: where their files are below DATA_ROOT, and how documents are read from them. A manifest
adds others under `corpora`. No torch here."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, PositiveFloat, model_validator

from tiny_transformers.settings.base import Settings

Documents = Literal["line", "blank_line", "endoftext", "file"]
NAME = re.compile(r"[A-Za-z0-9_]+")
END_OF_TEXT = "<|endoftext|>"


def _below(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise ValueError("name a file or folder below DATA_ROOT, such as corpora/mine/train.jsonl")
    return str(pure)


Below = Annotated[str, AfterValidator(_below)]


class Corpus(Settings):
    """Documents for training and for validation, or one stream of characters, which is cut into its splits."""

    train: Below | None = None  # a file, or a folder of them
    validation: Below | None = None
    stream: Below | None = None  # in place of both: a file that Brainformers read character by character
    format: Literal["jsonl", "text"] = "jsonl"  # of train and validation: JSON lines, or text as it is
    field: str = "text"  # jsonl: where a line has its text
    documents: Documents = "blank_line"  # text: what parts one document from the next
    document_tokens: PositiveFloat = 224.0  # of a document on average, for plans alone; TinyStories'

    @model_validator(mode="after")
    def _whole(self) -> Corpus:
        if self.stream and (self.train or self.validation):
            raise ValueError("a corpus is either a stream or train and validation: leave one out")
        if not self.stream and not (self.train and self.validation):
            raise ValueError("say where the documents are, with train and validation; or stream, for Brainformers")
        return self

    @property
    def files(self) -> list[str]:
        return [self.stream] if self.stream else [self.train or "", self.validation or ""]

    @property
    def is_plain(self) -> bool:
        """Whether its files are read as they are: JSON lines with the key `text`, or a stream."""
        return bool(self.stream) or (self.format == "jsonl" and self.field == "text")


# The layout of DATA_ROOT: docs/data.md.
CORPORA = {
    "tinystories": Corpus(train="tinystories/train.jsonl", validation="tinystories/validation.jsonl"),
    "babylm_10m": Corpus(train="corpora/babylm_10m/train.jsonl", validation="corpora/babylm_10m/validation.jsonl"),
    "babylm_100m": Corpus(train="corpora/babylm_100m/train.jsonl", validation="corpora/babylm_100m/validation.jsonl"),
    "enwik8": Corpus(stream="char/enwik8.xml"),
    "text8": Corpus(stream="char/text8.txt"),
}
STREAMS = {name: corpus.stream for name, corpus in CORPORA.items() if corpus.stream}
