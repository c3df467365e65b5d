"""lm-eval's tasks as a stage: against lm-eval itself, from task files and data of the tests' own."""

import pytest
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from tiny_transformers.common import pairs
from tiny_transformers.common.contents import fingerprint
from tiny_transformers.common.work import Interrupted, TinyTransformersError
from tiny_transformers.data.sources import resolve_root
from tiny_transformers.evaluation import harness
from tiny_transformers.evaluation.lm_eval_model import TinyTransformersLM

any_model = pytest.mark.parametrize("family", ["decoder"], indirect=True)
PAIRS = """
dataset_path: json
dataset_kwargs: {data_files: {test: data/FILE.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: ""
doc_to_choice: "{{[good, bad]}}"
doc_to_target: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
LAST_WORD = """
task: last_word
dataset_path: json
dataset_kwargs: {data_files: {test: data/last.jsonl}}
output_type: loglikelihood
test_split: test
doc_to_text: !function helpers.context
doc_to_target: "{{' ' + text.split(' ')[-1]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
SAID = [("de kat slaapt", "de kat slapen"), ("wij lopen", "wij loopt"), ("het huis", "de huis"), ("ja", "nee")]


@pytest.fixture
def write(write_rows):
    """Lay out DATA_ROOT: two tasks of pairs, a group of both, and one of last words with a function beside it."""

    def write(root):
        tasks = root / "tasks"
        tasks.mkdir(parents=True)
        for name, rows in {"verbs": SAID[:3], "nouns": SAID[1:]}.items():
            rows = [{"good": good, "bad": bad} for good, bad in rows]
            write_rows(root / f"data/{name}.jsonl", rows)
            (tasks / f"{name}.yaml").write_text(f"include: _pairs\ntask: {name}\ndataset_kwargs: "
                                                f"{{data_files: {{test: data/{name}.jsonl}}}}\n")  # fmt: skip
        (tasks / "_pairs").write_text(PAIRS)
        (tasks / "all.yaml").write_text(
            "group: dutch\ntask: [verbs, {group: inner, task: [nouns], aggregate_metric_list: [{metric: acc}]}]\n"
            "aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: false}]\n"
        )
        write_rows(root / "data/last.jsonl", [{"text": f"{good} {bad}"} for good, bad in SAID])
        (tasks / "last_word.yaml").write_text(LAST_WORD)
        (tasks / "helpers.py").write_text("def context(row):\n    return row['text'].rsplit(' ', 1)[0]\n")

    return write


@pytest.fixture
def make(make_work, write, family):
    def make(*tasks, limit=None, **settings):
        lm_eval = {"tasks": tasks, "include_path": "tasks"} | settings
        work = make_work(family, lm_eval=lm_eval, limit=limit)
        write(work.data_root)
        work.config = work.config.model_copy(update={"data": work.config.data.model_copy(update={"source": "files"})})
        return work

    return make


def scores(outcome):
    return {(score.task, score.metric): (score.value, score.n) for score in outcome.scores}


def by_lm_eval(work, tasks, monkeypatch):
    """What lm-eval's own evaluation says, as its command line runs it in DATA_ROOT."""
    monkeypatch.chdir(work.data_root)
    model = TinyTransformersLM(str(work.model_dir))
    manager = TaskManager(include_path="tasks", include_defaults=False)
    return simple_evaluate(model, tasks=tasks, task_manager=manager, bootstrap_iters=0)


def test_scores_are_those_of_lm_eval(make, monkeypatch):
    work = make("dutch", "last_word")
    found = scores(harness.run(work))
    theirs = by_lm_eval(work, ["dutch", "last_word"], monkeypatch)["results"]
    for task, leaf, metric in [
        ("dutch", "dutch", "acc"),
        ("dutch/inner", "dutch::inner", "acc"),
        ("dutch/verbs", "verbs", "acc"),
        ("dutch/nouns", "nouns", "acc_norm"),
        ("last_word", "last_word", "acc"),
        ("last_word", "last_word", "perplexity"),
    ]:
        assert found[task, metric][0] == pytest.approx(theirs[leaf][f"{metric},none"], rel=1e-5), (task, metric)
    assert {task: n for (task, _), (_, n) in found.items()} == {
        "dutch": 6, "dutch/inner": 3, "dutch/verbs": 3, "dutch/nouns": 3, "last_word": 4,
    }  # fmt: skip


@any_model
def test_the_tasks_of_a_group_without_a_figure_count_as_if_they_were_asked_for(make):
    work = make("both")
    (work.data_root / "tasks/both.yaml").write_text("group: both\ntask: [verbs, nouns]\n")
    assert {task for task, _ in scores(harness.run(work))} == {"verbs", "nouns"}


@any_model
def test_what_was_read_is_told_by_its_fingerprint(make):
    work = make("dutch", "last_word")
    read = [
        *(
            f"tasks/{name}"
            for name in ("all.yaml", "verbs.yaml", "nouns.yaml", "_pairs", "last_word.yaml", "helpers.py")
        ),
        *(f"data/{name}.jsonl" for name in ("verbs", "nouns", "last")),
    ]
    (work.data_root / "tasks/unasked.yaml").write_text("task: unasked\ndataset_path: json\n")
    assert harness.run(work).data == {file: fingerprint(work.data_root / file) for file in read}


@any_model
def test_both_likelihoods_of_each_row_are_kept_for_comparisons(make):
    work = make("dutch", "last_word")
    outcome = harness.run(work)
    kept = pairs.read(work.run_dir / harness.PAIR_SCORES)
    assert [*kept.files] == ["verbs", "nouns"]  # of last words nothing is chosen
    assert kept.counts.tolist() == [3, 3]
    assert kept.rows.tolist() == [0, 1, 2, 0, 1, 2]
    right = {task: values.mean() for task, values in kept.of_task(kept.right).items()}
    assert right == {task: pytest.approx(scores(outcome)[f"dutch/{task}", "acc"][0]) for task in kept.files}
    assert kept.of_task(kept.good)["verbs"].tolist()[1:] == kept.of_task(kept.good)["nouns"].tolist()[:2]


@any_model
def test_a_tie_is_counted_and_wrong_only_where_rows_are_compared(make, write_rows):
    work = make("verbs")
    write_rows(work.data_root / "data/verbs.jsonl", [{"good": "gelijk", "bad": "gelijk"}])
    outcome = harness.run(work)
    assert scores(outcome)["verbs", "acc"] == (1.0, 1)  # lm-eval takes the first of equal answers
    assert outcome.metrics["ties"] == 1
    assert not pairs.read(work.run_dir / harness.PAIR_SCORES).right.any()


@any_model
def test_a_limit_takes_rows_that_are_evenly_spaced(make, write_rows):
    work = make("verbs", limit=2)
    write_rows(work.data_root / "data/verbs.jsonl", [{"good": "a" * n, "bad": "b"} for n in range(1, 5)])
    assert scores(harness.run(work))["verbs", "acc"][1] == 2
    limited = pairs.read(work.run_dir / harness.PAIR_SCORES)
    assert limited.rows.tolist() == [0, 2]
    whole = make_again(work)
    assert limited.good.tolist() == pytest.approx(whole.good[[0, 2]].tolist())


def make_again(work):
    work.config = work.config.model_copy(
        update={"evaluation": work.config.evaluation.model_copy(update={"limit": None})}
    )
    harness.run(work)
    return pairs.read(work.run_dir / harness.PAIR_SCORES)


@any_model
def test_a_data_set_of_the_hub_is_read_from_its_copy(make, write_rows):
    work = make("of_the_hub")
    (work.data_root / "tasks/of_the_hub.yaml").write_text(
        "include: _pairs\ntask: of_the_hub\ndataset_path: somebody/pairs\ndataset_kwargs: {trust_remote_code: true}\n"
    )
    with pytest.raises(TinyTransformersError, match=r"--local-dir .*/data/hub/somebody/pairs`"):
        resolve_root(work.config, work.data_root, work.cache, ["lm_eval"])
    write_rows(work.data_root / "hub/somebody/pairs/test.jsonl", [{"good": "de kat", "bad": "het kat"}] * 2)
    resolve_root(work.config, work.data_root, work.cache, ["lm_eval"])
    outcome = harness.run(work)
    assert scores(outcome)["of_the_hub", "acc"][1] == 2
    assert "hub/somebody/pairs/test.jsonl" in outcome.data


@any_model
def test_a_bad_row_is_told_by_file_and_line(make):
    work = make("verbs")
    with open(work.data_root / "data/verbs.jsonl", "a") as file:
        file.write("\n{no json\n")
    with pytest.raises(TinyTransformersError, match=r"data/verbs\.jsonl: line 5: not JSON"):
        harness.run(work)


@any_model
def test_what_lm_eval_cannot_load_is_told_without_a_traceback(make):
    work = make("verbs")
    with open(work.data_root / "tasks/verbs.yaml", "a") as file:
        file.write("test_split: lacking\n")
    with pytest.raises(TinyTransformersError, match=r"lm-eval cannot load them: .*lacking"):
        harness.run(work)


@any_model
def test_it_stops_when_asked(make):
    work = make("verbs")
    work.should_stop = lambda: True
    with pytest.raises(Interrupted):
        harness.run(work)


@any_model
def test_progress_is_told(make):
    work, told = make("dutch"), []
    work.progress = lambda done, _: told.append(done)
    harness.run(work)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_the_settings_of_the_tasks_of_the_repository_read_our_files(make, write_rows):
    work = make("blimp_filtered_binding")
    rows = [{"sentence_good": good, "sentence_bad": bad} for good, bad in SAID]
    write_rows(work.data_root / "filter-data/blimp_filtered/binding.json", rows)
    outcome = harness.run(work)
    assert scores(outcome)["blimp_filtered_binding", "acc"][1] == 4
    assert [*outcome.data] == ["filter-data/blimp_filtered/binding.json"]
