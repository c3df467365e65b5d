"""Pretraining beside the studies' way: real tokens per second, share of the bfloat16 GEMM rate, peak memory.

    python tests/benchmarks/train.py [--models NAME ...] [--micro-batches 4 | --full] [--steps 2] [--threads 2]
    python tests/benchmarks/train.py --equal [--stories 16]
    python tests/benchmarks/train.py --learning [--stories 8] [--steps-learning 300]

The studies' way is Hugging Face's Trainer: float32, every story padded to 512 tokens, micro-batches of 16 stories, 16
to a step. Both sides have the same weights and the same real stories of DATA_ROOT, ../shared/data unless given; models
are those of experiments.yaml. Trainer has our dense and KAN modules, which are faster than the studies' own, and its
defaults of today (fused AdamW, scaled-dot-product attention in RoBERTa). Attention in GPT-Neo is Hugging Face's own.
Sparse modules compute what the studies' did: padding as any token, every expert, every sum of a product key's scores.

Speed and memory: each side is a process of its own; they take turns, step by step, and so does the GEMM rate. A step is
all of it, data, clipping and AdamW included; the first is not counted. With `--micro-batches N` it has 16 N stories.
FLOPs are three times `architecture.flops_per_token`, the products with weights; those of attention scores are left out.
An encoder's head counts where there is a label, which is what has to be computed; the column in brackets counts it at
every token. The GEMM rate is the median of the base model's own products. Memory on a GPU is what torch allocated, else
the whole process's; `own` leaves out what a process had before it built its model.
Equality: losses of 30 optimizer steps in float32 without dropout. Learning: validation loss by three seeds.

A step of Trainer is 100 s on two cores with `--full`, 25 s with 4 micro-batches; deep models take twice as long. By
estimate the table takes 25 minutes, `--full` 100; equality 10 and learning 30, with the two base models each."""

from __future__ import annotations

import argparse
import functools
import io
import json
import math
import statistics
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, TrainerCallback

from cluster.manifest import grids, loading
from tiny_transformers.common.work import Work
from tiny_transformers.data import batches
from tiny_transformers.data.stories import Stories, tokenize_stories
from tiny_transformers.layers.ffn.moe import MixtureOfExperts
from tiny_transformers.layers.ffn.pkm import ProductKeyMemory
from tiny_transformers.models.auto import quiet
from tiny_transformers.settings.architecture import Model, Roberta, flops_per_token
from tiny_transformers.settings.config import TRAIN_STORIES, RunConfig, Train
from tiny_transformers.training import pretrain
from tiny_transformers.training.device import cpu_name, peak_memory_mb
from tiny_transformers.training.pretrain import Training

HERE = Path(__file__).resolve()
sys.path.append(str(HERE.parents[1]))  # last: tests/cluster must not hide the package
import gemm  # noqa: E402, in this folder
import padded_trainer  # noqa: E402
import sparse_ffn  # noqa: E402

STUDIES = ("activations", "sparse_ffn", "sharing")
BASES = ("gpt-gelu", "bert-gelu")
MODELS = (
    *BASES, "gpt-learnable_gelu", "bert-learnable_gelu", "gpt-geglu", "bert-geglu", "gpt_kan-kan_g3k3",
    "bert_kan-kan_g3k3", "gpt_256-moe4k2", "bert_256-moe4k2", "gpt_256-pkm56k28", "bert_256-pkm56k28", "gpt_256-cnt64",
    "bert_256-cnt64", "gpt_deep-gelu-cycle_rev6", "bert_deep-gelu-cycle_rev6",
)  # fmt: skip
PLAIN = {
    MixtureOfExperts: sparse_ffn.plain_moe,
    ProductKeyMemory: sparse_ffn.plain_pkm,
}  # a controller in training is ours as it is
SEED = 42
SEEDS = (42, 1, 2)
LENGTH = 512  # tokens that the studies padded to
BATCH = 16  # stories of the studies' micro-batches
HEADING = """\
| model | ours, real tokens/s | Trainer | ratio | of GEMM | (head everywhere) | ours, peak MB | Trainer | ratio | own |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


def study_models() -> dict[str, Model]:
    """Those of experiments.yaml: what the study calls them, without their sizes."""
    cells = grids.cells(loading.load(HERE.parents[2] / "experiments.yaml"), studies=STUDIES)
    return {f"{cell.model}-{cell.config.model.label}": cell.config.model for cell in cells}


def work(model: Model, arguments: argparse.Namespace, run_dir: Path, seed: int = SEED, **train: Any) -> Work:
    config = RunConfig(model=model, train=train, seed=seed)
    return Work(config, data_root=arguments.root, cache=arguments.cache, run_dir=run_dir)


def read_stories(arguments: argparse.Namespace) -> Stories:
    tokenizer = arguments.root / "tokenizer" / "10k-tok" / "tokenizer.json"
    return tokenize_stories(arguments.root / TRAIN_STORIES, tokenizer, LENGTH, arguments.cache)


# -- one side, in a process of its own --------------------------------------------------------------------------------


class Turns:
    """A step begins when a line comes on stdin; what it took goes to stdout, a line of JSON."""

    def __init__(self) -> None:
        self.out = sys.stdout
        self.before = peak_memory_mb()

    def begin(self) -> bool:
        """Wait for our turn. False: there is none any more."""
        told = sys.stdin.readline()
        self.started = gemm.now()
        return bool(told)

    def end(self) -> None:
        seconds = gemm.now() - self.started
        print(json.dumps({"seconds": seconds, "before": self.before, "peak": peak_memory_mb()}), file=self.out)
        self.out.flush()


def our_side(model: Model, arguments: argparse.Namespace, turns: Turns, run_dir: Path) -> None:
    training = Training(work(model, arguments, run_dir, stories_per_step=BATCH * arguments.micro_batches))
    while turns.begin():
        training._step()
        turns.end()


class TakingTurns(TrainerCallback):
    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.turns.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.turns.end()
        control.should_training_stop |= not self.turns.begin()


def as_the_studies(model: Any) -> Any:
    """With sparse modules that know nothing of padding, by the studies' formulas; it has the same weights."""
    model._real_tokens = lambda args, kwargs: None  # noqa: ARG005
    for module in model.modules():
        if plain := PLAIN.get(type(module)):
            module.tokens = functools.partial(plain, module)
    return model


def their_side(model: Model, arguments: argparse.Namespace, turns: Turns, run_dir: Path) -> None:
    steps = arguments.steps + 1
    tokenizer = AutoTokenizer.from_pretrained(arguments.root / "tokenizer" / "10k-tok")
    padded_trainer.trainer(
        as_the_studies(padded_trainer.build(model, SEED)),
        padded_trainer.PaddedStories(read_stories(arguments), LENGTH, BATCH * arguments.micro_batches, steps, SEED),
        run_dir,
        micro_batches=arguments.micro_batches,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=isinstance(model, Roberta)),
        callbacks=[TakingTurns(turns)],
        arguments={"max_steps": steps},
    ).train()


SIDES = {"ours": our_side, "trainer": their_side}


class Child:
    """One side of the table."""

    def __init__(self, side: str, name: str, arguments: argparse.Namespace) -> None:
        command = [sys.executable, str(HERE), "--side", side, "--models", name]
        for option in ("root", "cache", "threads", "steps", "micro_batches"):
            command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
        command += ["--cpu-time"] * arguments.cpu_time
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.taken: list[float] = []
        self.step()
        self.taken.clear()

    def step(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        told = self.process.stdout.readline()
        if not told:
            raise SystemExit(f"{' '.join(self.process.args)} ended with {self.process.wait()}")  # type: ignore[arg-type]
        figures = json.loads(told)
        self.taken.append(figures["seconds"])
        self.before, self.peak = figures["before"], figures["peak"]

    def close(self) -> None:
        self.process.communicate()


# -- the table --------------------------------------------------------------------------------------------------------


def real_tokens(stories: Stories, arguments: argparse.Namespace) -> int:
    """Of the counted steps."""
    count = BATCH * arguments.micro_batches
    steps = range(1, arguments.steps + 1)
    return sum(len(stories[i]) for step in steps for i in batches.drawn(len(stories), count, SEED, step))


def training_flops(model: Model, *, everywhere: bool) -> float:
    """Of a real token, forward and backward; the head at every token, or where an encoder has labels."""
    flops = float(flops_per_token(model, training=True))
    if isinstance(model, Roberta) and not everywhere:
        flops -= (1 - Train().mlm_probability) * 2 * model.hidden_size * (model.vocab_size + model.hidden_size)
    return 3 * flops


def table(arguments: argparse.Namespace) -> None:
    stories, models = read_stories(arguments), study_models()
    print(HEADING, flush=True)
    rates = []
    for name in arguments.models:
        children, products = [Child(side, name, arguments) for side in SIDES], gemm.Products()
        for _ in range(arguments.steps):
            products.measure()
            for child in children:
                child.step()
        for child in children:
            child.close()
        rates.append(products.medians())
        print(row(name, models[name], real_tokens(stories, arguments), children, rates[-1]), flush=True)
    every = sorted(rate / 1e9 for row in rates for rate in row)
    told = f"{statistics.median(every):,.0f} GFLOP/s; by row and product {every[0]:,.0f} to {every[-1]:,.0f}"
    print(f"\nbfloat16 GEMM, median: {told}")


def row(name: str, model: Model, tokens: int, children: list[Child], gemm_rates: list[float]) -> str:
    ours, trainer = children
    rate, their_rate = (tokens / sum(child.taken) for child in children)
    shares = [rate * training_flops(model, everywhere=x) / statistics.median(gemm_rates) for x in (False, True)]
    own = (ours.peak - ours.before) / (trainer.peak - trainer.before)
    return (
        f"| {name} | {rate:,.0f} | {their_rate:,.0f} | {rate / their_rate:.1f} | {shares[0]:.0%} | ({shares[1]:.0%}) "
        f"| {ours.peak:,.0f} | {trainer.peak:,.0f} | {ours.peak / trainer.peak:.0%} | {own:.0%} |"
    )


# -- the same learning ------------------------------------------------------------------------------------------------


def equal(arguments: argparse.Namespace) -> None:
    micro_batches = math.gcd(arguments.stories, max(4, arguments.stories // BATCH))
    print("| model | first loss | last | largest relative difference of 30 steps |\n|---|---:|---:|---:|", flush=True)
    for name in arguments.models:
        model = study_models()[name].model_copy(update={"dropout": 0.0})
        settings = {"max_steps": 30, "stories_per_step": arguments.stories, **padded_trainer.FLOAT32}
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()), quiet():
            training = Training(work(model, arguments, Path(folder), **settings))
            for _ in range(30):
                training._step()
            ours = [json.loads(line)["loss"] for line in (Path(folder) / "curve.jsonl").read_text().splitlines()]
            theirs = padded_trainer.losses(training, Path(folder), length=LENGTH, micro_batches=micro_batches)
        difference = padded_trainer.relative_difference(ours, theirs)
        print(f"| {name} | {ours[0]:.4f} | {ours[-1]:.4f} | {difference:.1e} |", flush=True)


def learning(arguments: argparse.Namespace) -> None:
    precisions = ("float32", "bfloat16")
    print(f"| model | {' | '.join(precisions)} | bfloat16 / float32 - 1 | of each seed |\n|---|---:|---:|---:|---|")
    for name in arguments.models:
        losses = [[validation_loss(name, seed, precision, arguments) for seed in SEEDS] for precision in precisions]
        means = [statistics.mean(values) for values in losses]
        each = "; ".join(" ".join(f"{value:.4f}" for value in values) for values in zip(*losses, strict=True))
        told = " | ".join(f"{mean:.4f}" for mean in means)
        print(f"| {name} | {told} | {means[-1] / means[0] - 1:+.2%} | {each} |", flush=True)


def validation_loss(name: str, seed: int, precision: str, arguments: argparse.Namespace) -> float:
    settings: dict[str, Any] = {"precision": precision}
    settings |= {"max_steps": arguments.steps_learning, "stories_per_step": arguments.stories, "evaluations": 1}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        outcome = pretrain.run(work(study_models()[name], arguments, Path(folder), seed, **settings))
    return outcome.scores[0].value


# -- all of them ------------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE.parents[3] / "shared" / "data")
    parser.add_argument("--cache", type=Path, help="for tokenised stories; a temporary folder unless given")
    parser.add_argument("--models", nargs="+", metavar="NAME", choices=study_models(), help="gpt-gelu, bert-relu, ...")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="that are counted, of each side")
    parser.add_argument("--micro-batches", type=int, default=4, help="of 16 stories to a step")
    parser.add_argument("--full", action="store_const", dest="micro_batches", const=16, help="the studies' 16 x 16")
    parser.add_argument("--cpu-time", action="store_true", help="not the clock's: for one thread of a busy machine")
    parser.add_argument("--equal", action="store_true")
    parser.add_argument("--learning", action="store_true")
    parser.add_argument("--stories", type=int, help="of a step; 16 for --equal, 8 for --learning")
    parser.add_argument("--steps-learning", type=int, default=300)
    parser.add_argument("--side", choices=SIDES, help="of the table, as a child of this script")
    arguments = parser.parse_args()
    arguments.models = arguments.models or (BASES if arguments.equal or arguments.learning else MODELS)
    arguments.stories = arguments.stories or (16 if arguments.equal else 8)
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    gemm.cpu_time = arguments.cpu_time
    with tempfile.TemporaryDirectory() as folder:
        arguments.cache = arguments.cache or Path(folder)
        if arguments.side:
            turns = Turns()
            with redirect_stdout(io.StringIO()), quiet():
                SIDES[arguments.side](study_models()[arguments.models[0]], arguments, turns, Path(folder))
            return
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
        print(f"{device}, threads: {arguments.threads}, torch {torch.__version__}", end="")
        if arguments.equal:
            print(f", {arguments.stories} stories a step\n")
            equal(arguments)
        elif arguments.learning:
            print(f", {arguments.steps_learning} steps of {arguments.stories} stories\n")
            learning(arguments)
        else:
            print(f", {arguments.steps} steps of {BATCH * arguments.micro_batches} stories\n")
            table(arguments)


if __name__ == "__main__":
    main()
