"""Name runs for people: by the model, its sizes, its data, how it is trained; and, where that would call others the
same, by the settings that differ. Not unique beyond what is named together: the id is. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from cluster.plan.memo import PerSettings
from tiny_transformers.settings.architecture import AnyModel, GPTNeo
from tiny_transformers.settings.config import RunConfig, Teacher, Train
from tiny_transformers.settings.program import Program

USUAL_STEPS = Train.model_fields["max_steps"].default
LONGEST = 24  # characters of a value in a name
ODD = re.compile(r"[^A-Za-z0-9_.+-]+")  # what a shell or a folder might take for something else


class Named(NamedTuple):
    """What is named: in which studies, with which model of the manifest, and with which settings."""

    studies: tuple[str, ...]
    model: str
    config: RunConfig


def names(these: Iterable[Named]) -> list[str]:
    """Return the names of runs or cells. What differs within a study and is not in its names is added, where it is not
    at its default."""
    plain, these = PerSettings(lambda config, model: (_unseeded_name(config, model), config)), list(these)
    named = [plain.of(each.config, each.model) for each in these]  # with the settings of the first seed
    called: dict[tuple[str, str], RunConfig] = {}  # study, name -> the settings that have it first
    alike: dict[tuple[str, str], dict[int, RunConfig]] = {}  # those that others have, too -> all of these
    for each, (name, config) in zip(these, named, strict=True):
        for study in each.studies:
            first = called.setdefault((study, name), config)
            if first is not config:
                alike.setdefault((study, name), {id(first): first})[id(config)] = config
    telling = {key: differing([*configs.values()]) for key, configs in alike.items()}
    more = PerSettings(lambda config, keys: "".join(f"-{word}" for word in differences(config, keys, usual=False)))
    found = []
    for each, (name, _) in zip(these, named, strict=True):
        keys = dict.fromkeys([key for study in each.studies for key in telling.get((study, name), ())])
        found.append(f"{name}{more.of(each.config, tuple(keys)) if keys else ''}-s{each.config.seed}")
    return found


def name(model: str, config: RunConfig) -> str:
    """Return the name of a run by itself."""
    return names([Named((), model, config)])[0]


def model_name(model: str, config: RunConfig) -> str:
    """With the true parameter count; `model` is its name in the manifest. A program has its parameters alone."""
    shape = config.model
    if isinstance(shape, Program):
        return f"{model}-{shape.label}"
    return (
        f"{model}-{shape.label}-{config.parameters / 1e6:.2f}M-{shape.layers}L-{shape.heads}H"
        f"-{shape.hidden_size}C-{shape.intermediate_size}I"
    )


def differing(configs: Sequence[RunConfig]) -> tuple[str, ...]:
    """Return the settings, but for the seed, in which these differ: dotted paths."""
    settings = [flat(config.model_dump(mode="json", exclude={"data": {"definition"}})) for config in configs]
    keys = dict.fromkeys(key for each in settings for key in each if key != "seed")
    return tuple(key for key in keys if len({each.get(key) for each in settings}) > 1)


def differences(config: RunConfig, keys: Sequence[str], *, usual: bool = True) -> list[str]:
    """Return `learning_rate=0.003` for each of these dotted paths: the last part of it, or as many as tell it from the
    others. `usual`: also for those at their default."""
    settings, defaults, words = flat(config.model_dump(mode="json")), _defaults(type(config.model)), shortest(keys)
    return [
        f"{words[key]}={ODD.sub('_', settings.get(key, 'null')[:LONGEST])}"
        for key in keys
        if usual or settings.get(key) != defaults.get(key)
    ]


@cache
def _defaults(kind: type[AnyModel]) -> dict[str, str]:
    """The default of each setting, with a model of this kind."""
    return flat(RunConfig(model=GPTNeo()).model_dump(mode="json")) | flat({"model": kind().model_dump(mode="json")})


def shortest(keys: Iterable[str]) -> dict[str, str]:
    """Dotted paths -> the fewest last parts of each that no other one ends with."""
    keys = list(dict.fromkeys(keys))
    found: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-number:]) for number in range(1, len(parts) + 1))
        found[key] = next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1), key)
    return found


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values, one a line: {"train": {"max_steps": 1}} -> {"train.max_steps": "1"}."""
    lines: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines |= flat(value, f"{prefix}{key}.")
        else:
            lines[f"{prefix}{key}"] = _told(value)
    return lines


def _told(value: Any) -> str:
    """A text as it is, all else as JSON, which json.dumps takes long to find out of a number."""
    if isinstance(value, str):
        return value
    return repr(value) if type(value) is int else "null" if value is None else json.dumps(value)


def _unseeded_name(config: RunConfig, model: str) -> str:
    corpus = f"-{config.data.label}" if config.data.label else ""
    return f"{model_name(model, config)}{corpus}{_trained(config.train)}{_taught(config.teacher)}"


def _trained(train: Train) -> str:
    """How long, unless it is as long as usual, and how many weights in 100 are pruned."""
    pruned = f"-pruned{100 * train.pruning.sparsity:g}" if train.pruning else ""
    if budget := train.budget:
        return f"-{budget.hours:g}h" if budget.hours else f"-{(budget.tokens or 0) / 1e6:g}Mtokens"
    return ("" if train.max_steps == USUAL_STEPS else f"-{train.max_steps}steps") + pruned


def _taught(teacher: Teacher | None) -> str:
    return f"-from-{teacher.name}-a{teacher.alpha:g}-T{teacher.temperature:g}" if teacher else ""
