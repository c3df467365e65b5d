"""What a follow-up may choose, and what becomes of each choice: every one is made and checked before anything runs, so
that none can turn out to be impossible later.

A chosen cell goes on with what its study and grid said of it; the follow-up's own settings, and each combination of its
grid, lie on top. Where these name a model, it is one of the cell's own family."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.errors import InputError
from cluster.manifest import grids
from cluster.manifest.grids import Combination
from cluster.manifest.loading import Cell, Layer, Manifest, merge, over
from cluster.manifest.own_stages import PARAMETERS
from cluster.manifest.sources import FROM, Rule, rule_of


@dataclass(frozen=True)
class CandidateCell:
    """A cell of a source that a follow-up may choose."""

    study: str  # the source
    cells: tuple[Cell, ...]  # with each seed
    group: str  # the value of the rule's `per`
    before: int | None  # which candidate of the source, a follow-up itself, it comes from; None: it is there anyway
    into: tuple[tuple[Cell, ...], ...]  # what becomes of it: each combination, with each seed


@dataclass(frozen=True)
class FollowUp:
    study: str
    rule: Rule
    candidates: tuple[CandidateCell, ...]

    @property
    def cells(self) -> list[Cell]:
        """All that may become of a choice."""
        return [cell for each in self.candidates for made in each.into for cell in made]

    def revised(self, cells: Iterator[Cell]) -> FollowUp:
        """With these cells in place of its own, first those of its sources, in the order of `all_cells`."""
        candidates = [
            replace(
                each,
                cells=tuple(next(cells) for _ in each.cells),
                into=tuple(tuple(next(cells) for _ in made) for made in each.into),
            )
            for each in self.candidates
        ]
        return replace(self, candidates=tuple(candidates))

    @property
    def all_cells(self) -> list[Cell]:
        return [cell for each in self.candidates for made in (each.cells, *each.into) for cell in made]


def follow_ups(
    manifest: Manifest, *, studies: Iterable[str] = (), overrides: Iterable[str] = (), smoke: bool = False
) -> list[FollowUp]:
    """The follow-ups among these studies and those that they begin from, a source before what begins from it.

    Raises InputError for a rule that cannot choose, or a choice that could not be run."""
    top, known = grids.top_layer(manifest, overrides, smoke), dict[str, list[_Possible]]()
    made: dict[str, FollowUp] = {}
    with grids.told_of(manifest):
        for name in grids.taken(manifest, studies):
            if rule := rule_of(manifest, name):
                made[name] = _follow_up(manifest, name, rule, top, smoke, known)
                most = sum(_most(known[source], made.get(source)) for source in rule.sources)
                _check_groups(rule, made[name].candidates, f"studies.{name}.{FROM}", most)
    return list(made.values())


def all_cells(
    manifest: Manifest, *, studies: Iterable[str] = (), overrides: Iterable[str] = (), smoke: bool = False
) -> list[Cell]:
    """Every cell of these studies, those that are known beforehand and those that may be chosen. Raises InputError."""
    names, sets = list(studies), list(overrides)
    known = grids.cells(manifest, studies=names, overrides=sets, smoke=smoke)
    later = follow_ups(manifest, studies=names, overrides=sets, smoke=smoke)
    return [*known, *(cell for each in later for cell in each.cells)]


@dataclass(frozen=True)
class _Possible:
    """A combination that a study has, or may have once its own choice is made."""

    combination: Combination
    before: int | None = None  # the candidate that it comes from


def _follow_up(
    manifest: Manifest, name: str, rule: Rule, top: Layer, smoke: bool, known: dict[str, list[_Possible]]
) -> FollowUp:
    where, stages = f"studies.{name}.{FROM}", grids.stages_of(manifest, name)
    sources = [(source, each) for source in rule.sources for each in _possible(manifest, source, top, smoke, known)]
    for source in rule.sources:
        if rule.by.stage not in grids.stages_of(manifest, source):
            raise InputError(f"{where}.by: {source} has no stage {rule.by.stage}. Add it there.")
    made = known.setdefault(name, _possible(manifest, name, top, smoke, known))
    candidates = []
    for number, (source, each) in enumerate(sources):
        of_source = each.combination
        into = [one.combination for one in made if one.before == number]
        cells = _cells(source, of_source, grids.stages_of(manifest, source))
        group = "" if rule.per is None else _value(of_source, rule.per, f"{where}.per")
        told = tuple(_cells(name, one, stages) for one in into)
        candidates.append(CandidateCell(source, cells, group, each.before, told))
    return FollowUp(name, rule, tuple(candidates))


def _possible(
    manifest: Manifest, name: str, top: Layer, smoke: bool, known: dict[str, list[_Possible]]
) -> list[_Possible]:
    """All combinations that a study has or may have; each study's are made once."""
    if name in known:
        return known[name]
    study, where, rule = manifest.studies[name], f"studies.{name}", rule_of(manifest, name)
    own = grids.own_settings(study, where)
    points = grids.included(study, where) if rule else grids.combinations(study, where)
    layers: list[tuple[Layer, int | None]] = [(over(own, point), None) for point in points]
    if rule:
        sources = [
            each.combination for source in rule.sources for each in _possible(manifest, source, top, smoke, known)
        ]
        on_top = [merge(own, point) for point in grids.combinations(study, where)]
        for number, source in enumerate(sources):
            fitting = [layer for layer in on_top if _fits(manifest, layer, source)]
            if not fitting:
                family = source.configs[0].model.family
                raise InputError(f"{where}: names no model of {family}, and {source.model} may be chosen. Add one.")
            layers += [(merge(source.written, layer), number) for layer in fitting]
    made = grids.combine(manifest, name, [layer for layer, _ in layers], top, smoke)
    known[name] = [_Possible(one, before) for one, (_, before) in zip(made, layers, strict=True)]
    return known[name]


def _fits(manifest: Manifest, layer: Layer, source: Combination) -> bool:
    """Whether a follow-up's settings name no model, or one of the family of the cell; what is no model is told when
    the cells are made."""
    named = layer.get("model")
    model = manifest.models.get(named.value) if named and isinstance(named.value, str) else None
    return model is None or "family" not in model or model["family"].value == source.configs[0].model.family


def _cells(study: str, one: Combination, stages: tuple[str, ...]) -> tuple[Cell, ...]:
    return tuple(Cell(study, one.model, config, stages) for config in one.configs)


def _value(one: Combination, path: str, where: str) -> str:
    """The value of a setting of a combination, as text."""
    if path == "model":
        return one.model
    value: Any = one.configs[0].model_dump(mode="json")
    for word in path.split("."):
        if not isinstance(value, dict) or word not in value:
            raise InputError(f"{where}: {path.removeprefix(PARAMETERS)}: a cell of {one.model} has no such setting.")
        value = value[word]
    return value if isinstance(value, str) else json.dumps(value)


def _most(possible: Sequence[_Possible], choice: FollowUp | None) -> int:
    """How many cells a source has at most, once its own choice is made, if it is a follow-up."""
    if choice is None:
        return len(possible)
    fixed = sum(each.before is None for each in possible)
    groups = len({each.group for each in choice.candidates})
    made = max(len(each.into) for each in choice.candidates)
    return min(len(possible), fixed + choice.rule.best * groups * made)


def _check_groups(rule: Rule, candidates: Sequence[CandidateCell], where: str, most: int) -> None:
    """`most`: cells that the sources have at most."""
    groups = Counter(each.group for each in candidates)
    if rule.per is not None and len(groups) < 2:
        raise InputError(f"{where}.per: {rule.per} is the same in all cells of {' and '.join(rule.sources)}. Leave it.")
    group, least = min(groups.items(), key=lambda each: each[1])
    least = min(least, most)
    if rule.best > least:
        among = f" with {rule.per} {group}" if rule.per else ""
        raise InputError(
            f"{where}.best: {rule.best} of {least} cells{among} cannot be chosen. Say a number up to {least}."
        )
