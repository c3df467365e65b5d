"""What the packs have taken, in time and memory, to be held against what was planned and to plan by."""

from __future__ import annotations

from cluster.files.statuses import GIVEN_UP, LIVE, OPEN, TAKEN
from cluster.ledger.rows import HoursOfStage, HoursRow, MeasurementRow, PackRow, UsageRow
from cluster.ledger.schema import SPENT
from cluster.ledger.store import Store, listed


class Usage(Store):
    """What was used."""

    def hours(self) -> list[HoursRow]:
        """Per submission that was submitted: token, state, scheduler, gpus, slots, seconds (planned, of all its packs;
        may be None) and spent (GPU-hours so far; hours where it has no GPU)."""
        rows = self.db.query(
            "SELECT token, state, scheduler, gpus, slots, seconds, "
            f"CASE WHEN state = 'done' AND spent IS NOT NULL THEN spent ELSE ({SPENT}) END AS spent "
            f"FROM submission WHERE state IN {listed(TAKEN)} ORDER BY created"
        )
        return list(rows)

    def open_packs(self) -> list[PackRow]:
        """Of the submissions of which something may still happen: token, task, runs, and how many of its attempts are
        open, running, completed; started, ended (the last that did); job, host."""
        rows = self.db.query(
            f"SELECT token, task, count(DISTINCT run_id) AS runs, sum(status IN {listed(LIVE)}) AS open, "
            "sum(status = 'running') AS running, sum(status = 'completed') AS completed, count(*) AS attempts, "
            "min(started) AS started, max(ended) AS ended, max(job) AS job, max(host) AS host FROM attempt "
            "WHERE status != 'void' AND token IN "
            f"(SELECT token FROM submission WHERE state IN {listed(OPEN)}) GROUP BY token, task"
        )
        return list(rows)

    def gpu_hours(self) -> list[HoursOfStage]:
        """Of every stage run that was ever tried: run_id, stage, attempts, seconds, gpu_hours."""
        return list(self.db.query("SELECT * FROM gpu_hours"))

    def measurements(self, site: str, stage: str, newest: int) -> list[MeasurementRow]:
        """The newest completed attempts of a stage on a site: run_id, stage, config (JSON), token and task of its pack,
        started, ended, seconds, tokens_per_second, trained (seconds of training), peak_memory_mb, micro_batch_tokens,
        device; slots of its submission and runs of its pack."""
        metrics = {"tokens_per_second": "REAL", "seconds": "REAL", "peak_memory_mb": "REAL",
                   "micro_batch_tokens": "INTEGER", "device": "TEXT"}  # fmt: skip
        names = {"seconds": "trained"}
        columns = ", ".join(
            f"(SELECT CAST(value AS {kind}) FROM metric WHERE (run_id, stage, number, name) = "
            f"(chosen.run_id, chosen.stage, chosen.number, '{name}')) AS {names.get(name, name)}"
            for name, kind in metrics.items()
        )
        rows = self.db.query(
            "WITH chosen AS (SELECT attempt.*, submission.slots FROM attempt JOIN submission USING (token) "
            "  WHERE attempt.status = 'completed' AND stage = :stage AND site = :site "
            "  ORDER BY attempt.rowid DESC LIMIT :newest), "
            "sizes AS (SELECT token, task, count(DISTINCT run_id) AS runs FROM attempt "
            "  WHERE token IN (SELECT token FROM chosen) GROUP BY token, task) "
            "SELECT chosen.run_id, chosen.stage, config, token, task, started, ended, ended - started AS seconds, "
            f"  slots, runs, {columns} "
            "FROM chosen JOIN run ON run.id = chosen.run_id JOIN sizes USING (token, task)",
            {"site": site, "stage": stage, "newest": newest},
        )
        return list(rows)

    def usage(self) -> list[UsageRow]:
        """Per submission that was submitted, oldest first: what was planned for it, and of its packs that have ended
        how many, the longest and all of them together in seconds, their runs' seconds and highest peak in MB; of its
        pretrainings the mean tokens per second, model FLOPs utilisation and wait for data, and the precisions."""
        return list(
            self.db.query(
                "WITH packs AS (SELECT token, task, max(ended) - min(started) AS seconds, "
                "  sum(ended - started) AS busy FROM attempt WHERE status != 'void' "
                # what was judged has its last sign of life as its end, which need not be its pack's
                "  AND (status != 'failed' OR cause IN ('error', 'check_failed', 'out_of_memory')) "
                "  GROUP BY token, task "
                f"  HAVING sum(status IN {listed(LIVE)}) = 0 AND max(ended) > min(started)), "
                "peaks AS (SELECT token, max(CAST(value AS REAL)) AS peak FROM metric "
                "  JOIN attempt USING (run_id, stage, number) WHERE name = 'peak_memory_mb' GROUP BY token), "
                "trained AS (SELECT token, avg(CASE name WHEN 'tokens_per_second' THEN CAST(value AS REAL) END) "
                "  AS tokens_per_second, avg(CASE name WHEN 'mfu' THEN CAST(value AS REAL) END) AS mfu, "
                "  avg(CASE name WHEN 'data_wait' THEN CAST(value AS REAL) END) AS data_wait, "
                "  group_concat(DISTINCT CASE name WHEN 'precision' THEN value END) AS precisions "
                "  FROM metric JOIN attempt USING (run_id, stage, number) WHERE stage = 'pretrain' GROUP BY token), "
                "names AS (SELECT token, group_concat(DISTINCT study) AS studies FROM attempt "
                "  JOIN study_run USING (run_id) GROUP BY token), "
                "planned AS (SELECT token, count(DISTINCT task) AS packs FROM attempt GROUP BY token) "
                "SELECT submission.*, planned.packs, studies, peak, tokens_per_second, mfu, data_wait, precisions, "
                "  count(packs.task) AS ended, "
                "  max(packs.seconds) AS longest, sum(packs.seconds) AS used, sum(busy) AS busy "
                "FROM submission JOIN planned USING (token) LEFT JOIN packs USING (token) "
                "LEFT JOIN peaks USING (token) LEFT JOIN trained USING (token) LEFT JOIN names USING (token) "
                f"WHERE state NOT IN {listed(GIVEN_UP)} GROUP BY token ORDER BY created"
            )
        )
