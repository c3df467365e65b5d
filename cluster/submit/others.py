"""What of a submission has to wait for the product of another run, such as its teacher's model: by the runs' settings
and by how far that run is, so by files. It is planned and asked for with all else, and `tick` submits it then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.console import count
from cluster.files.documents import RunNeed
from cluster.files.folders import OutputRoot
from cluster.ledger.rows import NeedRow
from cluster.plan import choosing
from cluster.submit.dispatch import States, Todo
from tiny_transformers.settings.stages import STAGES


@dataclass(frozen=True)
class Others:
    """The runs of a submission that cannot begin yet, and those whose need nobody will meet by itself."""

    later: dict[str, RunNeed]  # run id -> the first product that is not there yet
    gone: dict[str, RunNeed]  # run id -> the product that was there, and was removed


def look(output_root: OutputRoot, todo: Todo, states: States) -> Others:
    """Judge what these stage runs need of other runs. What is to be done again here is not there yet."""
    again = {(run.id, stage) for run, stages in todo for stage in stages}
    later: dict[str, RunNeed] = {}
    gone: dict[str, RunNeed] = {}
    for run, stages in todo:
        for need in (each for each in run.needs if each["stage"] in stages):
            place = need["run_id"], need["needed"]
            if place in again or choosing.status(states.get(place[0], {}), place[1]) != "completed":
                later.setdefault(run.id, need)
            elif STAGES[need["needed"]].trains and not output_root.run(place[0]).model.is_dir():
                gone.setdefault(run.id, need)
    return Others(later, gone)


def told_gone(gone: dict[str, RunNeed], output_root: OutputRoot) -> str:
    """Say which runs are left alone, since the model that they need is gone."""
    run_id = next(iter(gone.values()))["run_id"]
    return (
        f"{count(len(gone), 'run')} left alone: the model that they learn from is gone "
        f"({output_root.run(run_id).model}). Bring it back, or train it again: `rerun --stage pretrain --run {run_id}`."
    )


def told_unmet(needs: Iterable[NeedRow]) -> list[str]:
    """Say for what runs wait that nobody submits before it is there, a line for each product."""
    return [
        f"{count(need['runs'], 'run', 'waits', 'wait')} for {need['stage']} of "
        f"{need['name'] or 'a run that is gone'} ({need['run_id']}), which is {need['status']}."
        for need in needs
    ]


def told_later(later: Iterable[RunNeed], names: Mapping[str, str], go_on: str) -> list[str]:
    """Say for what runs wait, a line for each product. `names`: of runs, by their ids."""
    waiting: dict[tuple[str, str], int] = {}
    for need in later:
        place = need["run_id"], need["needed"]
        waiting[place] = waiting.get(place, 0) + 1
    return [
        f"{count(number, 'run', 'waits', 'wait')} for {stage} of {names.get(run_id, run_id)} ({run_id}). {go_on}"
        for (run_id, stage), number in waiting.items()
    ]
