"""Stages of a user's own become known beside ours: to a command by the manifest or by OUTPUT_ROOT, to a job by
OUTPUT_ROOT. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.program import Program
from tiny_transformers.settings.stage.kind import Measure, StageKind
from tiny_transformers.settings.stage.own import OwnMeasure, OwnStage
from tiny_transformers.settings.stages import STAGES

COMMANDS = "tiny_transformers.programs.command"  # the module that does a stage which is a command


def kind_of(name: str, own: OwnStage) -> StageKind:
    """Its entry beside ours. The speed of such a stage is how many times as fast it is as its minutes say."""
    return StageKind(
        name,
        runner=own.run or COMMANDS,
        needs=own.needs,
        flops=lambda _: own.seconds,
        measures=tuple(measure_of(name, each) for each in own.measures),
        own=own,
    )


def measure_of(stage: str, own: OwnMeasure) -> Measure:
    """A score of such a stage as a study's figure."""
    words = (stage, "" if own.task == stage else own.task, own.metric)
    return Measure(
        f"{stage}.{own.task}.{own.metric}",
        own.title or " ".join(filter(None, words)),
        stage,
        own.task,
        own.metric,
        percent=own.percent,
        higher_is_better=own.higher_is_better,
        is_main=True,
    )


def definition(config: RunConfig, stage: str) -> OwnStage | None:
    """How a run does a stage of a user's own; None for ours. Of a program the run itself has what its first stages do:
    its results are of that, whatever was submitted since."""
    own = STAGES[stage].own
    if own and isinstance(config.model, Program) and (doing := config.model.stages.get(stage)):
        return own.model_copy(update=vars(doing))
    return own


def make_known(stages: Mapping[str, OwnStage]) -> None:
    """Put these among STAGES, behind what they need; one of the same name that was there is replaced.

    Raises ValueError for names of ours, for needs that nothing meets, and for those that go round in a circle."""
    known = {name: kind for name, kind in STAGES.items() if kind.own and name not in stages}
    added = {name: kind_of(name, own) for name, own in stages.items()}
    ours = [name for name, kind in STAGES.items() if not kind.own]
    for name, kind in added.items():
        if name in ours:
            raise ValueError(f"{name}: is a stage that is there already. Give yours another name.")
        for need in kind.needs:
            if need not in (*ours, *known, *added):
                raise ValueError(f"{name}.needs: {need!r} is no stage.")
    try:
        graph = {name: kind.needs for name, kind in (known | added).items()}
        order = [name for name in TopologicalSorter(graph).static_order() if name in graph]
    except CycleError as error:
        raise ValueError(f"{error.args[1][0]}.needs: go round: {' <- '.join(error.args[1])}.") from None
    STAGES.replace([kind for kind in STAGES.values() if kind.own], [(known | added)[name] for name in order])


def forget_all() -> None:
    """Leave ours only."""
    STAGES.replace([kind for kind in STAGES.values() if kind.own], [])
