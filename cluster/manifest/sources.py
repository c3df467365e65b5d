"""The key `from` of a study: it is a follow-up, which begins from what other studies, its sources, have found.

Says from which studies, how many cells of each group, and by which measure. What becomes of the cells is
`follow_ups`'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cluster.errors import InputError, did_you_mean
from cluster.manifest.loading import Manifest, check_known
from cluster.manifest.own_stages import parameter
from tiny_transformers.settings.stage.kind import Measure
from tiny_transformers.settings.stages import STAGES

FROM = "from"
KEYS = ("study", "best", "by", "per", "failed")
Failed = Literal["wait", "leave_out"]


@dataclass(frozen=True)
class Rule:
    """How a follow-up chooses among the cells of its sources."""

    sources: tuple[str, ...]  # studies
    by: Measure  # the mean over a cell's seeds
    best: int = 1  # so many cells of each group
    per: str | None = None  # the setting whose values make groups; None: all cells are one
    failed: Failed = "wait"  # what a cell that has failed does: the choice waits, or leaves it out


def rule_of(manifest: Manifest, name: str) -> Rule | None:
    """Return the rule of a study; None: it is no follow-up. Raises InputError."""
    study, where = manifest.studies[name], f"studies.{name}.{FROM}"
    if FROM not in study:
        return None
    written = study[FROM]
    if not isinstance(written, dict):
        raise InputError(f"{where}: must be a mapping: {{study: S, best: 2, by: stage.task.metric}}, not {written!r}.")
    for key in written:
        check_known(str(key), KEYS, where)
    sources = written.get("study")
    sources = [sources] if isinstance(sources, str) else sources
    if not isinstance(sources, list) or not sources or not all(isinstance(each, str) for each in sources):
        raise InputError(f"{where}.study: must name a study, or a list of them, not {sources!r}.")
    for source in sources:
        if source not in manifest.studies:
            hint = did_you_mean(source, [each for each in manifest.studies if each != name])
            raise InputError(f"{where}.study: {source!r} is no study of this manifest. {hint}")
    best = written.get("best", 1)
    if type(best) is not int or best < 1:
        raise InputError(f"{where}.best: {best!r} must be a whole number from 1.")
    failed = written.get("failed", "wait")
    if failed not in get_args(Failed):
        raise InputError(f"{where}.failed: {failed!r} is not known. {did_you_mean(str(failed), get_args(Failed))}")
    if study.get("baseline") and not study.get("include"):
        raise InputError(
            f"studies.{name}.baseline: which cells are chosen is not known yet. Name one of its `include`, which are "
            "cells whatever is chosen, or leave it out: then it is the best one."
        )
    by = measure_named(written.get("by"), f"{where}.by")
    return Rule(tuple(dict.fromkeys(sources)), by, best, _per(manifest, written.get("per"), where), failed)


def _per(manifest: Manifest, per: Any, where: str) -> str | None:
    if per is None or (isinstance(per, str) and not manifest.of_programs):
        return per
    if manifest.of_programs:
        return parameter(per, f"{where}.per")
    raise InputError(f"{where}.per: {per!r} must be the path of a setting, such as model.family.")


def measure_named(by: Any, where: str) -> Measure:
    """Return the measure that `stage.task.metric` names. Raises InputError."""
    words = by.split(".") if isinstance(by, str) else []
    known = {".".join(each.where): each for kind in STAGES.values() for each in kind.measures}
    if by in known:
        return known[by]
    if len(words) > 2 and words[0] in STAGES:
        task, metric = ".".join(words[1:-1]), words[-1]
        if found := STAGES[words[0]].measure_of(task, metric):
            return found
    raise InputError(
        f"{where}: {by!r} is no measure: write stage.task.metric. {did_you_mean(str(by), known)} A stage of your own "
        "has those of its `measures`."
    )


def with_sources(manifest: Manifest, names: Iterable[str]) -> list[str]:
    """Return these studies, each behind the studies that it begins from. Raises InputError for a circle."""
    found: dict[str, None] = {}
    for name in names:
        if name not in manifest.studies:
            raise InputError(f"--study {name}: there is no such study. {did_you_mean(name, manifest.studies)}")
        _add(manifest, name, found, ())
    return list(found)


def _add(manifest: Manifest, name: str, found: dict[str, None], above: Sequence[str]) -> None:
    if name in above:
        circle = " from ".join((*above[above.index(name) :], name))
        raise InputError(f"studies.{name}.{FROM}.study: begins from itself: {circle}.")
    if rule := rule_of(manifest, name):
        for source in rule.sources:
            _add(manifest, source, found, (*above, name))
    found.setdefault(name)


def inherited(manifest: Manifest, name: str, key: str) -> Any:
    """Return what a study says of a key (`stages`, `seeds`); a follow-up that does not say it has its first source's.
    None: nobody says it."""
    study: Mapping[str, Any] = manifest.studies[name]
    if key not in study and (rule := rule_of(manifest, name)):
        return inherited(manifest, rule.sources[0], key)
    return study.get(key)
