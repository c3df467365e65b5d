"""The stage add_tokenizer: the trained model gets its tokenizer. It computes nothing."""

from __future__ import annotations

from tiny_transformers.settings.config import RunConfig, stream_files, tokenizer_file
from tiny_transformers.settings.stage.kind import StageKind


def files(config: RunConfig) -> list[str]:
    data = config.data
    if isinstance(data.tokenizer, str):
        return stream_files(config) or [tokenizer_file(data), data.files.files[1]]
    return data.files.files  # it is trained on


ADD_TOKENIZER = StageKind(
    "add_tokenizer", "tiny_transformers.data.tokenizer", needs=("pretrain",), by_default=True, files=files
)
