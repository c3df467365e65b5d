"""Say in words what looks wrong across runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cluster.console import count, some
from cluster.files.folders import OutputRoot
from cluster.files.records import StudyRecord
from cluster.ledger.database import Ledger

FLAGGED = 8  # runs with a failed check that are named; of more the checks are counted


def identical_scores(ledger: Ledger) -> list[str]:
    """Check `identical_scores`: runs that were trained differently and score the same to the last digit."""
    told = []
    for stage, run_ids in ledger.identical_scores():
        known = ledger.names(run_ids)
        names = [f"{known[run_id]} ({run_id})" for run_id in run_ids]
        more = f" and {len(names) - FLAGGED:,} more" if len(names) > FLAGGED else ""
        told.append(f"{stage}: identical_scores: {', '.join(names[:FLAGGED])}{more}")
    return told


def unknown_runs(ledger: Ledger) -> list[str]:
    """Check that this version knows the settings of all runs: whatever it does not know it leaves out."""
    unknown = ledger.unknown_runs()
    if not unknown:
        return []
    named = some([f"{name} ({run_id}: {what})" for run_id, (name, what) in unknown.items()])
    return [f"{count(len(unknown), 'run')} left out, of settings that this version does not know: {named}"]


def left_by(ledger: Ledger, studies: Iterable[StudyRecord]) -> list[str]:
    """Check that studies which are to be submitted are not others' by the same name: of another manifest, with runs
    that these do not have."""
    known, told = {row["name"]: row for row in ledger.studies()}, []
    for study in studies:
        grids = known[study.name]["grids"] if study.name in known else []
        before = next((grid for grid in grids if grid["overrides"] == list(study.overrides)), None)
        manifests = before.get("manifests", []) if before else []
        left = set(before["runs"] if before else ()) - set(study.runs)
        if before and left and manifests and manifests[-1] != study.manifest:
            theirs, ours = _apart([manifests[-1], study.manifest])
            told.append(
                f"{study.name}: {theirs} has a study of this name, too, and of its {count(len(before['runs']), 'run')} "
                f"{ours} does not have {len(left):,}. They stay, and the report shows them apart. For a study of its "
                "own, give this one another name, or another --output-root."
            )
    return told


def of_several_manifests(ledger: Ledger) -> dict[str, str]:
    """Study -> what to say of it, where its runs come from several manifests, of which the last does not have all."""
    mixed: dict[str, tuple[list[str], set[str]]] = {}  # study -> its manifests, and the runs that its grids have
    for row in ledger.studies():
        manifests = list(dict.fromkeys(each for grid in row["grids"] for each in grid.get("manifests", [])))
        if len(manifests) > 1:
            mixed[row["name"]] = manifests, {run_id for grid in row["grids"] for run_id in grid["runs"]}
    if not mixed:
        return {}
    needed = ledger.needed_runs()
    members = [(study, run_id) for run_id, (studies, _) in ledger.known_runs().items() for study in studies]
    left = {study for study, run_id in members if study in mixed and run_id not in mixed[study][1] | needed}
    return {
        study: f"{study}: its runs come from {len(manifests)} manifests: {', '.join(_apart(manifests))}"
        for study, (manifests, _) in mixed.items()
        if study in left
    }


def _apart(paths: list[str]) -> list[str]:
    """The names of these files, or their paths where names are the same."""
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else paths


def removed_runs(ledger: Ledger, output_root: OutputRoot) -> list[str]:
    """Check the folders of runs: what the ledger knows of one that was removed has no files any more."""
    folder = output_root.path / "runs"
    try:
        removed = set(ledger.run_ids()) - output_root.run_ids()
    except OSError as error:
        return [f"{folder}: {error.strerror}, so what is shown of runs is what the ledger remembers"]
    if not removed:
        return []
    return [
        f"{folder} has no folder of {count(len(removed), 'run')} ({some(removed)}): what is shown "
        "of them is what the ledger remembers; `submit` does them again, `ledger rebuild` forgets them"
    ]
