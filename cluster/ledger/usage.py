"""The questions about the time and memory that packs have taken, to be held against what was planned and to plan by."""

from __future__ import annotations

import json
from collections.abc import Iterable

from cluster.files.statuses import GIVEN_UP, LIVE, OPEN, TAKEN
from cluster.ledger.rows import (
    HoursOfStage,
    HoursRow,
    MeasurementRow,
    OpenStageRow,
    PackRow,
    StageWorkRow,
    TryRow,
    UsageRow,
)
from cluster.ledger.schema import SHARING, SPENT, TRIES
from cluster.ledger.store import Store, listed

_OPEN_ONES = f"SELECT submission_id FROM submission WHERE state IN {listed(OPEN)}"


class Usage(Store):
    """The questions about what was used."""

    def hours(self) -> list[HoursRow]:
        """Return the hours of each submission that was submitted."""
        rows = self.db.query(
            "SELECT submission_id, state, scheduler, gpus, slots, seconds, stage_seconds, "
            f"CASE WHEN state = 'done' AND spent IS NOT NULL THEN spent ELSE ({SPENT}) END AS spent "
            f"FROM submission WHERE state IN {listed(TAKEN)} ORDER BY created"
        )
        return list(rows)

    def open_packs(self, study: str | None = None) -> list[PackRow]:
        """Return each pack of the submissions of which something may still happen, the oldest first; one that had begun
        and waits again has no start. Of a study: by its runs alone."""
        of_study = "" if study is None else "AND run_id IN (SELECT run_id FROM study_run WHERE study = ?) "
        rows = self.db.query(
            "SELECT submission_id, pack_index, count(DISTINCT run_id) AS runs, "
            "count(DISTINCT CASE WHEN live THEN run_id END) AS live, sum(live) AS open, "
            "sum(status = 'running') AS running, sum(status = 'completed') AS completed, count(*) AS attempts, "
            "CASE WHEN max(again) IS NULL THEN min(started) END AS started, max(ended) AS ended, max(job) AS job, "
            "max(host) AS host, coalesce(max(again), max(CASE WHEN live THEN json_extract(progress, '$.reason') END)) "
            "AS reason FROM (SELECT *, rowid AS place, CASE WHEN live THEN json_extract(progress, '$.waits_for') END "
            f"AS again FROM (SELECT *, rowid, status IN {listed(LIVE)} AS live FROM attempt WHERE status != 'void' "
            f"{of_study}AND submission_id IN ({_OPEN_ONES}))) "
            "GROUP BY submission_id, pack_index ORDER BY min(place)",
            [study] if study else [],
        )
        return list(rows)

    def stage_work(self) -> list[StageWorkRow]:
        """Return each stage of the submissions of which something may still happen."""
        rows = self.db.query(
            "SELECT submission_id, stage, sum(attempts) AS attempts, sum(completed) AS completed, "
            # A pack has as many runs as attempts of the stage that most of them have.
            f"  sum(took / {SHARING}) AS seconds FROM (SELECT submission_id, stage, count(*) AS attempts, "
            "    sum(status = 'completed') AS completed, sum(CASE WHEN status = 'completed' THEN ended - started END) "
            "    AS took, max(count(*)) OVER (PARTITION BY submission_id, pack_index) AS runs FROM attempt "
            f"    WHERE status != 'void' AND submission_id IN ({_OPEN_ONES}) "
            "    GROUP BY submission_id, pack_index, stage) "
            "  CROSS JOIN submission USING (submission_id) GROUP BY submission_id, stage"
        )
        return list(rows)

    def open_stages(self, packs: Iterable[tuple[str, int]]) -> list[OpenStageRow]:
        """Return each stage of these packs of which something is open."""
        rows = self.db.query(
            "SELECT submission_id, pack_index, stage, count(*) AS open FROM attempt "
            f"WHERE status IN {listed(LIVE)} AND submission_id IN ({_OPEN_ONES}) AND (submission_id, pack_index) IN "
            "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)) "
            "GROUP BY submission_id, pack_index, stage",
            [json.dumps(list(packs))],
        )
        return list(rows)

    def gpu_hours(self) -> list[HoursOfStage]:
        """Return the GPU-hours of every stage run that was ever tried."""
        return list(self.db.query("SELECT * FROM gpu_hours"))

    def tries(self) -> list[TryRow]:
        """Return every attempt that counts, by its submission and pack."""
        return list(self.db.query(TRIES))

    def completed_stages(self) -> set[str]:
        """The stages that some attempt has completed."""
        rows = self.db.execute("SELECT DISTINCT stage FROM attempt WHERE status = 'completed'")
        return {stage for (stage,) in rows}

    def measurements(self, site: str, stage: str, newest: int) -> list[MeasurementRow]:
        """The newest completed attempts of a stage on a site."""
        metrics = {"tokens_per_second": "REAL", "seconds": "REAL", "peak_memory_mb": "REAL",
                   "micro_batch_tokens": "INTEGER", "device": "TEXT"}  # fmt: skip
        names = {"seconds": "trained"}
        columns = ", ".join(
            f"(SELECT CAST(value AS {kind}) FROM metric WHERE (run_id, stage, number, name) = "
            f"(chosen.run_id, chosen.stage, chosen.number, '{name}')) AS {names.get(name, name)}"
            for name, kind in metrics.items()
        )
        rows = self.db.query(
            "WITH chosen AS (SELECT attempt.*, submission.slots FROM attempt JOIN submission USING (submission_id) "
            "  WHERE attempt.status = 'completed' AND stage = :stage AND site = :site "
            "  ORDER BY attempt.rowid DESC LIMIT :newest), "
            "sizes AS (SELECT submission_id, pack_index, count(DISTINCT run_id) AS runs FROM attempt "
            "  WHERE submission_id IN (SELECT submission_id FROM chosen) GROUP BY submission_id, pack_index) "
            "SELECT chosen.run_id, chosen.stage, config, submission_id, pack_index, started, ended, "
            f"  ended - started AS seconds, slots, runs, {columns} "
            "FROM chosen JOIN run ON run.id = chosen.run_id JOIN sizes USING (submission_id, pack_index)",
            {"site": site, "stage": stage, "newest": newest},
        )
        return list(rows)

    def usage(self) -> list[UsageRow]:
        """Per submission that was submitted, oldest first: what was planned for it, and of its packs that have ended
        how many, the longest and all of them together in seconds, their runs' seconds and highest peak in MB; of its
        pretrainings the mean tokens per second, model FLOPs utilisation and wait for data, and the precisions."""
        return list(
            self.db.query(
                "WITH packs AS (SELECT submission_id, pack_index, max(ended) - min(started) AS seconds, "
                "  sum(ended - started) AS busy FROM attempt WHERE status != 'void' "
                # what was judged has its last sign of life as its end, which need not be its pack's
                "  AND (status != 'failed' OR cause IN ('error', 'check_failed', 'out_of_memory')) "
                "  GROUP BY submission_id, pack_index "
                f"  HAVING sum(status IN {listed(LIVE)}) = 0 AND max(ended) > min(started)), "
                "peaks AS (SELECT submission_id, max(CAST(value AS REAL)) AS peak FROM metric "
                "  JOIN attempt USING (run_id, stage, number) WHERE name = 'peak_memory_mb' GROUP BY submission_id), "
                "trained AS (SELECT submission_id, "
                "  avg(CASE name WHEN 'tokens_per_second' THEN CAST(value AS REAL) END) AS tokens_per_second, "
                "  avg(CASE name WHEN 'mfu' THEN CAST(value AS REAL) END) AS mfu, "
                "  avg(CASE name WHEN 'data_wait' THEN CAST(value AS REAL) END) AS data_wait, "
                "  group_concat(DISTINCT CASE name WHEN 'precision' THEN value END) AS precisions "
                "  FROM metric JOIN attempt USING (run_id, stage, number) WHERE stage = 'pretrain' "
                "  GROUP BY submission_id), "
                "names AS (SELECT submission_id, group_concat(DISTINCT study) AS studies FROM attempt "
                "  JOIN study_run USING (run_id) GROUP BY submission_id), "
                "planned AS (SELECT submission_id, count(DISTINCT pack_index) AS packs FROM attempt "
                "  GROUP BY submission_id) "
                "SELECT submission.*, planned.packs, studies, peak, tokens_per_second, mfu, data_wait, precisions, "
                "  count(packs.pack_index) AS ended, "
                "  max(packs.seconds) AS longest, sum(packs.seconds) AS used, sum(busy) AS busy "
                "FROM submission JOIN planned USING (submission_id) LEFT JOIN packs USING (submission_id) "
                "LEFT JOIN peaks USING (submission_id) LEFT JOIN trained USING (submission_id) "
                "LEFT JOIN names USING (submission_id) "
                f"WHERE state NOT IN {listed(GIVEN_UP)} GROUP BY submission_id ORDER BY created"
            )
        )
