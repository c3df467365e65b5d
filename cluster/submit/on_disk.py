"""Tell how far stage runs are by what is on disk, where the ledger does not know them or their files were removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from cluster.console import console, count, some
from cluster.files.folders import OutputRoot
from cluster.files.records import Run, StageState
from cluster.files.statuses import LIVE, Ended
from cluster.ledger.database import Ledger

if TYPE_CHECKING:  # `status` is quicker without it
    from cluster.submit.dispatch import States, Todo


def with_taken_numbers(ledger: Ledger | None, output_root: OutputRoot, todo: Todo, states: States) -> States:
    """Return the states with the numbers that are taken, though the ledger has no such attempt: what was submitted of a
    run before somebody removed it, and folders of a run whose run.json was torn."""
    given = ledger.numbers_given() if ledger else {}
    folders = output_root.run_ids()
    kept: dict[str, Mapping[str, StageState]] = {}
    for run, stages in todo:
        of_run = dict(states.get(run.id, {}))
        for stage in stages:
            state = of_run.get(stage, StageState("waiting", 0))
            known = state.attempts or run.id not in folders
            there = [] if known else output_root.run(run.id).numbers(stage)
            of_run[stage] = replace(state, attempts=max(state.attempts, given.get((run.id, stage), 0), *there))
        kept[run.id] = of_run
    return {**states, **kept}


def removed(output_root: OutputRoot, run: Run, states: Mapping[str, StageState]) -> set[str]:
    """Return the stages of a run that have ended, and whose files were removed since; none of a run of which something
    is under way."""
    ended = {stage for stage, state in states.items() if state.status in get_args(Ended)}
    live = any(state.status in LIVE for state in states.values())
    return ended - output_root.run(run.id).stages() if ended and not live else set()


def without_removed(output_root: OutputRoot, runs: Sequence[Run], states: States) -> States:
    """Return the states as the files have them: what was removed counts as never tried, but for its numbers, and so
    does what followed from it. Says so."""
    kept: dict[str, Mapping[str, StageState]] = {}
    gone: list[str] = []
    for run in runs:
        of_run = states.get(run.id, {})
        if lacking := removed(output_root, run, of_run):
            gone += [f"{stage} of {run.id}" for stage in run.stages if stage in lacking]
            from cluster.plan import choosing  # with yaml and manifests, which `status` does without

            again = choosing.redo(run, lacking)
            kept[run.id] = {
                stage: replace(state, status="waiting") if stage in again else state for stage, state in of_run.items()
            }
    if gone:
        console.print(
            f"The files of {count(len(gone), 'stage run')} that had ended are gone ({some(gone)}): they count as never "
            "done.",
            style="yellow",
            soft_wrap=True,
        )
    return {**states, **kept}
