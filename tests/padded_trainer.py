"""Pretraining as the studies did it: Hugging Face's Trainer, float32, every story padded to the same length.

For the benchmark of training, and for the test that ours is the same optimization. The weights and feed-forward modules
are ours, attention in GPT-Neo and in Llama Hugging Face's own. Stories come in our order. Needs accelerate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, default_data_collator
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoAttention, GPTNeoSelfAttention
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaModel, LlamaRotaryEmbedding

from tiny_transformers.data import batches
from tiny_transformers.data.batches import NO_LABEL, Ids
from tiny_transformers.data.stories import Stories
from tiny_transformers.models import auto
from tiny_transformers.models.auto import BOS, PAD
from tiny_transformers.settings.architecture import GPTNeo, Llama, Roberta
from tiny_transformers.settings.config import TRAIN_STORIES
from tiny_transformers.training.pretrain import Training

FLOAT32 = {"precision": "float32"}  # settings of `Train`


class InOrder(Trainer):
    """Takes the rows as they come, and notes the loss of every step, unrounded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parts: list[torch.Tensor] = []  # of every micro-batch, its share of the step's loss

    def _get_train_sampler(self, *args: Any) -> Any:  # noqa: ARG002
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.parts.append(super().training_step(*args, **kwargs))
        return self.parts[-1]

    def losses(self) -> list[float]:
        return torch.stack(self.parts).view(-1, self.args.gradient_accumulation_steps).sum(1).tolist()


def trainer(model: Any, rows: Any, folder: Path, *, micro_batches: int, **options: Any) -> InOrder:
    """With the studies' settings, else Trainer's defaults; `options` go to Trainer, of them `arguments` to its own."""
    arguments = {"per_device_train_batch_size": 16, "learning_rate": 5e-4} | options.pop("arguments", {})
    told = TrainingArguments(
        str(folder), gradient_accumulation_steps=micro_batches, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True, use_cpu=not torch.cuda.is_available(), **arguments,
    )  # fmt: skip
    return InOrder(model, told, train_dataset=rows, **options)


def build(model: GPTNeo | Roberta | Llama, seed: int) -> Any:
    """Our model, with Hugging Face's own attention in a decoder, whatever ours is computed by."""
    built: Any = auto.build(model, seed)
    for module in built.modules():
        if isinstance(module, GPTNeoAttention):
            stock = GPTNeoSelfAttention(built.config, module.attention_type, module.layer_id)
            stock.load_state_dict(module.attention.state_dict())
            module.attention = stock
        elif isinstance(module, LlamaDecoderLayer):
            theirs = LlamaAttention(built.config, module.self_attn.layer_idx)
            theirs.load_state_dict(module.self_attn.state_dict())
            module.self_attn = theirs
        elif isinstance(module, LlamaModel):
            module.rotary_emb = LlamaRotaryEmbedding(built.config)  # as its attention wants it
    if isinstance(model, (GPTNeo, Llama)):
        built.set_attn_implementation("eager")
    return built


def row(ids: Ids, length: int) -> dict[str, list[int]]:
    """As the studies stored a story: padded before training."""
    padding = length - len(ids)
    return {"input_ids": [*ids.tolist(), *[PAD] * padding], "attention_mask": [1] * len(ids) + [0] * padding}


class PaddedStories(Dataset):
    """The stories of so many steps, in the order in which our training draws them."""

    def __init__(self, stories: Stories, length: int, stories_per_step: int, steps: int, seed: int) -> None:
        self.stories, self.length = stories, length
        self.drawn = [i for step in range(steps) for i in batches.drawn(len(stories), stories_per_step, seed, step)]

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return row(self.stories[self.drawn[index]], self.length)


def losses(training: Training, folder: Path, *, length: int, micro_batches: int) -> list[float]:
    """Trainer's at every step of `training`, which is left as it is: the same stories, masks and initial weights."""
    settings = training.settings
    job = trainer(
        build(training.config.model, training.config.seed),
        list(_labelled_rows(training, length)),
        folder,
        micro_batches=micro_batches,
        data_collator=default_data_collator,
        # RoBERTa's own is the mean over a micro-batch, whatever is in the others.
        compute_loss_func=None if training.config.model.causal else _masked_loss,
        arguments={
            "per_device_train_batch_size": settings.stories_per_step // micro_batches,
            "learning_rate": settings.learning_rate,
            "weight_decay": settings.weight_decay,
            "warmup_steps": settings.warmup_steps,
            "max_steps": settings.max_steps,
        },
    )
    job.train()
    return job.losses()


def _labelled_rows(training: Training, length: int) -> Iterator[dict[str, list[int]]]:
    settings, seed = training.settings, training.config.seed
    for step in range(settings.max_steps):
        drawn = batches.drawn(len(training.corpus.stories), settings.stories_per_step, seed, step)
        stories = [training.corpus.stories[i] for i in drawn]
        if training.config.model.causal:  # Hugging Face shifts the labels
            pairs: list[tuple[Ids, Ids]] = [(story, story) for story in stories]
        else:
            examples = training.corpus.examples(stories, batches.rng(seed, "mask", step), TRAIN_STORIES)
            pairs = [(example.inputs, example.targets) for example in examples]
            nothing = np.array([BOS]), np.array([NO_LABEL])  # in place of a story without a label
            pairs += [nothing] * (settings.stories_per_step - len(pairs))
        for inputs, targets in pairs:
            labels = [*targets.tolist(), *[NO_LABEL] * (length - len(targets))]
            yield {**row(inputs, length), "labels": labels}


def _masked_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
    logits = outputs.logits.flatten(0, 1)  # (B, T, V) -> (B * T, V)
    return F.cross_entropy(logits, labels.flatten(), reduction="sum") / num_items_in_batch


def relative_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest of any step."""
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
