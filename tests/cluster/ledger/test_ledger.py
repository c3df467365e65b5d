import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cluster.errors import LedgerBusy, OldLedger
from cluster.files import folders, whole_files
from cluster.files.records import StudyRecord
from cluster.ledger import checks, recording
from cluster.ledger.database import Ledger
from cluster.ledger.lock import locked
from cluster.ledger.rows import ScoreRow
from cluster.ledger.schema import Database, migrate
from cluster.plan import expansion
from cluster.reconcile import session
from cluster.report import results

ROOT = Path(__file__).parents[3]


def test_a_ledger_migrates_once_and_reopens(tmp_path):
    first = Ledger(tmp_path / "ledger.db")
    first.remember("as_of", "now")
    first.close()
    again = Ledger(tmp_path / "ledger.db")
    assert again.recall("as_of") == "now"
    assert again.db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    again.close()


def test_a_reader_cannot_write(tmp_path):
    path = tmp_path / "50%41?x#y" / "ledger.db"  # which mean something in an address
    Ledger(path).close()
    reader = Ledger(path, read_only=True)
    with pytest.raises(Exception, match="readonly"):
        reader.remember("a", "b")
    reader.close()


def test_a_locked_ledger_of_an_older_version_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "WAIT", 0.1)
    root = folders.OutputRoot(tmp_path)
    old = Ledger(root.ledger)
    old.db.execute("DROP TABLE kind")
    old.db.execute("DELETE FROM _sqlite_migrations WHERE name = 'm006_status'")
    old.close()
    told = "another command holds .* made by an older version"
    with locked(root.lock), pytest.raises(OldLedger, match=told), session.reading(root, None):
        pass


def test_the_lock_keeps_a_second_holder_out(tmp_path):
    lock, order = tmp_path / "ledger.lock", []
    entered = threading.Event()

    def second():
        entered.set()
        with locked(lock, wait=10):
            order.append("second")

    with locked(lock):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        with pytest.raises(LedgerBusy, match=str(os.getpid())), locked(lock, wait=0.1):
            order.append("never")
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not lock.exists()


def test_a_dead_holders_lock_is_taken_over(tmp_path):
    lock = tmp_path / "ledger.lock"
    code = "import os,sys; from pathlib import Path; from cluster.ledger.lock import locked\n" \
           "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(lock)], check=False)
    assert lock.exists()
    with locked(lock, wait=1):
        assert whole_files.read_json(lock)["pid"] == os.getpid()


@pytest.mark.parametrize("held", ["[1]", "{}", json.dumps({"host": socket.gethostname(), "pid": 9**9})])
def test_a_lock_that_names_no_holder_is_never_broken(tmp_path, held):
    lock = tmp_path / "ledger.lock"
    lock.write_text(held)
    with pytest.raises(LedgerBusy, match="another command holds the ledger"), locked(lock, wait=0.1):
        pass
    assert lock.read_text() == held


def test_another_hosts_lock_is_never_broken(tmp_path):
    lock = tmp_path / "ledger.lock"
    whole_files.create_json(lock, {"host": f"not-{socket.gethostname()}", "pid": 1, "start": "0"})
    with pytest.raises(LedgerBusy, match="not-"), locked(lock, wait=0.2):
        pass
    assert lock.exists()


def test_commands_load_no_torch():
    unwanted = ("torch", "transformers", "datasets", "numpy", "pandas")
    code = (
        "import sys, cluster.cli.entry, cluster.submit.launch, cluster.sites.doctor; "
        f"cluster.cli.entry.load(); print([m for m in {unwanted} if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def attempts(ledger, run, **statuses):
    for stage, status in statuses.items():
        for number, each in enumerate(status.split(), 1):
            ledger.put_attempt(run.id, stage, number, status=each, submission_id="cafe")


def test_the_statuses_kept_with_a_run_are_those_of_its_attempts(ledger, runs):
    ledger.record_runs(runs, "2026")
    attempts(ledger, runs[0], pretrain="failed completed", add_tokenizer="completed", blimp="failed", superglue="void")
    attempts(ledger, runs[1], pretrain="failed failed", add_tokenizer="void")
    attempts(ledger, runs[2], pretrain="running", add_tokenizer="submitted")
    states = ledger.states()
    for run in ledger.overview():
        shown = {stage: view["status"] for stage, view in run["stages"].items()}
        assert {stage: state.status for stage, state in states[run["run_id"]].items()} == shown
    tried = [[state.attempts for state in states[run.id].values()] for run in runs[:4]]
    assert tried == [[2, 1, 1, 1], [2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_a_tally_counts_each_study_and_each_run_once_over_all(ledger, runs):
    ledger.record_runs(runs, "2026")
    attempts(ledger, runs[0], pretrain="completed")
    tally = ledger.tally()
    assert {study: sum(count["pretrain"].values()) for study, count in tally.items()} == {
        "": 7,
        "first": 4,
        "second": 4,
    }
    assert (tally[""]["pretrain"], tally["first"]["add_tokenizer"]["eligible"]) == ({"completed": 1, "eligible": 6}, 1)
    assert ledger.study_sizes() == {"first": 4, "second": 4}


def test_what_fails_within_a_transaction_leaves_all_as_it_was(ledger, runs):
    ledger.record_runs(runs[:1], "2026")

    def fail():
        with ledger.transaction():
            attempts(ledger, runs[0], pretrain="completed")
            raise RuntimeError

    pytest.raises(RuntimeError, fail)
    assert ledger.states()[runs[0].id]["pretrain"].status == "eligible"
    attempts(ledger, runs[0], pretrain="running")
    assert ledger.states()[runs[0].id]["pretrain"].status == "running"


def test_a_ledger_of_the_first_version_gains_the_statuses(tmp_path, runs):
    path = tmp_path / "old.db"
    new = Ledger(path)
    new.record_runs(runs, "2026")
    new.db.execute("UPDATE run SET statuses = NULL")
    new.close()
    again = Ledger(path)
    assert {state.status for states in again.states().values() for state in states.values()} == {"eligible", "waiting"}
    again.close()


def score(ledger, run, stage="blimp", values=(0.5, 0.75), n=600, status="completed"):
    """Two tasks of n rows each, and their average."""
    ledger.put_attempt(run.id, stage, 1, status=status)
    rows = [{"task": f"task{i}", "metric": "accuracy", "value": value, "n": n} for i, value in enumerate(values)]
    rows.append({"task": "average", "metric": "accuracy", "value": sum(values) / 2, "n": 2 * n})
    ledger.put_outcome(run.id, stage, 1, {"scores": rows})


def trained(run, **settings):
    """Another run, which differs in these settings of `train`."""
    config = run.config.model_copy(update={"train": run.config.train.model_copy(update=settings)})
    return replace(run, id=expansion.identity(config), config=config)


def test_runs_that_score_the_same_to_the_last_digit_are_found(ledger, runs):
    ledger.record_runs(runs, "2026")
    score(ledger, runs[0])
    score(ledger, runs[1], values=(0.5, 0.7500001))
    assert ledger.identical_scores() == []
    score(ledger, runs[2])
    score(ledger, runs[3], status="failed")
    assert ledger.identical_scores() == [("blimp", [runs[0].id, runs[2].id])]


def test_scores_of_few_rows_and_times_may_be_the_same(ledger, runs):
    ledger.record_runs(runs, "2026")
    for run in runs[:2]:
        score(ledger, run, n=450)  # 900 rows; the average and every further metric are of the same ones
        score(ledger, run, stage="speed")
    assert ledger.identical_scores() == []


def test_a_ledger_from_before_finds_its_scores_alike_too(tmp_path, runs):
    path = tmp_path / "old.db"
    new = Ledger(path)
    new.record_runs(runs, "2026")
    for run in runs[:2]:
        score(new, run)
    new.db.execute("DROP TABLE identical")
    new.db.execute("DROP INDEX idx_attempt_scores")
    new.db.execute("DROP VIEW newest_attempt")  # it names every column
    new.db.execute("ALTER TABLE attempt DROP COLUMN scores")
    new.db.execute("DELETE FROM _sqlite_migrations WHERE name = 'm004_scores'")
    new.close()
    again = Ledger(path)
    ((stage, alike),) = again.identical_scores()
    assert (stage, sorted(alike)) == ("blimp", sorted(run.id for run in runs[:2]))
    again.close()


def test_a_ledger_of_the_older_words_is_brought_up_to_date(tmp_path, runs):
    old = Database(tmp_path / "ledger.db")
    migrate.apply(old, stop_before="m008_words")
    old["run"].insert({"id": runs[0].id, "name": "a", "stages": '["pretrain"]', "statuses": "completed"})
    old["submission"].insert({"token": "cafe", "created": "2026", "state": "done", "gpus": 1, "slots": 1, "spent": 1.0})
    key = {"run_id": runs[0].id, "stage": "pretrain", "number": 1}
    old["attempt"].insert({**key, "token": "cafe", "task": 3, "status": "completed", "started": 0.0, "ended": 3600.0})
    old.close()
    with pytest.raises(OldLedger, match="made by an older version"):
        Ledger(tmp_path / "ledger.db", read_only=True)
    ledger = Ledger(tmp_path / "ledger.db")
    (attempt,) = ledger.attempts_in("cafe")
    assert (attempt["submission_id"], attempt["pack_index"]) == ("cafe", 3)
    assert ledger.submission_ids() == {"cafe"}
    assert [row["gpu_hours"] for row in ledger.gpu_hours()] == [1.0]
    ledger.sum_hours("cafe")
    assert [row["spent"] for row in ledger.hours()] == [1.0]
    ledger.close()


def test_one_training_evaluated_in_two_ways_may_score_the_same(ledger, runs):
    evaluation = runs[0].config.evaluation.model_copy(update={"limit": 7})
    config = runs[0].config.model_copy(update={"evaluation": evaluation})
    other = replace(runs[0], id=expansion.identity(config), config=config)
    reseeded = trained(runs[0], learning_rate=0.1)
    with_anchors = trained(runs[0], anchors=(0.1, 0.5))
    ledger.record_runs([runs[0], other, with_anchors], "2026")
    for run in (runs[0], other, with_anchors):
        score(ledger, run)
    assert ledger.identical_scores() == []
    ledger.record_runs([reseeded], "2026")
    score(ledger, reseeded)
    assert ledger.identical_scores() == [("blimp", [runs[0].id, other.id, with_anchors.id, reseeded.id])]


def test_several_versions_of_the_code_are_counted_and_one_is_nothing_to_tell(ledger, runs):
    ledger.record_runs(runs, "2026")
    ledger.put_attempt(runs[0].id, "pretrain", 1, status="completed", code="a1b2")
    assert ledger.code_versions() == {}
    ledger.put_attempt(runs[1].id, "pretrain", 1, status="completed", code="c3d4")
    ledger.put_attempt(runs[2].id, "pretrain", 1, status="completed", code="c3d4")
    assert ledger.code_versions() == {"a1b2": 1, "c3d4": 2}


def test_runs_counted_as_they_change_are_those_that_are_there(ledger, runs):
    ledger.record_runs(runs, "2026")
    ledger.put_attempt(runs[0].id, "pretrain", 1, status="completed")
    ledger.put_attempt(runs[1].id, "pretrain", 1, status="failed")
    ledger.put_attempt(runs[1].id, "pretrain", 2, status="running")
    ledger.record_runs([replace(runs[2], stages=(*runs[2].stages, "speed"), studies=("first", "third"))], "2026")
    counted = {}
    for study, statuses, number in ledger.kinds():
        counted[study, tuple(statuses.items())] = number
    there = {}
    for run in ledger.overview():
        statuses = tuple((stage, view["status"]) for stage, view in run["stages"].items())
        for study in ("", *run["studies"]):
            there[study, statuses] = there.get((study, statuses), 0) + 1
    assert counted == there
    assert ledger.study_sizes() == {"first": 4, "second": 4, "third": 1}
    for run in runs:
        for status in ("running", "failed", "completed"):
            ledger.put_attempt(run.id, "pretrain", 3, status=status)
    assert list(ledger.study_sizes()) == ["first", "second", "third"]
    empty = ledger.db.execute("SELECT count(*) FROM kind WHERE runs = 0 GROUP BY study").fetchall()
    assert all(number == 1 for (number,) in empty), "at most the first of each study"


METADATA = yaml.safe_load((ROOT / "cluster/ledger/datasette.yaml").read_text())["databases"]["ledger"]


def test_every_column_of_every_table_and_view_is_described(ledger):
    described = {name: set(table["columns"]) for name, table in METADATA["tables"].items()}
    names = [*ledger.db.table_names(), *ledger.db.view_names()]
    columns = {
        name: {column[1] for column in ledger.db.execute(f"PRAGMA table_info({name})")}
        for name in names
        if not name.startswith("_") and name != "sqlite_sequence"
    }
    assert described == columns


def test_the_document_of_the_ledger_says_what_its_metadata_say():
    sections = []
    for name, table in METADATA["tables"].items():
        rows = [f"| `{column}` | {text} |" for column, text in table["columns"].items()]
        sections.append("\n".join([f"## {name}", "", table["description"], "", "| column | |", "|---|---|", *rows]))
    document = ROOT / "docs/ledger.md"
    before = document.read_text().partition("\n## ")[0].rstrip()
    expected = "\n\n".join([before, *sections]) + "\n"
    if "\n## " not in document.read_text():
        document.write_text(expected)
    assert document.read_text() == expected, "if the change is meant, remove the sections and run this test again"


def test_the_wide_view_has_every_main_figure_of_the_newest_completed_attempt(ledger, runs):
    ledger.record_runs(runs[:2], "2026")
    columns = [column[1] for column in ledger.db.execute("PRAGMA table_info(scores_wide)")]
    assert columns[6:] == [measure.key for measure in results.MEASURES]
    for number, value in ((1, 0.25), (2, 0.75)):
        ledger.put_attempt(runs[0].id, "blimp", number, status="completed")
        rows = [
            {"task": measure.task, "metric": measure.metric, "value": value, "n": 8}
            for measure in results.MEASURES
            if measure.stage == "blimp"
        ]
        ledger.put_outcome(runs[0].id, "blimp", number, {"scores": rows})
    first, second = ledger.db.query("SELECT * FROM scores_wide ORDER BY run_id = ? DESC", [runs[0].id])
    assert (first["blimp"], first["blimp_all"], first["supplement"], first["loss"]) == (0.75, 0.75, 0.75, None)
    assert (first["seed"], first["family"], first["studies"]) == (42, "gpt_neo", "first")
    assert second["blimp"] is None
    ledger.put_attempt(runs[0].id, "blimp", 3, status="failed")
    assert next(ledger.db.query("SELECT * FROM scores_wide WHERE run_id = ?", [runs[0].id]))["blimp"] is None


def test_failures_are_the_newest_attempts_with_what_was_decided(ledger, runs):
    ledger.record_runs(runs, "2026")
    attempts(ledger, runs[0], pretrain="failed completed")
    attempts(ledger, runs[1], pretrain="failed failed void")
    ledger.put_decision({"run_id": runs[1].id, "stage": "pretrain", "number": 2, "action": "stop", "cause": "error",
                         "tries": 2, "changes": "", "due": 0.0, "time": 0.0})  # fmt: skip
    (failure,) = ledger.db.query("SELECT * FROM failures")
    assert (failure["run_id"], failure["number"], failure["decided"]) == (runs[1].id, 2, "stop")
    assert failure["log"] == f"runs/{runs[1].id}/stages/pretrain/2/log.txt"


def test_runs_share_the_hours_of_their_packs_gpu_and_what_is_alone_has_all(ledger, runs):
    ledger.record_runs(runs[:3], "2026")
    ended = {"status": "completed", "started": 0.0, "ended": 3600.0}
    together = [{"run_id": run.id, "stage": "pretrain", "number": 1, "pack_index": 0, **ended} for run in runs[:3]]
    alone = {"run_id": runs[0].id, "stage": "speed", "number": 1, "pack_index": 0, **ended}
    row = {"submission_id": "cafe", "created": "2026", "gpus": 1, "slots": 2, "state": "done"}
    ledger.record_submission(row, [*together, alone])
    hours = {(row["run_id"], row["stage"]): row["gpu_hours"] for row in ledger.gpu_hours()}
    assert hours == {**{(run.id, "pretrain"): 0.5 for run in runs[:3]}, (runs[0].id, "speed"): 1.0}
    assert [row["spent"] for row in ledger.hours()] == [2.5]
    ledger.sum_hours("cafe")
    assert [row["spent"] for row in ledger.hours()] == [2.5]


def test_every_canned_query_answers(ledger, runs):
    ledger.record_runs(runs, "2026")
    ledger.put_study("first", "Which?", [{"baselines": [runs[0].id]}])
    attempts(ledger, runs[1], pretrain="failed")
    for name, query in METADATA["queries"].items():
        values = {"study": "first"} if ":study" in query["sql"] else {}
        rows = list(ledger.db.query(query["sql"], values))
        assert rows or name == "hours_of_each_study", name
        assert name != "against_the_baseline" or sum(row["baseline"] for row in rows) == 1


def test_what_a_stage_run_told_is_what_its_newest_attempt_did_without_void_ones(ledger, runs):
    ledger.record_runs(runs[:2], "2026")
    for run, number, status in ((0, 1, "completed"), (0, 2, "failed"), (0, 3, "void"), (1, 1, "completed")):
        ledger.put_attempt(runs[run].id, "pretrain", number, status=status)
        score = {"task": "validation", "metric": "loss", "value": float(number), "n": 1}
        ledger.put_outcome(runs[run].id, "pretrain", number, {"scores": [score], "checks": []})
    assert [row["value"] for row in ledger.outcomes_of(ScoreRow, [runs[0].id])] == [2]
    assert [row["value"] for row in ledger.outcomes_of(ScoreRow, [runs[1].id, runs[0].id])] == [2, 1]


def test_a_study_of_one_name_in_two_manifests_is_said_and_an_edited_one_is_not(ledger, root, runs):
    recording.record_runs(ledger, root, [run for run in runs if "first" in run.studies], "2026")
    ids = tuple(run.id for run in runs if "first" in run.studies)

    def submit(manifest, of):
        study = StudyRecord("first", "", of[:1], of, ("pretrain",), (), manifest)
        told = checks.left_by(ledger, [study])
        recording.record_studies(ledger, root, [study])
        return told

    assert submit("/mine/a.yaml", ids) == []
    assert submit("/mine/a.yaml", ids[:-1]) == [], "it was edited"
    assert submit("/mine/b.yaml", ids[:-1]) == [], "it has the same runs"
    assert checks.of_several_manifests(ledger) == {"first": "first: its runs come from 2 manifests: a.yaml, b.yaml"}
    (told,) = submit("/theirs/b.yaml", ids[:1])
    assert told.startswith(
        f"first: /mine/b.yaml has a study of this name, too, and of its {len(ids) - 1} runs /theirs/b.yaml does not "
        f"have {len(ids) - 2}."
    )
    told = {study.name: study.note.partition(" come from ")[2] for study in results.read(ledger)}
    three = "3 manifests: /mine/a.yaml, /mine/b.yaml, /theirs/b.yaml"
    assert told == {"first": three, "first, no longer in the manifest": three, "second": ""}
    assert submit("/mine/a.yaml", ids) == [], "it has all of the last one's"
    assert checks.of_several_manifests(ledger) == {}, "the last one has all runs"
