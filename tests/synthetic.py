"""OUTPUT_ROOTs full of finished runs that nobody trained, through the files that jobs write.

The plan, the submission and the ledger are the real ones; only results, curves and pairs are made up: drawn around an
effect of each variant, with a spread over seeds. For tests of what is shown, and for their pictures."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.files import records, whole_files
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import choosing, cost, expansion, packing
from cluster.reconcile import reconciling, session
from cluster.sites.profiles import Site
from cluster.submit import launch
from tiny_transformers.common import insides, pairs
from tiny_transformers.settings.architecture import Architecture
from tiny_transformers.settings.config import FUNCTIONS, anchor_name
from tiny_transformers.settings.stage.blimp import PAIR_SCORES
from tiny_transformers.settings.stage.trajectory import END
from tiny_transformers.settings.stages import STAGES

KAN_LAYERS = {  # of a block, by family
    "gpt_neo": ("mlp.c_fc", "mlp.c_proj"),
    "roberta": ("intermediate.dense",),
    "llama": ("mlp.up_proj", "mlp.down_proj"),
}
ACTIVATION = {"gpt_neo": "mlp.act", "roberta": "intermediate.intermediate_act_fn", "llama": "mlp.act_fn"}
EXPERIMENTS = Path(__file__).parents[1] / "experiments.yaml"
STUDIES = ("activations", "sparse_ffn", "sharing", "width", "heads")
PHENOMENA = {
    "anaphor_agreement": 200,
    "argument_structure": 600,
    "binding": 500,
    "control_raising": 350,
    "determiner_noun_agreement": 600,
    "ellipsis": 150,
    "filler_gap": 450,
    "irregular_forms": 150,
    "island_effects": 500,
    "npi_licensing": 500,
    "quantifiers": 300,
    "subject_verb_agreement": 400,
}  # pairs of each
SUPPLEMENT = {"hypernym": 86, "qa_congruence_easy": 64, "qa_congruence_tricky": 165, "subject_aux_inversion": 412,
              "turn_taking": 280}  # fmt: skip
GLUE = ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "boolq", "multirc", "wsc")
CREATED, START = "2026-09-21T12:00:00+02:00", 1_790_000_000.0
CODE = {"commit": "0" * 40, "digest": "c0de", "diff": None}
ENVIRONMENT = {"python": "3.11.2", "packages": {"torch": "2.13.0", "transformers": "5.20.0"}, "gpu": "NVIDIA A100"}
STEPS = 8280
X = np.linspace(-4, 4, 65)
LEARNABLE: dict[str, Callable[[Any], Any]] = {  # of each unit's parameter
    "swish": lambda alpha: X / (1 + np.exp(-alpha * X)),
    "swish_thesis": lambda alpha: alpha * X**2 / (1 + np.exp(-alpha * X)),
    "prelu": lambda alpha: np.where(X > 0, X, alpha * X),
    "learnable_gelu": lambda alpha: alpha * _gelu(X),
    "learnable_geglu": lambda alpha: alpha * _gelu(X),
}
FIGURES = ("distance", "entropy", "relative_entropy", "first", "previous", "same", "following")
Effect = Callable[[Run], float]  # of a run's configuration on its accuracies, as a share


def no_effect(run: Run) -> float:  # noqa: ARG001
    return 0.0


@functools.cache
def cells_of(studies: tuple[str, ...], overrides: tuple[str, ...] = ()) -> tuple[loading.Cell, ...]:
    """Of experiments.yaml, for the whole process: that of all studies takes a second, most of which finds sizes."""
    return tuple(grids.cells(loading.load(EXPERIMENTS), studies=studies, overrides=overrides))


def planned(
    studies: Iterable[str] = STUDIES,
    *,
    limit: int | None = None,
    seeds: int | None = None,
    overrides: Sequence[str] = (),
) -> list[Run]:
    """Runs of experiments.yaml; with `seeds`, each cell with the seeds 0 to seeds - 1."""
    cells = list(cells_of(tuple(studies), tuple(overrides)))
    if seeds:
        kept = {(c.study, c.config.model_copy(update={}).model_dump_json(exclude={"seed"})): c for c in cells}
        cells = [
            loading.Cell(c.study, c.model, c.config.model_copy(update={"seed": seed}), c.stages)
            for c in kept.values()
            for seed in range(seeds)
        ]
    return expansion.expand(cells)[:limit]


def studies_of(runs: Iterable[Run]) -> list[records.StudyRecord]:
    """Their studies, as experiments.yaml tells of them; with the baselines among these runs, whatever their seeds."""
    document, present = loading.load(EXPERIMENTS), {run.id: run for run in runs}
    names = {study for run in present.values() for study in run.studies}
    cells = cells_of(tuple(study for study in document.studies if study in names))
    seeds = {run.config.seed for run in present.values()}
    teachers = {
        need["run_id"] for run in present.values() for need in run.needs
    }  # which are not compared by themselves
    seeded = [
        replace(cell, config=cell.config.model_copy(update={"seed": seed})) for cell in cells for seed in sorted(seeds)
    ]
    return [
        replace(
            study,
            baselines=tuple(run_id for run_id in study.baselines if run_id in present),
            runs=tuple(
                run.id
                for run in present.values()
                if study.name in run.studies and (run.id not in teachers or run.id in study.runs)
            ),
        )
        for study in expansion.studies(document, seeded)
        if study.name in names
    ]


def make(
    folder: Path,
    runs: Iterable[Run],
    *,
    effect: Effect = no_effect,
    spread: float = 0.008,
    luck: Sequence[int] = (),
    failing: Callable[[Run], str | None] = lambda run: None,  # noqa: ARG005
    unfinished: Callable[[Run], str | None] = lambda run: None,  # noqa: ARG005
    with_pairs: bool = True,
    studies: Sequence[records.StudyRecord] | None = None,
) -> OutputRoot:
    """The OUTPUT_ROOT `folder`. With other numbers as `luck` all runs have other noise. `failing` and `unfinished` name
    the stage at which a run failed, or is running."""
    root, chosen = OutputRoot(folder), list(runs)
    site = Site(name="delftblue", scheduler="slurm", runs_per_pack=8, max_array_size=1000, cpus=16, gpus=1, slots=2)
    work = [choosing.item(run, run.stages, {}, cost.Measured(5e13)) for run in chosen]
    arrays = packing.arrange(work, {run.id: run for run in chosen}, site)
    ledger = Ledger(root.ledger)
    by_id = {run.id: run for run in chosen}
    recording.record_runs(ledger, root, chosen, CREATED)
    recording.record_studies(ledger, root, studies_of(chosen) if studies is None else studies)
    for number, array in enumerate(arrays):
        submission_id = f"{number:08x}"
        directory = root.submission(submission_id)
        intent = launch.describe(array, site, root, submission_id, launch.Origin("submit", CREATED, None, CODE, None))
        whole_files.write_json(directory.submission, intent)
        whole_files.write_json(directory.answer, {"state": "submitted", "job_id": str(100 + number)})
        for index, pack in enumerate(array.packs):
            life = {"submission_id": submission_id, "job": f"{100 + number}_{index}", "host": f"gpu{index % 8:03}",
                    "pid": 1, "restart": 0, "time": START}  # fmt: skip
            whole_files.write_json(directory.task(index), life)
            for item in pack.items:
                run = by_id[item.run_id]
                made_up = MadeUp(run, effect(run), spread, with_pairs, luck)
                fill(root, made_up, item.stages, life, failed=failing(run), running=unfinished(run))
    reconciling.rebuild(ledger, root)
    ledger.remember("as_of", session.now())
    ledger.close()
    return root


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class MadeUp:
    """The figures of one run: a function of its id and seed, and of the effect."""

    def __init__(self, run: Run, effect: float, spread: float, with_pairs: bool, luck: Sequence[int] = ()) -> None:
        self.run, self.with_pairs = run, with_pairs
        self.random = np.random.default_rng([int(run.id, 16), run.config.seed, *luck])
        self.level = effect + self.random.normal(0, spread)  # of this run: its seed's luck is in it

    def outcome(self, stage: str, root: OutputRoot) -> dict[str, Any]:
        scores, metrics = getattr(self, stage)(root)
        rows = [{"task": task, "metric": metric, "value": float(value), "n": n} for task, metric, value, n in scores]
        checks = [{"name": "parameters", "passed": True, "blocking": True, "value": self.run.parameters}]
        return {"scores": rows, "checks": checks, "metrics": metrics, "data": {f"{stage}.jsonl": "ab" * 32}}

    def pretrain(self, root: OutputRoot) -> tuple[list[Any], dict[str, Any]]:
        loss = 1.6 - 2 * self.level
        steps = sorted({1, *range(100, STEPS, 100), STEPS})
        lines, tokens = [], 0
        for step in steps:
            fall = loss + 7.6 * math.exp(-((step / 40) ** 0.45))
            tokens = step * 57_000
            noisy = fall + self.random.normal(0, 0.03)
            lines.append({"step": step, "loss": noisy, "learning_rate": 5e-4 * (1 - step / STEPS), "tokens": tokens,
                          "seconds": step * 0.2})  # fmt: skip
            if step % 900 == 0 or step == STEPS:
                lines.append({"step": step, "eval_loss": fall})
        path = root.run(self.run.id).path / "curve.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        layers = [layer for number in range(2) for layer in self.functions(number)]
        if layers:
            (path.parent / FUNCTIONS).write_text(json.dumps({"x": X.tolist(), "layers": layers}))
        seconds = 700 * (1 + self.run.parameters / 2e7) * self.random.uniform(0.95, 1.05)
        return [("validation", "loss", lines[-1]["eval_loss"], 4_000_000)], {
            "seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds, "mfu": 0.31, "data_wait": 0.01,
            "peak_memory_mb": 3_000.0, "precision": "bfloat16", "device": "NVIDIA A100",
        }  # fmt: skip

    def functions(self, number: int) -> list[dict[str, Any]]:
        """What a layer of functions.json says; see tiny_transformers/training/functions.py."""
        model, layers = self.run.config.model, []
        if not isinstance(model, Architecture):
            return []
        if model.ffn.kind == "kan":
            edges = 0.4 * np.cumsum(np.cumsum(self.random.normal(0, 0.1, (200, len(X))), axis=1), axis=1) / 3
            edges = edges - edges[:, [32]] + self.random.normal(0, 0.05, (200, 1)) * np.maximum(X, 0)
            strong = np.argsort(-np.linalg.norm(edges, axis=1))[:8]
            curves = {f"input {edge % 20} to output {edge // 20}": edges[edge] for edge in strong}
            for module in KAN_LAYERS[model.family]:
                layers.append(_layer(number, module, edges, curves, None))
        elif model.activation in LEARNABLE:
            function, start = LEARNABLE[model.activation], 0.25 if model.activation == "prelu" else 1.0
            alphas = start + self.random.normal(0.15 + 0.1 * number, 0.02) + self.random.normal(0, 0.15, (200, 1))
            module = ACTIVATION[model.family]
            layers.append(_layer(number, module, function(alphas), {}, function(start)))
        return layers

    def add_tokenizer(self, root: OutputRoot) -> tuple[list[Any], dict[str, Any]]:  # noqa: ARG002
        return [], {"seconds": 1.0}

    def blimp(self, root: OutputRoot) -> tuple[list[Any], dict[str, Any]]:
        files, right = {}, {}
        for index, (task, n) in enumerate({**PHENOMENA, **SUPPLEMENT}.items()):
            # Which pairs are hard is alike for all models.
            hard = np.random.default_rng(index).beta(1.2, 1.0, n)
            chance = np.clip(0.5 * self.level + 0.58 + 0.35 * (0.5 - hard) + 0.03 * np.sin(index), 0.02, 0.98)
            right[task], files[task] = self.random.random(n) < chance, f"{index:064x}"
        if self.with_pairs:
            every = np.concatenate(list(right.values()))
            counts = np.array([len(part) for part in right.values()])
            path = root.run(self.run.id).path / PAIR_SCORES
            path.parent.mkdir(parents=True, exist_ok=True)
            pairs.write(path, pairs.KeptPairs(
                files=files, counts=counts, rows=np.concatenate([np.arange(n) for n in counts]).astype(np.int32),
                good=np.where(every, -10.0, -12.0), bad=np.full(len(every), -11.0), settings={},
            ))  # fmt: skip
        means = {task: (part.mean(), len(part)) for task, part in right.items()}
        for name, tasks in (("blimp", PHENOMENA), ("supplement", SUPPLEMENT), ("average", right)):
            means[name] = np.mean([means[task][0] for task in tasks]), sum(means[task][1] for task in tasks)
        scores = []
        for task, (mean, n) in means.items():
            scores += [(task, "accuracy", mean, n), (task, "accuracy_low", mean - 0.01, n),
                       (task, "accuracy_high", mean + 0.01, n)]  # fmt: skip
        return scores, {"seconds": 300.0}

    def superglue(self, root: OutputRoot) -> tuple[list[Any], dict[str, Any]]:  # noqa: ARG002
        values = {task: 0.6 + 0.02 * index + 0.6 * self.level for index, task in enumerate(GLUE)}
        values = {task: value + self.random.normal(0, 0.01) for task, value in values.items()}
        scores = [(task, "main", value, 1000) for task, value in values.items()]
        scores += [(task, "accuracy", value, 1000) for task, value in values.items()]
        return [*scores, ("average", "main", np.mean(list(values.values())), 1000 * len(GLUE))], {"seconds": 900.0}

    def lambada(self, root: OutputRoot) -> tuple[list[Any], dict[str, Any]]:  # noqa: ARG002
        right = np.clip(0.08 + self.level, 0, 1)
        return [("last_word", "accuracy", right, 5153), ("last_word", "accuracy_low", right - 0.007, 5153),
                ("last_word", "accuracy_high", right + 0.007, 5153), ("last_word", "perplexity", 4e4, 5153),
                ("passage", "perplexity", 22 - 60 * self.level, 5153)], {"seconds": 60.0}  # fmt: skip

    def bpc(self, root: OutputRoot) -> tuple[list[Any], dict[str, Any]]:  # noqa: ARG002
        split = self.run.config.evaluation.bpc.split
        return [(split, "bpc", 1.5 - self.level, 5_000_000)], {"seconds": 40.0}

    def trajectory(self, root: OutputRoot) -> tuple[list[Any], dict[str, Any]]:  # noqa: ARG002
        scores, metrics = [], {}
        for share in (*self.run.config.train.anchors, 1.0):
            name = END if share == 1 else anchor_name(share)
            step = max(1, round(share * STEPS))
            loss = 1.6 - 2 * self.level + 7.6 * math.exp(-((step / 40) ** 0.45))
            scores += [(name, "loss", loss, 4_000_000), (name, "blimp", 0.75 - 0.04 * (loss - 1.6), 1_200)]
            place = {"step": step, "tokens": step * 57_000, "stories": step * 256, "minutes": step * 0.2 / 60}
            metrics |= {f"{name}.{key}": value for key, value in place.items()}
        return scores, metrics

    def speed(self, root: OutputRoot) -> tuple[list[Any], dict[str, Any]]:  # noqa: ARG002
        rate = 4e5 * self.random.uniform(0.9, 1.1)
        return [(f"encode_b{batch}", "tokens_per_second", rate * batch**0.3, 100) for batch in (1, 16, 64)], {
            "seconds": 50.0, "device": "NVIDIA A100",
        }  # fmt: skip

    def interpret(self, root: OutputRoot) -> tuple[list[Any], dict[str, Any]]:
        found = looked_into(self.run.config.model, self.random)
        insides.write(root.run(self.run.id).path / insides.INSIDES, found)
        return [("layers", "lens_depth", found.layers.depth, 4_000)], {"seconds": 40.0}


def looked_into(model: Any, random: Any) -> insides.Insides:
    """What might be in a model of this size: places and shares as they are, numbers from nowhere."""
    sharing = model.sharing
    own = sharing.places(model.layers) if sharing else range(model.layers)
    places = [insides.Place(layer=n, weights=weights + 1, application=n) for n, weights in enumerate(own, 1)]
    tokens = ["<s>", "Once", " upon", " a", " time", " <b>"]
    heads = [[insides.Head(**dict(zip(FIGURES, [8 * x, 3 * x, *[x] * 5], strict=True)))
              for x in random.uniform(0, 1, model.heads).round(4)] for _ in places]  # fmt: skip
    agreement = np.linspace(0.2, 1, model.layers + 1).round(4)
    shown = insides.Context(before="the little ", token="girl", after=" <i>ran", value=1.5)
    part = insides.Part(number=7, selectivity=0.8, tokens=[insides.Token(token=" girl", share=0.8)], contexts=[shown])
    return insides.Insides(
        causal=model.causal,
        characters=False,
        texts=200,
        tokens=25_600,
        attentions=[insides.Attention(place=place, heads=of) for place, of in zip(places, heads, strict=True)],
        pictures=[insides.Picture(tokens=tokens, weights=[["0z" * 18] * model.heads] * model.layers)] * 4,
        feed_forwards=[
            insides.FeedForward(place=place, kind="unit", parts=48, threshold=0.01, never_active=0.1, active=0.4,
                                effective=0.7, usage=[], shown=[part])
            for place in places
        ],
        layers=insides.Layers(
            similarity=(1 - abs(np.subtract.outer(agreement, agreement))).round(4).tolist(),
            cosine=[0.9] * model.layers,
            lens=[insides.Lens(agreement=a, rank=1 + 9 * (1 - a), divergence=1 - a) for a in agreement],
            depth=0.6, compared=4_000, positions=4_000,
        ),
        continuations=[insides.Continuation(beginning="Once <u>", greedy=" upon", sampled=" there")] * model.causal,
        blanks=[] if model.causal else [
            insides.Blank(before="Once upon a ", word="time", after=".",
                          candidates=[insides.Token(token="time", share=0.7)])
        ],
    )  # fmt: skip


def _layer(number: int, module: str, every: Any, curves: dict[str, Any], initial: Any | None) -> dict[str, Any]:
    bands = {
        name: np.quantile(every, share, axis=0) for name, share in (("5 %", 0.05), ("median", 0.5), ("95 %", 0.95))
    }
    shown = [{"name": name, "y": np.round(y, 4).tolist()} for name, y in (bands | curves).items()]
    start = None if initial is None else np.round(initial, 4).tolist()
    return {"layer": number, "module": module, "curves": shown, "initial": start}


def fill(
    root: OutputRoot,
    made_up: MadeUp,
    stages: Sequence[tuple[str, int]],
    life: dict[str, Any],
    *,
    failed: str | None,
    running: str | None,
) -> None:
    """What a job writes of these stages of a run: all of them, or up to the one that failed or is running."""
    now = START
    for stage, number in stages:
        attempt = root.run(made_up.run.id).attempt(stage, number)
        whole_files.write_json(attempt.claim, life | {"time": now, "code": CODE, "environment": ENVIRONMENT})
        attempt.log.write_text(f"{stage} of {made_up.run.name}\n{stage} completed\n")
        if stage == running:
            attempt.log.write_text(f"{stage} of {made_up.run.name}\n")
            beat = {"fraction": 0.4, "text": "step 3312 of 8280", "time": now, "loss": 1.9, "tokens_per_second": 61_000,
                    "seconds_left": 720.0}  # fmt: skip
            whole_files.write_json(attempt.heartbeat, beat)
            return
        now += 1000.0
        if stage == failed:
            told = {"status": "failed", "cause": "error", "message": "ValueError: the loss is not a number at step 12"}
            whole_files.write_json(attempt.result, told | {"ended": now, "outcome": None})
            if any(stage in STAGES[later].needs for later, _ in stages):
                return
            continue
        outcome = made_up.outcome(stage, root)
        told = {"status": "completed", "cause": None, "message": None, "ended": now, "outcome": outcome}
        whole_files.write_json(attempt.result, told)
