"""What `submit`, `probe`, `rerun` and `tick` do: from what is asked for to jobs, told to the user.

Each builds a request from the ledger as it is now. A question is asked with the ledger unlocked, and what was shown is
submitted only if it still is what is missing."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.text import Text

from cluster import archive
from cluster.console import ask, console, count, stderr
from cluster.errors import InputError, SlurmSilent, SubmitError, TinyError
from cluster.files import documents, records, whole_files
from cluster.files.documents import Intent, Paused, RequestFile, SourceOfWork
from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.files.statuses import LIVE
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.plan import choosing, cost
from cluster.plan.memo import PerSettings
from cluster.reconcile import notify, reconciling, session
from cluster.sites.profiles import Site
from cluster.slurm.queries import Slurm
from cluster.submit import dispatch, launch
from cluster.submit.dispatch import Request, States, SubmitOptions, Todo
from cluster.submit.wording import say_decided, say_held, say_nothing_missing, show
from tiny_transformers.common.provenance import code_version
from tiny_transformers.settings.config import fetch_command, lacking_files
from tiny_transformers.settings.stages import required_files

T = TypeVar("T")


def submit_missing(
    where: SubmitOptions,
    runs: list[Run],
    site: Site,
    studies: list[str],
    data_root: Path | None,
    manifest: dict[str, Any],
    about: Sequence[records.StudyRecord] = (),
) -> None:
    """Whatever of these runs was never tried; says so if there is nothing. Records what is said `about` studies.

    Raises InputError, SubmitError, SlurmSilent, BreakerOpen."""
    check_data(runs, data_root)

    def build(ledger: Ledger | None, slurm: Slurm) -> Request:
        if ledger:
            dispatch.check_breaker(ledger, site)
        states: States = ledger.states() if ledger else {}
        states = {**states, **numbers_on_disk(where.root, [run for run in runs if run.id not in states])}
        todo = [(run, choosing.missing(run, states.get(run.id, {}))) for run in runs]
        return replace(_request(where, ledger, runs, todo, states, site, studies, slurm, origin), about=about)

    origin = _origin("submit", data_root, manifest, where.allow_code_change)
    request = _perform(where, build, origin)
    if not request.items:
        say_nothing_missing(request)


def rerun(
    where: SubmitOptions,
    choose: Callable[[Ledger], list[str] | None],
    stages: Sequence[str] | None,
    failed: bool,
    site_of: Callable[[Intent | None], Site],
    data_root: Path | None,
) -> list[Run]:
    """Stage runs again, and what follows from them; returns the runs. Where and on which data: as the last
    submission made here, unless given. Raises as `submit_missing`, but for BreakerOpen: a person has asked."""
    last: Intent | None = None
    with session.writing(where.root, Slurm()) as ledger:
        assert ledger
        last = last_submission(ledger, where.root)
        runs = ledger.runs(choose(ledger))
    site = site_of(last)
    data = data_root or (Path(last["data_root"]) if last and last["data_root"] else None)

    def build(ledger: Ledger | None, slurm: Slurm) -> Request:
        assert ledger
        states = ledger.states()
        todo = [(run, _chosen(run, states[run.id], stages, failed)) for run in runs]
        check_data([run for run, chosen in todo if chosen], data)
        return _request(where, ledger, runs, todo, states, site, _studies(runs), slurm, origin)

    origin = _origin("rerun", data, last.get("manifest") if last else None, where.allow_code_change)
    request = _perform(where, build, origin)
    if not request.items:
        console.print("Nothing to rerun.")
    return runs


@dataclass(frozen=True)
class TickOutcome:
    submitted: bool
    more: bool  # something waits for room, or for its time


def tick(
    where: SubmitOptions, site: Site | None, data_root: Path | None, only: Collection[str] | None = None
) -> TickOutcome:
    """Go on: what failed is tried again as its rule says, and what limits held back is submitted; of these runs only,
    if they are given. Each run goes where it went before, or was to go, unless a site is given.

    Raises SubmitError, SlurmSilent, BreakerOpen, InputError, after having gone on with all else."""
    slurm = Slurm()
    with session.writing(where.root, slurm) as ledger:
        assert ledger
        if paused := documents.read(where.root.paused, Paused):
            console.print(f"`cancel --all` was given at {paused['time']}: `submit` and `rerun` go on, `tick` does not.")
            return TickOutcome(False, False)
        reconciling.late_results(ledger, where.root)
        before = _EarlierSubmissions(ledger, where.root, site)
        with ledger.transaction():
            again = dispatch.decide(ledger, where.root, lambda token: site or before.site(token), time.time(), only)
        say_decided(again)
        groups = _to_go_on(ledger, again, before, only, site)
        if groups:
            dispatch.check_breaker(ledger, site or before.any_site())
        done: list[Request] = []
        problems: list[TinyError] = []
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
    if not groups and not again.decided and not again.waiting:
        console.print("Nothing to do.")
    for other in problems[:-1]:
        stderr.print(Text(str(other), style="red"))
    if problems:
        raise problems[-1]
    return TickOutcome(any(each.arrays for each in done), bool(again.waiting or any(each.held for each in done)))


class _EarlierSubmissions:
    """How each run was submitted before, or was to be: a submission or a request, both with site, data_root, manifest,
    code and allow_code_change."""

    def __init__(self, ledger: Ledger, root: OutputRoot, site: Site | None) -> None:
        self._root, self._ledger, self._site = root, ledger, site
        self._elsewhere = root.came_along()
        self._intents: dict[str, Intent | None] = {}
        self._requests = [(path, value) for path in root.requests() if (value := _told(path, RequestFile))]
        self.requested = {run_id: value for _, value in self._requests for run_id in value["runs"]}

    def site(self, token: str) -> Site:
        intent = self._intent(token)
        return Site.model_validate(intent["site"]) if intent else self.any_site()

    def any_site(self) -> Site:
        last = next(iter(self.requested.values()), None) or last_submission(self._ledger, self._root)
        if last is None:
            raise nothing_submitted(self._root)
        return Site.model_validate(last["site"])

    def sources(self, run_ids: Collection[str]) -> dict[str, SourceOfWork]:
        """Run id -> how it was or was to be submitted, whichever is newer. What SLURM refused has none, nor what nobody
        asked for."""
        states = {row["token"]: row["state"] for row in self._ledger.submissions()}
        sources: dict[str, SourceOfWork] = {
            run_id: value for run_id, value in self.requested.items() if run_id in run_ids
        }
        for run_id, token in self._ledger.last_tokens(run_ids).items():
            intent = self._intent(token)
            if intent is None or (run_id in sources and intent["created"] < sources[run_id]["created"]):
                continue
            if states[token] == "refused":
                sources.pop(run_id, None)
            else:
                sources[run_id] = intent
        return sources

    def forget_done(self) -> None:
        """Drop the requests of which nothing is left to be submitted."""
        live = self.sources(set(self._ledger.runs_with("eligible")))
        for path, value in self._requests:
            if not any(live.get(run_id) is value for run_id in value["runs"]):
                path.unlink(missing_ok=True)

    def _intent(self, token: str) -> Intent | None:
        if token not in self._intents:
            intent = _told(self._root.submission(token).submission, Intent)
            self._intents[token] = self._from_here(intent) if intent and token in self._elsewhere else intent
        return self._intents[token]

    def _from_here(self, intent: Intent) -> Intent:
        """What came with an archive goes where the last submission from here went, or to the site that is given."""
        last = last_submission(self._ledger, self._root)
        if last is None and self._site is None:
            raise nothing_submitted(self._root)
        if last:
            return {**intent, "site": last["site"], "data_root": last["data_root"]}
        return {**intent, "site": self._site.model_dump(mode="json") if self._site else {}, "data_root": None}


def _told(path: Path, kind: type[T]) -> T | None:
    """Return what a file says; one that is spoilt is named, and its runs are left alone."""
    try:
        return documents.read(path, kind)
    except whole_files.TornFile as error:
        stderr.print(Text(f"{error}. Its runs are left alone: `submit` them again.", style="yellow"), soft_wrap=True)
        return None


def nothing_submitted(root: OutputRoot) -> InputError:
    if not root.imported.exists():
        return InputError("Nothing was ever submitted from here. Submit a manifest first.")
    return InputError(
        f"{root.path}: came from an archive, and nothing was submitted here yet: the site, the account and the data of "
        f"its submissions are not yours. Give --site, and --data-root if the data is files; or submit one of "
        f"{root.path}/manifests. Nothing was submitted."
    )


def _to_go_on(
    ledger: Ledger,
    again: dispatch.RetryPlan,
    before: _EarlierSubmissions,
    only: Collection[str] | None,
    site: Site | None,
) -> list[tuple[SourceOfWork, Todo]]:
    """What is to be submitted, those together that go the same way."""
    eligible = [run_id for run_id in ledger.runs_with("eligible") if only is None or run_id in only]
    states = ledger.states()
    wanted = {*again.due, *eligible}
    sources = before.sources(wanted)
    groups: dict[str, tuple[SourceOfWork, list[tuple[Run, list[str]]]]] = {}
    for run in ledger.runs(sorted(wanted & set(sources))):
        stages = choosing.missing(run, states[run.id], again.due.get(run.id, ()))
        source = sources[run.id]
        alike = {
            key: source.get(key) for key in ("data_root", "allow_code_change", "code", *(["site"] if not site else []))
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
    origin = _origin("tick", data, source.get("manifest"), False)
    code = source.get("code")
    if source.get("allow_code_change") and code and code["digest"] == origin.code["digest"]:
        origin = replace(origin, allow_code_change=True)  # it was allowed for this version, and no later one
    where = replace(where, allow_code_change=origin.allow_code_change)
    runs = [run for run, _ in todo]
    check_data(runs, data)
    site = site or Site.model_validate(source["site"])
    request = _request(where, ledger, runs, todo, ledger.states(), site, _studies(runs), slurm, origin)
    _launch(where, ledger, request, origin)
    say_held(request, "tick")
    return request


# -- requests ---------------------------------------------------------------------------------------------------------


def _request(
    where: SubmitOptions,
    ledger: Ledger | None,
    runs: list[Run],
    todo: Todo,
    states: States,
    site: Site,
    studies: list[str],
    slurm: Slurm,
    origin: launch.Origin,
) -> Request:
    of_one = _of_one_code(where, ledger, _with_model(where, todo), origin)
    rates = measured(ledger, where.root, site)
    request = dispatch.request(ledger, runs, of_one, states, site, rates, studies, slurm)
    return replace(request, left_alone=len(todo) - len(of_one))


def _with_model(where: SubmitOptions, todo: Todo) -> Todo:
    """Without the runs that were imported without the model that these stages need; says so."""
    if not where.root.imported.exists():
        return todo
    lacking = [
        run for run, stages in todo if stages and "pretrain" not in stages and archive.without_model(where.root, run.id)
    ]
    if lacking:
        console.print(
            f"{count(len(lacking), 'run')} left alone: trained elsewhere, and the archive that they came from has no "
            f"models, which their missing stages need ({lacking[0].name}). Import one made by `report --export FILE "
            f"--with-models`, or train again: `rerun --stage pretrain --run {lacking[0].id}`.",
            style="yellow",
            soft_wrap=True,
        )
    ids = {run.id for run in lacking}
    return [(run, stages) for run, stages in todo if run.id not in ids]


def _of_one_code(where: SubmitOptions, ledger: Ledger | None, todo: Todo, origin: launch.Origin) -> Todo:
    """Without the runs that another version of the code began; says so."""
    if ledger is None or where.allow_code_change:
        return todo
    digest = origin.code["digest"]
    mixed = {
        run.id: other
        for run, stages in todo
        if stages and (other := dispatch.other_code(ledger, where.root, run.id, stages, digest))
    }
    if mixed:
        first = next(iter(mixed))
        console.print(
            f"{count(len(mixed), 'run')} left alone: tiny_transformers is {digest} now, and was another when they "
            f"began ({first}: {mixed[first]}). Their results would be of both: restore that version, or say "
            "--allow-code-change.",
            style="yellow",
            soft_wrap=True,
        )
    return [(run, stages) for run, stages in todo if run.id not in mixed]


def _perform(where: SubmitOptions, build: Callable[[Ledger | None, Slurm], Request], origin: launch.Origin) -> Request:
    """Show what is to be submitted, ask, and submit it if it still is what is to be submitted."""
    with session.writing(where.root, slurm := Slurm(), where.dry_run) as ledger:
        if ledger:
            reconciling.late_results(ledger, where.root)
        request = build(ledger, slurm)
        if not request.items and request.left_alone:
            raise InputError("Nothing was submitted: all that there is to do is of runs that were left alone.")
        if not request.items:
            if ledger and not where.dry_run:
                _record(where, ledger, request, origin)
                where.root.paused.unlink(missing_ok=True)
            return request
        show(request, where, origin.asked_by)
        if where.dry_run:
            return request
        if where.yes:
            assert ledger
            _launch(where, ledger, request, origin)
            return request
    packs = sum(len(array.packs) for array in request.arrays)
    ask(f"Submit {count(packs, 'pack')} in {count(len(request.arrays), 'array')}?", where.yes)
    with session.writing(where.root, slurm := Slurm()) as ledger:
        assert ledger
        again = build(ledger, slurm)
        if again.work != request.work:
            raise InputError("What is to be submitted has changed since. Nothing was submitted; run the command again.")
        _launch(where, ledger, again, replace(origin, created=session.moment()))
    return again


def _record(where: SubmitOptions, ledger: Ledger, request: Request, origin: launch.Origin) -> None:
    recording.record_runs(ledger, where.root, request.runs, origin.created)
    if request.about:
        recording.record_studies(ledger, where.root, request.about)
        notify.configure(ledger, where.root, request.site)


def _launch(where: SubmitOptions, ledger: Ledger, request: Request, origin: launch.Origin) -> None:
    """Submit what there is room for. What is asked for is on disk first, and stays there while part of it is held back
    or in doubt, so that `tick` goes on with it."""
    _record(where, ledger, request, origin)
    path = where.root.request(secrets.token_hex(6))
    where.root.paused.unlink(missing_ok=True)  # a `tick` does not come here while it is there
    if origin.asked_by == "submit":
        whole_files.write_json(
            path, {**launch.origin_of(request.site, origin), "runs": [item.run_id for item in request.items]}
        )
    try:
        jobs = launch.submit(ledger, where.root, request.arrays, request.site, origin, where.log_dir.resolve())
    except (InputError, SubmitError):  # refused: what is left of it is the user's to ask for again
        path.unlink(missing_ok=True)
        raise
    if not request.held:
        path.unlink(missing_ok=True)
    if jobs:
        console.print(f"Submitted {', '.join(jobs)}. `status{where.root.options}` shows how it goes.")


def _origin(
    asked_by: str, data_root: Path | None, manifest: dict[str, Any] | None, allow_code_change: bool
) -> launch.Origin:
    return launch.Origin(asked_by, session.moment(), data_root, code_version(), manifest, allow_code_change)


def measured(ledger: Ledger | None, root: OutputRoot, site: Site) -> cost.Measured:
    """What this ledger has measured and, for what it has not, what a probe has."""
    from cluster.reconcile.measure import measured

    probe = root.probe.ledger
    with ExitStack() as stack:
        ledgers = [(ledger, "measured")] if ledger else []
        if probe.exists():
            ledgers.append((stack.enter_context(closing(Ledger(probe, read_only=True))), "probed"))
        return measured(ledgers, site)


def numbers_on_disk(root: OutputRoot, runs: Sequence[Run]) -> dict[str, dict[str, records.StageState]]:
    """Of runs that the ledger does not know, the attempt numbers that are taken: their run.json may have been torn."""
    folders = {path.name for path in root.path.glob("runs/*")}
    numbers: dict[str, dict[str, records.StageState]] = {}
    for run in runs:
        if run.id in folders:
            taken = {stage: root.run(run.id).attempts(stage) for stage in run.stages}
            numbers[run.id] = {
                stage: records.StageState("waiting", attempts[-1].number)
                for stage, attempts in taken.items()
                if attempts
            }
    return numbers


def check_data(runs: Sequence[Run], data_root: Path | None) -> None:
    """Every file that these runs read is there, before anything is submitted. Raises InputError."""
    reading = [run for run in runs if run.config.data.source == "files"]
    if not reading:
        return
    if data_root is None:
        raise InputError(
            "data.source is files: say where with --data-root DIR or TINY_TRANSFORMERS_DATA. "
            "`tiny-transformers fetch --data-root DIR` brings the data; --set data.source=builtin needs none."
        )
    needed = PerSettings(required_files)
    files = {file for run in reading for file in needed.of(run.config, run.stages)}
    lacking = lacking_files(data_root, sorted(files))
    if lacking:
        raise InputError(
            f"{data_root}: lacks {', '.join(lacking[:5])}{f' and {len(lacking) - 5} more' if len(lacking) > 5 else ''}."
            f" Put it there, or run `{fetch_command(lacking, data_root)}`. Nothing was submitted."
        )


def _chosen(run: Run, states: Any, stages: Sequence[str] | None, failed: bool) -> list[str]:
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


def last_submission(ledger: Ledger, root: OutputRoot) -> Intent | None:
    rows = session.made_here(ledger, root)
    return read_intent(root, rows[-1]["token"]) if rows else None


def read_intent(root: OutputRoot, token: str) -> Intent:
    path = root.submission(token).submission
    intent = documents.read(path, Intent)
    if intent is None:
        raise InputError(f"{path}: is missing: it says where and how was submitted. Give --site and --data-root.")
    return intent


def _studies(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(study for run in runs for study in run.studies))
