"""The stage add_tokenizer: what AutoTokenizer then gives from the model's folder.

Of stories the data's byte-level BPE as evaluation needs it: `<s> text </s>`, pairs as `<s> A </s></s> B </s>`, every
special token by its attribute. Of a stream its units, one id each and nothing added."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tiny_transformers.common import contents
from tiny_transformers.common.work import Check, Outcome, TinyTransformersError, Work
from tiny_transformers.data import characters, documents, sources, vocabularies
from tiny_transformers.data.characters import Stream, Units
from tiny_transformers.settings.config import RunConfig, stream_files, tokenizer_name

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
IDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}  # the first three as the models' configurations have them
COMPARED = 50  # stories, or parts of a stream, that must come out of the reloaded tokenizer as they do of the file

PART = 200  # units of such a part


def run(work: Work) -> Outcome:
    """Save the tokenizer into `work.model_dir`, and check that what AutoTokenizer loads there is the same."""
    if not (work.model_dir / "config.json").is_file():
        raise TinyTransformersError(f"{work.model_dir}: holds no model to add a tokenizer to. Pretrain it first.")
    return _run_stream(work) if work.config.data.is_stream else _run_stories(work)


def _run_stories(work: Work) -> Outcome:
    path = vocabularies.find(work.config.data, work.data_root, work.cache, work.should_stop)
    tokenizer = load_tokenizer(path, work.config)
    _save(tokenizer, work.model_dir)
    corpus = work.config.data.files
    validation = documents.json_lines(work.data_root / corpus.files[1], corpus, work.cache)
    texts = [row["text"] for row in sources.sample(sources.read_rows(validation, texts=["text"]), COMPARED)]
    same = compare(AutoTokenizer.from_pretrained(work.model_dir), tokenizer, texts)
    return Outcome(
        checks=[
            Check("tokenizer_reload", same == len(texts), f"{same} of {len(texts)} stories are the same"),
            check_ids(work.model_dir),
        ],
        metrics={"vocabulary": len(tokenizer)},
        data={tokenizer_name(work.config.data): contents.fingerprint(path)},
    )


def _run_stream(work: Work) -> Outcome:
    (file,), units = stream_files(work.config), work.config.data.units
    stream = characters.read_stream(work.data_root / file, units, work.cache)
    characters.fits(stream, work.config.model.vocab_size)
    _save(of_units(stream.vocabulary, units), work.model_dir)
    reloaded = AutoTokenizer.from_pretrained(work.model_dir)
    begins = sources.sample(range(len(stream.validation)), COMPARED)
    parts = [_text(stream, units, stream.validation[begin : begin + PART]) for begin in begins]
    same = sum(reloaded(text)["input_ids"] == ids and reloaded.decode(ids) == text for text, ids in parts)
    return Outcome(
        checks=[Check("tokenizer_reload", same == len(parts), f"{same} of {len(parts)} parts are the same")],
        metrics={"vocabulary": len(stream.vocabulary)},
        data={file: stream.fingerprint},
    )


def of_units(vocabulary: list[int], units: Units) -> PreTrainedTokenizerFast:
    """The ids of a stream, for any text of its bytes or characters. There is no token for another one: a text that has
    one raises an error that names `<unk>`; left out in silence it would be another text."""
    as_text = _byte_level() if units == "bytes" else {unit: chr(unit) for unit in vocabulary}
    ids = {as_text[unit]: index for index, unit in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(ids, merges=[], unk_token="<unk>"))
    if units == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids"], clean_up_tokenization_spaces=False
    )


def load_tokenizer(path: Path, config: RunConfig) -> PreTrainedTokenizerFast:
    """A tokenizer.json with its special tokens named.

    Raises TinyTransformersError if the model has no room for it, or a special token is lacking or has another id than
    models expect."""
    vocabulary = _vocabulary(path)
    for token in SPECIAL.values():
        found = vocabulary.get(token)  # looked up before transformers, which would add what is lacking
        if found is None:
            raise TinyTransformersError(f"{path}: lacks {token}. Bring it again with `tiny-transformers fetch`.")
        if found != IDS.get(token, found):
            raise TinyTransformersError(f"{path}: {token} is {found}; models need it to be {IDS[token]}.")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(path),
        model_max_length=config.data.max_length,
        padding_side="right",
        cls_token="<s>",
        sep_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
        **SPECIAL | {"mask_token": AddedToken("<mask>", lstrip=True, normalized=False, special=True)},
    )
    if max(vocabulary.values()) >= config.model.vocab_size:
        raise TinyTransformersError(
            f"{path}: has ids up to {max(vocabulary.values())}, the model has room for {config.model.vocab_size}. "
            f"Set model.vocab_size to {max(vocabulary.values()) + 1}."
        )
    return tokenizer


def compare(reloaded: Any, original: Any, texts: list[str]) -> int:
    """How many of these texts, alone and paired with the first, both tokenizers encode alike and decode alike."""
    same = 0
    for text in texts:
        ids, pair = original(text)["input_ids"], original(text, texts[0])["input_ids"]
        alike = reloaded(text)["input_ids"] == ids and reloaded(text, texts[0])["input_ids"] == pair
        same += alike and reloaded.decode(ids, skip_special_tokens=True) == original.decode(
            ids, skip_special_tokens=True
        )
    return same


def _byte_level() -> dict[int, str]:
    """Byte -> the character that `tokenizers` writes for it: its own if that can be seen, else one from U+0100 on
    (GPT-2's bytes_to_unicode)."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unseen = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(0x100 + index) for index, byte in enumerate(unseen)}


def _text(stream: Stream, units: Units, ids: NDArray[Any]) -> tuple[str, list[int]]:
    """The text of these ids, and those of them that make it up: of bytes, without what is left of a character that was
    cut through at the beginning or the end."""
    found = [stream.vocabulary[index] for index in ids]
    if units == "characters":
        return "".join(map(chr, found)), ids.tolist()
    begin = next((place for place, byte in enumerate(found) if byte & 0xC0 != 0x80), 0)
    text = bytes(found[begin:]).decode("utf-8", errors="ignore")
    return text, ids[begin : begin + len(text.encode())].tolist()


def check_ids(folder: Path) -> Check:
    """Does the model's configuration name the tokenizer's special tokens?

    A wrong id is not put right: RoBERTa, for one, has counted its positions from the padding id in training."""
    wrong = []
    for name in ("config.json", "generation_config.json"):  # encoders have no second one
        path = folder / name
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for kind in ("pad_token", "bos_token", "eos_token"):
            if path.is_file() and settings.get(f"{kind}_id") != IDS[SPECIAL[kind]]:
                wrong.append(f"{name}: {kind}_id is {settings.get(f'{kind}_id')}")
    return Check("special_token_ids", not wrong, "; ".join(wrong) or "as the tokenizer's")


def _vocabulary(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise TinyTransformersError(f"{path}: is missing. Put it there, or run `tiny-transformers fetch`.")
    try:
        return Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # noqa: BLE001 - the library has no exception of its own
        raise TinyTransformersError(f"{path}: is no tokenizer: {error}. Bring it again.") from None


def _save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Each file whole or not at all: written beside the model folder, then renamed into it."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tokenizer.") as draft:
        for name in tokenizer.save_pretrained(draft):
            source = Path(name)
            if source.is_file():
                os.replace(source, folder / source.name)
