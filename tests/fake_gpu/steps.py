"""Takes models to the pretended GPU, and counts what each part of their work launches there.

    python -m tests.fake_gpu.steps LIBRARY MODEL ...

A line of JSON for each part: {"model", "part", "kernels", "waits", "pageable"}, or {"model", "part", "error"}, after
which that model is left. LIBRARY is what guard.cc is compiled to."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fake_gpu import fake_gpu  # first: before torch

import numpy as np  # isort: skip
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForSequenceClassification

from tests.variants import PAIRS, small
from tiny_transformers.common.work import Work
from tiny_transformers.evaluation import bpc, fine_tuning, scoring, speed
from tiny_transformers.evaluation.glue import Encoded
from tiny_transformers.models import auto
from tiny_transformers.settings import config
from tiny_transformers.settings.architecture import Brainformer
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.training import losses, optimizers
from tiny_transformers.training.packing import packs
from tiny_transformers.training.pretrain import Training
from tiny_transformers.training.pruning import Pruner

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
WORDS = ["the", "a", "cat", "dog", "girl", "boy", "sees", "likes", "finds", "helps", "red", "big", "old", "."]
SIZES = {"hidden_size": 64, "intermediate_size": 192, "max_position_embeddings": 40}
CHARACTERS = {
    "order": "sgf",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_heads": 4,
    "attn_span": 16,
    "vocab_size": 60,
}
SETTLED = {"KANLinear", "SpanAttention"}  # they look at a grid, or at spans, in their first pass
SEQUENCES = [[1, *range(4, 4 + length), 2] for length in (3, 5, 5, 9)]
MASK = 18
TAUGHT = "taught"  # by an untrained model of the same kind
SPEED = {"batch_sizes": [2], "tokens": 8, "prompt_tokens": 3, "new_tokens": 2}
PRUNED = "gpt_neo pruned"  # with masks that are made in the step that is looked at
EVERY_STEP = {"sparsity": 0.5, "begin": 0.005, "end": 0.5, "every": 1}
GATES = ("naive", "noisy", "gshard", "switch", "balanced", "hash", "random", "dense")


def write_data(root: Path) -> None:
    """Stories of many lengths, a tokenizer of whole words, and a text."""
    random = np.random.default_rng(1)
    for file, count in ((config.TRAIN_STORIES, 200), (config.VALIDATION_STORIES, 2)):
        (root / file).parent.mkdir(exist_ok=True)
        stories = [" ".join(random.choice(WORDS, size=random.integers(4, 28))) for _ in range(count)]
        (root / file).write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
    numbers = {word: number for number, word in enumerate([*SPECIAL, *WORDS, "<mask>"])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in [*SPECIAL, "<mask>"]])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    (root / "tokenizer/10k-tok").mkdir(parents=True)
    tokenizer.save(str(root / "tokenizer/10k-tok/tokenizer.json"))
    (root / config.STREAMS["text8"]).parent.mkdir(exist_ok=True)
    (root / config.STREAMS["text8"]).write_text(" ".join(random.choice(WORDS, size=2_000)))


def work_of(model: Any, root: Path, teacher: Any = None, **more: Any) -> Work:
    stream = isinstance(model, Brainformer)
    train = {"max_steps": 1_000, "micro_batch_tokens": 100, "evaluations": 1, "precision": "bfloat16"}
    train |= {"batch_size": 4, "block_size": 40} if stream else {"stories_per_step": 4, "packed": None}
    taught = {"name": "teacher", "model": teacher, "train": train, "seed": 1}
    run = RunConfig(
        model=model,
        teacher=taught if teacher else None,
        probe=bool(teacher),  # which learns from an untrained one
        train=train | more | ({"optimizer": "adagrad", "clipping": "per_tensor"} if stream else {}),
        data={"corpus": "text8"} if stream else {"max_length": 30},
        evaluation={"bpc": {}, "speed": SPEED} if stream else {"superglue": {"max_length": 30}, "speed": SPEED},
    )
    return Work(run, root, root / "cache", Path(tempfile.mkdtemp(dir=root)))


def made(model: Any, root: Path, teacher: Any = None, **train: Any) -> tuple[Training, Any]:
    """Its training, and a classifier; no Brainformer is one. Both are on the CPU."""
    heads = AutoModelForSequenceClassification.from_config
    classifier = None if isinstance(model, Brainformer) else heads(auto.hf_config(model, num_labels=2))
    return Training(work_of(model, root, teacher, **train)), classifier


def move(training: Training) -> None:
    """To the GPU, after the first steps, whose losses would be compared with what is to be expected."""
    training.device, training.precision = fake_gpu.GPU, "bfloat16"
    training.corpus.packed = packs(training.config, training.device, training.precision)
    fake_gpu.moved(training.model)
    if training.teacher:
        fake_gpu.moved(training.teacher.model)
    training.optimizer = optimizers.build(training.model, training.settings)
    training.pruner = Pruner(training.config, training.model)
    training.counters.step = 10
    if isinstance(training.config.model, Brainformer):
        training.memory = training.model.empty_memory(training.settings.batch_size)
    if not SETTLED.isdisjoint(type(module).__name__ for module in training.model.modules()):
        training._step()


def parts(training: Training, classifier: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is done with a model, in order."""
    yield "move", lambda: move(training)
    model: Any = training.model
    batch = losses.pinned(training.corpus.step(0).batches[0], training.device)
    yield "micro-batch", lambda: training._backward([batch])
    if training.corpus.packed:
        training.corpus.packed = False
        padded = losses.pinned(training.corpus.step(0).batches[0], training.device)
        training.corpus.packed = True
        yield "padded", lambda: training._backward([padded])
    yield "step", training._step
    yield "validation", training._evaluate
    if training.teacher or training.settings.pruning:
        return  # what comes after training is that of the plain model
    if training.config.model.causal:
        prompt = torch.ones((2, 3), dtype=torch.long)
        yield "generation", lambda: model.eval().generate(prompt.to(fake_gpu.GPU), max_new_tokens=3)
    if classifier is None:
        yield "bpc", lambda: bpc_of(model)
        yield "speed", lambda: speed_of(model, training.config)
        return
    score = scoring.score_decoder if training.config.model.causal else scoring.score_encoder
    mask = () if training.config.model.causal else (MASK,)
    at_once = 12 if training.config.model.causal else 60  # an encoder reads a text once for each of its tokens
    yield "scores", lambda: score(model, SEQUENCES, *mask, precision="bfloat16", tokens_per_batch=at_once)
    fake_gpu.moved(classifier)
    encoded = Encoded(SEQUENCES, np.array([0, 1, 0, 1]), 0)
    optimizer = torch.optim.AdamW(classifier.parameters(), fused=True)
    yield "fine-tuning", lambda: fine_tuning.step(classifier, encoded, np.arange(4), optimizer)
    yield "answers", lambda: fine_tuning.predict(classifier, encoded)
    yield "speed", lambda: speed_of(model, training.config)


def bpc_of(model: Any) -> float:
    with scoring.evaluating(model, "bfloat16"):
        return bpc.total_loss(model, np.arange(400) % 50, 4, at_once=160)


def speed_of(model: Any, settings: RunConfig) -> None:
    """What the stage times, once, with weights in bfloat16."""
    with scoring.evaluating(model):
        fake_gpu.moved(model, torch.bfloat16)
        for measurement in speed.plan(model, settings, cached=True):
            if measurement.task != "generate":  # whose end is in the values
                measurement.action()


def look(name: str, model: Any, root: Path) -> None:
    pruning = {"pruning": EVERY_STEP} if name == PRUNED else {}
    training, classifier = made(model, root, model if name.endswith(TAUGHT) else None, **pruning)
    part = "move"
    try:
        with fake_gpu.pretended(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
            for part, action in parts(training, classifier):
                with fake_gpu.Launches(fake) as launches:
                    action()
                kernels = launches.kernels
                varlen = sum(count for kernel, count in kernels.items() if "varlen" in kernel)
                found = {
                    "kernels": kernels.total(),
                    "varlen": varlen,
                    "waits": launches.waits,
                    "pageable": launches.pageable,
                }
                print(json.dumps({"model": name, "part": part, **found}), flush=True)
    except Exception as error:  # noqa: BLE001 - told for this model, and the next one is looked at
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if fake_gpu.is_ours(frame.filename)]
        places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-3:]))
        told = f"{type(error).__name__}: {str(error).splitlines()[0][:200]} ({places})"
        print(json.dumps({"model": name, "part": part, "error": told}), flush=True)
    finally:
        training.feed.close()


def models_by_name() -> dict[str, Any]:
    """Each kind of all families, some with a teacher, and a Brainformer with each gate."""
    variants = {f"{family} {variant}": small(family, variant, **SIZES) for variant, family in PAIRS}
    gates = {gate: {"gate": gate, "num_experts": 4} for gate in GATES}
    variants |= {f"{family} {TAUGHT}": small(family, **SIZES) for family in ("gpt_neo", "roberta")}
    variants[PRUNED] = small("gpt_neo", **SIZES)
    return variants | {f"brainformer {gate}": Brainformer(**CHARACTERS, experts=gates[gate]) for gate in gates}


if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        for each in sys.argv[2:]:
            look(each, models_by_name()[each], Path(folder))
