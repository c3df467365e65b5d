"""What status says, at several widths, and while it is watched."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
from longer import longer
from rich.console import Console

from cluster.cli import entry, shared
from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.files.whole_files import TornFile
from cluster.reconcile import session
from cluster.reconcile.session import LedgerView
from cluster.sites.profiles import Site
from cluster.slurm import environment
from cluster.status import reading, showing, watching
from cluster.submit import retries

START = 1_790_000_000.0
EXPECTED = Path(__file__).parent  # TT_RECORD=1 writes it anew
SUBMISSION = {"created": "2026-09-21", "scheduler": "slurm", "site": "s", "job_id": "7", "data_root": None,
              "asked_by": "submit", "slots": 2, "gpus": 1}  # fmt: skip
BEAT = {"fraction": 0.4, "text": "step 40 of 100", "time": START + 4190, "loss": 1.9, "tokens_per_second": 61_000.0,
        "seconds_left": 730.0}  # fmt: skip
STAGES = ("pretrain", "add_tokenizer", "blimp", "superglue")


def rendered(what, width=200, **options):
    console = Console(width=width, file=io.StringIO(), highlight=False, **options)
    console.print(what)
    return console.file.getvalue()


def submit(ledger, submission_id, packs, state="submitted", seconds=7200.0, **values):
    """Record a submission of these packs: each a list of runs."""
    attempts = [
        {"run_id": run.id, "stage": stage, "number": 1, "pack_index": index}
        for index, pack in enumerate(packs) for run in pack for stage in STAGES
    ]  # fmt: skip
    ledger.record_submission(
        {"submission_id": submission_id, "state": "submitted", "seconds": seconds, **SUBMISSION, **values}, attempts
    )
    if state != "submitted":
        ledger.update_submission(submission_id, state=state)


def complete(ledger, run, task, began, took):
    for index, stage in enumerate(STAGES):
        times = {"started": began + index * took / 4, "ended": began + (index + 1) * took / 4}
        ledger.put_attempt(run.id, stage, 1, status="completed", job=f"7_{task}", host="gpu001", **times)


@pytest.fixture
def study(ledger, root, runs, monkeypatch):
    """One pack has ended, one is running, one waits; two runs failed alike. Read at START + 4200."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    ledger.record_runs(runs, "2026")
    for run in runs:
        root.run(run.id).path.mkdir(parents=True)
    submit(ledger, "aa", [[runs[5]], [runs[6]]])
    for task, run in enumerate(runs[5:7]):
        message = f"ValueError: line {task + 3} of a.json: label is 7"
        told = {"status": "failed", "cause": "error", "message": message, "job": f"6_{task}", "host": "gpu000"}
        ledger.put_attempt(run.id, "pretrain", 1, **told, started=START, ended=START + 360)
        for stage in STAGES[1:]:
            ledger.put_attempt(run.id, stage, 1, status="void")
    ledger.update_submission("aa", state="done")
    log = root.run(runs[5].id).attempt("pretrain", 1).log
    log.parent.mkdir(parents=True)
    log.write_text("reading a.json\nValueError: line 3 of a.json: label is 7\n")
    submit(ledger, "cafe", [[runs[0]], runs[1:3], [runs[3]], [runs[4]]], seconds=4 * 3600.0)
    complete(ledger, runs[0], 0, START, 3960.0)
    ledger.put_attempt(runs[1].id, "pretrain", 1, status="running", job="7_1", host="gpu002", started=START + 3900,
                       progress=json.dumps(BEAT))  # fmt: skip
    for run, task in ((runs[3], 2), (runs[4], 3)):
        ledger.put_attempt(run.id, "pretrain", 1, job=f"7_{task}", progress=json.dumps({"reason": "Priority"}))
    yield ledger
    monkeypatch.undo()
    time.tzset()


def shown(ledger, root, width=160, slurm="answered", show="all", everything=False, **options):
    read = reading.read(LedgerView(ledger, "14:02", slurm), root, now=START + 4200)
    return rendered(showing.StatusLines(read, root, show, everything), width, **options)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_status_reads_well_at_this_width(study, tmp_path, monkeypatch, width):
    monkeypatch.chdir(tmp_path)
    told = shown(study, OutputRoot(Path("output")), width)
    assert max(map(len, told.splitlines())) <= width
    path = EXPECTED / f"{width}.txt"
    if os.environ.get("TT_RECORD"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(told)
    assert told.splitlines() == path.read_text().splitlines()


def test_a_pipe_gets_no_control_codes_and_a_plain_terminal_ascii(study, root):
    assert "\x1b" not in shown(study, root)
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    read = reading.read(LedgerView(study, "14:02", "answered"), root, now=START + 4200)
    Console(width=80, file=ascii_only, highlight=False).print(showing.StatusLines(read, root))
    ascii_only.flush()
    assert "###" in ascii_only.buffer.getvalue().decode("ascii")


def test_without_colour_a_terminal_shows_the_same_words(study, root, monkeypatch):
    plain = shown(study, root)
    monkeypatch.setenv("NO_COLOR", "1")
    bare = shown(study, root, force_terminal=True)
    assert not re.search(r"\x1b\[[0-9;]*3[1-7]", bare)
    assert re.sub(r"\x1b\[[0-9;]*m", "", bare) == plain


def test_when_slurm_is_silent_it_says_so(study, root):
    assert "SLURM did not answer; as of 14:02" in shown(study, root, slurm="unreachable")


def test_failures_of_one_cause_are_one_group_with_the_command_that_mends_them(study, root, runs):
    (failure,) = reading.read(LedgerView(study, "now", "none"), root).failures
    assert [run_id for run_id, *_ in failure.attempts] == [runs[5].id, runs[6].id]
    assert failure.command == f"rerun --failed --output-root {root.path}"
    study.put_attempt(runs[6].id, "pretrain", 1, message="OSError: no data")
    commands = {each.command for each in reading.read(LedgerView(study, "now", "none"), root).failures}
    expected = {f"rerun --failed --stage pretrain --run {run.id} --output-root {root.path}" for run in runs[5:7]}
    assert commands == expected


def test_a_failure_is_tried_again_by_tick_unless_tick_leaves_it_alone(study, root, runs):
    run, user = root.run(runs[5].id), environment.user()
    study.put_decision({"run_id": runs[5].id, "stage": "pretrain", "number": 1, "action": "retry", "cause": "timeout",
                        "tries": 1, "changes": "1.5 x the time", "due": 0.0, "time": 0.0})  # fmt: skip

    def told():
        (failure,) = (each for each in reading.read(LedgerView(study, "now", "none"), root).failures if each.decided)
        return failure.decided, failure.again, failure.command.removesuffix(" --site SITE").removesuffix(root.options)

    rerun = f"rerun --failed --stage pretrain --run {runs[5].id}"
    assert told() == ("left alone by `tick`: the files of its submission are gone", False, rerun)
    intent = {"created": "2026-09-21", "site": {}, "data_root": None, "user": user}
    whole_files.write_json(root.submission("aa").submission, intent)
    assert told() == ("left alone by `tick`: files of the run were removed", False, "submit MANIFEST")
    whole_files.write_json(run.run_json, {})
    assert told() == ("to be tried again: 1.5 x the time", True, "tiny-transformers tick")
    whole_files.write_json(root.paused, {"time": "12:00", "users": {user: "12:00"}})
    assert told() == ("left alone by `tick`: `cancel --all` was given", False, rerun)
    whole_files.write_json(root.paused, {"time": "12:00", "users": {"another": "12:00"}})
    assert told()[1]
    study.update_submission("aa", state="refused")
    assert told() == ("left alone by `tick`: sbatch refused it", False, "submit MANIFEST")


def test_what_tick_has_still_to_decide_is_told_as_it_will_decide(study, root, runs, monkeypatch):
    """A timeout is tried again by the site's rule, an error is not; of an odd profile, or a file that the disk does not
    give, `tick` tells."""
    for run, cause in zip(runs[5:7], ("timeout", "error"), strict=True):
        study.put_attempt(run.id, "pretrain", 1, cause=cause)
        root.run(run.id).attempt("pretrain", 1).path.mkdir(parents=True, exist_ok=True)
        whole_files.write_json(root.run(run.id).run_json, {})

    def raising(error):
        def fail(*_):
            raise error

        return fail

    def told():
        failures = reading.read(LedgerView(study, "now", "none"), root).failures
        return {each.cause: (each.decided, each.command.removesuffix(root.options)) for each in failures}

    by_hand = {cause: ("", f"rerun --failed --stage pretrain --run {run.id}")
               for run, cause in zip(runs[5:7], ("timeout", "error"), strict=True)}  # fmt: skip
    assert told() == by_hand
    intent = {"created": "2026-09-21", "site": {}, "data_root": None, "user": environment.user()}
    whole_files.write_json(root.submission("aa").submission, intent)
    assert told() == by_hand
    whole_files.write_json(root.submission("aa").submission, intent | {"site": {"name": "s", "scheduler": "slurm"}})
    by_tick = by_hand | {"timeout": ("to be tried again: 1.5 x the time", "tiny-transformers tick")}
    assert told() == by_tick
    for owner, name, broken in (
        (reading.EarlierSubmissions, "site", raising(OSError(5, "Input/output error"))),
        (reading.EarlierSubmissions, "site", raising(TornFile("submission.json: is not whole"))),
        (Path, "is_dir", raising(OSError(116, "Stale file handle"))),
    ):
        with monkeypatch.context() as disk:
            disk.setattr(owner, name, broken)
            assert told() == by_hand
    assert told() == by_tick
    retries.decide(study, root, lambda _: Site(name="s", scheduler="slurm"), 0.0)
    stopped = "not tried again by itself: 1 x error"
    assert told()["timeout"] == ("to be tried again: 1.5 x the time", "tiny-transformers tick")
    assert told()["error"][0] == stopped


def test_a_failed_stage_that_this_version_does_not_know_is_shown(ledger, root, runs):
    (run,) = runs[:1]
    ledger.record_runs([run], "2026")
    submit(ledger, "cafe", [[run]], state="done")
    ledger.put_attempt(run.id, "astrology", 1, submission_id="cafe", pack_index=0, status="failed", cause="timeout")
    ledger.put_decision({"run_id": run.id, "stage": "astrology", "number": 1, "action": "retry", "cause": "timeout",
                         "tries": 1, "changes": "the same again", "due": 0.0, "time": 0.0})  # fmt: skip
    intent = {"created": "2026-09-21", "site": {}, "data_root": None, "user": environment.user()}
    whole_files.write_json(root.submission("cafe").submission, intent)
    whole_files.write_json(root.run(run.id).run_json, {})
    root.run(run.id).attempt("astrology", 1).path.mkdir(parents=True)
    (failure,) = reading.read(LedgerView(ledger, "now", "none"), root).failures
    assert (failure.stage, failure.decided) == ("astrology", "to be tried again: the same again")


def test_of_what_is_eligible_tick_is_said_to_submit_what_it_will(ledger, root, runs):
    ledger.record_runs(runs[:2], "2026")
    submit(ledger, "cafe", [[runs[0]]], state="refused")
    for stage in STAGES:
        ledger.put_attempt(runs[0].id, stage, 1, status="void")
    intent = {"created": "2026-09-21", "site": {}, "data_root": None, "user": environment.user()}
    whole_files.write_json(root.submission("cafe").submission, intent)
    whole_files.write_json(root.submission("cafe").answer, {"state": "refused", "message": "Invalid account"})
    told = rendered(showing.status_view(LedgerView(ledger, "now", "none"), root, per_run=False, failed_only=False))
    assert "sbatch refused 1 run (Invalid account)" in told
    assert "1 stage run eligible. `tiny-transformers tick" in told
    whole_files.write_json(root.paused, {"time": "12:00", "users": {environment.user(): "12:00"}})
    told = rendered(showing.status_view(LedgerView(ledger, "now", "none"), root, per_run=False, failed_only=False))
    assert "1 stage run eligible. `cancel --all` was given: `submit` and `rerun` go on with them, `tick` does" in told


def test_what_waits_for_an_earlier_stage_that_nobody_tries_again_is_not_said_to_be_ticks(study, root, runs):
    run = runs[5]
    study.put_attempt(run.id, "pretrain", 1, cause="error")
    study.put_attempt(
        run.id, "blimp", 1, submission_id="aa", pack_index=0, status="failed", cause="timeout", message=""
    )
    for stage in ("pretrain", "blimp"):
        root.run(run.id).attempt(stage, 1).path.mkdir(parents=True, exist_ok=True)
    whole_files.write_json(root.run(run.id).run_json, {})
    intent = {"created": "2026-09-21", "site": {}, "data_root": None, "user": environment.user()}
    whole_files.write_json(root.submission("aa").submission, intent)

    def told():
        retries.decide(study, root, lambda _: Site(name="s", scheduler="slurm"), 0.0)
        failures = reading.read(LedgerView(study, "now", "none"), root).failures
        return {each.stage: (each.decided, each.command.removesuffix(root.options)) for each in failures}["blimp"]

    assert told() == ("left alone by `tick`: an earlier stage of its run has failed", "rerun --failed")
    study.put_attempt(
        run.id, "pretrain", 2, submission_id="aa", pack_index=0, status="failed", cause="timeout", message=""
    )
    root.run(run.id).attempt("pretrain", 2).path.mkdir()
    assert told() == ("to be tried again: 1.5 x the time", "tiny-transformers tick")


def test_a_log_that_ends_in_what_the_message_says_is_not_shown_twice(study, root):
    told = shown(study, root, show="failed", everything=True)
    assert told.count("label is 7") == 1
    assert "    reading a.json" in told


def test_what_a_terminal_would_obey_is_not_shown_and_a_message_of_several_lines_is_whole(study, root, runs):
    evil = "\x1b]0;title\x07\x1b[31mone\x1b[0m\r\ntwo\n\tthree\x9b2J\x08"
    for run in runs[5:7]:
        study.put_attempt(run.id, "pretrain", 1, message=evil)
    root.run(runs[5].id).attempt("pretrain", 1).log.write_text("\x1b[2Jthe end\x1b]0;title\x07 of it\n")
    told = shown(study, root, force_terminal=True, no_color=True)
    assert not re.search(r"\x1b(?!\[[0-9;]*m)|[\x00-\x09\x0b-\x1a\x7f-\x9f]", told)
    plain = shown(study, root, show="failed", everything=True)
    assert "error: one\n  two\n" in plain
    assert "    the end of it\n" in plain
    (failure,) = reading.read(LedgerView(study, "now", "none"), root, now=START + 4200).failures
    lines = showing.lines(reading.read(LedgerView(study, "now", "none"), root), root, Console(width=80), 80)
    assert all("\n" not in line.text.plain for line in lines), "each is one row of the screen"
    assert failure.message.startswith("one\ntwo")


def test_runs_of_one_name_are_told_apart_by_their_ids(ledger, root, runs):
    twins = [replace(run, name="gpt-twin-s42") for run in runs[:2]]
    ledger.record_runs([*twins, runs[2]], "2026")
    one_class = {"name": "rte.majority_class", "passed": False, "blocking": False, "value": 1.0}
    for run, stage in [(twins[0], "superglue"), (twins[1], "superglue"), (runs[2], "superglue"), (runs[2], "blimp")]:
        ledger.put_attempt(run.id, stage, 1, status="completed")
        ledger.put_outcome(run.id, stage, 1, {"checks": [one_class]})
    told = rendered(showing.status_view(LedgerView(ledger, "now", "none"), root, per_run=False, failed_only=False))
    assert [f"flagged: gpt-twin-s42 ({run.id}): rte.majority_class" in told for run in twins] == [True, True]
    assert f"flagged: {runs[2].name}: rte.majority_class\n" in told.replace(" \n", "\n"), "once, not for each stage"


def test_a_corpus_of_which_much_is_cut_is_told_of_once_for_all_its_runs(ledger, root, runs):
    ledger.record_runs(runs, "2026")
    for run in runs:
        told = "mine, train: 9 documents; 4 of them (44 %) are cut"
        cut = {"name": "documents_cut", "passed": False, "blocking": False, "value": told}
        ledger.put_attempt(run.id, "pretrain", 1, status="completed")
        ledger.put_outcome(run.id, "pretrain", 1, {"checks": [cut]})
    shown = rendered(showing.status_view(LedgerView(ledger, "now", "none"), root, per_run=False, failed_only=False))
    assert shown.count("(44 %)") == 1
    assert f"flagged: mine, train: 9 documents; 4 of them (44 %) are cut ({len(runs)} runs)" in shown


def test_failures_that_no_study_asks_for_any_more_say_how_they_are_counted_no_more(ledger, root, runs):
    ledger.record_runs(runs[:3], "2026")
    submit(ledger, "aa", [runs[:3]])
    for run in runs[:3]:
        ledger.put_attempt(run.id, "pretrain", 1, status="failed", cause="error", message="the text is no text")
    for study in {study for run in runs[:3] for study in run.studies}:
        ledger.put_study(study, "", [{"overrides": [], "stages": [], "baselines": [], "runs": [runs[0].id]}])
    plain = rendered(showing.status_view(LedgerView(ledger, "now", "none"), root, per_run=False, failed_only=True))
    told = " ".join(plain.split())
    assert "2 runs: pretrain error: the text is no text [no longer in the manifest]" in told
    folders = " ".join(str(root.run(run.id).path) for run in runs[1:3])
    assert f"-> rm -r {folders}; tiny-transformers ledger rebuild" in told
    assert f"-> rerun --failed --stage pretrain --run {runs[0].id}" in told


def test_identical_scores_are_told(ledger, root, runs):
    ledger.record_runs(runs[:2], "2026")
    for run in runs[:2]:
        ledger.put_attempt(run.id, "blimp", 1, status="completed")
        score = {"task": "average", "metric": "accuracy", "value": 0.512345, "n": 5_000}
        ledger.put_outcome(run.id, "blimp", 1, {"scores": [score]})
    told = rendered(showing.status_view(LedgerView(ledger, "now", "none"), root, per_run=False, failed_only=False))
    assert f"flagged: blimp: identical_scores: {runs[0].name} ({runs[0].id}), {runs[1].name} ({runs[1].id})" in told


def test_hours_and_the_estimate_come_from_what_was_planned_and_what_has_run(study, root, runs):
    read = reading.read(LedgerView(study, "now", "none"), root, now=START + 4200)
    # Of two failures 0.1 hours each; 1.1 of the pack that has ended; 290 s of one of two slots, by its heartbeat.
    assert read.hours.used == pytest.approx(0.2 + 1.1 + 290 / 3600 / 2)
    assert (read.hours.planned, read.hours.unit) == (pytest.approx(2 + 4), "GPU-hours")
    # A stage run takes 990 s, as those of the first pack did: 7.6 of the running pack's are left, of two slots, and of
    # the 16 others, which 4 packs share alike, those of two packs come after it.
    assert read.seconds_left == pytest.approx(7.6 * 990 + 2 * 20 * 990 / 4)
    assert read.why == "by what 4 completed stage runs took; 1 at a time, as now"
    study.put_attempt(runs[3].id, "pretrain", 1, progress=json.dumps({"reason": "JobHeldUser"}))
    held = reading.read(LedgerView(study, "now", "none"), root, now=START + 4200)
    assert (held.seconds_left, held.why) == (None, "1 pack will not start by itself")
    assert "unknown: 1 pack will not start by itself" in shown(study, root)
    study.put_attempt(runs[1].id, "pretrain", 1, status="submitted", started=None, progress=None)
    study.put_attempt(runs[3].id, "pretrain", 1, progress=None)
    waiting = reading.read(LedgerView(study, "now", "none"), root, now=START + 4200)
    assert waiting.seconds_left is None


@pytest.mark.parametrize(
    ("reason", "words", "why"),
    [
        ("JobHeldUser", "held by you: `scontrol release` or `cancel` it (JobHeldUser)", "1 pack will not start by"),
        ("REQUEUE_HOLD", "held after a requeue: `scontrol release` or", "1 pack will not start by itself"),
        ("JobHoldMaxRequeue", "held, since it was requeued too often: see its log", "1 pack will not start by itself"),
        ("BeginTime", "it was put off, and may begin later (BeginTime)", "nothing has begun, and when it does"),
        ("PENDING", "requeued, and waits for its turn", "nothing has begun, and when it does"),
    ],
)
def test_a_pack_that_had_begun_and_waits_again_is_shown_as_waiting(study, root, runs, reason, words, why):
    study.put_attempt(runs[1].id, "pretrain", 1, progress=json.dumps(BEAT | {"waits_for": reason}))
    told = shown(study, root)
    assert "Running" not in told
    assert "Waiting: 3 packs with 4 runs" in told
    assert f"1 pack, 2 runs (job 7_[1]): {words}" in told
    assert f"When it is done is unknown: {why}" in told
    progress = told.split("Waiting:")[0]
    assert (" running" in progress, "4 submitted" in progress) == (False, True)
    seen = reading.read(LedgerView(study, "now", "none"), root, study="first", now=START + 4200)
    assert not seen.studies[0].runs.get("running")
    view = LedgerView(study, "now", "none")
    machine = reading.status_json(view, root)
    statuses = Counter(stage["status"] for run in machine["runs"] for stage in run["stages"].values())
    assert statuses == {status: number for status, number in machine["counts"].items() if number}
    assert not statuses["running"]
    per_run = rendered(showing.status_view(view, root, per_run=True, failed_only=False))
    assert "running" not in per_run
    study.put_attempt(runs[1].id, "pretrain", 1, progress=json.dumps(BEAT))
    assert reading.counts(study)["running"] == 1, "its job runs again"


@pytest.mark.parametrize("for_now", [False, True])
def test_runs_that_sbatch_refused_for_good_are_told_since_tick_leaves_them_alone(ledger, root, runs, for_now):
    ledger.record_runs(runs[:2], "2026")
    submit(ledger, "cafe", [runs[:2]], state="refused")
    for run in runs[:2]:
        for stage in STAGES:
            ledger.put_attempt(run.id, stage, 1, status="void")
    intent = {"created": SUBMISSION["created"], "site": {}, "data_root": None, "packs": []}
    whole_files.write_json(root.submission("cafe").submission, intent)
    answer = {"state": "refused", "message": "Invalid account", "for_now": for_now}
    whole_files.write_json(root.submission("cafe").answer, answer)
    told = "flagged: sbatch refused 2 runs (Invalid account), and `tick` leaves them alone: mend that and"
    assert (told in shown(ledger, root)) is not for_now


def test_of_two_packs_one_of_which_waits_again_the_other_is_shown_as_running(study, root, runs):
    study.put_attempt(runs[3].id, "pretrain", 1, status="running", job="7_2", host="gpu003", started=START + 4000,
                      progress=json.dumps(BEAT))  # fmt: skip
    study.put_attempt(runs[1].id, "pretrain", 1, progress=json.dumps(BEAT | {"waits_for": "BeginTime"}))
    read = reading.read(LedgerView(study, "now", "none"), root, now=START + 4200)
    assert [pack.job for pack in read.packs] == ["7_2"]
    assert sorted(each.reason for each in read.queue) == ["BeginTime", "Priority"]
    assert read.total.runs["running"] == 1
    assert read.seconds_left == pytest.approx(3.6 * 990 + 2 * 20 * 990 / 4), "the others come after it"


def test_a_pack_that_takes_longer_than_planned_is_reckoned_from_what_of_it_is_done(ledger, root, runs):
    def left(now):
        read = reading.read(LedgerView(ledger, "now", "none"), root, now=START + now)
        return read.seconds_left and round(read.seconds_left), read.why

    ledger.record_runs(runs[:2], "2026")
    submit(ledger, "cafe", [runs[:2]], seconds=3600.0)
    ledger.put_attempt(runs[0].id, "pretrain", 1, status="running", started=START, job="7")
    assert left(3000) == (600, "as planned")
    assert left(4000) == (None, "a pack takes longer than planned, and nothing of it is done")
    ledger.put_attempt(runs[0].id, "pretrain", 1, status="completed", ended=START + 3900)
    beat = {"fraction": 0.5, "text": "", "time": START + 4200, "seconds_left": 180.0}
    ledger.put_attempt(runs[0].id, "add_tokenizer", 1, status="running", started=START + 3900,
                       progress=json.dumps(beat))  # fmt: skip
    ledger.put_attempt(runs[1].id, "pretrain", 1, status="running", started=START, progress=json.dumps(beat))
    ledger.put_attempt(runs[0].id, "pretrain", 1, status="failed", cause="error")
    why = "as planned; 1 pack longer than that, reckoned from what of it is done"
    assert left(4200) == (round(4200 * (8 / 2 - 1)), why)


def test_the_estimate_follows_the_stage_runs_that_have_completed_stage_by_stage(ledger, root, runs):
    def left(now=300):
        read = reading.read(LedgerView(ledger, "now", "none"), root, now=START + now)
        return read.seconds_left and round(read.seconds_left), read.why

    ledger.record_runs(runs[:2], "2026")
    planned = {"pretrain": 2000.0, "add_tokenizer": 40.0, "blimp": 400.0, "superglue": 4000.0}
    values = {"seconds": sum(planned.values()), "slots": 1, "gpus": 0, "stage_seconds": json.dumps(planned)}
    submit(ledger, "cafe", [runs[:2]], **values)
    first, second = (run.id for run in runs[:2])
    ledger.put_attempt(first, "pretrain", 1, status="running", started=START, job="7")
    assert left() == (6440 - 300, "as planned")
    ledger.put_attempt(first, "pretrain", 1, progress=json.dumps(BEAT | {"fraction": 0.5}))
    assert left(10_000)[0] == round(10_000 * (6440 - 500) / 500), "half of a pretraining is 500 planned seconds"
    ledger.put_attempt(first, "pretrain", 1, status="completed", ended=START + 100)  # a tenth of what was planned
    others = "and of add_tokenizer, blimp, superglue 0.1 x what was planned"
    assert left() == (100 + 444, f"by what 1 completed stage run took, {others}")
    for stage, ended in (("add_tokenizer", 110), ("blimp", 300)):
        ledger.put_attempt(first, stage, 1, status="completed", started=START + 100, ended=START + ended)
    # (100 + 10 + 200) of (1000 + 20 + 200) planned seconds
    assert left()[0] == round(100 + 10 + 200 + 4000 * 310 / 1220)
    ledger.put_attempt(first, "superglue", 1, status="completed", started=START + 300, ended=START + 320)
    assert left() == (100 + 10 + 200 + 20, "by what 4 completed stage runs took")
    progress = json.dumps(BEAT | {"fraction": 0.5, "time": START + 300, "seconds_left": 40.0})
    ledger.put_attempt(second, "pretrain", 1, status="running", started=START + 250, progress=progress)
    assert left()[0] == 50 + 10 + 200 + 20


def test_heartbeats_without_figures_are_shown_in_their_own_words(study, root, runs):
    old = {"fraction": 0.5, "text": "step 3 of 6", "time": START + 4200}
    study.put_attempt(runs[1].id, "pretrain", 1, progress=json.dumps(old))
    assert "pretrain   50%  5 min left, step 3 of 6" in shown(study, root)
    study.put_attempt(runs[1].id, "pretrain", 1, progress=json.dumps(old | {"time": START + 3600}))
    assert "no sign for 10 min, step 3 of 6" in shown(study, root)


def test_the_estimate_and_the_rest_are_there_for_programs(study, root):
    told = json.loads(json.dumps(reading.status_json(LedgerView(study, "now", "none"), root)))
    assert {"as_of", "slurm", "counts", "runs", "estimate", "studies", "packs", "queue", "failures", "hours"} <= set(
        told
    )
    assert told["counts"]["failed"] == 2
    assert set(told["runs"][0]) == {"run_id", "name", "studies", "stages"}


# -- watched ----------------------------------------------------------------------------------------------------------


def test_a_key_may_come_in_pieces(monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setattr(watching, "ESCAPED", 60)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        os.write(writing, b"\x1b")
        later = threading.Timer(0.05, os.write, (writing, b"[Bf"))
        later.start()
        assert list(watching._pressed()) == ["down", "f"]
        later.join()
    os.close(writing)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_what_is_asked_before_a_cancellation_is_never_cut(width):
    entry = showing.LineEntry("gpt-" + "x" * 100 + " pretrain", ("r", "pretrain", 1), (("t", 0),))
    asked = watching._question(replace(entry, others=2), width, "…")
    assert len(asked) <= width
    assert asked.startswith("Cancel the pa")
    assert asked.endswith(", with its other runs? y/n")
    assert watching._question(entry, 200, "…").endswith("pretrain? y/n"), "it is alone in its pack"
    assert watching._question(showing.LineEntry("2 waiting packs", None, (("t", 0), ("t", 1))), 80, "…").endswith(
        "packs? y/n"
    )


def test_what_is_chosen_stays_chosen_when_something_above_it_ends(study, root):
    view = LedgerView(study, "never", "none")
    console = Console(width=100, height=30, file=io.StringIO(), force_terminal=True)
    screen = watching.Screen(console, watching.Reader(root), print)
    before = reading.read(view, root, now=START + 4200)
    screen.seen = watching.Snapshot(before, {}, True)
    entries = watching._entries(screen._lines())
    screen.chosen = len(entries) - 1
    screen._take(watching.Snapshot(replace(before, packs=()), {}, True))
    assert screen._entry() == entries[-1]
    assert screen.chosen < len(entries) - 1


def test_what_was_cancelled_is_said(study, root):
    (waiting,) = {line.entry for line in lines_of(study, root) if line.entry and line.entry.waiting}
    assert len(waiting.packs) == 2
    told = [watching._cancelled(waiting, number) for number in (2, 1, 0)]
    assert told[0].startswith("cancelled 2 waiting packs; it is shown")
    assert told[1:] == ["cancelled 1 of 2 waiting packs; the others have begun or ended",
                        "nothing of it was left to cancel: what waited has begun or ended"]  # fmt: skip
    (running,) = {line.entry for line in lines_of(study, root) if line.entry and line.entry.log and line.entry.packs}
    assert running.others == 1, "that of the pack whose turn has not come"


def lines_of(study, root):
    read = reading.read(LedgerView(study, "never", "none"), root, now=START + 4200)
    return showing.lines(read, root, Console(width=100), 100)


def test_of_packs_that_wait_those_that_have_begun_are_not_cancelled(study, root, runs, monkeypatch):
    (waiting,) = {line.entry for line in lines_of(study, root) if line.entry and line.entry.waiting}
    study.put_attempt(runs[3].id, "pretrain", 1, status="running", started=START)  # after it was shown

    @contextlib.contextmanager
    def writing(*_, **__):
        yield study

    cancelled, numbers = [], []

    def until_done(console, root, cancel, **shown):  # noqa: ARG001
        numbers.extend([cancel(waiting), cancel(replace(waiting, waiting=False))])
        return True

    monkeypatch.setattr(session, "writing", writing)
    monkeypatch.setattr(watching, "until_done", until_done)
    monkeypatch.setattr(shared, "cancel_jobs", lambda *given: cancelled.append(given[-1]))
    shared.watch_queue(root)
    assert (cancelled, numbers) == ([[("cafe", 3)], [("cafe", 2), ("cafe", 3)]], [1, 2])


def test_a_warning_and_the_runs_are_on_the_screen_and_can_be_reached(study, root):
    console = Console(width=100, height=20, file=io.StringIO(), force_terminal=True)
    view = LedgerView(study, "never", "none")
    read = reading.read(view, root, now=START + 4200)
    screen = watching.Screen(console, watching.Reader(root, True), print)
    screen.seen = watching.Snapshot(read, {}, True, "another command holds the ledger", showing.run_tables(view, read))
    shown = screen._lines()
    assert shown[0].text.plain == "another command holds the ledger"
    screen._press("end", None)
    last = next(line.text.plain for line in reversed(shown) if line.entry)
    assert last in [text.plain for text in screen._status_lines(19)]
    assert all(line.text.cell_len <= 100 for line in shown)


@pytest.mark.usefixtures("study")
def test_where_there_is_no_terminal_a_line_a_minute_says_how_far_it_is_though_nothing_changes(root, runs, monkeypatch):
    seconds = [0.0]
    working = root.run(runs[1].id).attempt("pretrain", 1)
    claim = {"submission_id": "cafe", "job": "7_1", "host": "gpu002", "pid": 1, "restart": 0, "time": START + 3900}
    whole_files.write_json(working.claim, claim)
    whole_files.write_json(working.heartbeat, BEAT)

    def sleep(pause):
        seconds[0] += pause
        if seconds[0] > 150:
            raise KeyboardInterrupt

    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: seconds[0], sleep=sleep))
    console = Console(file=io.StringIO(), width=160)
    with pytest.raises(KeyboardInterrupt):
        watching.until_done(console, root, lambda entry: 0)  # noqa: ARG005
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert all(re.search(r"\d running.*; \d+\.\d% done; ", line) for line in lines), lines


def test_json_is_of_one_moment(root, capsys):
    with pytest.raises(SystemExit):
        entry.main(["status", "--watch", "--json", "--output-root", str(root.path)])
    assert "give it without --watch" in capsys.readouterr().err


# -- what the shell does ----------------------------------------------------------------------------------------------


def complete_words(folder, words):
    environment = os.environ | {"_TINY_TRANSFORMERS_COMPLETE": "complete_bash", "COMP_WORDS": words,
                                "COMP_CWORD": str(len(words.split(" ")) - 1)}  # fmt: skip
    done = processes.command(cwd=folder, env=environment)
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_runs_and_never_fails_loudly(study, root, runs, tmp_path):
    study.record_runs(
        [replace(run, id=f"{number:012x}", name="gpt-twin") for number, run in enumerate(runs[:2])], "2026"
    )
    assert complete_words(tmp_path, "tiny-transformers logs bert") == sorted(
        {run.name for run in runs if run.name.startswith("bert")})  # fmt: skip
    assert complete_words(tmp_path, f"tiny-transformers rerun --run {runs[0].id[:8]}") == [runs[0].id]
    assert complete_words(tmp_path, "tiny-transformers compare gpt-tw") == ["gpt-twin"]
    assert complete_words(tmp_path, "tiny-transformers rerun --stage su") == ["superglue"]
    assert complete_words(tmp_path, "tiny-transformers submit experiments.yaml --study f") == ["first"]
    root.ledger.write_bytes(b"no ledger")
    assert complete_words(tmp_path, "tiny-transformers logs bert") == []
    assert complete_words("/", "tiny-transformers logs bert") == []


@pytest.mark.parametrize("words", [
    "status --json", "logs {run}",
    *(longer(words) for words in ("status", "report", "usage", "models experiments.yaml")),
])  # fmt: skip
def test_a_command_whose_output_nobody_reads_ends_quietly(study, root, runs, tmp_path, words):  # noqa: ARG001
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": str(tmp_path)}
    command = [sys.executable, "-m", "cluster.cli", *words.format(run=runs[5].id).split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.stderr, done.returncode) == ("", 1)
