"""Ask a run's model how likely texts are: of a decoder and an encoder alike, as far along as the stage tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiny_transformers.common.work import Interrupted, Work
from tiny_transformers.evaluation import scoring


def special(tokenizer: Any, family: str, start_token: Literal["bos", "eos"]) -> tuple[list[int], list[int]]:
    """Return the special tokens that stand before and after a text: `<s>` and `</s>` of an encoder, a decoder's start
    token and nothing."""
    if family == "roberta":
        return [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    return [tokenizer.bos_token_id if start_token == "bos" else tokenizer.eos_token_id], []


def log_likelihoods(
    work: Work,
    model: Any,
    tokenizer: Any,
    sequences: scoring.Sequences,
    *,
    scored: Sequence[int] | None = None,
    words: scoring.Words | None = None,
    what: str = "sentences",
    precision: scoring.Precision | None = None,
    share: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.float64]:
    """Log-likelihoods, or an encoder's pseudo-log-likelihoods, of which `words` decide what else is masked. (N,)

    `precision`: None: as set. `share`: how far the stage is before, and after. Raises Interrupted where the
    stage is to stop."""

    def on_batch(done: float) -> None:
        if work.should_stop():
            raise Interrupted
        work.progress(share[0] + (share[1] - share[0]) * done, f"{done:.0%} of {len(sequences):,} {what}")

    options: dict[str, Any] = {
        "scored": scored, "precision": precision or work.config.evaluation.precision, "on_batch": on_batch,
    }  # fmt: skip
    if work.config.model.family != "roberta":
        return scoring.decoder_log_likelihoods(model, sequences, **options)
    return scoring.pseudo_log_likelihoods(model, sequences, tokenizer.mask_token_id, words=words, **options)
