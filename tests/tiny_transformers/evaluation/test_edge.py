"""A model on a small machine: few threads, weights of 8 bits, exported. Models of width 32, and what they answer."""

import pytest
import torch
from variants import preferring

from tiny_transformers.evaluation import edge, scoring, speed
from tiny_transformers.models.auto import build
from tiny_transformers.settings.config import Data, RunConfig
from tiny_transformers.settings.stage.blimp import blimp_files
from tiny_transformers.settings.stage.speed import Speed
from tiny_transformers.settings.stages import STAGES

TINY = {"batch_sizes": [1], "tokens": 9, "prompt_tokens": 3, "new_tokens": 4, "warmup": 1, "repetitions": 3}
PAIRS = [{"sentence_good": f"g {letter}", "sentence_bad": f"b {letter}", "UID": "one"} for letter in "acdefh"]


with_llama = pytest.mark.parametrize("family", ["decoder", "encoder", "llama"], indirect=True)


@pytest.fixture
def work(family, tokenizer, make_work, write_rows, monkeypatch):
    """A run whose model prefers g, with pairs of g against b."""
    monkeypatch.setattr(speed, "FEED_FORWARD_PASSES", 1)

    def make(**settings):
        job = make_work(preferring(family, tokenizer, "g"), speed=TINY | settings)
        (job.data_root / "tokenizer/10k-tok").mkdir(parents=True)
        tokenizer.backend_tokenizer.save(str(job.data_root / "tokenizer/10k-tok/tokenizer.json"))
        for file in blimp_files(Data(source="builtin")).values():
            write_rows(job.data_root / file, PAIRS)
        return job

    return make


@with_llama
def test_eight_bits_are_smaller_measured_by_threads_and_asked_the_same_pairs(work, family, monkeypatch):
    used, before, inner = [], torch.get_num_threads(), speed.passes
    monkeypatch.setattr(speed, "passes", lambda *given: used.append(torch.get_num_threads()) or inner(*given))
    outcome = speed.run(work(threads=[1, before + 1], int8=True))
    tasks = ("encode", "generate") if family.causal else ("encode",)
    wanted = {f"{prefix}{task}_t{n}_b1" for prefix in ("", "int8_") for task in tasks for n in (1, before + 1)}
    measured = {score.task for score in outcome.scores if score.metric == "latency_s"}
    assert measured == wanted | {f"{task}_b1" for task in tasks} | {"feed_forward_b16"}
    assert used[-4 * len(tasks) :] == [before + 1] * 4 * len(tasks)  # the last number of threads, of both kinds
    assert {1, before + 1} <= set(used)
    assert torch.get_num_threads() == before
    assert outcome.metrics["int8_size_mb"] < outcome.metrics["float32_size_mb"]
    answers = {score.task: (score.value, score.n) for score in outcome.scores if score.metric == "blimp"}
    assert answers == {"float32": (1.0, 6 * 6), "int8": (1.0, 6 * 6)}


@with_llama
def test_eight_bits_move_likelihoods_a_little(family):
    model = build(family, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 5
    sequences = [[1, 50, 60, 70, 2], [1, 80, 90, 2]]
    ask = scoring.decoder_log_likelihoods if family.causal else (lambda m, s: scoring.pseudo_log_likelihoods(m, s, 260))
    exact, rounded = ask(model.eval(), sequences), ask(edge.quantised(model), sequences)
    assert abs(exact - rounded).max() < 0.05 * abs(exact).max()
    assert (exact != rounded).all()
    assert {type(each) for each in model.modules()} & {torch.nn.Linear}  # the model itself is as it was


@with_llama
def test_an_exported_model_has_the_logits_of_the_model(work):
    job = work(export=True)
    outcome = speed.run(job)
    (check,) = (check for check in outcome.checks if check.name == "export_logits")
    assert check.passed
    assert check.value <= edge.EXPORT_TOLERANCE
    assert outcome.metrics["export_size_mb"] == (job.run_dir / edge.EXPORTED).stat().st_size / 2**20
    assert {score.metric for score in outcome.scores} >= {"latency_s"}
    assert "int8_size_mb" not in outcome.metrics


@pytest.mark.parametrize("family", ["decoder"], indirect=True)
def test_a_model_that_cannot_be_exported_says_so(work, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("cannot  be\ntraced")

    monkeypatch.setattr(torch.export, "export", fail)
    job = work(export=True)
    (check,) = (check for check in speed.run(job).checks if check.name == "export_logits")
    assert (check.passed, check.blocking, check.value) == (False, False, "not exported: cannot be traced")
    assert not (job.run_dir / edge.EXPORTED).exists()


def test_what_is_not_asked_for_is_no_part_of_the_settings_and_reads_nothing():
    config = RunConfig(model={"family": "gpt_neo"})
    assert not {"threads", "int8", "export"} & Speed().model_dump(mode="json").keys()
    assert STAGES["speed"].files(config) == []
    asked = RunConfig(model={"family": "gpt_neo"}, evaluation={"speed": {"int8": True, "threads": [1, 2]}})
    assert "tokenizer/10k-tok/tokenizer.json" in STAGES["speed"].files(asked)
    assert STAGES["speed"].flops(asked) > 5 * STAGES["speed"].flops(config)
