"""Scores on the way of a training: of anchors whose scores are known, and of real trainings."""

import json
import math
import shutil

import pytest
from variants import preferring

from tiny_transformers.common.work import Interrupted, TinyTransformersError
from tiny_transformers.evaluation import blimp, trajectory
from tiny_transformers.settings.config import TRAIN_STORIES, VALIDATION_STORIES, Data, RunConfig
from tiny_transformers.settings.stage.blimp import blimp_files
from tiny_transformers.settings.stages import STAGES
from tiny_transformers.training import anchors
from tiny_transformers.training.anchors import Place

BUILTIN = blimp_files(Data(source="builtin"))
PAIRS = [{"sentence_good": f"g {letter}", "sentence_bad": f"b {letter}", "UID": "one"} for letter in "acdefhijkl"]


@pytest.fixture
def work(family, tokenizer, make_work, write_rows):
    """A run whose models prefer b, then nothing, then, at its end, g; with stories and pairs of g against b."""

    def make(kept=(("0.25", "b", 100), ("300", None, 300)), numbers=(0.25, 300, 5_000), **evaluation):
        job = make_work(preferring(family, tokenizer, "g"), **evaluation)
        settings = job.config.model_dump(mode="json") | {"train": {"max_steps": 8, "anchors": numbers}}
        job.config = RunConfig.model_validate(settings)
        for name, letter, tokens in kept:
            folder = job.run_dir / "anchors" / name
            preferring(family, tokenizer, letter).save_pretrained(folder)
            place = {"step": tokens // 50, "tokens": tokens, "stories": 10, "minutes": 0.5, "done": 0.3}
            (folder / anchors.ABOUT).write_text(json.dumps(place))
        (job.run_dir / "curve.jsonl").write_text(
            '{"step": 1, "loss": 5.0, "tokens": 50, "seconds": 1.0}\n'
            '{"step": 8, "loss": 4.0, "tokens": 400, "seconds": 90.0}\n{"step": 8, "eval_loss": 4.0}\n'
        )
        for file in (TRAIN_STORIES, VALIDATION_STORIES):
            write_rows(job.data_root / file, [{"text": "g g g g g"}, {"text": "g g g"}])
        (job.data_root / "tokenizer/10k-tok").mkdir(parents=True)
        tokenizer.backend_tokenizer.save(str(job.data_root / "tokenizer/10k-tok/tokenizer.json"))
        for file in BUILTIN.values():
            write_rows(job.data_root / file, PAIRS)
        return job

    return make


def series(outcome, metric):
    return {score.task: score.value for score in outcome.scores if score.metric == metric}


def test_the_scores_of_known_models_stand_at_their_anchors(work, family):
    job = work()
    outcome = trajectory.run(job)
    assert series(outcome, "blimp") == {"0.25": 0.0, "300": 0.0, "end": 1.0}  # of models that are alike: a tie is wrong
    losses = series(outcome, "loss")
    assert [*losses] == ["0.25", "300", "end"]
    assert losses["300"] == pytest.approx(math.log(family.vocab_size), rel=1e-5)
    assert losses["end"] < losses["300"] < losses["0.25"]
    places = {name: outcome.metrics[name] for name in outcome.metrics if name != "peak_memory_mb"}
    assert places == {
        "0.25.step": 2, "0.25.tokens": 100, "0.25.stories": 10, "0.25.minutes": 0.5,
        "300.step": 6, "300.tokens": 300, "300.stories": 10, "300.minutes": 0.5,
        "end.step": 8, "end.tokens": 400, "end.stories": 8 * 256, "end.minutes": 1.5,
    }  # fmt: skip
    assert {VALIDATION_STORIES, *BUILTIN.values()} <= outcome.data.keys()


def test_blimp_at_the_end_is_that_of_the_stage_blimp_on_the_same_rows(work):
    job = work(trajectory={"limit": 4}, limit=7)
    outcome = trajectory.run(job)
    (of_stage,) = (s for s in blimp.run(job).scores if (s.task, s.metric) == ("blimp", "accuracy"))
    (at_end,) = (s for s in outcome.scores if (s.task, s.metric) == ("end", "blimp"))
    tasks = len(BUILTIN) - 1  # without the supplement
    assert (at_end.value, at_end.n) == (of_stage.value, 4 * tasks)
    assert of_stage.n == 7 * tasks


def test_validation_alone_reads_no_pairs(work):
    job = work(trajectory={"blimp": False})
    shutil.rmtree(job.data_root / "filter-data")
    outcome = trajectory.run(job)
    assert {score.metric for score in outcome.scores} == {"loss"}
    assert not set(STAGES["trajectory"].files(job.config)) & set(BUILTIN.values())


@pytest.mark.parametrize("family", ["decoder"], indirect=True)
def test_an_anchor_that_is_lacking_is_told_and_one_that_was_not_come_to_is_left_out(work, capsys):
    job = work()
    trajectory.run(job)
    assert "5000: the training ended before, after 400 tokens" in capsys.readouterr().out
    (job.run_dir / "anchors/0.25" / anchors.ABOUT).unlink()
    with pytest.raises(TinyTransformersError, match=r"anchors: lacks 0\.25: .* `rerun --stage pretrain`"):
        trajectory.run(job)
    (job.run_dir / "curve.jsonl").unlink()
    with pytest.raises(TinyTransformersError, match="does not say where the training ended"):
        trajectory.run(job)


@pytest.mark.parametrize("family", ["decoder"], indirect=True)
def test_progress_rises_to_the_end_and_a_stop_is_heard(work):
    job, told = work(), []
    job.progress = lambda fraction, text: told.append((fraction, text))
    trajectory.run(job)
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert told[-1][1].startswith("end, 3 of 3: 100% of")
    job.should_stop = lambda: True
    with pytest.raises(Interrupted):
        trajectory.run(job)


def test_a_place_is_at_an_anchor_by_tokens_or_by_the_share_that_is_done():
    place = Place(step=3, tokens=1_000, stories=24, minutes=1.0, done=0.3)
    assert [place.reached(number) for number in (0.29, 0.3, 0.31, 999, 1_000, 1_001)] == [True, True, False] * 2


def test_a_trajectory_without_anchors_is_refused_and_its_flops_grow_with_them():
    kind, model = STAGES["trajectory"], {"family": "gpt_neo"}
    assert "write train.anchors" in kind.misfit(RunConfig(model=model))
    one, three = (RunConfig(model=model, train={"anchors": each}) for each in ([0.5], [0.1, 0.2, 0.5]))
    assert kind.misfit(one) is None
    assert kind.flops(three) == 2 * kind.flops(one)
    assert kind.spends(one) == []
    assert kind.spends(RunConfig(model=model, evaluation={"trajectory": {"keep": False}})) == ["anchors"]
