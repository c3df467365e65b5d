"""Say in words what a reader has to know before the figures: what keeps them from being results, and where runs read
other data than their like.

What holds for every study is said once, over the page; what holds for some, at each of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cluster.report.results import Study
from cluster.report.study_tables import Section
from tiny_transformers.settings.config import Data, RunConfig, tokenizer_name

TRIALS: Mapping[str, Callable[[RunConfig], object]] = {
    "Smoke runs: a trial of the machinery, whose scores say nothing": lambda config: config.smoke,
    "Probes: some steps of a training, which measure memory and speed; their scores say nothing": lambda config: (
        config.probe
    ),
    "Built-in data, made by a grammar: its scores compare with no others": lambda config: (
        config.data.source == "builtin"
    ),
    "Scored on a part of the data only (evaluation.limit)": lambda config: config.evaluation.limit,
}


def trials(study: Study) -> list[str]:
    """Return what keeps the numbers of a study from being results."""
    configs = [variant.config for variant in study.variants]
    return [note for note, applies in TRIALS.items() if any(map(applies, configs))]


def placed(sections: Sequence[Section]) -> tuple[list[str], list[Section]]:
    """Return those of `trials` that every study has, for the page, and the sections with the others."""
    found = [trials(each.study) for each in sections]
    of_all = [note for note in TRIALS if found and all(note in each for each in found)]
    return of_all, [
        replace(each, trials=[note for note in notes if note not in of_all])
        for each, notes in zip(sections, found, strict=True)
    ]


def own_tokenizers(study: Study) -> list[str]:
    """Say that the corpora of a study have tokenizers of their own, which its grid asks for."""
    corpora: dict[str, set[str]] = {}
    for variant in study.variants:
        data = variant.config.data
        if not data.is_stream and not isinstance(data.tokenizer, str):
            corpora.setdefault(tokenizer_name(data), set()).add(_corpus(data))
    return [
        f"{' and '.join(sorted(of))} have each a tokenizer of their own, trained on them ({file}): a loss per "
        "token says nothing across them"
        for file, of in corpora.items()
        if len(of) > 1
    ]


def changed_data(studies: Sequence[Study]) -> list[str]:
    """Say which files changed between runs that should have read the same. Corpora differ, and so do the tokenizers
    that are trained on them; so does all that was accepted as a revision."""
    versions: dict[tuple[str, str], set[str]] = {}
    for variant in (variant for study in studies for variant in study.variants):
        data = variant.config.data
        own = {*data.files.files, *([] if isinstance(data.tokenizer, str) else [tokenizer_name(data)])}
        for run in variant.runs:
            for (stage, file), digest in run.data.items():
                if run.status(stage) == "completed":
                    among = _corpus(data) if file in own else data.revision or ""
                    versions.setdefault((file, among), set()).add(digest)
    return [f"{file}: {len(found)} versions of it were read" for (file, _), found in versions.items() if len(found) > 1]


def _corpus(data: Data) -> str:
    return "-".join([data.corpus, *([data.revision] if data.revision else [])])
