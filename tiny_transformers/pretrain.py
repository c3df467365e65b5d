"""Pretraining: stories in, a checked model folder out.

A decoder learns to predict every token, an encoder those that are masked. A step's loss is the mean over the labels of
the whole step, however it is cut into micro-batches. A run that was interrupted, at any moment and any number of times,
ends in the same weights as one that was not: bit for bit on a CPU with the same number of threads.

As in the study: AdamW, linear decay to zero without warm-up, clipping by the norm, float32."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from tiny_transformers import architecture, batches, checkpoint, config, models
from tiny_transformers.batches import Batch, Example, Ids
from tiny_transformers.data import fingerprint, tokenize_stories
from tiny_transformers.device import peak_memory_mb, pick_device
from tiny_transformers.files import whole_folder
from tiny_transformers.variant import Variant
from tiny_transformers.work import Check, CheckFailed, Interrupted, Outcome, Score, TinyTransformersError, Work

CURVE_POINTS = 1_000  # about so many steps are written to curve.jsonl
PRINT_EVERY = 10  # seconds
INITIAL_LOSS = 0.5  # nats that the first loss may be off what untrained weights give, besides chance
DEVIATIONS = 5  # standard deviations that are called chance: one run in two million
RELOADED = 1e-6  # the largest difference of a logit after saving and loading, in units of the largest, or of 1
RELOAD_STORIES = 8
LOSS_FLOOR = 0.05  # nats; an encoder below was probably shown what it had to predict


@dataclass
class Counters:
    """What a training has done so far; saved with every checkpoint."""

    step: int = 0  # optimizer steps
    tokens: int = 0  # of the stories, without padding
    seconds: float = 0.0  # of training, without evaluations and checkpoints
    labels: int = 0
    eligible: int = 0  # tokens that could have been labels
    first_loss: float = math.nan
    first_labels: int = 0


def run(work: Work) -> Outcome:
    """Train `work.config.model`, or go on from its newest checkpoint, and save it in `work.model_dir`.

    Raises Interrupted, with a checkpoint saved, if `work.should_stop` says so; CheckFailed if the model is not what
    was planned; TinyTransformersError for data that does not fit it, and for a loss that is not finite."""
    training = Training(work)
    training.resume()
    try:
        training.train()
    except Interrupted:
        training.write_checkpoint()
        raise
    training.save()
    return training.outcome()


def token_losses(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The sum of the cross-entropies, in nats, of the batch's labels.

    The head, half of all multiplications in a small decoder, is applied only where there is a label."""
    hidden = model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)[0]
    logits = model.lm_head(hidden.flatten(0, 1)[batch.positions])  # (B, T, H) -> (B * T, H) -> (N, H) -> (N, V)
    return F.cross_entropy(logits, batch.labels, reduction="sum")


def evaluation_steps(max_steps: int, evaluations: int) -> list[int]:
    """Evenly spaced, the last step among them: (8280, 10) -> 828, 1656, ..., 8280."""
    return sorted({math.ceil(max_steps * (i + 1) / evaluations) for i in range(evaluations)})


class Training:
    """One run of `run`: everything it holds, and what is done with it."""

    def __init__(self, work: Work) -> None:
        self.work, self.config, self.settings = work, work.config, work.config.train
        self.causal = isinstance(self.config.model, architecture.GPTNeo)
        self.checkpoints = work.run_dir / "checkpoints"
        self.counters = Counters()
        self.checkpointed = 0  # the step of the newest checkpoint
        self.checks: dict[str, Check] = {}
        self.evaluation_steps = evaluation_steps(self.settings.max_steps, self.settings.evaluations)
        self._read_data()
        self.device = pick_device()
        self.model = _on(self.device, models.build(self.config.model, self.config.seed))
        self._check_parameters()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.settings.learning_rate,
            betas=self.settings.adam_betas,
            eps=self.settings.adam_epsilon,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.curve = Curve(work.run_dir / "curve.jsonl", every=math.ceil(self.settings.max_steps / CURVE_POINTS))
        self.log = Log(self.settings.max_steps)

    def _read_data(self) -> None:
        tokenizer = f"tokenizer/{self.config.data.tokenizer}/tokenizer.json"
        tokenizer_file = self.work.root / tokenizer
        self.vocabulary = batches.read_vocabulary(tokenizer_file, self.config.model.vocab_size)
        self.stories, validation = (
            tokenize_stories(self.work.root / file, tokenizer_file, self.config.data.max_length, self.work.cache)
            for file in (config.TRAIN_STORIES, config.VALIDATION_STORIES)
        )
        self.fingerprints = {
            config.TRAIN_STORIES: self.stories.fingerprint,
            config.VALIDATION_STORIES: validation.fingerprint,
            tokenizer: fingerprint(tokenizer_file),
        }
        count = min(len(validation), self.settings.eval_stories or len(validation))
        held_out = [validation[i] for i in range(count)]
        # Of no seed: all runs are asked for the same tokens.
        self.validation = self._examples(held_out, batches.rng(0, "validation"), config.VALIDATION_STORIES)

    def _examples(self, stories: Sequence[Ids], generator: np.random.Generator, file: str) -> list[Example]:
        if self.causal:
            examples = batches.causal(stories)
        else:
            examples = batches.masked(stories, self.vocabulary, self.settings.mlm_probability, generator)
        if not examples:
            raise TinyTransformersError(
                f"{self.work.root / file}: {len(stories)} stories without a token to predict. Check the file."
            )
        return examples

    # --- checkpoints

    def identity(self) -> dict[str, Any]:
        """What must not change between two sittings of one training. The size of a micro-batch may."""
        settings = self.config.model_dump(mode="json", include={"model", "data", "train", "seed", "recipe"})
        del settings["train"]["micro_batch_tokens"]
        return {"settings": settings, "files": self.fingerprints}

    def resume(self) -> None:
        checkpoint.remove_drafts(self.checkpoints)
        found = checkpoint.read_newest(self.checkpoints)
        if found:
            if found.state["identity"] != self.identity():
                raise TinyTransformersError(
                    f"{self.checkpoints}: written with other settings or other data. Remove it to begin anew."
                )
            checkpoint.restore(found, self.model, self.optimizer)
            self.counters = Counters(**found.state["counters"])
            self.checkpointed = self.counters.step
            print(f"resuming after step {self.counters.step}", flush=True)
        self.curve.cut(self.counters.step)

    def write_checkpoint(self) -> None:
        step = self.counters.step
        if step == self.checkpointed:
            return
        self.curve.sync()
        state = {"identity": self.identity(), "counters": asdict(self.counters)}
        checkpoint.write(self.checkpoints, step, self.model, self.optimizer, state)
        self.checkpointed = step

    # --- training

    def train(self) -> None:
        self._evaluate_if_due()  # after a stop between a checkpoint and its evaluation
        while self.counters.step < self.settings.max_steps:
            self._step()
            if self.counters.step in self.evaluation_steps:
                self.write_checkpoint()
                self._evaluate_if_due()

    def _step(self) -> None:
        started, step, seed = time.monotonic(), self.counters.step, self.config.seed
        drawn = batches.drawn(len(self.stories), self.settings.stories_per_step, seed, step)
        stories = [self.stories[i] for i in drawn]
        examples = self._examples(stories, batches.rng(seed, "mask", step), config.TRAIN_STORIES)
        torch.manual_seed(int(batches.rng(seed, "dropout", step).integers(2**63)))
        labels = batches.num_labels(examples)
        before = {name: buffer.clone() for name, buffer in checkpoint.buffers(self.model).items()}
        try:
            loss = self._backward(examples, labels)
        except Interrupted:  # the step is given up, and what forward passes have tracked with it
            for name, buffer in checkpoint.buffers(self.model).items():
                buffer.copy_(before[name])
            raise
        self._update(loss, learning_rate=self.settings.learning_rate * (1 - step / self.settings.max_steps))
        self._count(stories, loss, labels, time.monotonic() - started)
        self.curve.add(self.counters, loss, self.optimizer.param_groups[0]["lr"], last=self.settings.max_steps)
        self.log.step(self.counters, loss)
        if self.counters.step == 1:
            self._check_start()

    def _backward(self, examples: Sequence[Example], labels: int) -> float:
        """Leave the gradient of the mean loss over all labels in the parameters, and return that loss, in nats."""
        self.model.train()
        self.optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        done = 0
        for batch in batches.micro_batches(examples, self.settings.micro_batch_tokens, causal=self.causal):
            self._report(self.counters.step + done / labels)
            losses = token_losses(self.model, batch.to(self.device))
            # A sparse module's own loss is of a micro-batch; it counts by its share of the step's labels.
            share = len(batch.labels) / labels
            (losses / labels + share * self.model.auxiliary_loss()).backward()
            total += losses.detach()
            done += len(batch.labels)
        return total.item() / labels

    def _update(self, loss: float, learning_rate: float) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm).item()
        self._check_finite(loss, f"the loss is {loss}")
        self._check_finite(norm, f"the loss is {loss} and the norm of its gradient {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def _count(self, stories: Sequence[Ids], loss: float, labels: int, seconds: float) -> None:
        counters = self.counters
        counters.step += 1
        counters.tokens += sum(len(story) for story in stories)
        counters.seconds += seconds
        counters.labels += labels
        counters.eligible += sum(int((~self.vocabulary.special[story]).sum()) for story in stories)
        if counters.step == 1:
            counters.first_loss, counters.first_labels = loss, labels

    def _report(self, step: float, doing: str = "") -> None:
        """Say how far we are, and leave if asked to; parameters and counters are those of the last whole step."""
        self.work.progress(step / self.settings.max_steps, f"step {int(step)} of {self.settings.max_steps}{doing}")
        if self.work.should_stop():
            raise Interrupted(f"asked to stop after step {self.counters.step} of {self.settings.max_steps}")

    # --- evaluation

    def _evaluate_if_due(self) -> None:
        step = self.counters.step
        if step in self.evaluation_steps and step not in self.curve.evaluations:
            loss = self._evaluate()
            self._check_finite(loss, f"the validation loss is {loss}")
            self.curve.add_evaluation(step, loss)
            print(f"step {step}: validation loss {loss:.4f}", flush=True)

    @torch.no_grad()
    def _evaluate(self) -> float:
        """The mean loss, in nats, over the labels of the validation stories."""
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for batch in batches.micro_batches(self.validation, self.settings.micro_batch_tokens, causal=self.causal):
            self._report(self.counters.step, ", evaluating")
            total += token_losses(self.model, batch.to(self.device))
        return total.item() / batches.num_labels(self.validation)

    # --- checks

    def _require(self, check: Check, expected: str) -> None:
        self.checks[check.name] = check
        if check.blocking and not check.passed:
            raise CheckFailed(f"{check.name} is {check.value}; expected {expected}")

    def _check_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise TinyTransformersError(
                f"after step {self.counters.step} of {self.settings.max_steps} {what}: training has diverged. "
                f"Lower train.learning_rate (it is {self.settings.learning_rate:g})."
            )

    def _check_parameters(self) -> None:
        built, planned = self.model.num_parameters(), architecture.num_parameters(self.config.model)
        self._require(Check("parameters", built == planned, built), f"{planned}, as planned")

    def _check_start(self) -> None:
        """The two checks that the first step allows, before hours are spent."""
        # Untrained logits are about N(0, h 0.02^2): the loss starts at ln V plus half their variance.
        variance = self.config.model.hidden_size * 0.02**2
        expected = math.log(self.config.model.vocab_size) + variance / 2
        tolerance = INITIAL_LOSS + DEVIATIONS * math.sqrt(variance / self.counters.first_labels)
        loss = self.counters.first_loss
        self._require(
            Check("initial_loss", abs(loss - expected) <= tolerance, loss), f"{expected:.2f} within {tolerance:.2f}"
        )
        self._check_masked_share()

    def _check_masked_share(self) -> None:
        if self.causal:
            return
        expected = self.settings.mlm_probability
        share = self.counters.labels / self.counters.eligible
        chance = DEVIATIONS * math.sqrt(expected * (1 - expected) / self.counters.eligible)
        # One token more where chance would have left a step without a label.
        tolerance = chance + self.counters.step / self.counters.eligible
        self._require(
            Check("masked_share", abs(share - expected) <= tolerance, share), f"{expected} within {tolerance:.4f}"
        )

    def _check_floor(self) -> None:
        """Not blocking: a small enough language may be learnt to the last word."""
        if not self.causal:
            loss = self.final_loss
            self._require(Check("loss_floor", loss >= LOSS_FLOOR, loss, blocking=False), f"at least {LOSS_FLOOR}")

    def _check_reload(self, folder: Path) -> None:
        """A saved model must be the trained one to whoever loads it, its own activation included."""
        batch = next(batches.micro_batches(self.validation[:RELOAD_STORIES], 2**31, causal=self.causal))
        reloaded = _on(self.device, models.load_lm(folder))
        logits = [_logits(model, batch.to(self.device)) for model in (self.model, reloaded)]
        difference = ((logits[0] - logits[1]).abs().max() / logits[0].abs().max().clamp(min=1)).item()
        self._require(Check("reload_logits", difference <= RELOADED, difference), f"at most {RELOADED}")

    # --- the end

    @property
    def final_loss(self) -> float:
        return self.curve.evaluations[self.settings.max_steps]

    def save(self) -> None:
        """Save the model if all checks hold, and only then remove the checkpoints."""
        self._check_start()  # again, for a training whose first step was another sitting's
        self._check_masked_share()
        self._check_floor()
        with whole_folder(self.work.model_dir, replace=True) as draft, models.quiet():
            self.model.save_pretrained(draft)
            self._check_reload(draft)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        print(f"saved {self.work.model_dir}", flush=True)

    def outcome(self) -> Outcome:
        counters = self.counters
        return Outcome(
            scores=[Score("validation", "loss", self.final_loss, batches.num_labels(self.validation))],
            checks=list(self.checks.values()),
            metrics={
                "steps": counters.step,
                "tokens": counters.tokens,
                "tokens_per_second": counters.tokens / counters.seconds,
                "seconds": counters.seconds,
                "peak_memory_mb": peak_memory_mb(),
                "micro_batch_tokens": self.settings.micro_batch_tokens,
                "parameters": self.model.num_parameters(),
                "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            },
            data=self.fingerprints,
        )


def _on(device: torch.device, model: Any) -> Variant:
    return model.to(device)


@torch.no_grad()
def _logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    return model.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits


class Curve:
    """curve.jsonl: {"step", "loss", "learning_rate", "tokens", "seconds"} or {"step", "eval_loss"} in a line.

    `loss` is that of the one step, in nats per label; `tokens` and `seconds` are sums from the beginning."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.evaluations: dict[int, float] = {}  # step -> loss

    def cut(self, step: int) -> None:
        """Keep the lines up to `step`, which are those of the checkpoint that training goes on from."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last one may be torn
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        records = map(json.loads, kept)
        self.evaluations = {record["step"]: record["eval_loss"] for record in records if "eval_loss" in record}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.draft")
        draft.write_text("".join(kept))
        os.replace(draft, self.path)

    def add(self, counters: Counters, loss: float, learning_rate: float, last: int) -> None:
        step = counters.step
        if step in (1, last) or step % self.every == 0:
            self._append(
                step=step, loss=loss, learning_rate=learning_rate, tokens=counters.tokens, seconds=counters.seconds
            )

    def add_evaluation(self, step: int, loss: float) -> None:
        self.evaluations[step] = loss
        self._append(step=step, eval_loss=loss)

    def sync(self) -> None:
        """A checkpoint must not outlive the lines before it."""
        with self.path.open("a") as file:
            os.fsync(file.fileno())

    def _append(self, **record: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


class Log:
    """A line on stdout every few seconds."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.printed = -math.inf

    def step(self, counters: Counters, loss: float) -> None:
        now = time.monotonic()
        if counters.step < self.max_steps and now - self.printed < PRINT_EVERY:
            return
        self.printed = now
        speed = counters.tokens / counters.seconds
        minutes = (self.max_steps - counters.step) * counters.seconds / counters.step / 60
        progress = f"step {counters.step} of {self.max_steps}"
        print(f"{progress}: loss {loss:.4f}, {speed:,.0f} tokens/s, {minutes:.1f} min left", flush=True)
