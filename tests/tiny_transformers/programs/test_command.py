"""A command as a stage: what it is given, what it hands back, how it fails and ends."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_for

from tiny_transformers.common.work import Interrupted, Score, TinyTransformersError, Work
from tiny_transformers.programs import command, watcher
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stage.own import OwnStage


def work(folder, line, settings=None, parameters=None, **words):
    config = RunConfig.model_validate({"model": {"family": "program", "parameters": parameters or {}}, "seed": 7})
    own = OwnStage(command=line, settings=settings or {}, folder=str(folder))
    run_dir = folder / "run 1"
    run_dir.mkdir(exist_ok=True)
    return Work(config, folder, folder, run_dir, stage="probe", own=own, **words)


def test_a_placeholder_is_one_word_of_the_shell_whatever_its_value(tmp_path):
    given = {"text": "a b; $HOME 'c'", "flag": True, "number": 1e-05}
    line = "X=1; printf '%s\\n' {text} {flag} {number} {rows} {seed} {{text}} ${X} > {run}/said"
    assert command.run(work(tmp_path, line, {"rows": 3}, given)).scores == []
    said = (tmp_path / "run 1" / "said").read_text().splitlines()
    assert said == ["a b; $HOME 'c'", "true", "1e-05", "3", "7", "{text}", "1"]


def test_a_result_file_has_scores_and_metrics_and_the_scripts_are_fingerprinted(tmp_path):
    (tmp_path / "score.py").write_text(
        "import json, sys\n"
        "value = {'task': 'all', 'metric': 'accuracy', 'value': 0.5, 'n': 8}\n"
        "json.dump({'scores': [value], 'metrics': {'rate': 3}}, open(sys.argv[1], 'w'))\n"
    )
    outcome = command.run(work(tmp_path, "python score.py {out}"))
    assert outcome.scores == [Score("all", "accuracy", 0.5, 8)]
    assert outcome.metrics["rate"] == 3
    assert outcome.data == {"score.py": hashlib.sha256((tmp_path / "score.py").read_bytes()).hexdigest()}


def test_a_failure_tells_the_last_words_of_its_standard_error(tmp_path, capfd):
    with pytest.raises(TinyTransformersError, match="^exit code 3: no such corpus$"):
        command.run(work(tmp_path, "echo fine; echo 'no such corpus' >&2; exit 3"))
    assert "no such corpus" in capfd.readouterr().err, "the log has all of it"
    with pytest.raises(TinyTransformersError, match=f"exit code {128 + signal.SIGKILL}: it said nothing"):
        command.run(work(tmp_path, "kill -9 $$"))


SCORE = {"task": "t", "metric": "m", "value": 1, "n": 1}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "was not written"),
        ("{", "is not JSON"),
        ("[]", r'must be \{"scores"'),
        ({"score": []}, r'must be \{"scores"'),
        ({"scores": {}}, "scores must be a list"),
        ({"scores": [SCORE | {"value": "1"}]}, r"scores\[0\].value: '1' is not what it must be"),
        ({"scores": [SCORE | {"n": 1.5}]}, r"scores\[0\].n: 1.5"),
        ({"scores": [SCORE | {"value": float("nan")}]}, r"scores\[0\].value: nan is no finite number"),
        ({"scores": [SCORE | {"std": 1}]}, r"scores\[0\]: must have task, metric, value, n"),
        ({"scores": [SCORE, SCORE]}, "has two scores of t m"),
        ({"metrics": {"x": [1]}}, r"metrics.x: \[1\] must be a number or text"),
    ],
)
def test_a_result_file_that_is_none_fails_the_stage_by_its_place(tmp_path, written, said):
    text = written if isinstance(written, str) else json.dumps(written)
    line = "true {out}" if written is None else "printf %s {text} > {out}"
    earlier = tmp_path / "run 1" / "probe.result.json"
    asked = work(tmp_path, line, parameters={"text": text})
    earlier.write_text(json.dumps({"scores": [SCORE]}))  # an earlier attempt's
    with pytest.raises(TinyTransformersError, match=said):
        command.run(asked)


def test_one_that_is_asked_to_stop_gets_sigterm_and_time_to_save(tmp_path):
    begun, saved = tmp_path / "begun", tmp_path / "saved"
    line = f"trap 'touch {saved}; exit 1' TERM; touch {begun}; while true; do sleep 0.05; done"
    with pytest.raises(Interrupted):
        command.run(work(tmp_path, line, should_stop=begun.exists))
    assert saved.exists()
    begun.unlink()
    finishing = f"trap 'exit 0' TERM; touch {begun}; while true; do sleep 0.05; done"
    assert command.run(work(tmp_path, finishing, should_stop=begun.exists)).scores == [], "it had ended its work"


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_it_outlives_the_job(tmp_path, ends):
    """Not even what it has started itself, in the background, and whatever ends the job."""
    pids = tmp_path / "pids"
    line = f"sleep 1000 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"
    code = (
        "import os, subprocess, sys; subprocess.run("
        f"[sys.executable, '-I', '-S', {watcher.__file__!r}, str(os.getpid()), {line!r}])"
    )
    job = subprocess.Popen([sys.executable, "-c", code])
    wait_for(pids.exists)
    started = pids.read_text().split()
    assert all(Path(f"/proc/{pid}").exists() for pid in started)
    os.kill(job.pid, ends)
    job.wait()
    wait_for(lambda: not any(is_alive(pid) for pid in started))


def is_alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
