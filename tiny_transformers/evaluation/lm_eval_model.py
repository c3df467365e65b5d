"""The model class `tiny-transformers` of lm-eval: its likelihood tasks on our engine, decoders and encoders.

What is asked of a decoder is what lm-eval's own class for Hugging Face's models (HFLM, `--model hf`) asks: the same
split into context and continuation, the same truncation from the left, the same windows over a long text. An encoder
gives the pseudo-log-likelihood of the continuation: only its tokens are masked, the context is always seen whole.
Importing this registers the class; `python -m tiny_transformers.lm_eval` does that for lm-eval's command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm
from transformers import AutoTokenizer

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.evaluation import scoring
from tiny_transformers.models import auto
from tiny_transformers.training.device import pick_device

Request = tuple[Any, list[int], list[int]]  # what lm-eval calls it, context, continuation


@register_model("tiny-transformers")
class TinyTransformersLM(TemplateLM):
    """`--model tiny-transformers --model_args pretrained=DIR,...`

    `start_token`, of decoders: what stands before every text, or, with `none`, before a text without context only
    (`<s>`), as `--model hf` with `add_bos_token=False` has it. `pll`, of encoders: see `stage.blimp.Blimp`.
    `batch_size` is of no consequence: the engine fills its batches by tokens."""

    def __init__(
        self,
        pretrained: str,
        start_token: Literal["bos", "eos", "none"] = "bos",
        precision: scoring.Precision = "float32",
        pll: Literal["original", "word_l2r"] = "original",
        device: str | None = None,
        batch_size: int | str = 1,  # noqa: ARG002
        max_batch_size: int | None = None,  # noqa: ARG002
    ) -> None:
        super().__init__()
        _check("start_token", start_token, ("bos", "eos", "none"))
        _check("precision", precision, ("float32", "bfloat16"))
        _check("pll", pll, ("original", "word_l2r"))
        self.start_token, self.precision, self.pll = start_token, precision, pll
        self.on_batch: scoring.OnBatch | None = None  # is told how far the requests are; None: lm-eval's bar shows it
        model: Any = auto.load_lm(Path(pretrained))
        self.tokenizer: Any = AutoTokenizer.from_pretrained(pretrained)
        self._device = _device(device)
        self.model = model.to(self._device)
        self.is_encoder = auto.is_encoder(self.model.config, Path(pretrained))

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The id of the token that stands before a text without context."""
        eos = self.start_token == "eos" and not self.is_encoder
        return self.tokenizer.eos_token_id if eos else self.tokenizer.bos_token_id

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    @property
    def max_length(self) -> int:
        """Tokens that are scored at once, at most; their context of one token and an encoder's `</s>` come besides."""
        return scoring.positions_of(self.model) - (2 if self.is_encoder else 1)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The text's tokens, after the start token unless `add_special_tokens` is False or the text begins with it."""
        ids = self.tokenizer.encode(string, add_special_tokens=False)
        starts = add_special_tokens is not False and (self.is_encoder or self.start_token != "none")
        there = add_special_tokens is None and ids[:1] == [self.prefix_token_id]
        return [self.prefix_token_id, *ids] if starts and not there else ids

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """log p(text) of each request, in windows that each have as much context as fits.

        The start token is context only: lm-eval's own class scores `<s>` after `<s>` if `add_bos_token` is set."""
        if self.is_encoder and self.pll == "word_l2r":
            raise TinyTransformersError(
                f"{requests[0].task_name}: a text is scored in windows, which cut words. Take pll=original."
            )
        windows: list[Request] = []
        ends = []
        for request in requests:
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            rolling = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
            windows += [(None, *make_disjoint_window(window)) for window in rolling]
            ends.append(len(windows))
        values = [value for value, _ in self._loglikelihood_tokens(windows)]
        totals = [sum(values[start:end], 0.0) for start, end in zip([0, *ends], ends, strict=False)]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        raise TinyTransformersError(
            f"{requests[0].task_name}: generates text, and --model tiny-transformers only scores it. Take a likelihood "
            "task or, for a decoder, --model hf with trust_remote_code=True."
        )

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = False,
        **kwargs: Any,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        """Return log p(continuation | context) of each request, and whether each token is the likeliest one."""
        sequences: list[list[int]] = []
        scored = []
        for text, context, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                raise TinyTransformersError(
                    f"{text}: the continuation has {len(continuation)} tokens; this model scores 1 to "
                    f"{self.max_length} at once."
                )
            start = context or [self.prefix_token_id]  # a context of spaces has become a part of the continuation
            sequence = (start + continuation)[-self.max_length - 1 :]
            sequences.append([*sequence, self.tokenizer.sep_token_id] if self.is_encoder else sequence)
            scored.append(len(sequence) - len(continuation))
        options: dict[str, Any] = {"scored": scored, "precision": self.precision}
        if self.is_encoder and self.pll == "word_l2r":
            options["words"] = [
                self._words("".join(text), len(sequence))
                for (text, _, _), sequence in zip(requests, sequences, strict=True)
            ]
        with tqdm(total=100, desc="Scoring", unit="%", disable=disable_tqdm or self.on_batch is not None) as bar:
            options["on_batch"] = self.on_batch or (lambda done: bar.update(int(100 * done) - bar.n))
            if self.is_encoder:
                scores = scoring.score_encoder(self.model, sequences, self.tokenizer.mask_token_id, **options)
            else:
                scores = scoring.score_decoder(self.model, sequences, **options)
        answers = list(zip(scores.log_likelihoods.tolist(), scores.greedy.tolist(), strict=True))
        for (text, _, _), answer in zip(requests, answers, strict=True):
            if text is not None:  # a window is none of lm-eval's requests
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def _words(self, text: str, length: int) -> list[int | None]:
        """The number of each token's word in an encoder's sequence of `length` tokens, which ends in `text` `</s>`."""
        words = [None, *self.tokenizer(text, add_special_tokens=False).word_ids(), None]
        return words[-length:]


def _device(name: str | None) -> torch.device:
    """lm-eval's command line says cuda:0 if nothing is said, on a machine without a GPU, too."""
    if name is None or (name.startswith("cuda") and not torch.cuda.is_available()):
        return pick_device()
    return torch.device(name)


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise TinyTransformersError(f"--model_args {name}={value}: it is one of {', '.join(allowed)}.")
