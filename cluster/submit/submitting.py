"""Do what `submit`, `probe`, `rerun` and `tick` are for: which stage runs each asks for, and what it tells the user."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.text import Text

from cluster.console import console, count, stderr
from cluster.errors import InputError, SlurmSilent, SubmitError, TinyError
from cluster.files import kept_code, records
from cluster.files.documents import BudgetFile, ContentsFile, SourceOfWork
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.files.statuses import LIVE
from cluster.ledger.checks import left_by
from cluster.ledger.database import Ledger
from cluster.plan import choosing, outlook
from cluster.reconcile import reconciling, session
from cluster.sites import profiles
from cluster.sites.profiles import Site
from cluster.slurm import environment
from cluster.slurm.queries import Slurm
from cluster.submit import (
    calibrating,
    choices,
    corpora,
    leaving,
    needs,
    on_disk,
    others,
    own_stages,
    pause,
    requests,
    retries,
)
from cluster.submit.contents import check_contents
from cluster.submit.dispatch import Request, States, SubmitOptions, Todo
from cluster.submit.earlier import EarlierSubmissions, last_submission
from cluster.submit.launch import Origin
from cluster.submit.wording import (
    say_decided,
    say_follow_ups,
    say_held,
    say_left_alone,
    say_left_refused,
    say_mixed,
    say_nothing_missing,
    say_unknown,
)
from tiny_transformers.settings.stage.own import OwnStage


def submit_missing(
    where: SubmitOptions,
    runs: list[Run],
    site: Site,
    studies: list[str],
    data_root: Path | None,
    manifest: dict[str, Any],
    about: Sequence[records.StudyRecord] = (),
    left_out: Sequence[str] = (),
    budget: BudgetFile | None = None,
    calibrate: bool | None = False,
    contents: ContentsFile | None = None,
    own: Mapping[str, OwnStage] | None = None,
    follow_ups: choices.Known = choices.NONE,
) -> None:
    """Whatever of these runs was never tried; says so if there is nothing. Records what is said `about` studies, and
    the manifest's budget. `left_out`: studies that are optional and were not named. `calibrate`: whether a calibration
    comes first; None: where it pays. `contents`: of the data that is read. `own`: the manifest's own stages.
    `follow_ups`: studies whose cells are chosen later, which is checked now for all that may be chosen.

    Raises InputError, SubmitError, SlurmSilent, BreakerOpen."""
    if where.output_root.is_probe and not all(run.config.probe for run in runs):
        raise InputError(
            f"--output-root {where.output_root.path}: is where probes lie, which never count: name another."
        )
    all_runs = [*runs, *follow_ups.possible]
    requests.check_data(all_runs, data_root)
    notes = corpora.look_through(all_runs, data_root, where.output_root)
    notes += filter(None, [outlook.alone(runs)])

    def build(ledger: Ledger | None, slurm: Slurm) -> tuple[Request, Origin]:
        if ledger:
            retries.check_breaker(ledger, site)
        defined = own_stages.define(ledger, where.output_root, own or {}, all_runs, site, data_root)
        states: States = ledger.states() if ledger else {}
        states = on_disk.without_removed(where.output_root, runs, states)
        todo = [(run, choosing.missing(run, states.get(run.id, {}))) for run in runs]
        request = requests.compose(where, ledger, runs, todo, states, site, studies, slurm, origin)
        first = calibrating.wanted(request, calibrate)
        mixed = left_by(ledger, about) if ledger else ()
        request = replace(request, about=about, left_out=left_out, budget=budget, contents=contents, mixed=mixed)
        return replace(request, calibration=first, own=defined, follow_ups=follow_ups, notes=notes), origin

    origin = requests.origin_now("submit", data_root, manifest, where.allow_code_change)
    request = requests.perform(where, build)
    if not request.items:
        say_nothing_missing(request, where.output_root)
        say_mixed(request)
        say_follow_ups(request)


def rerun(
    where: SubmitOptions,
    choose: Callable[[Ledger], list[str] | None],
    stages: Sequence[str] | None,
    failed: bool,
    site_of: Callable[[SourceOfWork | None], Site],
    data_root: Path | None,
) -> list[Run]:
    """Stage runs again, and what follows from them; returns the runs. Where and on which data: as the last
    submission made here, unless given. Raises as `submit_missing`, but for BreakerOpen: a person has asked."""

    def build(ledger: Ledger | None, slurm: Slurm) -> tuple[Request, Origin]:
        assert ledger
        last = last_submission(ledger, where.output_root)
        runs, site = ledger.runs(choose(ledger)), site_of(last)
        data = data_root or (Path(last["data_root"]) if last and last["data_root"] else None)
        origin = requests.origin_now("rerun", data, last.get("manifest") if last else None, where.allow_code_change)
        states = on_disk.without_removed(where.output_root, runs, ledger.states())
        todo = [(run, _chosen(run, states[run.id], stages, failed)) for run in runs]
        asked = [run for run, chosen in todo if chosen]
        requests.check_data(asked, data)
        notes = corpora.look_through(asked, data, where.output_root)
        now = check_contents([each for each in todo if each[1]], data, where.output_root)
        request = requests.compose(where, ledger, runs, todo, states, site, _studies(runs), slurm, origin)
        return replace(request, contents=now, notes=notes), origin

    request = requests.perform(where, build)
    if not request.items:
        console.print("Nothing to rerun.")
    return request.runs


@dataclass(frozen=True)
class TickOutcome:
    submitted: bool
    more: bool  # something waits for room, or for its time


def tick(
    where: SubmitOptions, site: Site | None, data_root: Path | None, only: Collection[str] | None = None
) -> TickOutcome:
    """Go on: what failed is tried again as its rule says, and what limits held back is submitted; of these runs only,
    if they are given. Each run goes where it went before, or was to go, unless a site is given.

    Raises SubmitError, SlurmSilent, BreakerOpen, InputError, and TinyError for a request or a choice that the disk does
    not give, after having gone on with all else."""
    slurm = Slurm()
    with session.writing(where.output_root, slurm) as ledger:
        assert ledger
        paused = pause.paused(where.output_root)
        if time_of := paused.get(environment.user()) or paused.get(pause.SOMEBODY):
            console.print(f"`cancel --all` was given at {time_of}: `submit` and `rerun` go on, `tick` does not.")
            return TickOutcome(False, False)
        reconciling.late_results(ledger, where.output_root)
        say_unknown(ledger)
        problems: list[TinyError] = []
        before = EarlierSubmissions(ledger, where.output_root, site, problems)
        with ledger.transaction():
            again = retries.decide(ledger, where.output_root, before.site, time.time(), only)
        say_decided(again, where.output_root.options)
        chosen = choices.go_on(ledger, where.output_root, paused)
        if chosen.made:  # and are asked for now
            before = EarlierSubmissions(ledger, where.output_root, site, problems)
        problems += [each for each in chosen.problems if str(each) not in map(str, problems)]
        waiting = needs.waiting(before.requests, needs.states_of(where.output_root, ledger))
        for told in waiting.told:
            console.print(told, soft_wrap=True)
        groups = _to_go_on(where.output_root, ledger, again, before, only, site, waiting.runs, paused)
        refused = dict(before.refused)
        if groups:
            retries.check_breaker(ledger, site or before.any_site())
        done: list[Request] = []
        for source, todo in groups:
            try:
                done.append(_go_on(where, ledger, todo, source, site, data_root, slurm))
            except (InputError, SubmitError) as problem:  # the others go on
                problems.append(problem)
            except SlurmSilent as problem:
                problems.append(problem)
                break
            finally:
                slurm.seen = None  # the next one asks anew how much room is left
        before.forget_done()
        unmet = others.told_unmet(ledger.unmet_needs())
    for told in unmet:
        console.print(told, soft_wrap=True)
    if only is None and not (
        unmet or groups or again.decided or again.waiting or again.left or waiting.told or chosen.looked_at or problems
    ):
        console.print("Nothing to do.")
    if refused:
        say_left_refused(refused)
    for other in problems[:-1]:
        stderr.print(Text(str(other), style="red"))
    if problems:
        raise problems[-1]
    more = bool(again.waiting or waiting.runs or any(each.held for each in done))
    return TickOutcome(any(each.arrays for each in done), more)


def _to_go_on(
    output_root: OutputRoot,
    ledger: Ledger,
    again: retries.RetryPlan,
    before: EarlierSubmissions,
    only: Collection[str] | None,
    site: Site | None,
    waiting: Collection[str],
    paused: Mapping[str, str],
) -> list[tuple[SourceOfWork, Todo]]:
    """Return what is to be submitted, those together that go the same way; not what waits for another run, nor what a
    user has cancelled, nor of runs of which something was removed: that is done again only by a `submit`."""
    eligible = {run_id for run_id in ledger.runs_with("eligible") if only is None or run_id in only} - set(waiting)
    states = ledger.states()
    wanted = {*again.due, *eligible}
    sources = before.sources(wanted)
    if before.unsure:
        who = count(len(before.unsure), "run", "waits", "wait")
        console.print(f"{who}, of which a request that cannot be read may say otherwise.", soft_wrap=True)
    runs = ledger.runs(sorted({*sources, *again.due} - before.refused.keys() - before.unsure))
    found = {run.id: leaving.why(output_root, run, states[run.id], sources.get(run.id), paused) for run in runs}
    left = {run_id: why for run_id, why in found.items() if why}
    say_left_alone(left, paused)
    groups: dict[str, tuple[SourceOfWork, list[tuple[Run, list[str]]]]] = {}
    for run in (each for each in runs if each.id not in left):
        stages = choosing.missing(run, states[run.id], again.due.get(run.id, ()))
        source = sources[run.id]
        alike = {
            key: source.get(key)
            for key in ("data_root", "allow_code_change", "code", "code_copy", *(["site"] if not site else []))
        }
        alike["manifest"] = (source.get("manifest") or {}).get("sha256")
        if stages:
            groups.setdefault(json.dumps(alike, sort_keys=True), (source, []))[1].append((run, stages))
    return list(groups.values())


def _go_on(
    where: SubmitOptions,
    ledger: Ledger,
    todo: Todo,
    source: SourceOfWork,
    site: Site | None,
    data_root: Path | None,
    slurm: Slurm,
) -> Request:
    """Submit what there is room for of runs that go the same way."""
    data = data_root or (Path(source["data_root"]) if source["data_root"] else None)
    origin = requests.origin_now("tick", data, source.get("manifest"), False)
    code = source.get("code")
    if source.get("allow_code_change") and code and code["digest"] == origin.code["digest"]:
        origin = replace(origin, allow_code_change=True)  # it was allowed for this version, and no later one
    copy = source.get("code_copy")
    if copy and code and not kept_code.damage(where.output_root.code(copy)):
        # With the code that began them, whatever is here now.
        origin = replace(origin, code=code, code_copy=copy, allow_code_change=bool(source.get("allow_code_change")))
    where = replace(where, allow_code_change=origin.allow_code_change)
    runs = [run for run, _ in todo]
    requests.check_data(runs, data)
    now = check_contents(todo, data, where.output_root)
    site = site or profiles.checked(source["site"])
    request = requests.compose(where, ledger, runs, todo, ledger.states(), site, _studies(runs), slurm, origin)
    say_held(request, "tick")
    return requests.carry_out(where, ledger, replace(request, contents=now), origin, slurm)


def _chosen(
    run: Run, states: Mapping[str, records.StageState], stages: Sequence[str] | None, failed: bool
) -> list[str]:
    """The stages of a run that a rerun does; none of a run of which something is still under way."""
    selected = [stage for stage in run.stages if not stages or stage in stages]
    if failed:
        selected = [stage for stage in selected if states[stage].status == "failed"]
    chosen = choosing.redo(run, [stage for stage in selected if choosing.ready(stage, selected, states)])
    live = [stage for stage in run.stages if states[stage].status in LIVE]
    if chosen and live:
        console.print(f"{run.name}: left alone, {', '.join(live)} under way", style="yellow")
        return []
    return chosen


def _studies(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(study for run in runs for study in run.studies))
