"""The tables, views and triggers of the ledger, as numbered migrations."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tiny_transformers.settings.stages import STAGES


@contextmanager
def without_modules(*modules: str) -> Iterator[None]:
    """sqlite-utils imports pandas and numpy where they are installed: 0.3 s that no command here needs."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with without_modules("pandas", "numpy"):
    from sqlite_utils import Database, Migrations

migrate = Migrations("tiny-transformers")
DISTINCTIVE = 1_000  # rows that scores must be of, so that equal ones are no accident
# A pack's runs share its GPU, at most `slots` at a time: each has its share of the time that it took; what must be
# alone on it has all. On a machine without a GPU it is hours.
_GPUS, _SHARING = "max(coalesce(gpus, 1), 1)", "max(1, min(coalesce(slots, 1), runs))"
SHARING = f"CASE stage WHEN 'speed' THEN 1 ELSE {_SHARING} END"
_SHARE = f"/ 3600.0 * {_GPUS} / {SHARING}"
# Of a submission, as the view gpu_hours has it; what is running is counted until its last heartbeat, so that nothing is
# while nobody looks.
_LAST = "coalesce(ended, json_extract(progress, '$.time'))"
# Its attempts are passed over once, a pack's together: joined with their packs, they take the square of the time.
_WORKED = f"CASE WHEN status != 'void' AND {_LAST} > started THEN {_LAST} - started END"
SPENT = (
    f"SELECT coalesce(sum((coalesce(alone, 0) + coalesce(shared, 0) / {_SHARING}) / 3600.0 * {_GPUS}), 0) FROM (SELECT "
    f"count(DISTINCT run_id) AS runs, sum(CASE stage WHEN 'speed' THEN {_WORKED} END) AS alone, "
    f"sum(CASE stage WHEN 'speed' THEN NULL ELSE {_WORKED} END) AS shared "
    "FROM attempt WHERE submission_id = submission.submission_id GROUP BY pack_index)"
)
# LEFT JOIN keeps their order, in which 400,000 attempts take 3 s.
_GPU_HOURS = (
    "WITH packs AS (SELECT submission_id, pack_index, count(DISTINCT run_id) AS runs FROM attempt "
    "GROUP BY submission_id, pack_index) "
    "SELECT run_id, stage, count(*) AS attempts, sum(ended - started) AS seconds, "
    f"sum((ended - started) {_SHARE}) AS gpu_hours "
    "FROM attempt LEFT JOIN packs USING (submission_id, pack_index) LEFT JOIN submission USING (submission_id) "
    "WHERE attempt.status != 'void' AND ended > started GROUP BY run_id, stage"
)
# Each attempt with what it took, up to its last heartbeat where it has no end; without a GPU it takes its pack's CPUs.
TRIES = (
    "WITH packs AS (SELECT submission_id, pack_index, count(DISTINCT run_id) AS runs FROM attempt "
    "GROUP BY submission_id, pack_index) "
    "SELECT run_id, stage, number, status, cause, submission_id, pack_index, job, created, started, "
    f"{_LAST} AS ended, coalesce(gpus, 0) > 0 AS on_gpu, "
    f"({_LAST} - started) {_SHARE} "
    "* CASE WHEN coalesce(gpus, 0) > 0 THEN 1 ELSE max(coalesce(cpus, 1), 1) END AS hours "
    "FROM attempt LEFT JOIN packs USING (submission_id, pack_index) LEFT JOIN submission USING (submission_id) "
    "WHERE attempt.status != 'void' ORDER BY created, submission_id, pack_index, attempt.rowid"
)
_RENAMED = {"token": "submission_id", "task": "pack_index"}  # columns of submission and attempt, by m008_words
# The table `kind`, filled, and the triggers that keep it.
_ADD = "ON CONFLICT (study, stages, statuses) DO UPDATE SET runs = runs + 1;"  # before 3.35 SQLite wants the columns
_MEMBER = "SELECT study FROM study_run WHERE run_id = NEW.id UNION ALL SELECT ''"
_KINDS = (
    "INSERT INTO kind SELECT study, stages, coalesce(statuses, ''), count(*) FROM study_run JOIN run ON id = run_id "
    "GROUP BY 1, 2, 3 ORDER BY min(study_run.rowid)",
    "INSERT INTO kind SELECT '', stages, coalesce(statuses, ''), count(*) FROM run GROUP BY 2, 3",
    "CREATE TRIGGER kind_of_run AFTER INSERT ON run BEGIN "
    f"INSERT INTO kind VALUES ('', NEW.stages, coalesce(NEW.statuses, ''), 1) {_ADD} END",
    "CREATE TRIGGER kind_of_study AFTER INSERT ON study_run BEGIN INSERT INTO kind "
    f"SELECT NEW.study, stages, coalesce(statuses, ''), 1 FROM run WHERE id = NEW.run_id {_ADD} END",
    "CREATE TRIGGER kind_changed AFTER UPDATE OF stages, statuses ON run BEGIN UPDATE kind SET runs = runs - 1 "
    f"WHERE study IN ({_MEMBER}) AND stages = OLD.stages AND statuses = coalesce(OLD.statuses, ''); "
    f"INSERT INTO kind SELECT study, NEW.stages, coalesce(NEW.statuses, ''), 1 FROM ({_MEMBER}) WHERE true {_ADD} "
    # The first row of a study stays, for the order of studies.
    f"DELETE FROM kind WHERE study IN ({_MEMBER}) AND stages = OLD.stages AND statuses = coalesce(OLD.statuses, '') "
    "AND runs = 0 AND EXISTS (SELECT 1 FROM kind AS older WHERE older.study = kind.study "
    "AND older.rowid < kind.rowid); END",
)


@migrate()
def m001_first(db: Database) -> None:
    db.table("run").create(
        {"id": str, "name": str, "parameters": int, "config": str, "stages": str, "created": str}, pk="id"
    )
    db.table("study_run").create(
        {"study": str, "run_id": str}, pk=("study", "run_id"), foreign_keys=[("run_id", "run")]
    )
    db.table("submission").create(
        # state: intended (sbatch may know it or not), submitted, done, refused (sbatch said no), void (proven absent)
        {"token": str, "created": str, "scheduler": str, "site": str, "state": str, "job_id": str, "data_root": str},
        pk="token",
    )
    db.table("attempt").create(
        # status: submitted, running, completed, failed, void (its pack ended before it was this stage's turn)
        {"run_id": str, "stage": str, "number": int, "token": str, "task": int, "status": str, "cause": str,
         "message": str, "job": str, "host": str, "started": float, "ended": float, "progress": str},
        pk=("run_id", "stage", "number"), foreign_keys=[("run_id", "run")],
    )  # fmt: skip
    db.table("attempt").create_index(["token"])
    db.table("attempt").create_index(["status"])
    db.table("score").create(
        {"run_id": str, "stage": str, "number": int, "task": str, "metric": str, "value": float, "n": int},
        pk=("run_id", "stage", "number", "task", "metric"),
    )
    db.table("check_result").create(
        {"run_id": str, "stage": str, "number": int, "name": str, "passed": int, "blocking": int, "value": str},
        pk=("run_id", "stage", "number", "name"),
    )
    db.table("metric").create(
        {"run_id": str, "stage": str, "number": int, "name": str, "value": str},
        pk=("run_id", "stage", "number", "name"),
    )
    db.table("data_file").create(
        {"run_id": str, "stage": str, "number": int, "file": str, "sha256": str},
        pk=("run_id", "stage", "number", "file"),
    )
    db.table("meta").create({"key": str, "value": str}, pk="key")
    # The newest attempt that says anything; a stage run without one has none here.
    db.create_view(
        "newest_attempt",
        "SELECT * FROM (SELECT attempt.*, row_number() OVER (PARTITION BY run_id, stage ORDER BY number DESC) AS place "
        "FROM attempt WHERE status != 'void') WHERE place = 1",
    )


@migrate()
def m002_retry(db: Database) -> None:
    # The status of each of its stages, in their order: kept up to date, so that many runs are counted quickly.
    db.table("run").add_column("statuses", str)
    # Both cover what `tally` reads: the rows themselves are long, for they have the settings.
    db.execute("CREATE INDEX idx_run_statuses ON run (statuses, stages)")
    db.execute("CREATE INDEX idx_run_id_statuses ON run (id, statuses, stages)")
    # asked_by: submit, rerun, tick
    db.table("submission").add_column("asked_by", str)
    # code: the digest of the science's source; environment: a key of that table
    db.table("attempt").add_column("code", str)
    db.table("attempt").add_column("environment", str)
    db.execute("CREATE INDEX idx_attempt_code ON attempt (code, status)")
    db.execute("CREATE INDEX idx_check_failed ON check_result (run_id) WHERE NOT passed")
    db.table("environment").create({"key": str, "value": str}, pk="key")
    db.table("decision").create(
        # action: retry, stop. due: not before this time. changes: what the next attempt does differently, in words
        {"run_id": str, "stage": str, "number": int, "action": str, "cause": str, "tries": int, "changes": str,
         "due": float, "time": float},
        pk=("run_id", "stage", "number"), foreign_keys=[("run_id", "run")],
    )  # fmt: skip


@migrate()
def m003_sizes(db: Database) -> None:
    """Keep what a submission was planned to take, to be held against what it used."""
    columns = {"slots": int, "gpus": int, "cpus": int, "memory_per_cpu": int, "minutes": int,
               "memory": int, "seconds": float}  # fmt: skip
    for name, kind in columns.items():
        db.table("submission").add_column(name, kind)


@migrate()
def m004_scores(db: Database) -> None:
    """A digest of a stage run's scores, to find runs that have the same ones; and the digests that several have, noted
    as they come, so that nobody looks through all scores for them."""
    db.table("attempt").add_column("scores", str)
    db.execute("CREATE INDEX idx_attempt_scores ON attempt (scores, run_id) WHERE scores IS NOT NULL")
    db.table("identical").create({"scores": str}, pk="scores")
    of_attempts: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in db.query("SELECT * FROM score"):
        of_attempts.setdefault((row["run_id"], row["stage"], row["number"]), []).append(row)
    for key, scores in of_attempts.items():
        db.execute(
            "UPDATE attempt SET scores = ? WHERE (run_id, stage, number) = (?, ?, ?)",
            [digest_of_scores(key[1], scores), *key],
        )
    db.execute(
        "INSERT INTO identical SELECT scores FROM attempt WHERE scores IS NOT NULL "
        "GROUP BY scores HAVING min(run_id) < max(run_id)"
    )


# Figures of cluster/report/results.py's MEASURES: a column of scores_wide each; later ones are in a migration.
_FIGURES = {
    "loss": ("pretrain", "validation", "loss"),
    "blimp_all": ("blimp", "average", "accuracy"),
    "blimp": ("blimp", "blimp", "accuracy"),
    "supplement": ("blimp", "supplement", "accuracy"),
    "superglue": ("superglue", "average", "main"),
    "lambada": ("lambada", "last_word", "accuracy"),
    "lambada_ppl": ("lambada", "passage", "perplexity"),
}
_OF_CHARACTERS = {f"bpc{of}": ("bpc", split, "bpc") for of, split in (("", "test"), ("_validation", "validation"))}
_OF_BABYLM = {
    "babylm": ("babylm", "average", "accuracy"),
    "babylm_blimp": ("babylm", "blimp_filtered", "accuracy"),
    "babylm_supplement": ("babylm", "supplement_filtered", "accuracy"),
    "ewok": ("babylm", "ewok_filtered", "accuracy"),
    "entity_tracking": ("babylm", "entity_tracking", "accuracy"),
    "comps": ("babylm", "comps", "accuracy"),
    "wug_adj": ("babylm", "wug_adj_nominalization", "spearman"),
    "wug_past": ("babylm", "wug_past_tense", "spearman"),
}
_NEWER = (
    "SELECT 1 FROM attempt AS newer WHERE (newer.run_id, newer.stage) = (attempt.run_id, attempt.stage) "
    "AND newer.number > attempt.number AND newer.status != 'void'"
)


def _scores_wide(figures: Mapping[str, tuple[str, str, str]]) -> str:
    """The view's SQL."""
    columns = ", ".join(
        f"(SELECT value FROM score WHERE (run_id, stage, task, metric) = (run.id, '{stage}', '{task}', '{metric}') "
        f"AND number = (SELECT number FROM completed WHERE (run_id, stage) = (run.id, '{stage}'))) AS {column}"
        for column, (stage, task, metric) in figures.items()
    )
    return (
        "WITH completed AS (SELECT run_id, stage, number FROM attempt WHERE status = 'completed' "
        f"AND NOT EXISTS ({_NEWER})) SELECT id AS run_id, name, "
        "(SELECT group_concat(study, ' ') FROM study_run WHERE run_id = run.id) AS studies, "
        "json_extract(config, '$.seed') AS seed, json_extract(config, '$.model.family') AS family, parameters, "
        f"{columns} FROM run"
    )


@migrate()
def m005_report(db: Database) -> None:
    """Keep what a report needs beside the scores: the question of a study and what its runs are held against, and the
    GPU-hours of each stage run. And views for whoever opens the ledger with other tools; docs/ledger.md has them all.
    """
    # JSON. baselines: ids of runs, of all grids; grids: overrides (--set), stages, runs, baselines of each
    db.table("study").create({"name": str, "description": str, "baselines": str, "grids": str}, pk="name")
    db.create_view("gpu_hours", _as_they_were_named(_GPU_HOURS))
    db.create_view("scores_wide", _scores_wide(_FIGURES))
    # `log` lies below OUTPUT_ROOT.
    db.create_view(
        "failures",
        "SELECT run_id, run.name, stage, attempt.number, attempt.cause, message, job, host, ended, "
        "'runs/' || run_id || '/stages/' || stage || '/' || attempt.number || '/log.txt' AS log, "
        "action AS decided, tries, changes, due FROM attempt JOIN run ON run.id = run_id "
        "LEFT JOIN decision USING (run_id, stage, number) "
        f"WHERE status = 'failed' AND NOT EXISTS ({_NEWER})",
    )
    db.execute("CREATE INDEX idx_study_run ON study_run (run_id)")


@migrate()
def m006_status(db: Database) -> None:
    """Keep what status needs at any number of finished runs: runs found by their name and counted by their statuses,
    and the GPU-hours of a submission summed once, when it has ended."""
    db.execute("CREATE INDEX idx_run_name ON run (name)")
    # gpu_hours that its attempts took; null while something of it is open
    db.table("submission").add_column("spent", float)
    db.execute(f"UPDATE submission SET spent = ({_as_they_were_named(SPENT)}) WHERE state = 'done'")
    # How many runs of a study have these stages with these statuses; study "" is every run once. Kept by triggers.
    db.execute(
        "CREATE TABLE kind (study TEXT, stages TEXT, statuses TEXT, runs INTEGER, UNIQUE (study, stages, statuses))"
    )
    for statement in _KINDS:
        db.execute(statement)


@migrate()
def m007_characters(db: Database) -> None:
    """Bits per character, beside the other figures of a run."""
    db.create_view("scores_wide", _scores_wide(_FIGURES | _OF_CHARACTERS), replace=True)


@migrate()
def m008_words(db: Database) -> None:
    """A submission has an id, and a pack its place in the array: a token is a model's, a task is what is scored."""
    db.execute("DROP VIEW gpu_hours")  # it joins by columns that must have one name
    db.execute("DROP INDEX idx_attempt_token")
    for old, new in _RENAMED.items():
        db.execute(f"ALTER TABLE attempt RENAME COLUMN {old} TO {new}")
    db.execute("ALTER TABLE submission RENAME COLUMN token TO submission_id")
    db.table("attempt").create_index(["submission_id"])
    db.create_view("gpu_hours", _GPU_HOURS)


def _as_they_were_named(sql: str) -> str:
    """A statement for a ledger before m008_words."""
    for old, new in _RENAMED.items():
        sql = sql.replace(new, old)
    return sql


@migrate()
def m009_user(db: Database) -> None:
    """Whose jobs a submission's are."""
    db.table("submission").add_column("user", str)


@migrate()
def m010_babylm(db: Database) -> None:
    """BabyLM's zero-shot tasks of 2025 and 2026, beside the other figures of a run."""
    db.create_view("scores_wide", _scores_wide(_FIGURES | _OF_CHARACTERS | _OF_BABYLM), replace=True)


@migrate()
def m011_choices(db: Database) -> None:
    """What follow-ups have chosen, each as its choice.json has it."""
    db.table("choice").create({"id": str, "study": str, "made": str, "record": str}, pk="id")


@migrate()
def m012_needs(db: Database) -> None:
    """Of each stage run the stages of other runs whose product it needs."""
    db.execute(
        "CREATE TABLE need (run_id TEXT, stage TEXT, needed_run TEXT, needed TEXT, "
        "PRIMARY KEY (run_id, stage, needed_run, needed))"
    )
    db.execute("CREATE INDEX idx_need ON need (needed_run)")


@migrate()
def m013_stage_seconds(db: Database) -> None:
    """What a submission was planned to take, by stage: what is left is estimated by those that are done."""
    db.table("submission").add_column("stage_seconds", str)  # JSON


def digest_of_scores(stage: str, scores: Sequence[dict[str, Any]]) -> str | None:
    """Return the digest of a stage's scores; None if their rows are few enough to be alike by chance, or if they are
    times. A row counts once: an average has the rows of all tasks, and a task has several metrics."""
    if STAGES[stage].alone or max((score["n"] for score in scores), default=0) < DISTINCTIVE:
        return None
    told = sorted((score["task"], score["metric"], score["value"], score["n"]) for score in scores)
    return hashlib.sha256(json.dumps([stage, told]).encode()).hexdigest()[:16]
