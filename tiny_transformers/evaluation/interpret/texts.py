"""What is read to look inside a model: a fixed sample of validation texts, ten sentences, and beginnings to go on with.

A model of stories has sentences and beginnings that stand here; a model of characters has pieces of its validation
split, since not every letter is in its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoTokenizer

from tiny_transformers.common import contents
from tiny_transformers.common.work import Work
from tiny_transformers.data import characters, documents, sources
from tiny_transformers.settings import config
from tiny_transformers.settings.stage.interpret import Interpret

SENTENCES = (  # one of the words of each is in brackets: encoders fill it in
    "Once upon a [time], there was a little girl named Lily.",
    "Tom had a red ball. He liked to play with his [ball].",
    "The dog was very [happy] because he found a bone.",
    "Mom said, \"It is time to go to [bed].\"",
    "The bird could not fly, so the boy [helped] it.",
    "She opened the box and saw a big [cake] inside.",
    "They went to the park and played on the [swing].",
    "The little boat was sailing on the [water].",
    "It was cold outside, so Ben put on his [coat].",
    "The children shared their toys and became good [friends].",
)  # fmt: skip
BEGINNINGS = (
    "Once upon a time, there was a little girl named Lily. She",
    "Tom and his dog Max went to the park. They saw",
    "One day, a small bird fell from its nest. A boy",
    "Mom gave Anna a big red box. Anna opened the box and",
    "It was raining, and the cat was sad because",
)
PIECE = 24  # characters of a piece that stands for a sentence
BEGINNING = 100  # characters of one that is gone on with
AROUND = 12  # tokens before a place in a text that are shown with it; half as many after it; characters thrice as many


@dataclass(frozen=True)
class Sentence:
    before: str
    word: str
    after: str

    @property
    def text(self) -> str:
        return f"{self.before}{self.word}{self.after}"


def sentences() -> list[Sentence]:
    parts = [(text.partition("["), text.partition("]")[2]) for text in SENTENCES]
    return [Sentence(before, rest.partition("]")[0], after) for (before, _, rest), after in parts]


@dataclass(frozen=True)
class Texts:
    tokenizer: Any
    sample: list[list[int]]
    shown: list[list[int]]  # to be drawn
    beginnings: list[list[int]]
    are_characters: bool
    data: dict[str, str]  # file -> its SHA-256

    def name(self, token: int) -> str:
        text: str = self.tokenizer.decode([token])
        return text

    def context(self, text: int, position: int) -> tuple[str, str, str]:
        """What stands before, at and after a position of a text of the sample."""
        ids, around = self.sample[text], AROUND * (3 if self.are_characters else 1)
        before, after = ids[max(0, position - around) : position], ids[position + 1 : position + 1 + around // 2]
        return self.tokenizer.decode(before), self.name(ids[position]), self.tokenizer.decode(after)

    @property
    def special(self) -> set[int]:
        return set(self.tokenizer.all_special_ids)


def read(work: Work) -> Texts:
    """Raises TinyTransformersError for data that is not as it should be."""
    tokenizer = AutoTokenizer.from_pretrained(work.model_dir)
    if work.config.data.is_stream:
        return _of_stream(work, tokenizer)
    settings, corpus = work.config.evaluation.of(Interpret), work.config.data.files
    path = documents.json_lines(work.data_root / corpus.files[1], corpus, work.cache)
    texts = [row["text"] for row in sources.read_rows(path, texts=["text"])]
    kept = [text for text in sources.sample(texts, _rows(work)) if text.strip()]
    longest = min(settings.tokens, work.config.positions)
    causal = work.config.model.causal
    return Texts(
        tokenizer,
        tokenizer(kept, truncation=True, max_length=longest)["input_ids"],
        [_whole(tokenizer, sentence.text, causal) for sentence in sentences()],
        [_whole(tokenizer, text, causal) for text in BEGINNINGS] if causal else [],
        are_characters=False,
        data={corpus.files[1]: contents.fingerprint(path)},
    )


def _of_stream(work: Work, tokenizer: Any) -> Texts:
    (file,), data = config.stream_files(work.config), work.config.data
    stream = characters.read_stream(work.data_root / file, data.units, work.cache)
    characters.fits(stream, work.config.model.vocab_size)
    tokens = work.config.evaluation.of(Interpret).tokens

    def pieces(count: int, length: int) -> list[list[int]]:
        last = max(1, len(stream.validation) - length)
        begins = sources.sample(range(last), count)
        return [stream.validation[begin : begin + length].tolist() for begin in begins]

    return Texts(
        tokenizer,
        pieces(_rows(work), tokens),
        pieces(len(SENTENCES), PIECE),
        pieces(len(BEGINNINGS), BEGINNING),
        are_characters=True,
        data={file: stream.fingerprint},
    )


def _rows(work: Work) -> int:
    evaluation = work.config.evaluation
    return min(evaluation.of(Interpret).stories, evaluation.limit or 2**31)


def _whole(tokenizer: Any, text: str, causal: bool) -> list[int]:
    """As a story is read; of a decoder without the end, which nothing follows."""
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids[:-1] if causal else ids


def around_blank(tokenizer: Any, sentence: Sentence) -> tuple[list[int], int]:
    """The sentence with one <mask> in place of its word, and where that is."""
    parts: Sequence[list[int]] = [
        tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        for text in (sentence.before.rstrip(), sentence.after)
    ]
    ids = [tokenizer.cls_token_id, *parts[0], tokenizer.mask_token_id, *parts[1], tokenizer.sep_token_id]
    return ids, 1 + len(parts[0])
