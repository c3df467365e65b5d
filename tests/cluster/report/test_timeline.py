"""A study's packs over time, and its hours: what is told of them, from attempts as the ledger has them."""

from contextlib import closing
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import get_args

import matplotlib
import numpy as np
import pytest
import synthetic

from cluster.files.causes import Cause
from cluster.ledger.database import Ledger
from cluster.report import results
from cluster.report.figures import printing, sheets, timeline
from cluster.report.history import PAUSE, history, hours_at, merged

ZONE = timezone(timedelta(hours=2))
BEGAN = 1_790_000_000.0


def attempt(pack=0, started=600.0, ended=4200.0, **values):
    """An attempt of a pack of its own submission, with times after its submission, in seconds."""
    told = {
        "run_id": "a", "stage": "pretrain", "number": 1, "status": "completed", "cause": None,
        "submission_id": f"s{pack}", "pack_index": 0, "job": f"{100 + pack}_0",
        "created": datetime.fromtimestamp(BEGAN, ZONE).isoformat(), "on_gpu": 1,
        "started": None if started is None else BEGAN + started, "ended": None if ended is None else BEGAN + ended,
    }  # fmt: skip
    told |= values
    known = told["started"] is not None and told["ended"] is not None
    return {"hours": (told["ended"] - told["started"]) / 3600 if known else None} | told


def failed(cause, **values):
    return attempt(status="failed", cause=cause, **values)


def drawn(*tries):
    study = SimpleNamespace(stem="made", runs=[SimpleNamespace(tries=tries)])
    sheets.make_font()
    with matplotlib.rc_context(sheets.RC):
        return [(sheet, printing.print_sheet(sheet, study).svg) for sheet in timeline.timeline(study)]


def relative(spans):
    return [tuple(time - BEGAN for time in span) for span in spans]


def test_a_pack_waits_until_it_begins_and_works_until_its_last_attempt_ends():
    (pack,) = history([attempt(), attempt(stage="blimp", started=4201.0, ended=5000.0)]).packs
    assert (relative(pack.waited), relative(pack.worked)) == ([(0, 600)], [(600, 5000)])


def test_a_pack_that_slurm_queued_again_waits_in_between():
    pause = 4200.0 + PAUSE + 1
    (pack,) = history([failed("node_fail"), attempt(number=2, started=pause, ended=9000.0)]).packs
    assert relative(pack.waited) == [(0, 600), (4200, pause)]
    assert relative(pack.worked) == [(600, 4200), (pause, 9000)]
    assert [(each.cause, relative([each.span])) for each in pack.failed] == [("node_fail", [(600, 4200)])]


def test_a_pack_that_works_on_another_studys_runs_in_between_does_not_wait():
    (pack,) = history([attempt(), attempt(run_id="b", started=9000.0, ended=9500.0)]).packs
    assert relative(pack.waited) == [(0, 600)]
    assert relative(pack.worked) == [(600, 4200), (9000, 9500)]


def test_the_times_of_a_short_study_can_be_told_apart():
    ((_, svg),) = drawn(attempt(started=2.0, ended=95.0))
    clock = f"{datetime.fromtimestamp(BEGAN, ZONE):%H:%M}"
    assert f"{clock}:20" in svg
    assert "0.03 for results" in drawn(attempt(started=2.0, ended=95.0))[0][0].caption


def test_what_waits_still_waits_up_to_the_last_that_is_known():
    found = history([attempt(), attempt(pack=1, status="submitted", started=None, ended=None)])
    assert relative(found.packs[1].waited) == [(0, 4200)]
    assert not found.packs[1].worked
    assert found.untimed == 0
    begun = history([attempt(), attempt(stage="blimp", status="submitted", started=None, ended=None),
                     attempt(pack=1, ended=7200.0)])  # fmt: skip
    assert relative(begun.packs[0].waited) == [(0, 600), (4200, 7200)]


def test_an_attempt_without_times_is_left_out_and_counted():
    ((sheet, _),) = drawn(attempt(), failed("launch_failed", pack=1, started=None, ended=None))
    assert "Left out: 1 attempt whose times are not known." in sheet.caption
    assert sheet.drawing.axes[-2].get_yticklabels()[0].get_text() == "100_0"
    assert drawn(failed("launch_failed", started=None, ended=None, created=None)) == []


def test_hours_grow_evenly_while_an_attempt_works():
    tries = [attempt(ended=4200.0), attempt(pack=1, started=2400.0, ended=6000.0)]
    times = BEGAN + np.array([0.0, 600, 2400, 4200, 6000, 9000])
    assert hours_at(times, tries) == pytest.approx([0, 0, 0.5, 1.5, 2, 2])


def test_hours_for_results_and_those_that_were_lost_are_told():
    ((sheet, _),) = drawn(attempt(), failed("timeout", pack=1, ended=7800.0), attempt(pack=2, on_gpu=0, hours=40.0))
    assert "GPU-hours up to each time: 1.0 for results, 2.0 lost to failures. 1 attempt without a GPU" in sheet.caption
    ((sheet, _),) = drawn(attempt(on_gpu=0, hours=40.0))
    assert "CPU-hours up to each time: 40.0 for results." in sheet.caption


def test_a_failure_has_the_letter_of_its_cause_once():
    ((sheet, svg),) = drawn(failed("timeout"), failed("timeout", run_id="b"), failed("error", pack=1))
    texts = [text.get_text() for text in sheet.drawing.axes[-2].texts]
    assert sorted(texts) == ["E", "T"]
    assert "E error, T timeout" in svg


def test_letters_of_failures_at_nearly_one_time_stand_beside_each_other():
    causes = ("error", "timeout", "timeout", "error")
    tries = [failed(cause, run_id=f"{number}", ended=4200.0 + number) for number, cause in enumerate(causes)]
    ((sheet, _),) = drawn(*tries, failed("error", run_id="early", ended=900.0))
    axes = sheet.drawing.axes[0]
    inch = axes.get_position().width * sheets.WIDE
    letters = [(text.get_position()[0] * inch, text.get_text()) for text in axes.texts]
    assert [letter for _, letter in letters] == ["E", "E", "T", "E"], "the second T would stand over the first"
    places = [place for place, _ in letters]
    assert all(after - place >= sheets.text_width(letter) for (place, letter), after in
               zip(letters, places[1:], strict=False))  # fmt: skip


def test_every_cause_has_a_letter_of_its_own():
    assert set(timeline.LETTERS) == set(get_args(Cause))
    assert len(set(timeline.LETTERS.values())) == len(timeline.LETTERS)


def test_hundreds_of_packs_are_no_taller_and_a_thousand_are_the_newest():
    many = [attempt(pack, started=600.0 + 30 * pack, ended=9000.0 + 30 * pack) for pack in range(timeline.MOST + 7)]
    ((sheet, svg),) = drawn(*many)
    assert sheet.height < timeline.TALLEST + 3
    assert f"Of {timeline.MOST + 7} packs the newest {timeline.MOST} are shown." in sheet.caption
    assert len(svg) < 160_000


def test_a_time_in_which_nothing_happened_is_cut_out():
    week = 7 * 86_400.0
    later = datetime.fromtimestamp(BEGAN + week, ZONE).isoformat()
    found = history([attempt(), attempt(pack=1, created=later, started=week + 600, ended=week + 4200)])
    axis = timeline.TimeAxis(found)
    assert axis.is_cut
    ends = [float(axis.place(BEGAN + time)) for time in (0, 4200, week, week + 4200)]
    assert ends[0] == 0
    assert ends[3] == 1
    assert ends[2] - ends[1] == pytest.approx(0.02 * (ends[1] + ends[3] - ends[2]))
    assert not timeline.TimeAxis(history([attempt(), attempt(pack=1, started=4400.0, ended=9000.0)])).is_cut


def test_spans_are_merged_in_their_order():
    assert merged([(5, 6), (0, 2), (1, 3), (3.5, 4)], 0.5) == [(0, 4), (5, 6)]


def test_times_are_those_of_the_first_submissions_zone():
    ((_, svg),) = drawn(attempt())
    began = datetime.fromtimestamp(BEGAN, ZONE)
    assert f"{began:%H:%M}" in svg


def test_the_attempts_of_a_ledger_are_those_of_its_runs(tmp_path):
    runs = synthetic.planned(["heads"], limit=6)
    broken = runs[1].id
    root = synthetic.make(tmp_path, runs, with_pairs=False,
                          failing=lambda run: "superglue" if run.id == broken else None)  # fmt: skip
    with closing(Ledger(root.ledger)) as ledger:
        (study,) = results.read(ledger)
        hours = {(each["run_id"], each["stage"]): each["gpu_hours"] for each in ledger.gpu_hours()}
    tries = [each for run in study.runs for each in run.tries]
    assert {(each["run_id"], each["stage"]): each["hours"] for each in tries} == pytest.approx(hours)
    assert [each["run_id"] for each in tries if each["cause"]] == [broken]
    assert all(run.with_stages(["pretrain"]).tries == run.tries[:1] for run in study.runs)
