"""What the report says of scores and of checks that did not hold."""

import io

from rich.console import Console

from cluster import report


def record(ledger, run, stage, scores=(), checks=()):
    ledger.put_attempt(run.id, stage, 1, status="completed")
    rows = [{"task": task, "metric": metric, "value": value, "n": n} for task, metric, value, n in scores]
    ledger.put_outcome(run.id, stage, 1, {"scores": rows, "checks": checks})


def shown(renderable):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_failed_checks_and_identical_scores_are_told_in_the_report(ledger, runs, tmp_path):
    ledger.record_runs(runs[:2], "2026")
    one_class = {"name": "rte.majority_class", "passed": False, "blocking": False, "value": 1.0}
    for run in runs[:2]:
        record(ledger, run, "blimp", [("average", "accuracy", 0.512345, 5_000)])
    record(ledger, runs[0], "superglue", [("average", "main", 0.4, 9)], [one_class])
    report.write(ledger, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Checks that did not hold" in text
    assert f"- {runs[0].name} ({runs[0].id}): superglue: rte.majority_class: 1.0\n" in text
    assert "- blimp: identical_scores: " in text


def test_a_column_without_a_value_is_left_out_of_the_tables(ledger, runs, tmp_path):
    ledger.record_runs(runs[:1], "2026")
    record(
        ledger, runs[0], "lambada", [("last_word", "accuracy", 0.0834, 5_153), ("passage", "perplexity", 22.13, 5_153)]
    )
    table = shown(report.score_table(ledger))
    assert "8.3" in table
    assert "22.130" in table
    assert "BLiMP" not in table
    report.write(ledger, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| LAMBADA | LAMBADA token ppl. |" in text
    assert "Checks" not in text
    assert "BLiMP" in (tmp_path / "summary.csv").read_text()
