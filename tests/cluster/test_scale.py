"""The work of a command grows with the packs of an array, not with their square. Steps are counted, not time: Python's
calls, and SQLite's instructions by tens."""

import sys

import pytest

from cluster.files import whole_files
from cluster.files.folders import OutputRoot
from cluster.ledger import recording
from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import choosing, cost, expansion, packing
from cluster.reconcile import reconciling
from cluster.reconcile.session import LedgerView
from cluster.sites.profiles import Site
from cluster.slurm import answers
from cluster.status import reading
from cluster.submit import dispatch, launch, retries

SIZES = (15, 30, 60)
MOST = 2.02  # times the steps from the first size to the second that those to the third are: 2.00 if linear
ORIGIN = launch.Origin("submit", "2026-01-01T00:00:00+00:00", None, {"digest": "c0de"}, None)
SITE = Site(name="test", scheduler="slurm", runs_per_pack=1, cpus=4, max_array_size=1_000)
MANIFEST = """
defaults: {{data: {{source: builtin}}}}
models: {{gpt: {{family: gpt_neo, hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 48}}}}
studies: {{s: {{model: gpt, seeds: {seeds}}}}}
"""


class Study:
    """So many runs, each a pack of one array that SLURM has taken; and what SLURM shows of it."""

    def __init__(self, folder, packs):
        self.root, self.packs = OutputRoot(folder / "output"), packs
        self.shown, self.past = "PENDING", ""
        folder.mkdir()
        path = folder / "experiments.yaml"
        path.write_text(MANIFEST.format(seeds=list(range(packs))))
        self.runs = expansion.expand(grids.cells(loading.load(path)))
        self.ledger = Ledger(self.root.ledger)
        recording.record_runs(self.ledger, self.root, self.runs, "2026-01-01")
        work = [choosing.item(run, run.stages, {}, cost.Measured(1e12)) for run in self.runs]
        (array,) = packing.arrange(work, {run.id: run for run in self.runs}, SITE)
        self.directory = self.root.submission("cafe")
        self.intent = launch.describe(array, SITE, self.root, "cafe", ORIGIN)
        whole_files.write_json(self.directory.submission, self.intent)
        whole_files.write_json(self.directory.answer, {"state": "submitted", "job_id": "7"})
        recording.record_intent(self.ledger, self.directory, self.intent)

    def queue(self):
        lines = [f"7_{i}|7|{i}|{self.shown}|Priority|||cafe|tt-cafe" for i in range(self.packs) if self.shown]
        return answers.parse_queue("\n".join(["JOBID|", *lines, ""]))

    def history(self, names, days):  # noqa: ARG002
        lines = [f"7_{i}|tt-cafe|{self.past}|0:0|n1|Unknown||0|4" for i in range(self.packs) if self.past]
        return answers.parse_history("\n".join(["JobID|", *lines, ""]))

    def begin(self, result=None, restart=0):
        """Have every pack's job begin its first stage, and end it so if a result is given."""
        for index, ((item,), run) in enumerate(zip(self.intent["packs"], self.runs, strict=True)):
            life = {"submission_id": "cafe", "job": f"7_{index}", "host": "n1", "pid": 1, "restart": 0, "time": 1.0}
            whole_files.write_json(self.directory.task(index), {**life, "restart": restart})
            attempt = self.root.run(item["run_id"]).attempt(run.stages[0], 1)
            whole_files.write_json(attempt.claim, life)
            if result:
                whole_files.write_json(attempt.result, {**result, "ended": 2.0})

    def look(self):
        """As `status` does."""
        assert reconciling.reconcile(self.ledger, self.root, self) in ("answered", "none")
        return reading.read(LedgerView(self.ledger, "now", "answered"), self.root)

    def do_again(self):
        """As `tick` and `rerun --failed` do, up to what is submitted."""
        reconciling.late_results(self.ledger, self.root)
        retries.decide(self.ledger, self.root, lambda _: SITE, 0.0)
        states, runs = self.ledger.states(), self.ledger.runs()
        todo = [(run, choosing.redo(run, [run.stages[0]])) for run in runs]
        for run, stages in todo:
            assert dispatch.other_code(self.ledger, self.root, run.id, stages, "c0de") is None
        return dispatch.request(self.ledger, runs, todo, states, SITE, cost.Measured(1e12), ["s"], NoLimits())


class NoLimits:
    seen = {}

    def queue(self):
        return {}

    def limits(self, account, qos, partitions):  # noqa: ARG002
        return None

    def configuration(self):
        return {}


def is_planned_and_recorded(study):
    Study(study.root.path.parent / "again", study.packs).ledger.close()


def waits(study):
    assert sum(waiting.runs for waiting in study.look().queue) == study.packs
    assert len(study.look().packs) == 0


def runs(study):
    study.begin()
    study.shown = "RUNNING"
    assert len(study.look().packs) == study.packs


def is_lost(study):
    study.begin()
    study.shown = ""
    assert sum(len(failure.attempts) for failure in study.look().failures) == study.packs


def is_cancelled_one_by_one(study):
    packs = list(range(study.packs))
    whole_files.write_json(study.directory.answer, {"state": "submitted", "job_id": "7", "cancelled_packs": packs})
    study.shown = ""
    assert [failure.cause for failure in study.look().failures] == ["cancelled"]


def is_cancelled_and_accounted(study):
    study.shown, study.past = "", "CANCELLED by 1001"
    assert [failure.cause for failure in study.look().failures] == ["cancelled"]


def is_requeued(study):
    study.begin(restart=1)
    study.shown = "RUNNING"
    study.look()
    assert all(len(study.ledger.history(run.id, run.stages[0])) == 2 for run in study.runs)


def fails_and_is_done_again(study):
    study.begin({"status": "failed", "cause": "error", "message": "a mistake"})
    study.shown, study.past = "", "COMPLETED"
    study.look()
    (array,) = study.do_again().arrays
    assert len(array.packs) == study.packs


def steps(work, study):
    counted = 0

    def count(*_):
        nonlocal counted
        counted += 1

    study.ledger.db.conn.set_progress_handler(lambda: None, 10)  # the call of it is counted
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work(study)
    finally:
        sys.setprofile(before)
        study.ledger.close()
    return counted


KINDS = (
    is_planned_and_recorded, waits, runs, is_lost, is_cancelled_one_by_one, is_cancelled_and_accounted, is_requeued,
    fails_and_is_done_again,
)  # fmt: skip


@pytest.mark.parametrize("what", KINDS)
def test_what_is_done_grows_with_the_packs_of_an_array_and_not_with_their_square(tmp_path, what):
    warm, *studies = (Study(tmp_path / str(place), packs) for place, packs in enumerate((2, *SIZES)))
    steps(what, warm)  # what is computed or imported once
    first, second, third = (steps(what, study) for study in studies)
    assert (third - second) / (second - first) < MOST, (first, second, third)
