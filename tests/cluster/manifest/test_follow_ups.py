"""Studies that begin from others' results: what they may choose, and what becomes of each choice."""

import json

import jsonschema
import pytest
import yaml

from cluster.errors import InputError
from cluster.manifest import follow_ups, grids, loading
from cluster.manifest.schema import json_schema
from cluster.plan import expansion

SMALL = {"hidden_size": 32, "intermediate_size": 48}
DOCUMENT = {
    "defaults": {"data": {"source": "builtin"}, "train": {"max_steps": 10}, "seeds": [7]},
    "models": {
        "gpt": {"family": "gpt_neo", "num_heads": 2, **SMALL},
        "gpt_wide": {"family": "gpt_neo", "num_heads": 2, **SMALL, "hidden_size": 64},
        "bert": {"family": "roberta", "num_attention_heads": 2, **SMALL},
        "bert_wide": {"family": "roberta", "num_attention_heads": 2, **SMALL, "hidden_size": 64},
    },
    "studies": {
        "first": {
            "stages": ["pretrain", "add_tokenizer", "blimp"],
            "seeds": [1, 2],
            "train.max_steps": 20,
            "grid": {"model": ["gpt", "bert"], "model.activation": ["gelu", "relu", "silu"]},
        },
        "wider": {
            "optional": True,
            "from": {"study": "first", "by": "blimp.average.accuracy", "per": "model.family"},
            "grid": {"model": ["gpt_wide", "bert_wide"]},
        },
        "longer": {
            "optional": True,
            "from": {
                "study": ["first", "wider"],
                "best": 2,
                "by": "blimp.average.accuracy",
                "per": "model.family",
                "failed": "leave_out",
            },
            "train.budget": {"hours": 5},
            "seeds": [3],
            "include": [{"model": "gpt"}],
            "baseline": {"model": "gpt"},
        },
    },
    "smoke": {"train": {"max_steps": 2}},
}


def manifest(tmp_path, **studies):
    document = json.loads(json.dumps(DOCUMENT))
    for name, changes in studies.items():
        study = document["studies"].setdefault(name, {})
        for key, value in changes.items():
            study[key] = {**study.get(key, {}), **value} if key == "from" and isinstance(value, dict) else value
    path = tmp_path / "experiments.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return loading.load(path)


def shape(cell):
    return cell.model, cell.config.model.activation, cell.config.train.max_steps, cell.config.seed


def test_a_chosen_cell_goes_on_with_what_its_study_said_and_the_follow_up_on_top(tmp_path):
    wider, longer = follow_ups.follow_ups(manifest(tmp_path), studies=["longer"])
    assert [each.study for each in (wider, longer)] == ["wider", "longer"]
    second = wider.candidates[1]
    assert [shape(cell) for cell in second.cells] == [("gpt", "relu", 20, 1), ("gpt", "relu", 20, 2)]
    assert [[shape(cell) for cell in made] for made in second.into] == [
        [("gpt_wide", "relu", 20, 1), ("gpt_wide", "relu", 20, 2)]
    ], "of the two models that of its own family; stages and seeds are the source's"
    assert {cell.stages for cell in wider.cells} == {("pretrain", "add_tokenizer", "blimp")}
    assert {each.group for each in wider.candidates} == {"gpt_neo", "roberta"}
    of_first, of_wider = longer.candidates[:6], longer.candidates[6:]
    assert [each.before for each in of_first] == [None] * 6
    assert [each.before for each in of_wider] == [0, 1, 2, 3, 4, 5]
    (cell,) = of_wider[1].into[0]
    assert (cell.model, cell.config.train.budget.hours, cell.config.seed) == ("gpt_wide", 5, 3)


def test_what_a_follow_up_includes_is_there_whatever_is_chosen(tmp_path):
    cells = [cell for cell in grids.cells(manifest(tmp_path), studies=["longer"]) if cell.study == "longer"]
    assert [(cell.model, cell.config.seed, cell.baseline) for cell in cells] == [("gpt", 3, True)]


def test_naming_a_follow_up_takes_its_sources_along(tmp_path):
    document = manifest(tmp_path)
    assert grids.taken(document, ["longer"]) == ["first", "wider", "longer"]
    assert grids.taken(document, []) == ["first"]
    assert {cell.study for cell in grids.cells(document, studies=["wider"])} == {"first"}
    assert len(follow_ups.all_cells(document, studies=["wider"])) == 12 + 12


def test_a_chosen_run_is_the_run_of_a_study_that_names_the_same_cell(tmp_path):
    grid = {"model": ["gpt_wide"], "model.activation": ["relu"]}
    plain = {"stages": ["pretrain", "add_tokenizer", "blimp"], "seeds": [1, 2], "train.max_steps": 20, "grid": grid}
    document = manifest(tmp_path, plain=plain)
    named = {run.id for run in expansion.expand(grids.cells(document, studies=["plain"]))}
    (wider,) = follow_ups.follow_ups(document, studies=["wider"])
    assert {run["run_id"] for run in expansion.seeded_runs(wider.candidates[1].into[0])} == named


def test_smoke_makes_what_may_be_chosen_small_too(tmp_path):
    _, longer = follow_ups.follow_ups(manifest(tmp_path), studies=["longer"], smoke=True)
    assert {(cell.config.train.max_steps, cell.config.train.budget) for cell in longer.all_cells} == {(2, None)}
    assert all(cell.config.smoke for cell in longer.all_cells)


@pytest.mark.parametrize(
    ("study", "changes", "said"),
    [
        ("wider", {"from": "first"}, r"wider\.from: must be a mapping"),
        ("wider", {"from": {"study": "frist"}}, r"wider\.from\.study: 'frist' is no study .* Did you mean first\?"),
        ("wider", {"from": {"study": []}}, r"wider\.from\.study: must name a study"),
        ("wider", {"from": {"study": "longer"}}, r"begins from itself: longer from wider from longer"),
        ("wider", {"from": {"best": 4}}, r"wider\.from\.best: 4 of 3 cells with model\.family gpt_neo"),
        ("longer", {"from": {"study": "wider", "best": 3}}, r"longer\.from\.best: 3 of 2 cells"),
        ("wider", {"from": {"best": 0}}, r"wider\.from\.best: 0 must be"),
        ("wider", {"from": {"by": "blimp.avarage.accuracy"}}, r"Did you mean blimp\.average\.accuracy\?"),
        ("wider", {"from": {"by": "lambada.last_word.accuracy"}}, r"wider\.from\.by: first has no stage lambada"),
        ("wider", {"from": {"per": "train.max_steps"}}, r"per: train\.max_steps is the same in all cells of first"),
        ("wider", {"from": {"per": "model.depth"}}, r"per: model\.depth: a cell of gpt has no such setting"),
        ("wider", {"from": {"failed": "leave"}}, r"failed: 'leave' is not known\. Did you mean leave_out\?"),
        ("wider", {"from": {"worst": 1}}, r"wider\.from\.worst: unknown key"),
        ("wider", {"grid": {"model": ["gpt_wide"]}}, r"names no model of roberta, and bert may be chosen"),
        ("wider", {"baseline": {"model": "gpt_wide"}}, r"wider\.baseline: which cells are chosen is not known yet"),
        ("wider", {"model.num_layers": 3}, r"wider\.model\.num_layers: unknown key of family roberta"),
        ("longer", {"stages": ["pretrain", "bpc"]}, r"bpc"),
    ],
)
def test_what_could_not_be_chosen_or_run_is_refused_before_anything_runs(tmp_path, study, changes, said):
    document = manifest(tmp_path, **{study: changes})
    with pytest.raises(InputError, match=said):
        follow_ups.all_cells(document, studies=["longer"])


def test_a_grid_of_programs_has_follow_ups_too(tmp_path):
    path = tmp_path / "programs.yaml"
    path.write_text("""
stages:
  fit: {command: "fit --rate {rate} --epochs {epochs}", measures: [{task: test, metric: loss, higher_is_better: false}]}
studies:
  all: {grid: {rate: [0.1, 0.2, 0.3], epochs: [1]}}
  best:
    from: {study: all, best: 2, by: fit.test.loss}
    grid: {epochs: [10]}
""")
    (best,) = follow_ups.follow_ups(loading.load(path))
    assert not best.rule.by.higher_is_better
    assert [cell.config.model.parameters for cell in best.cells] == [
        {"rate": rate, "epochs": 10} for rate in (0.1, 0.2, 0.3)
    ]


def test_the_schema_knows_the_key_from():
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(DOCUMENT)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**DOCUMENT, "studies": {"x": {"from": {"study": "first", "by": "b.c.d", "best": 0}}}})
