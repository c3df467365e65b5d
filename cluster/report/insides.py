"""What is inside models, as pages beside the report's: one a run, and one a study with its variants side by side.

The numbers are those of the runs' insides.json (docs/interpret.md); the template escapes all text, and a script of the
page draws what heads attend to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.render import render
from cluster.report.results import Study, Variant, stem
from cluster.report.study_tables import anchor, run_file
from tiny_transformers.common import insides
from tiny_transformers.common.insides import INSIDES, FeedForward, Head, Insides

SIDE_BY_SIDE = 3  # sentences of each model whose pictures a study's page has; a run's has all
HEADS = {  # figure of a head -> its title, and what its darkest cell is
    "distance": ("distance, tokens", None),
    "relative_entropy": ("entropy, of the most there can be", 1.0),
    "first": ("on the first token", 1.0),
    "previous": ("on the previous token", 1.0),
    "same": ("on the same token", 1.0),
    "following": ("on the next token", 1.0),
}


@dataclass(frozen=True)
class Cell:
    text: str
    shade: float  # 0 to 1
    small: str = ""


@dataclass(frozen=True)
class Grid:
    """Numbers as shades: a row of cells each, None where there is nothing."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell | None]]]


@dataclass(frozen=True)
class Seen:
    """A model that was looked into."""

    label: str
    run_id: str
    found: Insides


def read(root: OutputRoot, run_id: str) -> Insides | None:
    return insides.read(root.run(run_id).path / INSIDES)


def seen(study: Study, root: OutputRoot) -> list[Seen]:
    """Of each variant the first seed that was looked into."""
    several = len(study.families) > 1
    every = []
    for family in study.families:
        for variant in family.variants:
            label = f"{family.title} {variant.title}" if several else variant.title
            every += [Seen(label, run.run_id, found) for run, found in _found(variant, root)][:1]
    return every


def _found(variant: Variant, root: OutputRoot) -> Iterable[tuple[Any, Insides]]:
    return ((run, found) for run in variant.runs if (found := read(root, run.run_id)))


def pages(studies: Sequence[Study], runs: Sequence[Run], root: OutputRoot) -> dict[str, str]:
    """File below the report's folder -> its text; nothing where no run was looked into."""
    files = {}
    for run in runs:
        if found := read(root, run.id):
            one = Seen(run.name, run.id, found)
            files[run_page(run.id)] = _page(run.name, "", run_file(run.id), [one])
    for study in studies:
        if len(models := seen(study, root)) > 1:
            target = f"index.html#{anchor('study', study.name)}"
            files[study_page(study)] = _page(study.name, study.description, target, models)
    return files


def run_page(run_id: str) -> str:
    return f"insides/{stem(run_id)}.html"


def study_page(study: Study) -> str:
    return f"insides/study-{study.stem}.html"


def _page(title: str, question: str, target: str, models: Sequence[Seen]) -> str:
    alone = len(models) == 1
    return render(
        "insides.html.j2",
        title=title,
        question=question,
        target=target,
        alone=alone,
        models=[_shown(each) for each in models],
        depths=[] if alone else by_depth(models),
        visible=visible,
        beginnings=_beginnings(models),
        sentences=_sentences(models),
        drawn=[_drawn(each, None if alone else SIDE_BY_SIDE) for each in models if each.found.pictures],
    )


def _shown(model: Seen) -> dict[str, Any]:
    found = model.found
    return {
        "label": model.label,
        "page": run_page(model.run_id).removeprefix("insides/"),
        "found": found,
        "heads": [_heads_grid(found, name) for name in HEADS if name != "following" or not found.causal],
        "similarity": _similarity(found),
        "places": list(zip(place_names(found.feed_forwards, found), found.feed_forwards, strict=True)),
        "states": _states(found),
    }


def place_names(modules: Sequence[insides.Module], found: Insides) -> list[str]:
    """The layer of each, whose weights it has where layers share them, and which of the layer's several it is."""
    layers = [each.place.layer for each in modules]
    names = []
    for number, each in enumerate(modules):
        place = each.place
        several = f", module {layers[: number + 1].count(place.layer)}" if layers.count(place.layer) > 1 else ""
        names.append(f"layer {place.layer}{several}" + (f", weights {place.weights}" if shares(found) else ""))
    return names


def shares(found: Insides) -> bool:
    """Whether some of its blocks have the weights of others."""
    return any(each.place.weights != each.place.layer for each in _modules(found))


def _modules(found: Insides) -> list[insides.Module]:
    return [*found.attentions, *found.feed_forwards]


def _heads_grid(found: Insides, name: str) -> Grid:
    title, most = HEADS[name]
    values = [[getattr(head, name) for head in each.heads] for each in found.attentions]
    scale = most or max((value for row in values for value in row), default=1.0) or 1.0
    columns = [f"head {number + 1}" for number in range(max(map(len, values), default=0))]
    rows = [(place, [Cell(short(value), value / scale) for value in row])
            for place, row in zip(place_names(found.attentions, found), values, strict=True)]  # fmt: skip
    return Grid(title, columns, rows)


def _similarity(found: Insides) -> Grid:
    names = _states(found)
    rows = [(name, [Cell(short(value), value) for value in row])
            for name, row in zip(names, found.layers.similarity, strict=True)]  # fmt: skip
    return Grid("How alike states are (linear CKA)", names, rows)


def _states(found: Insides) -> list[str]:
    return ["embedding", *(f"layer {number}" for number in range(1, len(found.layers.lens)))]


# -- side by side -----------------------------------------------------------------------------------------------------


def by_depth(models: Sequence[Seen]) -> list[Grid]:
    """What each model's layers do, layer by layer: a grid a figure, a row a model."""
    deepest = max(len(model.found.layers.cosine) for model in models)
    columns = [str(layer) for layer in range(1, deepest + 1)]
    grids = []
    for title, figure, most in DEPTHS:
        values = [figure(model.found) for model in models]
        known = [value for row in values for value in row.values()]
        scale = most or max(known, default=1.0) or 1.0
        rows = [
            (model.label, [_depth_cell(model.found, row, layer, scale) for layer in range(1, deepest + 1)])
            for model, row in zip(models, values, strict=True)
        ]
        if known:
            grids.append(Grid(title, columns, rows))
    return grids


def _depth_cell(found: Insides, row: Mapping[int, float], layer: int, scale: float) -> Cell | None:
    if layer not in row:
        return None
    weights = {each.place.layer: each.place.weights for each in _modules(found)}
    small = f"weights {weights[layer]}" if shares(found) and layer in weights else ""
    return Cell(short(row[layer]), row[layer] / scale, small)


def _mean_by_layer(pairs: Iterable[tuple[int, float]]) -> dict[int, float]:
    by_layer: dict[int, list[float]] = {}
    for layer, value in pairs:
        by_layer.setdefault(layer, []).append(value)
    return {layer: statistics.fmean(values) for layer, values in by_layer.items()}


def of_heads(name: str, choose: Callable[[Iterable[float]], float] = statistics.fmean) -> Any:
    """A figure of a layer's heads: their mean, or their largest. Insides -> layer -> value"""
    return lambda found: _mean_by_layer(
        (each.place.layer, choose([_figure(head, name) for head in each.heads])) for each in found.attentions
    )


def _figure(head: Head, name: str) -> float:
    value: float = getattr(head, name)
    return value


def of_parts(name: str) -> Any:
    return lambda found: _mean_by_layer((each.place.layer, _part_figure(each, name)) for each in found.feed_forwards)


def _part_figure(module: FeedForward, name: str) -> float:
    value: float = getattr(module, name)
    return value


def agreement(found: Insides) -> dict[int, float]:
    return {layer: lens.agreement for layer, lens in enumerate(found.layers.lens)}


def likeness(found: Insides) -> dict[int, float]:
    return {layer: row[-1] for layer, row in enumerate(found.layers.similarity)}


DEPTHS: tuple[tuple[str, Any, float | None], ...] = (
    ("Mean distance that heads look, tokens", of_heads("distance"), None),
    ("Entropy of heads, of the most there can be", of_heads("relative_entropy"), 1.0),
    ("Weight on the previous token, of the head with most", of_heads("previous", max), 1.0),
    ("Share of units, experts or values that are never active", of_parts("never_active"), 1.0),
    ("Share of them that are active at a token", of_parts("active"), 1.0),
    ("Share of positions at which the answer is that of the end (logit lens)", agreement, 1.0),
    ("Similarity to the last state (CKA)", likeness, 1.0),
    ("Cosine of the states before and after",
     lambda found: dict(enumerate(found.layers.cosine, 1)), 1.0),
)  # fmt: skip


def _beginnings(models: Sequence[Seen]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Each beginning, and how every model goes on."""
    told: dict[str, list[tuple[str, Any]]] = {}
    for model in models:
        for each in model.found.continuations:
            told.setdefault(each.beginning, []).append((model.label, each))
    return list(told.items())


def _sentences(models: Sequence[Seen]) -> list[tuple[Any, list[tuple[str, Any]]]]:
    told: dict[tuple[str, str], tuple[Any, list[tuple[str, Any]]]] = {}
    for model in models:
        for each in model.found.blanks:
            told.setdefault((each.before, each.after), (each, []))[1].append((model.label, each))
    return list(told.values())


def _drawn(model: Seen, sentences: int | None) -> dict[str, Any]:
    """For the page's script."""
    return {
        "label": model.label,
        "places": place_names(model.found.attentions, model.found),
        "layers": [each.place.layer for each in model.found.attentions],
        "pictures": [each.model_dump() for each in model.found.pictures[:sentences]],
    }


def visible(token: str) -> str:
    """A token of blanks by signs for them."""
    return token if token.strip() else token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


def short(value: float) -> str:
    """With about two digits that tell."""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
