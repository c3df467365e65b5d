"""Studies whose variants have scores that a test names."""

from cluster.report import comparison
from cluster.report.results import BY_KEY, Family, Result, Study, Variant
from tiny_transformers.settings.config import RunConfig

BLIMP, LOSS = BY_KEY["blimp"], BY_KEY["loss"]
CONFIG = RunConfig.model_validate({"model": {"family": "gpt_neo"}})


def variant(label, scores, *, parameters=9_585_664, missing=()):
    """`scores`: measure -> its values, seed by seed."""
    n = max((len(values) for values in scores.values()), default=1)
    stages = {"pretrain": {"status": "completed"}} | {stage: {"status": "failed"} for stage in missing}
    runs = [
        Result(
            run_id=f"{label}-{seed}",
            name=label,
            seed=seed,
            studies=("made_up",),
            stages=stages,
            scores={m.where: (values[seed], 1) for m, values in scores.items() if values[seed : seed + 1]},
            metrics={},
            failed_checks=(),
            hours={},
        )
        for seed in range(n)
    ]
    return Variant(label, label, "gpt_neo", CONFIG, parameters, label == "gelu", tuple(runs))


def study(*variants):
    return Study("made_up", "Which one?", (Family("gpt_neo", variants),))


def on_blimp(*values, **settings):
    """A study of GELU and variants a, b, c, ...: their values on BLiMP."""
    labels = ["gelu", *"abcdefghijklmnopqrstuvwxyz"]
    return study(*(variant(labels[i], {BLIMP: list(map(float, each))}, **settings) for i, each in enumerate(values)))


def no_pairs(run_id):  # noqa: ARG001
    return None


def compare(of, kept=no_pairs):
    return comparison.compare(of, kept)
