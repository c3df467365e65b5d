"""A calibration and what waits for it, by `submit` and the `tick`s of a cron; with real stages at smoke size, too."""

import pytest
import yaml
from longer import longer
from slurm.faults import ROOT, wait_for

from cluster.files import whole_files

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("real", [False, longer(True)], ids=["stand-ins", "real"])
def test_the_rest_is_sized_and_submitted_by_ticks_alone_once_the_calibration_has_measured(study, real):
    manifest = yaml.safe_load((study.folder / "experiments.yaml").read_text())
    manifest["smoke"] = yaml.safe_load((ROOT / "experiments.yaml").read_text())["smoke"]
    (study.folder / "experiments.yaml").write_text(yaml.safe_dump(manifest))
    environment = {"PYTHONPATH": str(ROOT)} if real else {}
    study.change_site(environment, cpus=8, memory_per_cpu=500, slots=None, max_slots=2, runs_per_pack=2)
    said = study.run(*study.words("s0"), "--smoke", "--calibration")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "2 runs wait for it: `tiny-transformers tick --smoke`" in said.stdout
    smoke = study.output / "smoke"
    assert not list(smoke.glob("submissions/*"))
    calibrations = [whole_files.read_json(path) for path in smoke.glob("probe/submissions/*/submission.json")]
    assert sorted((intent["slots"], len(intent["packs"])) for intent in calibrations) == [(1, 1), (2, 1)]
    assert "wait for 6 stage runs" in study.run("status", "--smoke").stdout

    def completed_by_tick():
        assert study.run("tick", "--smoke").returncode == 0
        runs = [whole_files.read_json(path) for path in smoke.glob("runs/*/run.json")]
        results = [whole_files.read_json(path) for path in smoke.glob("runs/*/stages/*/*/result.json")]
        completed = sum(result["status"] == "completed" for result in results)
        return completed == len(results) == sum(len(run["stages"]) for run in runs)

    wait_for(completed_by_tick, 500)
    (intent,) = [whole_files.read_json(path) for path in smoke.glob("submissions/*/submission.json")]
    assert intent["asked_by"] == "tick"
    assert not list(smoke.glob("requests/*"))
    planned = study.run("submit", "experiments.yaml", "--site", "site.yaml", "--smoke", "--dry-run", "--study", "s1")
    assert "as measured on this site" in planned.stdout, "the next ones need no calibration"
