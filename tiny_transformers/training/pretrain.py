"""Pretraining: stories, or a stream of characters, in; a checked model folder out.

A decoder learns to predict every token, an encoder those that are masked. A step's loss is the mean over the labels of
the whole step, however it is cut into micro-batches. A run that was interrupted, at any moment and any number of times,
ends in the same weights as one that was not: bit for bit on a CPU with the same number of threads.

As in the studies: AdamW, linear decay to zero without warm-up, clipping by the norm; of Brainformers Adagrad, warm-up,
clipping by tensor. Products are of bfloat16 where the hardware has them, in autocast's way, with weights, gradients and
optimizer in float32. It ends after so many steps, or with a budget of tokens or hours: then the decay and the
evaluations follow what part of the budget is used."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tiny_transformers.common.files import whole_folder
from tiny_transformers.common.work import Check, CheckFailed, Interrupted, Outcome, Score, TinyTransformersError, Work
from tiny_transformers.data import batches, corpus
from tiny_transformers.data.batches import Batch
from tiny_transformers.data.feed import Feed, Step
from tiny_transformers.layers.noise import set_seed
from tiny_transformers.models import auto
from tiny_transformers.models.definition import checking
from tiny_transformers.models.language_model import LanguageModel
from tiny_transformers.settings import architecture, config
from tiny_transformers.settings.stage.pretrain import DOCUMENTS_CUT
from tiny_transformers.training import checkpoint, functions, losses, optimizers
from tiny_transformers.training.anchors import Anchors, Place
from tiny_transformers.training.compiling import CompilerFailed, Compiling
from tiny_transformers.training.curve import Counters, Curve, Log
from tiny_transformers.training.device import (
    bound_kernel_caches,
    has_bfloat16,
    has_tensor_cores,
    peak_flops,
    peak_memory_mb,
    pick_device,
    what_it_lacks,
)
from tiny_transformers.training.losses import Memory, token_losses
from tiny_transformers.training.packing import packs
from tiny_transformers.training.pruning import Pruner, nonzero_parameters
from tiny_transformers.training.teaching import teacher_of

CURVE_POINTS = 1_000  # about so many steps are written to curve.jsonl
INITIAL_LOSS = 0.5  # nats that the first loss may be off what untrained weights give, besides chance
DEVIATIONS = 5  # standard deviations that are called chance: one run in two million
SHOWN = 0.8, 0.1, 0.1  # where something is to be predicted: <mask>, a random word, the word (Devlin et al. 2019, 3.1)
CHANCE = 2e-7  # a p-value of what stands on labels that is called chance; there are three
RELOADED = 1e-6  # the largest difference of a logit after saving and loading, in units of the largest, or of 1
LOSS_FLOOR = 0.05  # nats; an encoder below was probably shown what it had to predict


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
    finally:
        training.feed.close()
    training.save()
    return training.outcome()


def evaluation_steps(max_steps: int, evaluations: int) -> list[int]:
    """Evenly spaced, the last step among them: (8280, 10) -> 828, 1656, ..., 8280."""
    return sorted({math.ceil(max_steps * (i + 1) / evaluations) for i in range(evaluations)})


class Training:
    """One run of `run`: everything it holds, and what is done with it."""

    def __init__(self, work: Work) -> None:
        self.work, self.config, self.settings = work, work.config, work.config.train
        self._check_recipe()
        self.checkpoints = work.run_dir / "checkpoints"
        self.counters = Counters()
        self.checkpointed = 0  # the step of the newest checkpoint
        self.checks: dict[str, Check] = {}
        steps = self.settings.max_steps  # None with a budget
        self.evaluation_steps = evaluation_steps(steps, self.settings.evaluations) if steps else []
        self.device = pick_device(work.has_gpu)
        self.corpus = corpus.read(work, config.tokens_at_once(self.config, gpu=self.device.type == "cuda"))
        self.memory: Memory = ()  # of a stream: what each attention module was given, for all rows
        bound_kernel_caches()
        self.precision = resolve_precision(self.settings.precision, self.device)
        if lacks := what_it_lacks(self.device):
            print(f"{lacks}: trained in {self.precision}", flush=True)
        self.model = _on(self.device, auto.build(self.config.model, self.config.seed))
        self._check_parameters()
        self._check_definition(self.model, "definition")
        self.teacher = teacher_of(work, self.device)
        # What was read: of a run that learns from another one, the weights of that one, too.
        self.fingerprints = self.corpus.fingerprints | (dict(self.teacher.fingerprints) if self.teacher else {})
        self.compiling = Compiling(work, self.device, self.model)
        self.optimizer = optimizers.build(self.model, self.settings)
        self.pruner = Pruner(self.config, self.model)
        self.curve = Curve(work.run_dir / config.CURVE, every=math.ceil((steps or 1) / CURVE_POINTS))
        self.anchors = Anchors(work.run_dir / config.ANCHORS, () if self.config.probe else self.settings.anchors)
        self.log = Log()
        self.feed = Feed(self._make_step)
        self.first_of_sitting = True

    # --- checkpoints

    def identity(self) -> dict[str, Any]:
        """Return what must not change between two sittings of one training. The size of a micro-batch may, and
        precision stays what it was in the first, whatever it is set to."""
        settings = self.config.model_dump(mode="json", include={"model", "data", "train", "teacher", "seed", "recipe"})
        for how in ("micro_batch_tokens", "batch_split", "precision", "compile", "packed"):
            settings["train"].pop(how, None)
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
            self.memory = [tensor.to(self.device) for tensor in found.memory]
            # Of the first sitting, which may have been on other hardware.
            advice = f"go on on one, or remove {self.checkpoints} to begin anew."
            self.precision = resolve_precision(found.state["precision"], self.device, advice)
            self.counters = Counters(**found.state["counters"])
            self.checkpointed = self.counters.step
            print(f"resuming after step {self.counters.step}", flush=True)
        self.curve.cut(self.counters.step)
        self.anchors.cut(self.counters.step)
        self.corpus.packed = packs(self.config, self.device, self.precision)

    def write_checkpoint(self) -> None:
        step = self.counters.step
        if step == self.checkpointed:
            return
        self.curve.sync()
        state = {"identity": self.identity(), "precision": self.precision, "counters": asdict(self.counters)}
        checkpoint.write(self.checkpoints, step, self.model, self.optimizer, state, self.memory)
        self.checkpointed = step

    # --- training

    def train(self) -> None:
        self._check_inputs()
        self._evaluate_if_due()  # after a stop between a checkpoint and its evaluation
        while self.fraction() < 1:
            before = self._place()
            self._step()
            self.anchors.keep(self.model, before, self._place())  # before a checkpoint, which begins after them
            if self.counters.due:
                self.write_checkpoint()
                self._evaluate_if_due()

    def fraction(self) -> float:
        """Return the share of max_steps or of the budget that is done: 0 to 1."""
        return self.settings.fraction(
            step=self.counters.step, tokens=self.counters.tokens, seconds=self.counters.seconds
        )

    def _seconds_left(self) -> float:
        budget = self.settings.budget
        return self.counters.seconds_left(self.fraction(), by_hours=budget is not None and budget.hours is not None)

    def _place(self) -> Place:
        counts = self.counters
        return Place.after(counts.step, self.config, tokens=counts.tokens, seconds=counts.seconds, done=self.fraction())

    def _so_far(self, step: int) -> str:
        if self.settings.budget:
            return f"step {step}, {100 * self.fraction():.0f} % of {self.settings.budget}"
        return f"step {step} of {self.settings.max_steps}"

    def _passed(self, before: float, parts: int) -> bool:
        """Whether the last step took the budget past one of its equal parts."""
        return int(before * parts) < int(self.fraction() * parts)

    def _make_step(self, number: int) -> Step:
        step = self.corpus.step(number)
        return replace(step, batches=[losses.pinned(batch, self.device) for batch in step.batches])

    def _step(self) -> None:
        started, number, done = time.monotonic(), self.counters.step, self.fraction()
        step = self.feed.take(number, last=number + 1 == self.settings.max_steps)
        waited = time.monotonic() - started
        set_seed(int(batches.rng(self.config.seed, "dropout", number).integers(2**63)))
        before = {name: buffer.clone() for name, buffer in checkpoint.buffers(self.model).items()}
        self.model.schedule(done)
        if number == self.settings.warmup_steps:
            self.counters.warmed = done
        self.compiling.begin(number)
        try:
            total, memory = self._backward(step.batches)
        except (Interrupted, CompilerFailed) as error:  # the step is given up, and what forward passes have tracked
            for name, buffer in checkpoint.buffers(self.model).items():
                buffer.copy_(before[name])
            if isinstance(error, Interrupted):
                raise
            self.compiling.give_up(number, error)
            self._step()
            return
        rate = optimizers.learning_rate(self.settings, step=number, done=done, warmed=self.counters.warmed)
        loss, *apart = self._update(total, step.labels, rate)
        self.memory = memory  # only now: what was given up is not remembered
        seconds, compiled = time.monotonic() - started, self.compiling.look()
        self._count(step, loss, seconds, waited, compiled=compiled)
        if not compiled:
            self.compiling.time(number, seconds / step.tokens, self._seconds_left(), self.counters)
        if self.settings.budget:
            self.counters.due = self._passed(done, self.settings.evaluations)
        else:
            self.counters.due = self.counters.step in self.evaluation_steps
        if not self.settings.budget or number == 0 or self._passed(done, CURVE_POINTS):
            rate = self.optimizer.param_groups[0]["lr"]
            self.curve.add(self.counters, loss, rate, last=self.fraction() >= 1, apart=next(iter(apart), None))
        self.log.step(self.counters, loss, self.fraction(), self._seconds_left(), self._so_far(self.counters.step))
        self.work.figures({"loss": loss, "tokens_per_second": self.counters.tokens_per_second,
                           "seconds_left": self._seconds_left()})  # fmt: skip
        if self.counters.step == 1:
            self._check_start()
        self._note_schedule(number, done, step.batches[-1].input_ids.numel())

    def _backward(self, made: Sequence[Batch]) -> tuple[Tensor, Memory]:
        """Leave the gradient of the mean loss over all labels in the parameters, and return the sum of their losses, in
        nats, and, with a teacher, behind it that of their divergences from it; and what is remembered of all rows."""
        self.model.train()
        self.optimizer.zero_grad()
        total = torch.zeros(2 if self.teacher else 1, dtype=torch.float64, device=self.device)
        labels, done = sum(len(batch.labels) for batch in made), 0
        remembered: list[Memory] = []
        with losses.arithmetic(self.device, self.precision):  # around all micro-batches: weights are rounded once
            for batch in made:
                self._report(self.counters.step + done / labels)
                summed, parts, memory = self._losses(batch.to(self.device))
                remembered.append(memory)
                # A sparse module's own loss is of a micro-batch; it counts by its share of the step's labels.
                share = len(batch.labels) / labels
                (summed / labels + share * self.model.auxiliary_loss()).backward()
                total += parts
                done += len(batch.labels)
        return total, [torch.cat(of_rows) for of_rows in zip(*remembered, strict=True)]

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor, Memory]:
        """What is to become less, summed over the labels of a micro-batch; the sum of their losses, and, with a
        teacher, behind it that of their divergences from it; and what is remembered."""
        said = self.teacher.head(batch) if self.teacher else None
        with self.compiling.forward(batch):
            if self.teacher and said:
                return *self.teacher.losses(self.model, batch, said), ()
            summed, memory = token_losses(self.model, batch, self.memory)
        return summed, summed.detach()[None], memory

    def _update(self, total: Tensor, labels: int, learning_rate: float) -> list[float]:
        """Change the weights, unless the training has diverged, and return the mean loss, and the mean of what else
        `total` has. A GPU is waited for once."""
        self.pruner.before_update(self.optimizer)
        norm_there = optimizers.clip(self.model, self.settings)
        *sums, norm = torch.cat([total, norm_there.to(total)[None]]).tolist()
        loss, *apart = [each / labels for each in sums]
        self._check_finite(sum(sums), f"the loss is {loss}")
        self._check_finite(norm, f"the loss is {loss} and the norm of its gradient {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.model.after_update()
        self.pruner.after_update(self.optimizer, self.counters.step + 1)
        return [loss, *apart]

    def _count(self, step: Step, loss: float, seconds: float, waited: float, *, compiled: bool) -> None:
        counters = self.counters
        counters.step += 1
        counters.tokens += step.tokens
        counters.seconds += seconds
        counters.waited += waited
        if compiled:
            tokens, before = counters.compiling
            counters.compiling = tokens + step.tokens, before + seconds
        elif not self.first_of_sitting:
            counters.steady_tokens += step.tokens
            counters.steady_seconds += seconds
        self.first_of_sitting = False
        counters.labels += step.labels
        counters.eligible += step.eligible
        if counters.step == 1:
            counters.first_loss, counters.first_labels = loss, step.labels

    def _report(self, step: float, doing: str = "") -> None:
        """Say how far we are, and leave if asked to; parameters and counters are those of the last whole step."""
        fraction = self.fraction() if self.settings.max_steps is None else step / self.settings.max_steps
        self.work.progress(fraction, f"{self._so_far(int(step))}{doing}")
        if self.work.should_stop():
            raise Interrupted(f"asked to stop after {self._so_far(self.counters.step)}")

    # --- evaluation

    def _evaluate_if_due(self) -> None:
        step = self.counters.step
        if self.counters.due and step not in self.curve.evaluations:
            loss = self._evaluate()
            self._check_finite(loss, f"the validation loss is {loss}")
            counted = self.model.counted()
            self.curve.add_evaluation(step, loss, counted)
            besides = "".join(f", {name} {value:.2f}" for name, value in counted.items())
            print(f"step {step}: validation loss {loss:.4f}{besides}", flush=True)

    def _evaluate(self) -> float:
        """The mean loss, in nats, over the labels of the validation data."""
        self.model.schedule(self.fraction())

        def on_batch() -> None:
            self._report(self.counters.step, ", evaluating")

        with self.compiling.plainly():
            return losses.validation_loss(self.model, self.corpus, self.device, self.precision, on_batch)

    # --- checks

    def _require(self, check: Check, expected: str) -> None:
        self.checks[check.name] = check
        if check.blocking and not check.passed:
            raise CheckFailed(f"{check.name} is {check.value}; expected {expected}")

    def _check_recipe(self) -> None:
        now = config.recipe_of(self.config.model, self.settings)
        if self.config.recipe != now:
            raise TinyTransformersError(
                f"the run was planned by recipe {self.config.recipe}, and this code trains it by recipe {now}: its "
                "result would be another's. Submit the manifest again: it plans a new run."
            )

    def _check_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise TinyTransformersError(
                f"after {self._so_far(self.counters.step)} {what}: training has diverged. "
                f"Lower train.learning_rate (it is {self.settings.learning_rate:g})."
            )

    def _check_parameters(self) -> None:
        built, planned = self.model.num_parameters(), architecture.num_parameters(self.config.model)
        self._require(Check("parameters", built == planned, built), f"{planned}, as planned")

    def _check_definition(self, model: LanguageModel, name: str) -> None:
        """The model is the one of its settings: formulas, gates, widths, order, sharing, every parameter's shape."""
        found = checking.check(model, self.config.model)
        expected = f"logits within {checking.ROUNDING} of those by the definition of {self.config.model.label}"
        self._require(replace(found, name=name), expected)

    def _check_inputs(self) -> None:
        """Of what an encoder is to predict 80 % is masked, 10 % is another word, 10 % is shown, whoever made it."""
        if self.config.model.causal or not isinstance(self.corpus, corpus.StoryCorpus):
            return
        from scipy.stats import binomtest  # an eighth of the time that all imports take, for encoders only

        vocabulary = self.corpus.vocabulary
        counts = batches.shown(self.corpus.step(0).batches, vocabulary.mask)
        masked, random, same = SHOWN
        by_chance = random / len(vocabulary.words)  # the random word is the very one
        shares = masked, same + by_chance, random - by_chance
        chances = [binomtest(count, sum(counts), share).pvalue for count, share in zip(counts, shares, strict=True)]
        told = "{:.1%} masked, {:.1%} shown, {:.1%} others".format(*(count / sum(counts) for count in counts))
        expected = "about {:.1%}, {:.1%}, {:.1%}".format(*shares)
        self._require(Check("masked_inputs", bool(min(chances) >= CHANCE), told), f"{expected} of {sum(counts)} labels")

    def _note_schedule(self, number: int, done: float, tokens: int) -> None:
        """Hold what the step that was just made has really used against the schedule, at the beginning, in the middle
        and at the end; the result has these values."""
        now = self.fraction()
        moments = {"beginning": number == 0, "middle": done < 0.5 <= now, "end": now >= 1}
        if not any(moments.values()):
            return
        rates = {group["lr"] for group in self.optimizer.param_groups}
        used = {
            "learning_rate": rates.pop() if len(rates) == 1 else math.nan,
            **self.model.used(tokens),
            **self.pruner.used(self.optimizer),
        }
        planned = {
            "learning_rate": optimizers.learning_rate(
                self.settings, step=number, done=done, warmed=self.counters.warmed
            ),
            **self.config.model.scheduled(done),
            **self.pruner.planned(self.counters.step),
        }
        self.counters.used |= {moment: used for moment, is_now in moments.items() if is_now}
        holds = used.keys() == planned.keys() and all(
            math.isclose(used[name], value, rel_tol=1e-9, abs_tol=1e-15) for name, value in planned.items()
        )
        self._require(Check("schedule", holds and self._schedule_moves(), _told(used)), f"{_told(planned)}, as planned")

    def _schedule_moves(self) -> bool:
        """A warm-up begins below the learning rate, and a linear decay ends below its middle."""
        rates = {moment: values["learning_rate"] for moment, values in self.counters.used.items()}
        warms = not self.settings.warmup_steps or rates.get("beginning", 0.0) < self.settings.learning_rate
        if self.settings.lr_scheduler_type != "linear" or self.counters.step < max(3, 2 * self.settings.warmup_steps):
            return warms
        return warms and rates.get("end", 0.0) < rates.get("middle", math.inf)

    def _check_start(self) -> None:
        """The two checks that the first step allows, before hours are spent."""
        # Untrained logits are about normal: the loss starts at ln V plus half their variance.
        variance = self.config.model.initial_logit_variance
        expected = math.log(self.config.model.vocab_size) + variance / 2
        tolerance = INITIAL_LOSS + DEVIATIONS * math.sqrt(variance / self.counters.first_labels)
        loss, slack = self.counters.first_loss, self.config.model.initial_loss_slack
        holds = expected - tolerance <= loss <= expected + tolerance + slack
        above = f", or {slack:.0f} higher" if slack else ""
        self._require(Check("initial_loss", holds, loss), f"{expected:.2f} within {tolerance:.2f}{above}")
        self._check_masked_share()

    def _check_masked_share(self) -> None:
        if self.config.model.causal:
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
        if not self.config.model.causal:
            loss = self.final_loss
            self._require(Check("loss_floor", loss >= LOSS_FLOOR, loss, blocking=False), f"at least {LOSS_FLOOR}")

    def _check_documents(self) -> None:
        """Not blocking: whoever sets data.max_length may mean it."""
        if found := self.corpus.cut():
            much, told = found
            self._require(Check(DOCUMENTS_CUT, not much, told, blocking=False), "most documents read whole")

    def _check_halting(self) -> None:
        """Not blocking: a model of which every token takes all steps has learned nothing of when to halt."""
        taken, most = self.counted.get("steps_per_token"), self.config.model.layers
        if taken is not None:
            self._require(Check("halting", taken < most, taken, blocking=False), f"fewer than {most} steps")

    def _check_reload(self, folder: Path) -> None:
        """A saved model must be the trained one to whoever loads it, its own activation included."""
        batch = self.corpus.sample()
        reloaded = _on(self.device, auto.load_lm(folder))
        with torch.compiler.set_stance("force_eager"):  # compiled, the same weights round otherwise
            logits = [_logits(model, batch.to(self.device)) for model in (self.model, reloaded)]
        difference = ((logits[0] - logits[1]).abs().max() / logits[0].abs().max().clamp(min=1)).item()
        self._require(Check("reload_logits", difference <= RELOADED, difference), f"at most {RELOADED}")
        self._check_definition(reloaded, "reload_definition")
        if self.settings.pruning:
            told = f"{self.settings.pruning.sparsity:g} of each matrix"
            self._require(self.pruner.check(reloaded, self.counters.step), told)

    # --- the end

    @property
    def final_loss(self) -> float:
        return self.curve.evaluations[self.counters.step]  # the last step is evaluated

    @property
    def counted(self) -> dict[str, float]:
        """What the last evaluation tells besides."""
        return self.curve.counted[self.counters.step]

    def flops_per_token(self) -> float:
        """Return the FLOPs of a token in training, on average; see `architecture.training_flops`."""
        labelled = self.counters.labels / self.counters.tokens
        length = self.model.keys_per_token(self.corpus.keys_per_token)
        models = [self.config.model, *([self.config.teacher.model] if self.config.teacher else [])]
        own, *taught = (architecture.training_flops(each, labelled=labelled, length=length) for each in models)
        return own + sum(taught) / 3  # a forward pass

    def save(self) -> None:
        """Save the model if all checks hold, and only then remove the checkpoints."""
        self._check_start()  # again, for a training whose first step was another sitting's
        self._check_masked_share()
        self._check_floor()
        self._check_documents()
        self._check_halting()
        with whole_folder(self.work.model_dir, replace=True) as draft, auto.quiet():
            self.model.save_pretrained(draft)
            self._check_reload(draft)
        functions.write(self.work.run_dir / config.FUNCTIONS, self.model)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        print(f"saved {self.work.model_dir}", flush=True)

    def outcome(self) -> Outcome:
        counters = self.counters
        peak = peak_flops(self.device, self.precision)
        return Outcome(
            scores=[
                Score("validation", "loss", self.final_loss, self.corpus.validation_labels),
                *(Score("validation", *found, self.corpus.validation_tokens) for found in self.counted.items()),
                *self._pruned(),
            ],
            checks=sorted(self.checks.values(), key=lambda check: check.name),
            metrics={
                "steps": counters.step,
                "tokens": counters.tokens,
                "tokens_per_second": counters.tokens_per_second,
                "seconds": counters.seconds,
                "data_wait": counters.waited / counters.seconds,
                **self.corpus.figures(),
                **({} if peak is None else {"mfu": self.flops_per_token() * counters.tokens_per_second / peak}),
                "precision": self.precision,
                **self.compiling.figures(counters),
                **({"packed": 1} if self.corpus.packed else {}),
                **self.model.figures(),
                **({"nonzero_parameters": nonzero_parameters(self.model)} if self.settings.pruning else {}),
                **{
                    f"{name}@{moment}": value
                    for moment, values in counters.used.items()
                    for name, value in values.items()
                },
                "peak_memory_mb": peak_memory_mb(),
                "micro_batch_tokens": self.settings.micro_batch_tokens,
                "parameters": self.model.num_parameters(),
                "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            },
            data=self.fingerprints,
        )

    def _pruned(self) -> list[Score]:
        """The share of the weights that may be pruned which was, of so many."""
        used, weights = self.pruner.used(self.optimizer), sum(weight.numel() for weight in self.pruner.matrices)
        return [Score("weights", name, value, weights) for name, value in used.items()]


def resolve_precision(
    asked: str, device: torch.device, advice: str = "set float32.", setting: str = "train.precision"
) -> str:
    """Return what a setting comes to on a device. Raises TinyTransformersError, with the advice, for a precision that
    the device lacks."""
    if asked == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    if asked == "tf32" and not has_tensor_cores(device):
        raise TinyTransformersError(f"{setting} is tf32, which NVIDIA's GPUs from Ampere on have: {advice}")
    return asked


def _told(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.9g}" for name, value in values.items())


def _on(device: torch.device, model: Any) -> LanguageModel:
    return model.to(device)


@torch.no_grad()
def _logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    return model.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
