"""The parts of `make gpu` on a CPU, with small models; the clock and the GPU are what a test says they are."""

import subprocess
from dataclasses import replace

import pytest
import torch
from benchmarks import gpu
from benchmarks.gpu import Clock, Speed
from variants import small

from tiny_transformers.layers import packed

CPU = torch.device("cpu")
FEW = {name: gpu.variants()[name] for name in ("gpt_neo gelu", "roberta kan", "brainformer naive")}
SOME = {
    "gpt": small("gpt_neo", vocab_size=10_000, max_position_embeddings=512, window_size=256),
}


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_it_ends_with_a_sentence_and_2(capsys):
    assert gpu.main([]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("make gpu measures a GPU, and there is none to be had on this machine: ")
    assert "Traceback" not in out + err


def test_a_pass_is_itself_whatever_it_draws():
    noisy = [name for name in gpu.variants() if "controller" in name or "moe" in name]
    assert len(noisy) >= 5
    for name in (*FEW, noisy[0], noisy[-1]):
        one, other = (gpu.passed(gpu.variants()[name], CPU) for _ in range(2))
        assert one.gradients, name
        assert one.differs(other) == 0, name


def test_a_difference_is_relative_and_of_loss_or_gradients():
    one = gpu.passed(FEW["gpt_neo gelu"], CPU)
    assert one.differs(replace(one, loss=1.01 * one.loss)) == pytest.approx(0.01, rel=1e-3)
    moved = {name: 1.02 * gradient for name, gradient in one.gradients.items()}
    assert one.differs(replace(one, gradients=moved)) == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_model_that_is_not_the_cpus_is_named(factor, monkeypatch, capsys):
    assert gpu.equality(CPU, Clock(100), FEW)
    assert capsys.readouterr().out.startswith("equality: 3 of 3 models' steps are the CPU's to 0.001")
    real, calls = gpu.passed, []

    def passed(settings, device):
        calls.append(settings)
        found = real(settings, device)
        return replace(found, loss=factor * found.loss) if len(calls) == 4 else found  # of the second model, elsewhere

    monkeypatch.setattr(gpu, "passed", passed)
    assert not gpu.equality(CPU, Clock(100), FEW)
    out = capsys.readouterr().out
    assert out.startswith("equality: 2 of 3 ")
    assert "NOT EQUAL: roberta kan: " in out


@pytest.mark.longer
def test_every_variant_has_a_pass_that_can_be_compared(capsys):
    assert gpu.equality(CPU, Clock(1_000))
    assert f"equality: {len(gpu.variants())} of {len(gpu.variants())} models" in capsys.readouterr().out


def test_a_row_that_is_not_the_padded_batch_is_named(monkeypatch, capsys):
    assert gpu.rows(CPU, "float32", tolerance=1e-6)
    assert capsys.readouterr().out.count("from the padded step\n") == 3
    attend = packed.attend
    monkeypatch.setattr(packed, "attend", lambda *args, **options: 1.1 * attend(*args, **options))
    assert not gpu.rows(CPU, "float32", tolerance=1e-6)
    assert capsys.readouterr().out.count("NOT EQUAL") == 3


def test_models_for_which_there_is_no_time_are_told(capsys):
    assert gpu.equality(CPU, Clock(0), FEW)
    assert "equality: 0 of 3 models" in (out := capsys.readouterr().out)
    assert "left out for lack of time: 3 models" in out


def test_every_model_of_the_table_is_one_of_the_manifest():
    for name in gpu.TABLE:
        config = gpu.settings_of(name, "builtin", precision="float32", compile=False, max_steps=9)
        assert (config.train.precision, config.train.compile, config.train.max_steps) == ("float32", False, 9)
        if name != "bf_tiny":
            assert config.train.stories_per_step * 45 == pytest.approx(gpu.STEP_TOKENS, rel=0.01)
    assert gpu.settings_of("gpt", "files").train.stories_per_step == pytest.approx(256, abs=3)


def test_a_column_trains_as_it_says():
    found = {
        (precision, way): gpu.settings_as("gpt", "builtin", precision, way).train for precision, way in gpu.COLUMNS
    }
    assert all(train.precision == precision for (precision, _), train in found.items())
    assert {way: (train.compile, train.packed) for (_, way), train in found.items()} == {
        "packed": (False, None), "eager": (False, False), "compiled": (True, None),
    }  # fmt: skip


def test_a_speed_is_measured(builtin_root, builtin_cache, tmp_path):
    config = gpu.settings_of("gpt", "builtin", precision="float32", compile=False, max_steps=1_000_000)
    train = config.train.model_copy(update={"stories_per_step": 4})
    config = config.model_copy(update={"model": SOME["gpt"], "train": train})
    cache = tmp_path / "cache"
    cache.symlink_to(builtin_cache)
    found = gpu.speed(config, builtin_root, cache, seconds=0.05)
    assert found.tokens_per_second > 0
    assert 0 < found.utilisation < 1
    assert found.memory > 100


def test_the_table_goes_column_by_column_and_tells_what_fails(capsys):
    asked = []

    def measure(name, precision, way):
        asked.append((name, precision, way))
        if (name, way) == ("b", "compiled"):
            raise RuntimeError("no compiler\nmore")
        if (name, way) in (("a", "compiled"), ("b", "packed")):
            return None
        return Speed(2_200_000, None if precision == "float32" else 0.42, 3_000)

    assert not gpu.table(measure, Clock(100), ("a", "b"))
    assert asked[1:4] == [("b", "bfloat16", "packed"), ("a", "bfloat16", "eager"), ("b", "bfloat16", "eager")]
    lines = capsys.readouterr().out.splitlines()
    ways = "bfloat16, packed | bfloat16, eager | tf32, eager | float32, eager | bfloat16, compiled"
    assert lines[2] == f"| model | {ways} |"
    told = "2.200M 42% 3.6 min 3.0 GB"
    assert lines[4] == f"| a | {told} | {told} | {told} | 2.200M 3.6 min 3.0 GB | never compiled |"
    assert lines[5] == f"| b | never packed | {told} | {told} | 2.200M 3.6 min 3.0 GB | RuntimeError: no compiler |"
    assert gpu.table(measure, Clock(100), ("a", "b"), reserve=200), "nothing was tried"
    assert "| a | left out | left out | left out | left out | left out |" in capsys.readouterr().out


def test_scores_are_timed(builtin_root, builtin_cache, tmp_path, capsys):
    cache = tmp_path / "cache"
    cache.symlink_to(builtin_cache)
    assert gpu.scores(SOME["gpt"], "builtin", builtin_root, cache, limit=8)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["BLiMP", "an epoch of sst2"]


@pytest.mark.parametrize("mps", [False, True])
def test_the_probe_is_a_command_that_there_is(mps, tmp_path):
    command = gpu.probe(tmp_path, None, mps=mps)
    done = subprocess.run([*command, "--dry-run"], cwd=gpu.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gpt" in done.stdout


def test_a_probe_for_which_there_is_no_time_is_told(monkeypatch, tmp_path, capsys):
    def run(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert gpu.slots(tmp_path, None, Clock(1))
    assert capsys.readouterr().out.startswith("probe --slots without MPS: left out for lack of time")


def test_all_parts_are_done_and_one_that_fails_decides(monkeypatch, tmp_path, builtin_root):
    monkeypatch.setattr(gpu.sources, "resolve_root", lambda *_, **__: builtin_root)
    done = []
    for part in gpu.PARTS:
        monkeypatch.setattr(gpu, part, lambda *_, part=part, **__: done.append(part) or part != "scores")
    options = gpu.parse([])
    assert not gpu.measure_all(options, CPU, tmp_path)
    assert tuple(done) == gpu.PARTS
    options.parts = ["equality", "table"]
    assert gpu.measure_all(options, CPU, tmp_path)
