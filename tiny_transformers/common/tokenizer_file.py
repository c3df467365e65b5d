"""Say before anything is submitted why no model could read by a tokenizer.json. No torch, and no library of tokenizers:
the file says which ids it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IDS: Mapping[str, int | None] = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "<mask>": None}  # None: any


def objection(path: Path, vocab_size: int) -> str:
    """Say why a model of so many tokens cannot read by this tokenizer; empty: it can."""
    try:
        ids = _ids(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, LookupError, TypeError):
        return f"{path}: is no tokenizer.json of Hugging Face's tokenizers. Bring it again."
    for token, wanted in IDS.items():
        if token not in ids:
            return f"{path}: lacks {token}. Add it: models are trained with it (docs/data.md)."
        if wanted not in (None, ids[token]):
            return f"{path}: {token} is {ids[token]}; models need it to be {wanted}."
    if (largest := max(ids.values())) >= vocab_size:
        return f"{path}: has ids up to {largest}, the model only {vocab_size}. Set model.vocab_size to {largest + 1}."
    return ""


def _ids(told: dict[str, Any]) -> dict[str, int]:
    """Token -> id. Of a Unigram's vocabulary, a list, the place is the id."""
    known = told["model"]["vocab"]
    ids = dict(known) if isinstance(known, dict) else {token: index for index, (token, *_) in enumerate(known)}
    return {token: int(number) for token, number in ids.items()} | {
        each["content"]: int(each["id"]) for each in told.get("added_tokens", [])
    }
