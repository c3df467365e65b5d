"""The stage add_tokenizer: the data's byte-level BPE, saved beside the model so that AutoTokenizer gives what
evaluation needs: `<s> text </s>`, pairs as `<s> A </s></s> B </s>`, every special token by its attribute."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tiny_transformers import data
from tiny_transformers.config import VALIDATION_STORIES, RunConfig
from tiny_transformers.work import Check, Outcome, TinyTransformersError, Work

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
IDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}  # the first three as the models' configurations have them
COMPARED = 50  # stories that must come out of the reloaded tokenizer as they do of the file


def run(work: Work) -> Outcome:
    """Save the tokenizer into `work.model_dir`, and check that what AutoTokenizer loads there is the same."""
    if not (work.model_dir / "config.json").is_file():
        raise TinyTransformersError(f"{work.model_dir}: holds no model to add a tokenizer to. Pretrain it first.")
    tokenizer = load_tokenizer(work.root, work.config)
    _save(tokenizer, work.model_dir)
    file = _file(work.config)
    texts = [row["text"] for row in data.sample(data.read_rows(work.root / VALIDATION_STORIES, ["text"]), COMPARED)]
    same = compare(AutoTokenizer.from_pretrained(work.model_dir), tokenizer, texts)
    return Outcome(
        checks=[
            Check("tokenizer_reload", same == len(texts), f"{same} of {len(texts)} stories are the same"),
            check_ids(work.model_dir),
        ],
        metrics={"vocabulary": len(tokenizer)},
        data={file: data.fingerprint(work.root / file)},
    )


def load_tokenizer(root: Path, config: RunConfig) -> PreTrainedTokenizerFast:
    """DATA_ROOT/tokenizer/<name>/tokenizer.json with its special tokens named.

    Raises TinyTransformersError if the model has no room for it, or a special token is lacking or has another id than
    models expect."""
    path = root / _file(config)
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


def _file(config: RunConfig) -> str:
    return f"tokenizer/{config.data.tokenizer}/tokenizer.json"


def _save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Each file whole or not at all: written beside the model folder, then renamed into it."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tokenizer.") as draft:
        for name in tokenizer.save_pretrained(draft):
            source = Path(name)
            if source.is_file():
                os.replace(source, folder / source.name)
