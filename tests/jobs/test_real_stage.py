"""A stage of ours in a job's child, no stand-in: a fork that has torch and transformers loaded, which takes most of the
time."""

import fresh

from cluster.files import whole_files
from tiny_transformers.common.provenance import source_digest

CHILD = "import runpy; runpy.run_module('jobs.stage', run_name='__main__')"


def test_a_failed_trajectory_keeps_its_anchors(run, submit, builtin_root):
    (run.path / "anchors/0.5").mkdir(parents=True)
    described = whole_files.read_json(run.run_json)
    described["config"] |= {"data": {"source": "builtin"}, "train": {"anchors": [0.5]}}
    described["config"]["evaluation"]["trajectory"] = {"keep": False}
    whole_files.write_json(run.run_json, described)
    trained = run.attempt("pretrain", 1)
    claim = {"submission_id": "beef", "job": "6", "host": "n1", "pid": 1, "restart": 0, "time": 1.0}
    whole_files.write_json(trained.claim, claim | {"code": {"digest": source_digest()}})
    whole_files.write_json(trained.result, {"status": "completed"})
    directory = submit(stages=[["trajectory", 1]], cache=str(builtin_root.parent))
    assert fresh.python(CHILD, directory.path, "0", "0", "0").returncode == 1  # there is no model
    message = whole_files.read_json(run.attempt("trajectory", 1).result)["message"]
    assert "does not say where the training ended" in message
    assert (run.path / "anchors/0.5").exists()
