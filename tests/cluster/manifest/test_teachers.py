"""What a manifest says of teachers, and the runs that follow."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from cluster.errors import InputError
from cluster.manifest import grids, loading
from cluster.manifest.schema import json_schema
from cluster.plan import choosing, cost, expansion
from cluster.sites.profiles import Site
from cluster.submit import tables
from tiny_transformers.settings.architecture import flops_per_token, num_parameters
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.costs import training_tokens

DOCUMENT = """
defaults: {data: {source: builtin}, stages: [pretrain, add_tokenizer, blimp], train.max_steps: 50}
models:
  gpt: {family: gpt_neo, hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 48}
  deep: {family: gpt_neo, hidden_size: 24, num_layers: 3, num_heads: 2, match_params: gpt}
  bert: {family: roberta, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 48}
studies:
  plain:
    model: deep
    seeds: [3]
    train.max_steps: 80
  lessons:
    baseline: {train.teacher: null}
    seeds: [3, 4]
    train.max_steps: 80
    grid:
      model: [gpt]
      train.teacher: [null, {model: deep}, {model: deep, alpha: 0, temperature: 4}]
"""


def cells_of(tmp_path, text=DOCUMENT, **words):
    path = tmp_path / "experiments.yaml"
    path.write_text(text)
    return grids.cells(loading.load(path), **words)


def planned(tmp_path, *changes, **words):
    text = DOCUMENT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return expansion.expand(cells_of(tmp_path, text, **words))


def taught(runs):
    return [run for run in runs if run.config.teacher]


def test_a_teacher_is_a_run_of_its_own_that_all_students_and_another_study_share(tmp_path):
    runs = planned(tmp_path)
    assert Counter(run.config.model.layers for run in runs) == {2: 3 * 2, 3: 1}
    (teacher,) = [run for run in runs if run.config.model.layers == 3]
    assert (teacher.studies, teacher.config.seed) == (("plain", "lessons"), 3)
    assert teacher.stages == ("pretrain", "add_tokenizer", "blimp")
    for student in taught(runs):
        assert student.config.taught_by == teacher.config
        assert student.needs == [{"stage": "pretrain", "run_id": teacher.id, "needed": "pretrain"}]
    assert [run for run in runs if not run.config.teacher if run.needs] == []
    alone = planned(tmp_path, studies=["lessons"])
    assert alone[2].id == teacher.id, "before its students"
    assert alone[2].stages == ("pretrain",), "what they need of it, and no more"
    assert {run.id for run in alone} == {run.id for run in runs}


def test_the_schema_knows_what_is_said_of_a_teacher():
    told = yaml.safe_load(DOCUMENT.replace("{model: deep}", "{model: deep, seed: 2, set: {train.max_steps: 9}}"))
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(told)
    told["studies"]["lessons"]["grid"]["train.teacher"][1]["alpha"] = 2
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(told)


def test_the_report_compares_students_and_what_the_study_has_as_a_cell(tmp_path):
    cells = cells_of(tmp_path)
    manifest = loading.load(tmp_path / "experiments.yaml")
    plain, lessons = expansion.studies(manifest, cells)
    assert set(lessons.runs) == {run.id for run in expansion.expand(cells) if run.config.model.layers == 2}
    assert set(plain.runs).isdisjoint(lessons.runs)
    assert len(lessons.baselines) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [("{model: deep}", "{model: deep, alpha: 0.4}"), ("{model: deep}", "{model: deep, temperature: 3}"),
     ("{model: deep}", "{model: deep, seed: 9}"), ("{model: deep}", "{model: deep, set: {train.max_steps: 90}}"),
     ("{model: deep}", "{model: deep, set: {model: {dropout: 0.1}}}"), ("{model: deep}", "{model: gpt}"),
     ("num_layers: 3", "num_layers: 4")],
)  # fmt: skip
def test_a_students_id_follows_from_all_that_can_change_what_it_learns(tmp_path, old, new):
    before, after = (planned(tmp_path, *changes) for changes in ((), ((old, new),)))
    plain = [{run.id for run in runs if not run.needs and run.config.model.layers == 2} for runs in (before, after)]
    assert plain[0] == plain[1]
    assert taught(before)[0].id not in {run.id for run in after}


def test_a_students_id_does_not_follow_from_what_its_teacher_is_called(tmp_path):
    before, after = planned(tmp_path), expansion.expand(cells_of(tmp_path, re.sub(r"\bdeep\b", "wise", DOCUMENT)))
    assert [run.id for run in before] == [run.id for run in after]
    assert "-80steps-from-wise-a0.5-T2-s3" in taught(after)[0].name


def test_settings_of_a_student_can_be_written_and_read(tmp_path):
    for run in planned(tmp_path):
        again = RunConfig.model_validate_json(run.config.model_dump_json())
        assert again == run.config
        assert replace(run, config=again).needs == run.needs


def test_with_alpha_1_a_student_is_the_run_that_has_no_teacher(tmp_path):
    runs = planned(tmp_path, ("{model: deep}", "{model: deep, alpha: 1}"))
    assert len(taught(runs)) == 2
    assert {run.id for run in runs} < {run.id for run in planned(tmp_path)}
    none = expansion.expand(cells_of(tmp_path, studies=["lessons"], overrides=["train.teacher.alpha=1"]))
    assert len(none) == 2


def test_smoke_and_set_are_for_students_and_teachers(tmp_path):
    runs = planned(tmp_path, ("studies:", "smoke: {train.max_steps: 3}\nstudies:"), smoke=True)
    assert {run.config.train.max_steps for run in runs} == {3}
    assert all(run.config.smoke for run in runs)
    runs = planned(tmp_path, overrides=["train.learning_rate=0.1", "model.dropout=0.2"])
    assert {(run.config.train.learning_rate, run.config.model.dropout) for run in runs} == {(0.1, 0.2)}
    runs = planned(
        tmp_path, ("{model: deep}", "{model: deep, set: {train.max_steps: 90}}"), overrides=["train.max_steps=7"]
    )
    assert {run.config.train.max_steps for run in runs} == {7}


def test_a_teacher_of_a_study_may_be_left_out_in_a_cell_of_its_grid(tmp_path):
    text = DOCUMENT.replace("    grid:\n", "    train.teacher: {model: deep, alpha: 0.2}\n    grid:\n")
    runs = expansion.expand(cells_of(tmp_path, text))
    assert sorted(run.config.teacher.alpha for run in taught(runs)) == [0, 0, 0.2, 0.2]
    assert len(runs) == 7


@pytest.mark.parametrize(
    ("new", "said"),
    [("{model: dep}", "train.teacher.model: 'dep' is no model of this manifest. Did you mean deep?"),
     ("deep", "train.teacher: 'deep' must be settings, such as {model: deep}, or null"),
     ("{alpha: 0.5}", "train.teacher.model: is missing"),
     ("{model: deep, alpa: 1}", "alpa: unknown key. Did you mean alpha?"),
     ("{model: deep, alpha: 2}", "train.teacher.alpha: 2: "), ("{model: deep, temperature: 0}", "temperature: 0: "),
     ("{model: bert}", "train.teacher bert: it is an encoder, which predicts masked ones, and the student is a"),
     ("{model: deep, set: {data.max_length: 9}}", "a teacher may differ in settings of `model` and `train` only"),
     ("{model: deep, set: {train.teacher.model: gpt}}", "a teacher may differ"),
     ("{model: deep, set: {model.vocab_size: 500}}", "its vocab_size is 500, and the student's 10000"),
     ("{model: deep, set: {model.max_position_embeddings: 64}}", "exceeds the model's 64 positions"),
     ("{model: deep, set: {train.max_stebs: 9}}", "Did you mean max_steps?")],
)  # fmt: skip
def test_a_teacher_that_cannot_teach_is_refused_by_where_it_is_written(tmp_path, new, said):
    path = tmp_path / "experiments.yaml"
    path.write_text(DOCUMENT.replace("{model: deep}", new))
    with pytest.raises(InputError, match=re.escape(said)):
        grids.cells(loading.load(path))


def test_a_set_of_a_teacher_that_no_run_has_is_refused(tmp_path):
    with pytest.raises(InputError, match="--set train.teacher.alpha: no run of these studies has a teacher"):
        cells_of(tmp_path, studies=["plain"], overrides=["train.teacher.alpha=0.5"])


def test_the_teachers_pass_is_in_the_plan_in_closed_form(tmp_path):
    plain, student = (
        next(run for run in planned(tmp_path) if bool(run.config.teacher) is has) for has in (False, True)
    )
    plain = replace(plain, config=student.config.model_copy(update={"teacher": None}))
    teacher = student.config.teacher.model
    more = cost.flops(student.config, "pretrain") - cost.flops(plain.config, "pretrain")
    assert more == pytest.approx(training_tokens(student.config) * flops_per_token(teacher))
    assert cost.training_flops(student.config) - cost.training_flops(plain.config) == flops_per_token(teacher)
    memory = [cost.memory(run.config, gpu=True) for run in (plain, student)]
    # Its weights, its last hidden states, and what one of its wide layers takes beyond all that the student keeps.
    a_layer = teacher.kept_per_token(64) / 3 - student.config.model.kept_per_token(64)
    tokens = student.config.train.micro_batch_tokens
    assert a_layer > 0
    expected = num_parameters(teacher) + tokens * (teacher.hidden_size + a_layer)
    assert memory[1] - memory[0] == pytest.approx(4 * expected / 1e6, abs=1.1)
    assert cost.architecture_key(student.config) != cost.architecture_key(plain.config)
    site = Site(name="s", scheduler="slurm", flops=1e10)
    seconds = [choosing.item(run, run.stages, {}, cost.Measured.nothing(site)).seconds for run in (plain, student)]
    assert seconds[1] - seconds[0] == pytest.approx(more / 1e10)


def test_models_has_a_teacher_once(tmp_path):
    listed = tables.distinct_models(cells_of(tmp_path, studies=["lessons"]))
    assert [model["name"].partition("-")[0] for model in listed] == ["gpt", "deep"]
    assert json.dumps(listed)
    assert Path(tmp_path / "experiments.yaml").exists()
