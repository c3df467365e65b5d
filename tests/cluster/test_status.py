"""What status says."""

import io

from rich.console import Console

from cluster import status
from cluster.session import View


def shown(renderable):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_failed_checks_and_identical_scores_are_told(ledger, root, runs):
    ledger.record_runs(runs[:2], "2026")
    for run in runs[:2]:
        ledger.put_attempt(run.id, "blimp", 1, status="completed")
        score = {"task": "average", "metric": "accuracy", "value": 0.512345, "n": 5_000}
        ledger.put_outcome(run.id, "blimp", 1, {"scores": [score]})
    one_class = {"name": "rte.majority_class", "passed": False, "blocking": False, "value": 1.0}
    ledger.put_attempt(runs[0].id, "superglue", 1, status="completed")
    ledger.put_outcome(runs[0].id, "superglue", 1, {"checks": [one_class]})
    view = View(ledger, "answered", "12:00")
    told = shown(status.status_view(view, root, per_run=False, failed_only=False))
    assert f"flagged: {runs[0].name}: rte.majority_class" in told
    assert f"flagged: blimp: identical_scores: {runs[0].name} ({runs[0].id}), {runs[1].name} ({runs[1].id})" in told


def test_a_log_that_ends_in_what_the_result_says_is_not_shown_twice(ledger, root, runs):
    ledger.record_runs(runs[:1], "2026")
    said = {"status": "failed", "cause": "error", "message": "a.json: line 3: label is 7. Remove the row."}
    ledger.put_attempt(runs[0].id, "superglue", 1, **said)
    attempt = root.run(runs[0].id).attempt("superglue", 1)
    attempt.path.mkdir(parents=True)
    attempt.log.write_text("reading\nTinyTransformersError: a.json: line 3: label is 7. Remove the row.\n")
    told = shown(status.status_view(View(ledger, "answered", "12:00"), root, per_run=False, failed_only=True))
    assert told.count("label is 7") == 1
    assert "    reading" in told
