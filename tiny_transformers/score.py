"""Score a saved language model, of ours or another of Hugging Face's: `tiny-transformers score FOLDER`.

The stages are those of a run: BLiMP and LAMBADA by the likelihoods of a decoder, by an encoder's pseudo-likelihoods.
Whatever cannot be scored so is refused in a sentence. Nothing is recorded: a ledger has results of its own runs."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tiny_transformers.common.work import CheckFailed, Outcome, TinyTransformersError, Work
from tiny_transformers.data.sources import resolve_root
from tiny_transformers.evaluation import scoring
from tiny_transformers.models import auto
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES

SCORED = ("blimp", "lambada")  # stages that need no more than likelihoods
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
LONGEST = 512  # tokens of a text, where a model sees more


def score(folder: Path, data_root: Path, stages: Sequence[str], limit: int | None = None) -> dict[str, Outcome]:
    """Return what each of these stages finds of the model in a folder. Raises TinyTransformersError, CheckFailed."""
    config = settings_of(folder, limit)
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "run").mkdir()
        (place / "run" / "model").symlink_to(folder.resolve(), target_is_directory=True)
        root = resolve_root(config, data_root, place / "cache", stages)
        work = Work(config, root, place / "cache", place / "run")
        return {stage: importlib.import_module(STAGES[stage].runner).run(work) for stage in stages}


def settings_of(folder: Path, limit: int | None) -> RunConfig:
    """Return the settings that the stages go by: whether the model is an encoder, and how many tokens it sees. The rest
    of them is not the model's."""
    model: Any = auto.load_lm(folder)
    encoder, seen = auto.is_encoder(model.config, folder), min(LONGEST, scoring.positions_of(model))
    start = _start_token(folder, encoder, model.config.vocab_size)
    family = "roberta" if encoder else "gpt_neo"
    return RunConfig.model_validate(
        {
            "model": {"family": family, "max_position_embeddings": seen + encoder},
            "data": {"max_length": seen},
            "evaluation": {
                "limit": limit,
                "blimp": {"start_token": start},
                "lambada": {"start_token": start},
                "superglue": {"max_length": seen},
            },
        }
    )


def _start_token(folder: Path, encoder: bool, vocab_size: int) -> str:
    """Return which token of the folder's tokenizer stands before a text."""
    if not any((folder / name).is_file() for name in TOKENIZERS):  # AutoTokenizer would make an empty one
        raise TinyTransformersError(f"{folder}: holds no tokenizer. Save it beside the model.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, TypeError, KeyError, ImportError) as error:
        why = str(error).partition("\n")[0]
        raise TinyTransformersError(f"{folder}: its tokenizer cannot be loaded ({why}).") from None
    if not tokenizer.is_fast:
        raise TinyTransformersError(f"{folder}: its tokenizer has no tokenizer.json, which tells the words of tokens.")
    if len(tokenizer) > vocab_size:
        raise TinyTransformersError(
            f"{folder}: its tokenizer has {len(tokenizer)} tokens, its model {vocab_size}: they do not belong together."
        )
    needed = ("cls_token", "sep_token", "mask_token") if encoder else ()
    lacking = [name for name in needed if getattr(tokenizer, f"{name}_id") is None]
    if not encoder and tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        lacking = ["bos_token"]
    if lacking:
        raise TinyTransformersError(f"{folder}: its tokenizer has no {', '.join(lacking)}, which every text needs.")
    return "eos" if not encoder and tokenizer.bos_token_id is None else "bos"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tiny-transformers score", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a model and its tokenizer, as save_pretrained")
    parser.add_argument("--stages", default=",".join(SCORED), metavar="STAGE,STAGE", help=f"of {', '.join(SCORED)}")
    parser.add_argument(
        "--data-root", type=Path, default=os.environ.get("TINY_TRANSFORMERS_DATA"), help="in the layout of docs/data.md"
    )
    parser.add_argument("--limit", type=int, help="rows of each file, evenly spaced")
    parser.add_argument("--to", type=Path, metavar="FILE.json", help="also write all scores there")
    asked = parser.parse_args(arguments)
    if asked.data_root is None:
        parser.error("--data-root DIR, or TINY_TRANSFORMERS_DATA, says where the data is")
    stages = [name for name in asked.stages.split(",") if name]
    if unknown := [name for name in stages if name not in SCORED]:
        parser.error(f"--stages {', '.join(unknown)}: a saved model can be scored on {', '.join(SCORED)}")
    try:
        found = score(asked.folder, asked.data_root, stages, asked.limit)
    except (TinyTransformersError, CheckFailed) as error:
        sys.exit(str(error))
    if asked.to:
        asked.to.write_text(json.dumps(_told(found), indent=1))


def _told(found: Mapping[str, Outcome]) -> dict[str, Any]:
    return {
        stage: {
            "scores": [vars(score) for score in outcome.scores],
            "metrics": outcome.metrics,
            "data": outcome.data,
        }
        for stage, outcome in found.items()
    }


if __name__ == "__main__":
    main()
