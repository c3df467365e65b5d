"""Fixtures of the evaluation tests: untrained models of width 32 over a tokenizer whose tokens are bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tiny_transformers.common.work import Work
from tiny_transformers.models.auto import build
from tiny_transformers.settings.architecture import GPTNeo, Llama, Model, Roberta
from tiny_transformers.settings.config import RunConfig

SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
VOCAB_SIZE = 4 + 256 + 1  # the specials, the bytes, <mask>
DECODER = GPTNeo(
    hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, vocab_size=VOCAB_SIZE, max_position_embeddings=64
)
ENCODER = Roberta(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    vocab_size=VOCAB_SIZE,
    max_position_embeddings=65,
)
LLAMA = Llama(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    vocab_size=VOCAB_SIZE,
    max_position_embeddings=64,
)
FAMILIES = {"decoder": DECODER, "encoder": ENCODER}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte; `<s> A </s>` and `<s> A </s></s> B </s>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = SPECIAL | {letter: 4 + index for index, letter in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in (*SPECIAL, "<mask>")])
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
    )


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Model:
    return (FAMILIES | {"llama": LLAMA})[request.param]  # the last where a test names it


@pytest.fixture
def make_work(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Work]:
    """A run folder with a saved model, and an empty data root beside it."""

    def make(model: PreTrainedModel | Model, **evaluation: Any) -> Work:
        built = model if isinstance(model, PreTrainedModel) else build(model, seed=1)
        settings = ENCODER if "roberta" in built.config.model_type else DECODER
        run_config = RunConfig.model_validate(
            {
                "model": settings,
                "data": {"source": "builtin", "max_length": 64},
                "evaluation": {"superglue": {"max_length": 64}} | evaluation,
            }
        )
        work = Work(config=run_config, data_root=tmp_path / "data", cache=tmp_path / "cache", run_dir=tmp_path / "run")
        built.save_pretrained(work.model_dir)
        tokenizer.save_pretrained(work.model_dir)
        return work

    return make


@pytest.fixture
def write_rows() -> Callable[[Path, list[dict[str, Any]]], None]:
    def write(path: Path, rows: list[dict[str, Any]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write
