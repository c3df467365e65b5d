"""Fine-tuning, from files to scores, with tiny models."""

import copy

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer
from variants import small

from tiny_transformers.config import SUPERGLUE_TASKS, Superglue, superglue_files
from tiny_transformers.evaluation import glue, scoring, superglue
from tiny_transformers.models import build, load_classifier
from tiny_transformers.work import CheckFailed, Interrupted, TinyTransformersError

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
            write_rows(work.root / file, rows)

    return write


def settings(*tasks, **changes):
    quick = {"learning_rate": 3e-3, "batch_size": 16, "epochs": 4, "eval_every": 8, "max_length": 16}
    return quick | {"tasks": tasks} | changes


def scores(outcome):
    return {(score.task, score.metric): score.value for score in outcome.scores}


@pytest.fixture
def task_data(tokenizer, tmp_path, write_rows):
    """The separable task, encoded; for tests of `fine_tune` itself."""

    def encoded(rows):
        write_rows(tmp_path / "rows.json", rows)
        return glue.encode(glue.read_examples(tmp_path / "rows.json", "sst2", None), tokenizer, 16)

    return superglue.TaskData("sst2", encoded(sentences(128)), {"sst2": encoded(sentences(40, seed=1))})


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
    assert (check.name, check.passed, check.blocking) == ("sst2.majority_class", True, False)
    assert 0.3 < check.value < 0.7


def test_a_model_that_answers_one_class_is_flagged(family, make_work, write_task, capsys):
    work = make_work(family, superglue=settings("cola"))
    write_task(work, "cola", [row | {"label": 1} for row in sentences(64)], sentences(30))
    outcome = superglue.run(work)
    (check,) = outcome.checks
    assert (check.name, check.passed, check.value, check.blocking) == ("cola.majority_class", False, 1.0, False)
    assert scores(outcome)["cola", "main"] == scores(outcome)["cola", "mcc"] == 0
    assert "cola: the model answers 1 to all 30 rows" in capsys.readouterr().out


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
    assert {metric for task, metric in values if task == "mnli-mm"} == {"accuracy", "majority_accuracy", "main"}
    assert (n["mnli"], n["mnli-mm"], n["average"]) == (20, 10, 30)
    assert values["average", "main"] == pytest.approx((values["mnli", "main"] + values["mnli-mm", "main"]) / 2)
    assert [check.name for check in outcome.checks] == ["mnli.majority_class", "mnli-mm.majority_class"]
    assert outcome.metrics["mnli.steps"] == 2 * 3


def test_the_same_seed_gives_the_same_result_whatever_ran_before(family, make_work, write_task):
    work = make_work(family, superglue=settings("sst2", "cola", epochs=2))
    for task in ("sst2", "cola"):
        write_task(work, task, sentences(64), sentences(30, seed=1))
    both = scores(superglue.run(work))
    torch.rand(7)
    again = scores(superglue.run(work))
    assert both == again
    alone = make_work(family, superglue=settings("cola", epochs=2))
    only = scores(superglue.run(alone))
    assert {key: value for key, value in both.items() if key[0] == "cola"} == {
        key: value for key, value in only.items() if key[0] == "cola"
    }


def test_dropout_acts_and_follows_the_seed(make_work, task_data, family, monkeypatch):
    model = load_classifier(make_work(family.model_copy(update={"dropout": 0.1})).model_dir, 2, seed=0)
    monkeypatch.setattr(superglue, "_training_batches", lambda *_: [np.arange(16), np.arange(16, 32)])
    plan, weights = Superglue(eval_every=2, max_length=16), []
    for seed in (1, 1, 2):
        one = copy.deepcopy(model)
        superglue.fine_tune(one, task_data, plan, seed, report=silent)
        weights.append(torch.cat([parameter.flatten() for parameter in one.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_another_seed_gives_another_head_and_order():
    seeds = {superglue.task_seed(42, "cola"), superglue.task_seed(43, "cola"), superglue.task_seed(42, "rte")}
    assert len(seeds) == 3
    first, second = ([*superglue._training_batches(20, Superglue(), seed)][0].tolist() for seed in [*seeds][:2])
    assert first != second
    assert sorted(first) == sorted(second) == list(range(20))


def test_every_epoch_sees_every_row_once_in_another_order():
    batches = [*superglue._training_batches(10, Superglue(batch_size=4, epochs=2), seed=0)]
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    epochs = [np.concatenate(batches[:3]).tolist(), np.concatenate(batches[3:]).tolist()]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_the_best_weights_are_kept(classifier, task_data):
    """At a rate this high the training wanders: its last evaluation is not its best."""
    wild = Superglue(learning_rate=0.05, batch_size=16, epochs=12, eval_every=2, max_length=16)
    fit = superglue.fine_tune(classifier, task_data, wild, seed=1, report=silent)
    assert 0 < fit.best_step < fit.steps
    validation = task_data.validation["sst2"]
    found = superglue.selection_metric(validation.labels, superglue.predict(classifier, validation), 2)
    assert found == fit.best_value


def test_training_stops_when_patience_is_used_up(classifier, task_data):
    still = Superglue(learning_rate=1e-12, batch_size=16, epochs=12, eval_every=2, patience=3, max_length=16)
    fit = superglue.fine_tune(classifier, task_data, still, seed=1, report=silent)
    assert (fit.steps, fit.evaluations, fit.best_step) == (2 * (1 + 3), 1 + 3, 2)


def test_an_evaluation_follows_the_last_step(classifier, task_data):
    rare = Superglue(batch_size=60, epochs=1, eval_every=1000, max_length=16)
    fit = superglue.fine_tune(classifier, task_data, rare, seed=1, report=silent)
    assert (fit.steps, fit.evaluations, fit.best_step) == (3, 1, 3)


def test_an_improvement_within_the_threshold_is_the_best_but_costs_patience():
    fit = superglue.Fit()
    noted = []
    for value in (0.5, 0.505, 0.5, 0.6):
        fit.steps += 1
        noted.append((superglue._note(fit, value, threshold=0.01), fit.patience_used, fit.best_value))
    assert noted == [(True, 0, 0.5), (True, 1, 0.505), (False, 2, 0.505), (True, 0, 0.6)]


def test_the_rate_falls_linearly_to_zero_and_the_gradient_is_clipped(classifier, task_data, monkeypatch):
    rates, norms = [], []
    step = torch.optim.AdamW.step

    def watched(self, *args, **options):
        rates.append(self.param_groups[0]["lr"])
        gradients = [p.grad.flatten() for p in self.param_groups[0]["params"] if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    monkeypatch.setattr(superglue, "MAX_GRAD_NORM", 0.01)
    plan = Superglue(learning_rate=0.4, batch_size=32, epochs=1, max_length=16)
    superglue.fine_tune(classifier, task_data, plan, seed=1, report=silent)
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)


def test_fine_tuning_is_that_of_hugging_face_trainer(make_work, task_data, family, tokenizer, tmp_path, monkeypatch):
    """Fed the same batches, both arrive at the same weights: optimizer, decay, clipping and loss agree."""
    pytest.importorskip("accelerate", reason="Hugging Face's Trainer needs it")
    model_dir = make_work(family.model_copy(update={"dropout": 0.0})).model_dir
    ours, theirs = (load_classifier(model_dir, 2, seed=0) for _ in range(2))
    plan = Superglue(learning_rate=1e-3, batch_size=16, epochs=1, max_length=16)
    batches = [np.arange(i, i + 16) for i in range(0, 128, 16)]
    monkeypatch.setattr(superglue, "_training_batches", lambda *_: batches)
    superglue.fine_tune(ours, task_data, plan, seed=1, report=silent)

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
        superglue._step(one, task_data.train, rows, Keep(one.parameters()))
    for pieces, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(pieces, whole)


def test_a_stop_is_heard_between_steps(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2"))
    write_task(work, "sst2", sentences(64), sentences(30, seed=1))
    asked = []
    work.should_stop = lambda: asked.append(1) or len(asked) == 3
    with pytest.raises(Interrupted):
        superglue.run(work)
    assert len(asked) == 3


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


def test_a_diverged_training_does_not_get_a_score(classifier, task_data):
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(CheckFailed, match="diverged"):
        superglue.predict(classifier, task_data.train)


def test_metrics_are_those_of_the_textbook():
    labels, predictions = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])  # 2 true, 1 false positive; 1 and 1
    values = superglue.metrics(labels, predictions, 2)
    assert values == pytest.approx({"accuracy": 3 / 5, "f1": 2 * 2 / (2 * 2 + 1 + 1), "mcc": (2 * 1 - 1) / 6})
    assert superglue.metrics(np.array([0, 1, 2]), np.array([0, 1, 1]), 3) == pytest.approx({"accuracy": 2 / 3})
    assert superglue.metrics(labels, np.zeros(5, dtype=int), 2) == {"accuracy": 0.4, "f1": 0, "mcc": 0}
    assert superglue.metrics(np.zeros(5, dtype=int), np.zeros(5, dtype=int), 2) == {"accuracy": 1, "f1": 0, "mcc": 0}


def test_the_main_score_of_a_task_is_the_convention():
    values = {"accuracy": 0.8, "f1": 0.6, "mcc": 0.1}
    main = {task: superglue.main_score(task, values) for task in (*SUPERGLUE_TASKS, "mnli-mm")}
    special = {"cola": 0.1, "mrpc": 0.7, "qqp": 0.7, "multirc": 0.35}
    assert main == pytest.approx({task: special.get(task, 0.8) for task in main})


def test_weights_are_selected_by_f1_of_two_labels_and_accuracy_of_three():
    two = np.array([1, 0, 0, 0]), np.array([1, 1, 0, 0])
    assert superglue.selection_metric(*two, 2) == pytest.approx(2 / 3)
    assert superglue.selection_metric(*two, 3) == pytest.approx(3 / 4)


def test_a_label_outside_the_range_names_file_and_line(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2"))
    rows = sentences(5)
    for wrong in (2, -1, "1", True):
        write_task(work, "sst2", [*rows[:2], rows[2] | {"label": wrong}], rows)
        with pytest.raises(TinyTransformersError, match=rf"sst2\.train\.json: line 3: label is {wrong!r}; .* 0 to 1"):
            superglue.run(work)


def test_a_missing_field_names_file_and_line(make_work, write_task, family):
    work = make_work(family, superglue=settings("rte"))
    good = {"sentence1": "a", "sentence2": "b", "label": 0}
    write_task(work, "rte", [good], [good, {"sentence1": "a", "label": 0}])
    with pytest.raises(TinyTransformersError, match=r"rte\.validation\.json: line 2: .*sentence2"):
        superglue.run(work)


def test_the_line_of_a_wrong_row_counts_blank_lines(tmp_path):
    (tmp_path / "rows.json").write_text('{"sentence": "a", "label": 1}\n\n{"sentence": 7, "label": 1}\n')
    with pytest.raises(TinyTransformersError, match=r"rows\.json: line 3: sentence is 7, not a text"):
        glue.read_examples(tmp_path / "rows.json", "cola", None)


def test_an_empty_file_is_an_error(make_work, write_task, family):
    work = make_work(family, superglue=settings("sst2"))
    write_task(work, "sst2", sentences(5), [])
    with pytest.raises(TinyTransformersError, match=r"sst2\.validation\.json"):
        superglue.run(work)


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


def test_mnli_majority_is_the_published_baseline(shared_data):
    examples = glue.read_examples(shared_data / superglue_files("mnli")["validation_matched"], "mnli", None)
    assert glue.majority_share(examples.labels) == pytest.approx(0.357, abs=5e-4)


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
        superglue._step(model, rows, np.array([0, 1]), optimizer)
        return model.transformer.h[0].mlp.ffn.gate.weight.detach()

    assert (gate(0.0) - gate(10.0)).abs().max() > 1e-5
