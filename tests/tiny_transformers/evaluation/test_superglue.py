"""Fine-tuning, from files to scores, with tiny models."""

import contextlib
import copy
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer
from variants import PAIRS, small

from tiny_transformers.common.work import CheckFailed, Interrupted, TinyTransformersError
from tiny_transformers.evaluation import fine_tuning, glue, glue_metrics, scoring, superglue
from tiny_transformers.models.auto import build, load_classifier
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stage.superglue import (
    SUPERGLUE_TASKS,
    TRAIN_ROWS_2026,
    Superglue,
    superglue_files,
    train_limit,
)

# Rows (train, then validation) of the real files.
REAL_COUNTS = {
    "cola": (8164, 1019),
    "sst2": (20_000, 508),
    "mrpc": (1579, 177),
    "qqp": (8999, 1000),
    "mnli": (8999, 6562, 6284),
    "qnli": (8999, 2286),
    "rte": (858, 99),
    "boolq": (2072, 723),
    "multirc": (4000, 913),
    "wsc": (487, 83),
}

# Where the model makes no difference.
any_model = pytest.mark.parametrize("family", ["decoder"], indirect=True)


def sentences(count, seed=0):
    """`x` somewhere in the sentence makes it label 1."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = int(random.integers(2))
        letters = random.choice(list("ab"), size=random.integers(2, 7))
        letters[random.integers(len(letters))] = "xy"[1 - label]
        rows.append({"sentence": "".join(letters), "label": label})
    return rows


@pytest.fixture
def write_task(write_rows):
    def write(work, task, *splits):
        for file, rows in zip(superglue_files(task).values(), splits, strict=True):
            write_rows(work.data_root / file, rows)

    return write


def settings(*tasks, **changes):
    quick = {"learning_rate": 3e-3, "batch_size": 16, "epochs": 4, "eval_every": 8, "max_length": 16}
    return quick | {"tasks": tasks} | changes


def scores(outcome):
    return {(score.task, score.metric): score.value for score in outcome.scores}


def forget(work):
    """Remove what was kept of finished fine-tunings."""
    shutil.rmtree(work.run_dir / "superglue")


def kept(work):
    """Task -> how many of its fine-tunings are kept."""
    return Counter(path.name.split("-")[0] for path in (work.run_dir / "superglue").glob("*.json"))


@pytest.fixture
def task_data(tokenizer, tmp_path, write_rows):
    """The separable task, encoded; for tests of `fine_tune` itself."""

    def encoded(rows):
        write_rows(tmp_path / "rows.json", rows)
        return glue.encode(glue.read_examples(tmp_path / "rows.json", "sst2", None), tokenizer, 16)

    validation = encoded(sentences(40, seed=1))
    return glue.TaskData("sst2", encoded(sentences(128)), validation, {"sst2": validation})


@pytest.fixture
def classifier(make_work, family):
    return load_classifier(make_work(family).model_dir, 2, seed=0)


def silent(fraction, text):
    pass


def test_a_separable_task_is_learnt(family, make_work, write_task):
    work = make_work(family, superglue=settings("sst2", epochs=12))
    write_task(work, "sst2", sentences(192), sentences(60, seed=1))
    outcome = superglue.run(work)
    values = scores(outcome)
    assert values["sst2", "accuracy"] > 0.9
    assert values["average", "main"] == values["sst2", "main"] == values["sst2", "accuracy"]
    assert values["sst2", "majority_accuracy"] < 0.7
    (check,) = outcome.checks
    assert (check.name, check.passed, check.blocking) == ("sst2.informative", True, False)
    assert check.value < 1e-9


def lopsided(rows):
    """All rows but the first have the label 1."""
    return [row | {"label": int(number > 0)} for number, row in enumerate(rows)]


@any_model
def test_a_model_that_answers_one_class_is_flagged(family, make_work, write_task, capsys):
    work = make_work(family, superglue=settings("cola"))
    write_task(work, "cola", lopsided(sentences(64)), sentences(30))
    outcome = superglue.run(work)
    (check,) = outcome.checks
    assert (check.name, check.passed, check.value, check.blocking) == ("cola.informative", False, 1.0, False)
    assert scores(outcome)["cola", "main"] == scores(outcome)["cola", "mcc"] == 0
    assert "cola: the model of fine-tuning 1 answers 1 to all 30 rows" in capsys.readouterr().out


@any_model
def test_in_2026_mnli_has_fewer_rows_and_is_scored_on_the_matched_ones(family, make_work, write_task, monkeypatch):
    monkeypatch.setitem(TRAIN_ROWS_2026, "mnli", 30)
    work = make_work(family, superglue=settings("mnli", epochs=1, edition="babylm_2026"))
    words = ("red", "blue", "green")
    rows = [{"premise": word, "hypothesis": word, "label": words.index(word)} for word in words * 15]
    write_task(work, "mnli", rows, rows[:21], rows[:9])
    outcome = superglue.run(work)
    assert {score.task for score in outcome.scores} == {"mnli", "average"}
    assert outcome.metrics["mnli.train_rows"] == 30
    assert set(outcome.data) == {
        "filter-data/glue_filtered/mnli.train.json", "filter-data/glue_filtered/mnli.validation_matched.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, {"mnli": None, "rte": None}),
        ({"edition": "babylm_2026"}, {"mnli": 10_000, "qqp": 10_000, "rte": None}),
        ({"edition": "babylm_2026", "limit": 50}, {"mnli": 50, "rte": 50}),
        ({"edition": "babylm_2026", "limit": 20_000}, {"mnli": 10_000, "rte": 20_000}),
    ],
)
def test_the_edition_of_2026_cuts_the_largest_tasks(settings, rows):
    evaluation = RunConfig(model=GPTNeo(), evaluation={"superglue": settings}).evaluation
    assert {task: train_limit(evaluation, task) for task in rows} == rows


def test_mnli_is_trained_once_and_scored_twice(family, make_work, write_task):
    work = make_work(family, superglue=settings("mnli", epochs=2))
    rows = [
        {"premise": "abc"[i % 3], "hypothesis": "it is", "label": i % 3}
        for i in np.random.default_rng(0).permutation(48).tolist()
    ]
    write_task(work, "mnli", rows, rows[:20], rows[20:30])
    outcome = superglue.run(work)
    values, n = scores(outcome), {score.task: score.n for score in outcome.scores}
    assert {task for task, _ in values} == {"mnli", "mnli-mm", "average"}
    assert {metric for task, metric in values if task == "mnli-mm"} == {
        "accuracy", "main", "majority_accuracy", "majority_main",
    }  # fmt: skip
    assert (n["mnli"], n["mnli-mm"], n["average"]) == (20, 10, 30)
    assert values["average", "main"] == pytest.approx((values["mnli", "main"] + values["mnli-mm", "main"]) / 2)
    assert [check.name for check in outcome.checks] == ["mnli.informative", "mnli-mm.informative"]
    assert outcome.metrics["mnli.steps"] == 2 * 3


@any_model
def test_the_same_seed_gives_the_same_result_whatever_ran_before(family, make_work, write_task):
    work = make_work(family, superglue=settings("sst2", "cola", epochs=2))
    for task in ("sst2", "cola"):
        write_task(work, task, sentences(64), sentences(30, seed=1))
    both = scores(superglue.run(work))
    torch.rand(7)
    forget(work)
    again = scores(superglue.run(work))
    assert both == again
    alone = make_work(family, superglue=settings("cola", epochs=2))
    only = scores(superglue.run(alone))
    assert {key: value for key, value in both.items() if key[0] == "cola"} == {
        key: value for key, value in only.items() if key[0] == "cola"
    }


def test_dropout_acts_and_follows_the_seed(make_work, task_data, family, monkeypatch):
    model = load_classifier(make_work(family.model_copy(update={"dropout": 0.1})).model_dir, 2, seed=0)
    monkeypatch.setattr(fine_tuning, "training_batches", lambda *_: [np.arange(16), np.arange(16, 32)])
    plan, weights = Superglue(eval_every=2, max_length=16), []
    for seed in (1, 1, 2):
        one = copy.deepcopy(model)
        fine_tuning.fine_tune(one, task_data, plan, seed, report=silent)
        weights.append(torch.cat([parameter.flatten() for parameter in one.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_another_seed_gives_another_head_and_order():
    seeds = {superglue.task_seed(42, "cola"), superglue.task_seed(43, "cola"), superglue.task_seed(42, "rte")}
    assert len(seeds) == 3
    first, second = ([*fine_tuning.training_batches(20, Superglue(), seed)][0].tolist() for seed in [*seeds][:2])
    assert first != second
    assert sorted(first) == sorted(second) == list(range(20))


def test_every_epoch_sees_every_row_once_in_another_order():
    batches = [*fine_tuning.training_batches(10, Superglue(batch_size=4, epochs=2), seed=0)]
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    epochs = [np.concatenate(batches[:3]).tolist(), np.concatenate(batches[3:]).tolist()]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


@any_model
def test_the_best_weights_are_kept(classifier, task_data):
    """At a rate this high the training wanders: its last evaluation is not its best."""
    wild = Superglue(learning_rate=0.05, batch_size=16, epochs=12, eval_every=2, max_length=16)
    fit = fine_tuning.fine_tune(classifier, task_data, wild, seed=1, report=silent)
    assert 0 < fit.best_step < fit.steps
    validation = task_data.validation["sst2"]
    found = glue_metrics.selection_metric(validation.labels, fine_tuning.predict(classifier, validation), 2)
    assert found == fit.best_value


@any_model
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products_of_training_and_answers_are_in_the_precision_asked_for(precision, classifier, task_data):
    plan, seen = Superglue(precision=precision, batch_size=64, epochs=1, max_length=16), {True: set(), False: set()}
    for module in classifier.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, _, output: seen[module.training].add(output.dtype))
    fine_tuning.fine_tune(classifier, task_data, plan, seed=1, report=silent)
    assert seen == dict.fromkeys((True, False), {getattr(torch, precision)})
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}


@any_model
def test_a_precision_that_the_device_lacks_is_refused_before_data_is_read(make_work, family):
    work = make_work(family, superglue=settings("sst2", precision="tf32"))
    with pytest.raises(TinyTransformersError, match="^evaluation.superglue.precision is tf32, which NVIDIA's GPUs"):
        superglue.run(work)


@any_model
def test_training_stops_when_patience_is_used_up(classifier, task_data):
    still = Superglue(learning_rate=1e-12, batch_size=16, epochs=12, eval_every=2, patience=3, max_length=16)
    fit = fine_tuning.fine_tune(classifier, task_data, still, seed=1, report=silent)
    assert (fit.steps, fit.evaluations, fit.best_step) == (2 * (1 + 3), 1 + 3, 2)


@any_model
def test_an_evaluation_follows_the_last_step(classifier, task_data):
    rare = Superglue(batch_size=60, epochs=1, eval_every=1000, max_length=16)
    fit = fine_tuning.fine_tune(classifier, task_data, rare, seed=1, report=silent)
    assert (fit.steps, fit.evaluations, fit.best_step) == (3, 1, 3)


def test_an_improvement_within_the_threshold_is_the_best_but_costs_patience():
    fit = fine_tuning.Fit()
    noted = []
    for value in (0.5, 0.505, 0.5, 0.6):
        fit.steps += 1
        noted.append((fine_tuning.note(fit, value, threshold=0.01), fit.patience_used, fit.best_value))
    assert noted == [(True, 0, 0.5), (True, 1, 0.505), (False, 2, 0.505), (True, 0, 0.6)]


@any_model
def test_the_rate_falls_linearly_to_zero_and_the_gradient_is_clipped(classifier, task_data, monkeypatch):
    rates, norms = [], []
    step = torch.optim.AdamW.step

    def watched(self, *args, **options):
        rates.append(self.param_groups[0]["lr"])
        gradients = [p.grad.flatten() for p in self.param_groups[0]["params"] if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    monkeypatch.setattr(fine_tuning, "MAX_GRAD_NORM", 0.01)
    plan = Superglue(learning_rate=0.4, batch_size=32, epochs=1, max_length=16)
    fine_tuning.fine_tune(classifier, task_data, plan, seed=1, report=silent)
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)


def test_fine_tuning_is_that_of_hugging_face_trainer(make_work, task_data, family, tokenizer, tmp_path, monkeypatch):
    """Fed the same batches, both arrive at the same weights: optimizer, decay, clipping and loss agree."""
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs it")
    model_dir = make_work(family.model_copy(update={"dropout": 0.0})).model_dir
    ours, theirs = (load_classifier(model_dir, 2, seed=0) for _ in range(2))
    plan = Superglue(learning_rate=1e-3, batch_size=16, epochs=1, max_length=16)
    batches = [np.arange(i, i + 16) for i in range(0, 128, 16)]
    monkeypatch.setattr(fine_tuning, "training_batches", lambda *_: batches)
    fine_tuning.fine_tune(ours, task_data, plan, seed=1, report=silent)

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(range(128))

    padding = transformers.DataCollatorWithPadding(tokenizer)
    rows = zip(task_data.train.input_ids, task_data.train.labels.tolist(), strict=True)
    arguments = transformers.TrainingArguments(
        tmp_path, learning_rate=1e-3, per_device_train_batch_size=16, num_train_epochs=1, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = [{"input_ids": ids, "labels": label} for ids, label in rows]
    InOrder(theirs, arguments, train_dataset=rows, data_collator=padding).train()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_pieces_of_a_batch_give_the_gradient_of_the_whole(make_work, task_data, family, monkeypatch):
    model = load_classifier(make_work(family.model_copy(update={"dropout": 0.0})).model_dir, 2, seed=0)
    rows, gradients = np.arange(20), []

    class Keep(torch.optim.SGD):
        def step(self):
            gradients.append([p.grad.clone() for p in self.param_groups[0]["params"] if p.grad is not None])

    for tokens in (10, 100_000):
        monkeypatch.setattr(scoring, "TOKENS_PER_BATCH", {"cpu": tokens, "cuda": tokens})
        one = copy.deepcopy(model)
        fine_tuning.step(one, task_data.train, rows, Keep(one.parameters()))
    for pieces, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(pieces, whole)


TRUNKS = ("gelu", "kan", "geglu", "qk", "kv_groups", "ssf", "ssff", "moe_k2", "pkm", "cycle2", "halting")


@pytest.mark.parametrize(("variant", "name"), [pair for pair in PAIRS if pair[0] in TRUNKS])
def test_what_the_last_block_leaves_out_changes_nothing(name, variant, tmp_path, monkeypatch):
    """Logits and gradient are those of Hugging Face's whole model, whatever the length of a row."""
    build(small(name, variant, dropout=0.0), seed=1).save_pretrained(tmp_path)
    rows = glue.Encoded([[1, 5, 6, 7, 8, 2], [1, 7, 2], [1, 9, 9, 9, 2]], np.array([0, 1, 1]), truncated=0)
    found = []

    class Keep(torch.optim.SGD):
        def step(self):
            found.append([p.grad.clone() for p in self.param_groups[0]["params"] if p.grad is not None])

    for whole in (False, True):
        if whole:
            monkeypatch.setattr(fine_tuning, "_last_block_at", lambda *_: contextlib.nullcontext())
        model = load_classifier(tmp_path, num_labels=2, seed=1)
        torch.manual_seed(0)
        found.append([fine_tuning._logits(model, rows, np.arange(3)).detach()])
        torch.manual_seed(0)
        fine_tuning.step(model, rows, np.arange(3), Keep(model.parameters()))
    assert len(found) == 4
    for part, full in zip(found[:2], found[2:], strict=True):
        for one, other in zip(part, full, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@any_model
def test_a_stop_is_heard_between_steps(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2"))
    write_task(work, "sst2", sentences(64), sentences(30, seed=1))
    asked = []
    work.should_stop = lambda: asked.append(1) or len(asked) == 3
    with pytest.raises(Interrupted):
        superglue.run(work)
    assert len(asked) == 3


@any_model
def test_finished_fine_tunings_are_kept_when_the_stage_is_stopped(make_work, write_task, family):
    """The next attempt does what is missing, and ends where one that was never stopped does."""
    work = make_work(family, superglue=settings("sst2", "cola", "rte", epochs=1, seeds=2))
    for task in ("sst2", "cola"):
        write_task(work, task, sentences(48), sentences(20, seed=1))
    pairs = [{"sentence1": row["sentence"], "sentence2": "b", "label": row["label"]} for row in sentences(48)]
    write_task(work, "rte", pairs, pairs[:20])
    whole = superglue.run(work)
    assert kept(work) == {"sst2": 2, "cola": 2, "rte": 2}
    forget(work)
    done = []
    work.progress = lambda _, text: done.append(text)
    work.should_stop = lambda: "cola, fine-tuning 1 of 2: scoring cola" in done
    with pytest.raises(Interrupted, match=r"during cola, fine-tuning 2 of 2"):
        superglue.run(work)
    assert kept(work) == {"sst2": 2, "cola": 1}
    done.clear()
    work.should_stop = lambda: False
    outcome = superglue.run(work)
    trained = {text.split(":")[0] for text in done if "step" in text}
    assert trained == {"cola, fine-tuning 2 of 2", "rte, fine-tuning 1 of 2", "rte, fine-tuning 2 of 2"}
    assert (outcome.metrics["fine_tunings"], outcome.metrics["fine_tunings_kept"]) == (6, 3)
    assert (outcome.scores, outcome.checks) == (whole.scores, whole.checks)
    same = {"seconds", "peak_memory_mb", "fine_tunings_kept"}
    values = [
        {k: v for k, v in one.metrics.items() if k.split("@")[0].split(".")[-1] not in same} for one in (whole, outcome)
    ]
    assert values[0] == values[1]


@any_model
def test_what_is_kept_counts_only_for_the_same_model_data_settings_seed_and_code(
    make_work, write_task, family, monkeypatch
):
    def steps(work):
        return superglue.run(work).metrics["fine_tunings_kept"]

    def changed(model=family, **changes):
        return make_work(model, superglue=settings("sst2", epochs=1) | changes)

    work = changed()
    write_task(work, "sst2", sentences(32), sentences(20, seed=1))
    assert [steps(work), steps(work)] == [0, 1]
    assert steps(changed(learning_rate=1e-3)) == 0
    assert steps(changed(select_on="train_split")) == 0
    assert steps(changed(seeds=2)) == 1
    other = changed()
    other.config = other.config.model_copy(update={"seed": 43})
    assert steps(other) == 0
    assert steps(changed(build(family, seed=2))) == 0
    assert steps(changed()) == 1
    write_task(work, "sst2", sentences(32), sentences(20, seed=2))
    assert [steps(work), steps(work)] == [0, 1]
    monkeypatch.setattr(superglue, "source_digest", lambda: "of other code")
    assert steps(work) == 0


@any_model
def test_a_kept_file_that_is_damaged_is_not_believed(make_work, write_task, family, capsys):
    work = make_work(family, superglue=settings("sst2", epochs=1))
    write_task(work, "sst2", sentences(32), sentences(20, seed=1))
    first = superglue.run(work)
    (path,) = (work.run_dir / "superglue").glob("*.json")
    good = json.loads(path.read_text())
    for damage in (path.read_text()[:30], json.dumps(good | {"predictions": {"sst2": [1]}}), "[]"):
        path.write_text(damage)
        again = superglue.run(work)
        assert "is damaged" in capsys.readouterr().out
        assert again.scores == first.scores
        assert json.loads(path.read_text())["predictions"] == good["predictions"]


@any_model
def test_a_training_that_diverges_does_not_stop_the_others(make_work, write_task, family, monkeypatch):
    work = make_work(family, superglue=settings("sst2", "cola", "rte", epochs=1))
    for task in ("sst2", "cola"):
        write_task(work, task, sentences(32), sentences(20, seed=1))
    pairs = [{"sentence1": row["sentence"], "sentence2": "b", "label": row["label"]} for row in sentences(32)]
    write_task(work, "rte", pairs, pairs[:20])

    def broken(model_dir, num_labels, seed):
        model = load_classifier(model_dir, num_labels, seed)
        if seed == superglue.task_seed(work.config.seed, "cola"):
            next(model.parameters()).data.fill_(torch.nan)
        return model

    monkeypatch.setattr(superglue.auto, "load_classifier", broken)
    with pytest.raises(CheckFailed, match=r"^1 of 3 fine-tunings failed; .*\. cola: .*diverged$"):
        superglue.run(work)
    assert kept(work) == {"sst2": 1, "rte": 1}
    monkeypatch.undo()
    assert superglue.run(work).metrics["fine_tunings_kept"] == 2


def answer(work, *predictions):
    """Change what was kept: each fine-tuning's predictions of the one task."""
    for path, labels in zip(sorted((work.run_dir / "superglue").glob("*.json")), predictions, strict=True):
        value = json.loads(path.read_text())
        path.write_text(json.dumps(value | {"predictions": dict.fromkeys(value["predictions"], labels)}))


@any_model
def test_scores_are_means_over_seeds_and_each_seed_is_recorded(make_work, write_task, family):
    plan = settings("sst2", epochs=1, seeds=3)
    work = make_work(family, superglue=plan)
    write_task(work, "sst2", sentences(64), [{"sentence": "x", "label": label} for label in [0, 1] * 5])
    superglue.run(work)
    answer(work, [0, 1] * 5, [1, 1] * 5, [1, 1, *[0, 1] * 4])
    outcome = superglue.run(work)
    assert [outcome.metrics[f"sst2.accuracy@{index}"] for index in range(3)] == [1, 0.5, 0.9]
    assert scores(outcome)["sst2", "accuracy"] == scores(outcome)["average", "main"] == pytest.approx(0.8)
    deviation = ((0.2**2 + 0.3**2 + 0.1**2) / 2) ** 0.5
    assert outcome.metrics["sst2.accuracy@std"] == outcome.metrics["average.common@std"] == pytest.approx(deviation)
    assert {score.n for score in outcome.scores} == {10}
    assert [outcome.metrics[f"sst2.steps@{index}"] for index in range(3)] == [4, 4, 4]
    alone = superglue.run(make_work(family, superglue=plan | {"seeds": 1}))
    assert scores(alone)["sst2", "accuracy"] == 1
    assert not [name for name in alone.metrics if "@" in name]


@any_model
def test_one_seed_that_answers_one_class_is_enough_to_be_flagged(make_work, write_task, family):
    work = make_work(family, superglue=settings("cola", epochs=1, seeds=2))
    write_task(work, "cola", sentences(64), sentences(30))
    superglue.run(work)
    answer(work, [0, 1] * 15, [1] * 30)
    (check,) = superglue.run(work).checks
    assert (check.passed, check.value) == (False, 1.0)


@any_model
def test_the_averages_are_of_all_scores_and_say_how_many(make_work, write_task, family):
    work = make_work(family, superglue=settings("cola", "mrpc", epochs=1))
    pairs = [{"sentence1": row["sentence"], "sentence2": "b", "label": row["label"]} for row in sentences(32)]
    write_task(work, "cola", sentences(32), sentences(20, seed=1))
    write_task(work, "mrpc", pairs, pairs)
    outcome = superglue.run(work)
    values = scores(outcome)
    figures = {
        "common": [values["cola", "mcc"], (values["mrpc", "accuracy"] + values["mrpc", "f1"]) / 2],
        "babylm": [values["cola", "mcc"], values["mrpc", "f1"]],
        "sparse_study": [np.mean([values[task, m] for m in ("accuracy", "f1", "mcc")]) for task in ("cola", "mrpc")],
    }
    for average, parts in figures.items():
        assert values["average", average] == pytest.approx(np.mean(parts))
    assert values["average", "main"] == values["average", "common"]
    assert values["average", "majority_main"] == pytest.approx((0 + values["mrpc", "majority_main"]) / 2)
    assert outcome.metrics["average.tasks"] == 2
    assert {score.n for score in outcome.scores if score.task == "average"} == {20 + 32}


@any_model
def test_a_part_of_train_can_select_the_weights(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2", select_on="train_split"))
    write_task(work, "sst2", sentences(100), sentences(30, seed=1))
    outcome = superglue.run(work)
    assert outcome.metrics["selected_on"] == "train_split"
    assert (outcome.metrics["sst2.train_rows"], outcome.metrics["sst2.selection_rows"]) == (90, 10)
    task = glue.read_task(
        work.data_root, "sst2", AutoTokenizer.from_pretrained(work.model_dir), work.config.evaluation, 1
    )
    assert task.selection not in task.validation.values()
    counts = Counter(map(tuple, task.train.input_ids)) + Counter(map(tuple, task.selection.input_ids))
    examples = glue.read_examples(work.data_root / superglue_files("sst2")["train"], "sst2", None)
    encoded = glue.encode(examples, AutoTokenizer.from_pretrained(work.model_dir), 16)
    assert counts == Counter(map(tuple, encoded.input_ids))


@any_model
def test_validation_selects_unless_told_otherwise(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2", epochs=1))
    write_task(work, "sst2", sentences(32), sentences(30, seed=1))
    outcome = superglue.run(work)
    assert (outcome.metrics["selected_on"], outcome.metrics["sst2.selection_rows"]) == ("validation", 30)


def test_the_rows_held_out_are_a_tenth_of_each_label_and_1000_at_most(tmp_path):
    def held_out(*counts, seed=0):
        labels = np.repeat(np.arange(len(counts)), counts)
        examples = glue.Examples([str(i) for i in range(len(labels))], None, labels)
        train, held = glue.hold_out(tmp_path / "cola.train.json", examples, seed)
        assert sorted([*train.first, *held.first]) == sorted(examples.first)
        return [int(n) for n in np.bincount(held.labels)], held.first

    assert held_out(700, 300)[0] == [70, 30]
    assert held_out(12_000, 8_000)[0] == [600, 400]
    assert held_out(2, 2)[0] == [1, 1]
    assert held_out(50, 50)[1] != held_out(50, 50, seed=1)[1]
    for counts in ((40, 1), (400, 2)):
        with pytest.raises(
            TinyTransformersError, match=rf"cola\.train\.json: {counts[1]} of {sum(counts)} rows have the"
        ):
            held_out(*counts)


@any_model
def test_progress_goes_from_zero_to_one_over_all_tasks(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2", "cola", epochs=1))
    write_task(work, "sst2", sentences(48), sentences(10))
    write_task(work, "cola", sentences(16), sentences(10))
    seen = []
    work.progress = lambda fraction, text: seen.append((fraction, text))
    outcome = superglue.run(work)
    steps = {fraction: text for fraction, text in seen if "step" in text}
    assert steps == {
        0.25: "sst2: step 1 of at most 3",
        0.5: "sst2: step 2 of at most 3",
        0.75: "sst2: step 3 of at most 3",
        1.0: "cola: step 1 of at most 1",
    }
    assert [fraction for fraction, _ in seen] == sorted(fraction for fraction, _ in seen)
    assert seen[0] == (0.0, "reading sst2")
    assert seen[-1] == (1.0, "cola: scoring cola")
    assert set(outcome.data) == {*superglue_files("sst2").values(), *superglue_files("cola").values()}


@any_model
def test_a_diverged_training_does_not_get_a_score(classifier, task_data):
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(CheckFailed, match="diverged"):
        fine_tuning.predict(classifier, task_data.train)


def test_metrics_are_those_of_the_textbook():
    labels, predictions = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])  # 2 true, 1 false positive; 1 and 1
    values = glue_metrics.metrics(labels, predictions, 2)
    assert values == pytest.approx({"accuracy": 3 / 5, "f1": 2 * 2 / (2 * 2 + 1 + 1), "mcc": (2 * 1 - 1) / 6})
    assert glue_metrics.metrics(np.array([0, 1, 2]), np.array([0, 1, 1]), 3) == pytest.approx({"accuracy": 2 / 3})
    assert glue_metrics.metrics(labels, np.zeros(5, dtype=int), 2) == {"accuracy": 0.4, "f1": 0, "mcc": 0}
    assert glue_metrics.metrics(np.zeros(5, dtype=int), np.zeros(5, dtype=int), 2) == {"accuracy": 1, "f1": 0, "mcc": 0}


def test_the_three_averages_take_the_figures_of_their_conventions():
    values = {"accuracy": 0.8, "f1": 0.6, "mcc": 0.1}
    names = (*SUPERGLUE_TASKS, "mnli-mm")
    found = {
        average: {task: figure(task, values) for task in names} for average, figure in glue_metrics.AVERAGES.items()
    }
    common = dict.fromkeys(names, 0.8) | {"cola": 0.1, "mrpc": 0.7, "qqp": 0.7, "multirc": 0.35}
    assert found["common"] == pytest.approx(common)
    assert found["babylm"] == pytest.approx(dict.fromkeys(names, 0.8) | {"cola": 0.1, "mrpc": 0.6, "qqp": 0.6})
    assert found["sparse_study"] == pytest.approx(dict.fromkeys(names, 0.5))
    assert glue_metrics.AVERAGES["sparse_study"]("mnli", {"accuracy": 0.8}) == 0.8
    assert glue_metrics.MAIN == "common"


def test_majority_is_the_best_single_answer_for_each_value():
    labels = np.array([1, 0, 0, 0])
    best = glue_metrics.majority("multirc", labels, 2)
    f1 = 2 * 0.25 / 1.25  # of answering 1
    assert best == pytest.approx(
        {"accuracy": 0.75, "f1": f1, "mcc": 0, "common": f1 / 2, "babylm": 0.75, "sparse_study": 0.25}
    )
    assert glue_metrics.majority("mnli", np.array([0, 1, 2, 2]), 3)["common"] == 0.5


def test_weights_are_selected_by_f1_of_two_labels_and_accuracy_of_three():
    two = np.array([1, 0, 0, 0]), np.array([1, 1, 0, 0])
    assert glue_metrics.selection_metric(*two, 2) == pytest.approx(2 / 3)
    assert glue_metrics.selection_metric(*two, 3) == pytest.approx(3 / 4)


@any_model
def test_a_label_outside_the_range_names_file_and_line(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2"))
    rows = sentences(5)
    for wrong in (2, -1, "1", True):
        write_task(work, "sst2", [*rows[:2], rows[2] | {"label": wrong}], rows)
        with pytest.raises(TinyTransformersError, match=rf"sst2\.train\.json: line 3: label is {wrong!r}; .* 0 to 1"):
            superglue.run(work)


@any_model
def test_training_rows_of_one_label_are_refused(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2"))
    write_task(work, "sst2", [row | {"label": 1} for row in sentences(5)], sentences(5))
    with pytest.raises(TinyTransformersError, match=r"sst2\.train\.json: the 5 rows used of it all have the label 1"):
        superglue.run(work)


@any_model
def test_every_bad_file_is_named_before_the_first_step(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2", "cola", "rte"))
    rows = sentences(32)
    write_task(work, "sst2", rows, [rows[0], {"label": 1}])
    write_task(work, "cola", rows, rows)
    write_task(work, "rte", [], [])
    seen = []
    work.progress = lambda _, text: seen.append(text)
    with pytest.raises(
        TinyTransformersError, match=r"sst2\.validation\.json: line 2: .*\n.*rte\.train\.json: is empty"
    ):
        superglue.run(work)
    assert seen == ["reading sst2", "reading cola", "reading rte"]


@any_model
def test_a_missing_field_names_file_and_line(make_work, write_task, family):
    work = make_work(family, superglue=settings("rte"))
    good = {"sentence1": "a", "sentence2": "b", "label": 0}
    write_task(work, "rte", [good, good | {"label": 1}], [good, {"sentence1": "a", "label": 0}])
    with pytest.raises(TinyTransformersError, match=r"rte\.validation\.json: line 2: .*sentence2"):
        superglue.run(work)


def test_the_line_of_a_wrong_row_counts_blank_lines(tmp_path):
    (tmp_path / "rows.json").write_text('{"sentence": "a", "label": 1}\n\n{"sentence": 7, "label": 1}\n')
    with pytest.raises(TinyTransformersError, match=r"rows\.json: line 3: sentence is 7, not a text"):
        glue.read_examples(tmp_path / "rows.json", "cola", None)


@any_model
def test_an_empty_file_is_an_error(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2"))
    write_task(work, "sst2", sentences(5), [])
    with pytest.raises(TinyTransformersError, match=r"sst2\.validation\.json: is empty"):
        superglue.run(work)


@any_model
def test_fine_tuning_may_have_a_limit_of_its_own(make_work, write_task, family):
    for own, rows in ((None, 12), (8, 8)):
        work = make_work(family, limit=12, superglue=settings("sst2", limit=own))
        write_task(work, "sst2", sentences(30), sentences(30))
        outcome = superglue.run(work)
        assert outcome.metrics["sst2.train_rows"] == rows
        assert {score.n for score in outcome.scores} == {rows}


def test_limit_keeps_the_shares_of_the_labels(tmp_path, write_rows):
    path = tmp_path / "sorted.json"
    write_rows(path, [{"sentence": f"s{i}", "label": int(i >= 80)} for i in range(100)])
    assert glue.read_examples(path, "cola", 10).labels.tolist() == [0] * 8 + [1] * 2
    write_rows(path, [{"sentence": f"s{i}", "label": i % 2} for i in range(100)])
    assert glue.read_examples(path, "cola", 10).labels.tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize(
    ("task", "row", "first", "second"),
    [
        ("cola", {"sentence": "A {b}."}, "A {b}.", None),
        ("boolq", {"question": "is it", "passage": "It is."}, "is it", "It is."),
        ("qnli", {"question": "What?", "sentence": "That."}, "What?", "That."),
        ("mnli", {"premise": "P", "hypothesis": "H"}, "P", "H"),
        ("multirc", {"paragraph": "P", "question": "Q?", "answer": "A"}, "Question: Q? Answer: A", "P"),
        (
            "wsc",
            {"text": "Mark told Pete. He left.", "span1_text": "Mark", "span2_text": "He"},
            'Does "He" refer to "Mark" in this passage?',
            "Mark told Pete. He left.",
        ),
    ],
)
def test_the_inputs_are_those_of_babylm(tmp_path, write_rows, task, row, first, second):
    write_rows(tmp_path / "row.json", [row | {"label": 1}])
    examples = glue.read_examples(tmp_path / "row.json", task, None)
    assert (examples.first, examples.second) == ([first], None if second is None else [second])


def test_pairs_are_joined_and_cut_from_the_longer_text(tokenizer):
    examples = glue.Examples(["ab", "ab", "a" * 20], ["c", "c" * 20, "c"], np.array([0, 1, 1]))
    encoded = glue.encode(examples, tokenizer, 12)
    a, b, c = tokenizer("abc", add_special_tokens=False)["input_ids"]
    assert encoded.input_ids == [[1, a, b, 2, 2, c, 2], [1, a, b, 2, 2, *[c] * 6, 2], [1, *[a] * 7, 2, 2, c, 2]]
    assert (encoded.truncated, encoded.lengths.tolist()) == (2, [7, 12, 12])


def test_chance_is_fishers_and_counts_by_hand():
    """Of 8 rows 4 have label 1, 4 answers are 1, 3 of them right: (16 + 1) / 70 deals have as many (Fisher's tea)."""
    labels, answers = np.array([1, 1, 1, 1, 0, 0, 0, 0]), np.array([1, 1, 1, 0, 1, 0, 0, 0])
    assert glue_metrics.chance(labels, answers) == pytest.approx(17 / 70)
    assert glue_metrics.chance(labels, np.zeros(8, dtype=np.int64)) == 1
    assert glue_metrics.chance(np.zeros(8, dtype=np.int64), np.zeros(8, dtype=np.int64)) == 1
    assert glue_metrics.chance(np.array([0, 1, 2] * 9), np.full(27, 2)) == 1


def test_one_other_answer_among_five_hundred_is_no_information():
    labels = np.arange(500) % 2
    answers = np.ones(500, dtype=np.int64)
    answers[0] = 0  # and it is right
    assert glue_metrics.chance(labels, answers) > superglue.UNINFORMED


@pytest.mark.parametrize(("kinds", "rows"), [(2, 83), (2, 500), (3, 300)])
def test_of_models_that_learnt_nothing_few_seem_to_know_and_of_those_that_did_nearly_all(kinds, rows):
    rng = np.random.default_rng(rows)
    labels = rng.integers(kinds, size=(1_000, rows))
    blind = np.array([rng.choice(kinds, rows, p=rng.dirichlet(np.ones(kinds))) for _ in labels])
    passing = [glue_metrics.chance(*pair) <= superglue.UNINFORMED for pair in zip(labels, blind, strict=True)]
    assert np.mean(passing) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1_000)
    seeing = np.where(rng.random(labels.shape) < 0.5, labels, blind)  # half of the answers are right, besides chance
    passing = [glue_metrics.chance(*pair) <= superglue.UNINFORMED for pair in zip(labels, seeing, strict=True)]
    assert np.mean(passing) > 0.9


def test_the_majority_share_is_that_of_the_most_frequent_label():
    assert glue.majority_share(np.array([0, 2, 2, 1, 2])) == 0.6


@pytest.mark.parametrize("task", SUPERGLUE_TASKS)
def test_every_real_file_becomes_inputs(shared_data, task):
    real = AutoTokenizer.from_pretrained(shared_data / "tokenizer" / "10k-tok")
    files = [glue.read_examples(shared_data / file, task, None) for file in superglue_files(task).values()]
    assert tuple(len(examples.labels) for examples in files) == REAL_COUNTS[task]
    assert all(set(examples.labels.tolist()) == set(range(glue.TEMPLATES[task].num_labels)) for examples in files)
    few = glue.read_examples(shared_data / superglue_files(task)["train"], task, 20)
    encoded = glue.encode(few, real, 128)
    assert {(ids[0], ids[-1]) for ids in encoded.input_ids} == {(1, 2)}
    assert encoded.lengths.max() <= 128


def test_majorities_of_the_real_rows_are_the_published_baselines(shared_data):
    """BabyLM 2023's README: MCC for CoLA, F1 for MRPC, else accuracy. QQP's rows here are not BabyLM's."""
    published = {
        "cola": 0, "sst2": 50.2, "mrpc": 82.0, "mnli": 35.7, "mnli-mm": 35.5, "qnli": 53.1, "rte": 50.5,
        "boolq": 59.9, "multirc": 53.2, "wsc": 61.4,
    }  # fmt: skip
    found = {}
    for task in (task for task in SUPERGLUE_TASKS if task != "qqp"):
        for split, file in superglue_files(task).items():
            if split != "train":
                labels = glue.read_examples(shared_data / file, task, None).labels
                name = glue.SCORED_AS[split].format(task=task)
                found[name] = 100 * glue_metrics.majority(name, labels, glue.TEMPLATES[task].num_labels)["babylm"]
    assert found == pytest.approx(published, abs=0.06)


def test_a_pretrained_trunk_is_what_is_fine_tuned(family, make_work):
    model = build(family, seed=9)
    trunk = load_classifier(make_work(model).model_dir, 2, seed=0).base_model.state_dict()
    shared = {name: tensor for name, tensor in model.base_model.state_dict().items() if name in trunk}
    assert shared
    assert all(torch.equal(trunk[name], tensor) for name, tensor in shared.items())


def test_the_balance_loss_takes_part_in_fine_tuning(tmp_path):
    def gate(balance_loss):
        folder = tmp_path / str(balance_loss)
        ffn = {"kind": "moe", "balance_loss": balance_loss}
        build(small("gpt_neo", ffn=ffn), seed=1).save_pretrained(folder)
        model = load_classifier(folder, num_labels=2, seed=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        rows = glue.Encoded([[1, 5, 6, 2], [1, 7, 2]], np.array([0, 1]), truncated=0)
        torch.manual_seed(0)
        fine_tuning.step(model, rows, np.array([0, 1]), optimizer)
        return model.transformer.h[0].mlp.ffn.gate.weight.detach()

    assert (gate(0.0) - gate(10.0)).abs().max() > 1e-5
