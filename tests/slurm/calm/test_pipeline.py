"""The shipped pipeline of four studies, each of which begins from the one before, on the real cluster: by one `submit`
and the `tick`s of a cron, some of them killed."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm.faults import ROOT, Study, assert_exactly_once, wait_for

pytestmark = pytest.mark.slurm
STEPS = {"sharing_pipeline_shapes": 2, "sharing_pipeline_25k": 6, "sharing_pipeline": 2}  # cells that are chosen
LAYERS, SHAPES, LONGER, LAST = 18, 4, 6 + 2, 2  # runs of each study at smoke size, which has one seed


class Pipeline(Study):
    """The study's commands, on smoke runs."""

    @property
    def output(self) -> Path:
        return self.folder / "output" / "smoke"

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return super().run(*words, *([] if "--smoke" in words else ["--smoke"]), **environment)

    def tell_runs(self, **runs: dict[str, object]) -> None:
        """As `tell`, and what some runs do otherwise; all that are scored are alike."""
        lambada = {"task": "last_word", "metric": "accuracy", "value": 0.25, "n": 100}
        self.tell(lambada=lambada)
        told = json.loads(self._told.read_text())
        self._told.write_text(json.dumps({**told, **{run: {"lambada": lambada, **each} for run, each in runs.items()}}))

    def choices(self) -> dict[str, bytes]:
        found = (path.read_bytes() for path in self.output.glob("choices/*/choice.json"))
        return {json.loads(choice)["study"]: choice for choice in found}

    def kill_tick(self, when: Callable[[], object]) -> bool:
        """Start a tick and kill -9 it with its sbatch, which is slow, when something is there; whether that was so."""
        process = self.start("tick", "--smoke", BEFORE="3")
        while process.returncode is None and not when():
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return process.returncode == -signal.SIGKILL

    def tick(self) -> str:
        done = self.run("tick")
        assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: what a killed one began is in doubt for now
        return done.stdout


@pytest.fixture
def pipeline(study):
    shutil.copy(ROOT / "experiments.yaml", study.folder / "experiments.yaml")
    made = Pipeline(study.folder, study.cluster, studies=0)
    shutil.copy(ROOT / "experiments.yaml", study.folder / "experiments.yaml")
    made.stages = ("pretrain", "add_tokenizer", "blimp", "superglue", "lambada")
    made.runs, made.submitted = LAYERS + SHAPES + LONGER + LAST, ["sharing_pipeline"]
    made.change_site(runs_per_pack=6, slots=2, cpus=8)
    return made


def test_a_chain_of_studies_is_chosen_and_done_by_ticks_alone_whoever_kills_them(pipeline):
    words = ["submit", "experiments.yaml", "--smoke", "--site", "site.yaml", "--yes", "--study", "sharing_pipeline"]
    done = pipeline.run(*words[:-4], "--yes", "--study", "sharing_pipeline", "--site", "site.yaml", "--dry-run")
    assert "sharing_pipeline_25k: chosen later, best 3 of each model.family" in done.stdout, done.stdout + done.stderr
    victim = planned_victim(pipeline)
    pipeline.tell_runs(**{victim: {"blimp": "fail"}})
    done = pipeline.run(*words)
    assert done.returncode == 0, done.stdout + done.stderr

    wait_for(lambda: pipeline.live_jobs() == [])
    assert f"17 of 18 runs of sharing_pipeline_layers have blimp.average.accuracy, {victim} failed" in pipeline.tick()
    assert pipeline.choices() == {}, "a failed cell is waited for"
    pipeline.tell_runs()
    mended = pipeline.run("rerun", "--failed", "--yes")
    assert mended.returncode == 0, mended.stdout + mended.stderr

    seen: dict[str, bytes] = {}
    kills = 0

    def goes_on() -> bool:
        nonlocal kills
        wait_for(lambda: pipeline.live_jobs() == [])
        if kills == 0:  # one that has chosen, and not asked for the runs
            kills += pipeline.kill_tick(lambda: pipeline.choices())
        elif kills == 1:  # the next, which goes on with that: before SLURM has its jobs
            before = pipeline.submission_ids
            kills += pipeline.kill_tick(lambda: pipeline.submission_ids != before)
        pipeline.tick()
        for name, choice in pipeline.choices().items():
            assert seen.setdefault(name, choice) == choice, "it is made once"
        return len(seen) == len(STEPS) and pipeline.live_jobs() == [] and set(pipeline.counts()) == {"completed"}

    wait_for(goes_on, 900)
    assert kills == 2
    for name, cells in STEPS.items():
        chosen = [each for each in json.loads(seen[name])["ranked"] if each["chosen"]]
        assert len(chosen) == cells
        groups = {each["group"] for each in chosen}
        assert groups == {"gpt_neo", "roberta"}
    told = json.loads(seen["sharing_pipeline_shapes"])["told"]
    assert all("has the same score, and was not chosen since" in each for each in told), "they all have the same score"
    assert_exactly_once(pipeline, undisturbed=False)  # and a ledger that is made again has the same choices
    assert pipeline.choices() == seen
    assert "Nothing to do." in pipeline.tick()


def planned_victim(pipeline) -> str:
    """A cell of the first study."""
    from cluster.manifest import grids, loading
    from cluster.plan import expansion

    document = loading.load(pipeline.folder / "experiments.yaml")
    runs = expansion.expand(grids.cells(document, studies=["sharing_pipeline_layers"], smoke=True))
    assert len(runs) == LAYERS
    return runs[4].id
