import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from cluster.errors import InputError
from cluster.manifest import grids, loading
from cluster.manifest.schema import json_schema
from cluster.plan import expansion
from tiny_transformers.settings.architecture import num_parameters
from tiny_transformers.settings.stage.superglue import SUPERGLUE_TASKS, superglue_tasks

ROOT = Path(__file__).parents[3]


def cells_of(tmp_path, **study):
    """The cells of a manifest with one study, after the given parts of it."""
    document = {
        "models": {
            "gpt": {"family": "gpt_neo", "hidden_size": 32, "num_heads": 2, "intermediate_size": 48},
            "bert": {"family": "roberta", "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48},
        },
        "studies": {"s": study},
    }
    path = tmp_path / "experiments.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return grids.cells(loading.load(path))


def shapes(cells):
    return [
        (cell.model, cell.config.model.hidden_size, cell.config.model.activation, cell.config.seed) for cell in cells
    ]


def test_a_grid_is_every_combination_in_the_order_written(tmp_path):
    cells = cells_of(tmp_path, grid={"model": ["gpt", "bert"], "model.hidden_size": [32, 64]}, seeds=[1, 2])
    assert shapes(cells)[:4] == [("gpt", 32, "gelu", 1), ("gpt", 32, "gelu", 2), ("gpt", 64, "gelu", 1),
                                 ("gpt", 64, "gelu", 2)]  # fmt: skip
    assert len(cells) == 8


def test_exclude_removes_every_cell_that_it_matches(tmp_path):
    cells = cells_of(
        tmp_path,
        grid={"model": ["gpt", "bert"], "model.hidden_size": [32, 64]},
        exclude=[{"model": "bert", "model.hidden_size": 64}],
    )
    assert [shape[:2] for shape in shapes(cells)] == [("gpt", 32), ("gpt", 64), ("bert", 32)]


def test_include_extends_the_cells_it_fits_and_is_a_cell_of_its_own_otherwise(tmp_path):
    cells = cells_of(
        tmp_path,
        grid={"model": ["gpt"], "model.hidden_size": [32, 64]},
        include=[
            {"model.activation": "relu"},  # fits every cell
            {"model.hidden_size": 64, "model.activation": "silu"},  # overrides what an include added, in one cell
            {"model": "gpt", "model.hidden_size": 128},  # fits none
        ],
    )
    assert [shape[1:3] for shape in shapes(cells)] == [(32, "relu"), (64, "silu"), (128, "gelu")]


def test_later_layers_override_earlier_ones(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("""
defaults: {train: {max_steps: 10, stories_per_step: 8}, seeds: [7]}
models: {gpt: {family: gpt_neo}}
studies:
  s: {model: gpt, train.max_steps: 20, grid: {train.learning_rate: [1.0e-3, 5e-4]}}
smoke: {train: {max_steps: 2}}
""")
    read = loading.load(path)
    plain, smoke = grids.cells(read), grids.cells(read, smoke=True, overrides=["train.stories_per_step=4"])
    assert [(c.config.train.max_steps, c.config.train.learning_rate) for c in plain] == [(20, 1e-3), (20, 5e-4)]
    assert plain[0].config.train.stories_per_step == 8
    assert plain[0].config.seed == 7
    assert (smoke[0].config.train.max_steps, smoke[0].config.train.stories_per_step) == (2, 4)
    assert smoke[0].config.smoke
    assert not plain[0].config.smoke


def test_a_smoke_run_has_the_first_seed_only(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("""
models: {gpt: {family: gpt_neo}}
studies:
  s: {model: gpt, seeds: [7, 1, 2]}
smoke: {train.max_steps: 2}
""")
    seeds = [[cell.config.seed for cell in grids.cells(loading.load(path), smoke=smoke)] for smoke in (False, True)]
    assert seeds == [[7, 1, 2], [7]]


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"grid": {"model.hidden_sise": [1]}, "model": "gpt"},
         "studies.s.grid.model.hidden_sise: unknown key. Did you mean hidden_size?"),
        ({"grid": {"model.activation": ["gelo"]}, "model": "gpt"},
         "studies.s.grid.model.activation: 'gelo' is not known. Did you mean gelu?"),
        ({"grid": {"model.hidden_size": [-4]}, "model": "gpt"},
         "studies.s.grid.model.hidden_size: -4: Input should be greater than 0."),
        ({"grid": {"model.hidden_size": [33]}, "model": "gpt"}, "hidden_size 33 is not a multiple of num_heads 2"),
        ({"grid": {}, "model": "gpt"}, "studies.s.grid: is empty."),
        ({"grid": {"model.hidden_size": []}, "model": "gpt"}, "studies.s.grid.model.hidden_size: has no values"),
        ({"grid": {"model.hidden_size": 64}, "model": "gpt"}, "studies.s.grid.model.hidden_size: 64 is not a list"),
        ({"grid": {"model": ["gtp"]}}, "studies.s.grid.model: 'gtp' is no model of this manifest. Did you mean gpt?"),
        ({"model": "gpt", "sedes": [1]}, "studies.s.sedes: unknown key. Did you mean seeds?"),
        ({"model": "gpt", "seeds": []}, "studies.s.seeds: [] must be a list"),
        ({"model": "gpt", "seeds": [-1]}, "studies.s.seeds: -1"),
        ({"model": "gpt", "train": {"max_step": 3}}, "studies.s.train.max_step: unknown key. Did you mean max_steps?"),
        ({"model": "gpt", "train.budget": {"hours": 1, "tokens": 1}},
         "studies.s.train.budget: a budget is either hours or tokens: set one of them."),
        ({"model": "gpt", "train.budget": {"hour": 1}}, "studies.s.train.budget.hour: unknown key. Did you mean hours"),
        ({"model": "gpt", "train.max_steps": None}, "studies.s.train: max_steps is null and there is no budget"),
        ({"model": "gpt", "stages": ["blimp"]}, "studies.s.stages: blimp needs add_tokenizer. Add it."),
        ({"model": "gpt", "stages": ["pretrian"]}, "studies.s.stages: pretrian is no stage. Did you mean pretrain?"),
        ({"model": "gpt", "stages": ["blmp"]}, "studies.s.stages: blmp is no stage. Did you mean blimp?"),
        ({"model": "gpt", "stages": "blmp"}, "studies.s.stages: 'blmp' must be a list of stages: [blimp]."),
        ({"model": "gpt", "data.max_length": 600}, "data.max_length 600 exceeds the model's 512 positions"),
        ({"model": "gpt", "stages": ["pretrain", "speed"], "evaluation.speed.new_tokens": 500},
         "studies.s: evaluation.speed.prompt_tokens + new_tokens 516 exceeds the model's 512 positions"),
        ({"model": "gpt", "evaluation.superglue.tasks": ["mnli"], "data.source": "builtin"},
         "the builtin data has cola, sst2, rte only"),
        ({"model": "gpt", "evaluation.blimp.data": "full", "data.source": "builtin"}, "builtin data has no full BLiMP"),
        ({"model": "gpt", "evaluation.superglue.tasks": ["rte", "cola", "rte"]}, "a task is named twice"),
        ({"model": "gpt", "evaluation.superglue.tasks": []}, "studies.s.evaluation.superglue.tasks: "),
        ({"model": "gpt", "train": {"max_steps": 1}, "train.max_steps": 2}, "studies.s.train.max_steps: is set twice"),
        ({"model": "gpt", "seeds": [True]}, "studies.s.seeds: [True] must be a list of different whole numbers"),
        ({"model": "gpt", "train.max_steps": True}, "studies.s.train.max_steps: True: a number is needed"),
        ({"model": "gpt", "train.anchors": [1, True]}, "studies.s.train.anchors.1: a number is needed"),
        ({"model": "gpt", "model.sharing": {}}, "studies.s.model.sharing: is empty, which would say nothing"),
        ({"grid": {"model": ["gpt"]}, "exclude": [{"model": "bert"}]}, "studies.s.exclude[0]: matches no cell"),
        ({"grid": {"model": ["gpt"]}, "exclude": [{"model": "gpt"}]}, "studies.s.exclude: leaves no cell"),
        ({}, "studies.s.model: is missing. Name one of models: gpt, bert."),
        ({"grid": {"model": ["gpt", "bert"]}, "baseline": {"model.activation": "gelu"}},
         "studies.s.baseline.model.activation: no cell of the study sets it. Known: model."),
        ({"grid": {"model": ["gpt", "bert"]}, "baseline": {"model": "electra"}},
         "studies.s.baseline.model: no cell of the study has electra. Known: gpt, bert."),
        ({"grid": {"model": ["gpt"], "model.activation": ["gelu", "relu"]}, "baseline": {"model.activation": "gleu"}},
         "studies.s.baseline.model.activation: no cell of the study has gleu. Did you mean gelu?"),
        ({"grid": {"model": ["gpt", "bert"], "model.activation": ["gelu", "relu"]},
          "exclude": [{"model": "bert", "model.activation": "relu"}],
          "baseline": {"model": "bert", "model.activation": "relu"}},
         "studies.s.baseline: matches no cell of the study. Give values that its grid or an include has."),
        ({"grid": {"model": ["gpt"], "model.hidden_size": [32, 64]}, "baseline": [{"model": "gpt"}]},
         "studies.s.baseline[0]: matches several variants of gpt_neo, and one is the baseline. Give more"),
        ({"grid": {"model": ["gpt"], "model.activation": ["relu", "gelu"]},
          "baseline": [{"model.activation": "relu"}, {"model.activation": "gelu"}]},
         "studies.s.baseline[0] and studies.s.baseline[1]: match two variants of gpt_neo, and one is the baseline."),
        ({"grid": {"model": ["gpt"], "model.activation": ["relu"]}, "baseline": {"model.activatoin": "relu"}},
         "studies.s.baseline.model.activatoin: no cell of the study sets it. Did you mean model.activation?"),
        ({"model": "gpt", "baseline": "gpt"}, "studies.s.baseline: must be a mapping, like a cell of the grid"),
        ({"model": "gpt", "baseline": {"modle": "gpt"}}, "studies.s.baseline.modle: unknown key. Did you mean model?"),
        ({"model": "gpt", "description": 7}, "studies.s.description: 7 is not text. Put it in quotes."),
        ({"model": "gpt", "optoinal": True}, "studies.s.optoinal: unknown key. Did you mean optional?"),
        ({"model": "gpt", "optional": "no"}, "studies.s.optional: 'no' is neither true nor false."),
        ({"model": "gpt", "optional": True}, "studies: all are optional. Name one with --study: s."),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place_its_value_and_the_nearest_known_word(tmp_path, study, message):
    with pytest.raises(InputError) as raised:
        cells_of(tmp_path, **study)
    assert str(raised.value).startswith(f"{tmp_path}/experiments.yaml: ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {gpt: {}}\nmodels: {gpt: {}}\n", "models is here twice"),
        ("studies: [", "not valid YAML"),
        ("- 1\n", "the manifest: must be a mapping"),
        ("models: {gpt: {family: gpt_neo}}\n", "studies: must be a mapping"),
        ("model: {}\nstudies: {a: {}}\n", "model: unknown key. Did you mean models?"),
    ],
)
def test_a_file_that_is_no_manifest_says_why(tmp_path, text, message):
    path = tmp_path / "experiments.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        loading.load(path)


def test_the_last_layer_that_says_how_long_to_train_decides(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("""
defaults: {train.max_steps: 10}
models: {gpt: {family: gpt_neo}}
studies:
  s: {model: gpt, train.budget: {hours: 5}}
smoke: {train.max_steps: 2}
""")

    def length(*overrides, smoke=False):
        (cell,) = grids.cells(loading.load(path), overrides=overrides, smoke=smoke)
        return cell.config.train.max_steps or str(cell.config.train.budget)

    assert length() == "5 hours"
    assert length(smoke=True) == length("train.max_steps=2") == 2
    assert length("train.budget=null") == 10
    assert length("train.budget.tokens=1000") == length("train.budget.tokens=1000", smoke=True) == "1,000 tokens"
    path.write_text(path.read_text().replace("train.max_steps: 10", "train.budget: null"))
    assert (length(), length("train.budget=null")) == ("5 hours", 8_280)
    path.write_text(path.read_text().replace("train.budget: null", "train.budget.tokens: 10"))
    assert (length(), length(smoke=True)) == ("5 hours", 2)


@pytest.mark.parametrize(
    "override", ["train.max_steps", "max_steps=3", "trian.max_steps=3", "train.max_steps=many", "stages=[pretrain]"]
)
def test_a_wrong_override_is_refused(manifest_file, override):
    with pytest.raises(InputError, match="--set"):
        grids.cells(loading.load(manifest_file), overrides=[override])


def test_the_shipped_schema_is_the_one_that_the_command_writes():
    shipped = json.loads((ROOT / "cluster" / "manifest" / "experiments.schema.json").read_text())
    assert shipped == json.loads(json.dumps(json_schema())), (
        "run `tiny-transformers schema --to cluster/manifest/experiments.schema.json`"
    )


def test_the_schema_accepts_the_shipped_manifest_and_refuses_a_misspelt_key():
    document = yaml.safe_load((ROOT / "experiments.yaml").read_text())
    jsonschema.Draft202012Validator.check_schema(schema := json_schema())  # here alone: it takes seconds
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(document)
    document["studies"]["quickstart"]["grid"]["model.hidden_sise"] = [1]
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(document)


# -- axes of several settings, and matched parameters


def test_an_axis_value_may_be_settings_below_its_path(tmp_path):
    cells = cells_of(tmp_path, model="gpt", grid={"model.ffn": [{"kind": "dense"}, {"kind": "moe", "top_k": 1}]})
    assert [cell.config.model.ffn.kind for cell in cells] == ["dense", "moe"]
    assert cells[1].config.model.ffn.top_k == 1


def test_an_axis_of_a_free_name_sets_what_belongs_together(tmp_path):
    depth = [{"model": "gpt", "model.num_layers": 3}, {"model": "bert", "model.num_hidden_layers": 3}]
    cells = cells_of(tmp_path, grid={"depth": depth, "model.hidden_size": [32, 64]}, exclude=[{"depth": depth[1]}])
    assert [(cell.model, cell.config.model.num_layers) for cell in cells] == [("gpt", 3)] * 2
    assert [cell.config.model.hidden_size for cell in cells] == [32, 64]


def test_include_compares_the_settings_of_such_an_axis(tmp_path):
    cells = cells_of(
        tmp_path,
        grid={"size": [{"model": "gpt"}, {"model": "bert"}]},
        include=[{"model": "bert", "model.hidden_size": 64}],
    )
    assert [(cell.model, cell.config.model.hidden_size) for cell in cells] == [("gpt", 32), ("bert", 64)]


def test_exclude_takes_settings_as_well_as_axes(tmp_path):
    grid = {"size": [{"model": "gpt"}, {"model": "bert"}], "model.ffn": [{"kind": "dense"}, {"kind": "moe"}]}
    cells = cells_of(tmp_path, grid=grid, exclude=[{"model": "bert", "model.ffn.kind": "moe"}])
    assert [(cell.model, cell.config.model.ffn.kind) for cell in cells] == [
        ("gpt", "dense"), ("gpt", "moe"), ("bert", "dense"),
    ]  # fmt: skip
    (first, *_) = cells_of(tmp_path, grid=grid, exclude=[{"size": {"model": "gpt"}}])
    assert first.model == "bert"


def test_include_of_another_module_of_the_same_kind_is_a_cell_of_its_own(tmp_path):
    grid = {"model.ffn": [{"kind": "dense"}, {"kind": "moe"}]}
    cells = cells_of(tmp_path, model="gpt", grid=grid, include=[{"model.ffn": {"kind": "moe", "top_k": 3}}])
    assert [getattr(cell.config.model.ffn, "top_k", None) for cell in cells] == [None, 2, 3]


def test_another_kind_of_module_leaves_nothing_of_the_models(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("""
models: {kan: {family: gpt_neo, ffn: {kind: kan, grid_size: 5}}}
studies:
  s: {model: kan, grid: {model.ffn: [{kind: dense}, {kind: kan, spline_order: 2}, {kind: moe, top_k: 1}]}}
""")
    dense, kan, moe = (cell.config.model.ffn for cell in grids.cells(loading.load(path)))
    assert (dense.kind, kan.grid_size, kan.spline_order, moe.top_k) == ("dense", 5, 2, 1)


def test_what_is_no_setting_cannot_be_set_by_a_grid(tmp_path):
    for key, hint in (("seed", "write seeds:"), ("smoke", "use --smoke"), ("recipe", "it is the code's")):
        for study in ({"grid": {key: [1]}}, {"grid": {"x": [{key: 1}]}}, {"include": [{key: 1}]}):
            with pytest.raises(InputError, match=rf"{key}: cannot be set here; {hint}"):
                cells_of(tmp_path, model="gpt", **study)
    with pytest.raises(InputError, match="grid.x.modle.hidden_size.*Did you mean model?|modle: unknown key"):
        cells_of(tmp_path, model="gpt", grid={"x": [{"modle.hidden_size": 1}]})


def test_match_params_does_not_need_the_data_to_fit_the_named_model(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("""
models: {short: {family: gpt_neo, max_position_embeddings: 128}}
studies:
  s: {model: short, data.max_length: 128, evaluation.superglue.max_length: 64, match_params: true, model.qk_size: 128}
""")
    (cell,) = grids.cells(loading.load(path))
    assert cell.config.model.intermediate_size > 1024


STREAM = """
defaults: {train: {stories_per_step: 8, batch_size: 3}}
models: {gpt: {family: gpt_neo}, bf: {family: brainformer}}
studies:
  words: {model: gpt}
  characters: {model: bf, data.corpus: text8, stages: [pretrain, bpc], %s}
smoke: {train: {batch_size: 2, stories_per_step: 4}}
"""


def stream_cells(tmp_path, more="", **options):
    path = tmp_path / "experiments.yaml"
    path.write_text(STREAM % more)
    return {cell.study: cell.config for cell in grids.cells(loading.load(path), **options)}


def test_settings_for_all_models_count_only_where_they_are_heeded(tmp_path):
    found = stream_cells(tmp_path)
    assert (found["words"].train.stories_per_step, found["words"].train.batch_size) == (8, 64)
    assert (found["characters"].train.stories_per_step, found["characters"].train.batch_size) == (256, 3)
    assert stream_cells(tmp_path, smoke=True)["characters"].train.batch_size == 2


def test_a_setting_that_a_study_has_no_use_for_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"studies.characters.train.stories_per_step: models of text8 have no use for it"
    ):
        stream_cells(tmp_path, "train.stories_per_step: 9")
    with pytest.raises(InputError, match=r"--set train.block_size: models of tinystories have no use for it"):
        stream_cells(tmp_path, overrides=["train.block_size=9"], studies=["words"])


def test_set_counts_for_the_models_that_heed_it_and_for_one_at_least(tmp_path):
    found = stream_cells(tmp_path, overrides=["train.block_size=9", "train.eval_stories=5"])
    assert (found["words"].train.block_size, found["words"].train.eval_stories) == (512, 5)
    assert (found["characters"].train.block_size, found["characters"].train.eval_stories) == (9, None)
    with pytest.raises(InputError, match=r"--set train.eval_stories: models of text8 have no use for it"):
        stream_cells(tmp_path, overrides=["train.eval_stories=5"], studies=["characters"])


def test_stages_and_corpora_of_the_other_kind_are_refused(tmp_path):
    with pytest.raises(InputError, match="studies.s: stages: bpc is not for models of tinystories"):
        cells_of(tmp_path, model="gpt", stages=["pretrain", "bpc"])
    with pytest.raises(InputError, match="data.corpus tinystories is not for models of family brainformer"):
        stream_cells(tmp_path, overrides=["data.corpus=tinystories"], studies=["characters"])


def counts(cells):
    return [num_parameters(cell.config.model) for cell in cells]


@pytest.mark.parametrize(
    ("size", "overrides", "said"),
    [
        (66, [], r"models\.odd\.model: hidden_size 66 is not a multiple of num_heads 4"),
        (64, ["model.activation=gleu"], r"--set model\.activation: 'gleu' is not known\. Did you mean gelu\?"),
    ],
)
def test_what_is_wrong_with_a_model_that_is_to_be_matched_is_said(tmp_path, size, overrides, said):
    path = tmp_path / "experiments.yaml"
    path.write_text(f"""
models: {{odd: {{family: gpt_neo, hidden_size: {size}}}}}
studies:
  s: {{model: odd, match_params: true, grid: {{model.num_layers: [1, 2]}}}}
""")
    with pytest.raises(InputError, match=said):
        grids.cells(loading.load(path), overrides=overrides)


def test_match_params_finds_the_size_whose_count_is_nearest(tmp_path):
    (base,) = counts(cells_of(tmp_path, model="gpt"))
    cells = cells_of(tmp_path, model="gpt", match_params=True, grid={"model.hidden_size": [16, 30, 32]})
    for cell in cells:
        model = cell.config.model
        sizes = [model.intermediate_size - 1, model.intermediate_size, model.intermediate_size + 1]
        off = [abs(num_parameters(model.model_copy(update={"intermediate_size": size})) - base) for size in sizes]
        assert off[1] == min(off)
    assert cells[2].config.model.intermediate_size == 48


def test_match_params_of_another_model_by_the_hidden_size(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("""
models: {gpt: {family: gpt_neo}, bert: {family: roberta}}
studies: {s: {model: gpt, model.num_layers: 4, model.num_heads: 6, match_params: bert, match_by: hidden_size}}
""")
    (cell,) = grids.cells(loading.load(path))
    assert cell.config.model.hidden_size % 6 == 0
    assert num_parameters(cell.config.model) == pytest.approx(9_863_952, rel=0.01)


def test_match_params_widens_a_sparse_module_too(tmp_path):
    (base,) = counts(cells_of(tmp_path, model="gpt", **{"model.hidden_size": 64}))
    document = {"model": "gpt", "model.hidden_size": 32, "model.ffn.kind": "moe", "match_params": "wide"}
    path = tmp_path / "experiments.yaml"
    wide = {"family": "gpt_neo", "hidden_size": 64, "num_heads": 2, "intermediate_size": 48}
    path.write_text(yaml.safe_dump({"models": {"gpt": wide | {"hidden_size": 32}, "wide": wide},
                                    "studies": {"s": document}}))  # fmt: skip
    (cell,) = grids.cells(loading.load(path))
    assert num_parameters(cell.config.model) == pytest.approx(base, rel=0.001)
    assert cell.config.model.ffn.expert_size > 100


def test_a_model_may_be_matched_where_it_is_named(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text("""
models:
  gpt: &gpt {family: gpt_neo}
  deep: {<<: *gpt, num_layers: 4, hidden_size: 256, match_params: gpt}
studies:
  s: {model: deep}
  t: {model: gpt, match_params: deep}
""")
    (cell,) = grids.cells(loading.load(path), studies=["s"])
    assert num_parameters(cell.config.model) == pytest.approx(9_585_664, rel=0.001)
    with pytest.raises(InputError, match="models.deep is itself matched. Name the model it is matched to"):
        grids.cells(loading.load(path), studies=["t"])


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"match_params": "gtp"}, "studies.s.match_params: 'gtp' is no model of this manifest. Did you mean gpt?"),
        ({"match_params": True, "match_by": "hidden"}, "studies.s.match_by: 'hidden' is no size that can be solved."),
        ({"match_params": True, "model.hidden_size": 64}, "intermediate_size cannot match gpt's"),
        ({"match_params": True, "model.ffn.depth": 1}, "whatever it is. Leave match_params out."),
        ({"match_params": True, "model.ffn": {"kind": "moe", "expert_size": 9}}, "Leave match_params out."),
        ({"match_params": True, "grid": {"model.intermediate_size": [64]}},
         "s.grid.model.intermediate_size: studies.s.match_params is to find this size. Leave one of them out."),
        ({"match_by": "hidden_size"}, "studies.s.match_by: nothing is matched: say match_params, too."),
        ({"model.num_layers": 4, "model.sharing": {"strategy": "seq", "unique": 2}}, "sharing.unique: unknown key."),
        ({"model.ffn.kind": "mow"}, "s.model.ffn.kind: 'mow' is no kind of feed-forward module. Did you mean moe?"),
        ({"model.ffn": {"kind": "moe", "topk": 2}}, "studies.s.model.ffn.topk: unknown key. Did you mean top_k?"),
        ({"model.ffn.top_k": 2}, "s.model.ffn.top_k: unknown key of kind dense: it belongs to moe and pkm."),
        ({"model.ffn": "moe"}, "studies.s.model.ffn: 'moe' is one value; it must be settings, such as {kind: dense}."),
        ({"model.sharing": {"strategy": "seq"}}, "studies.s.model.sharing.unique_layers: is missing. Write it."),
        ({"model.num_hidden_layers": 3},
         "s.model.num_hidden_layers: unknown key of family gpt_neo: there it is num_layers. docs/manifest.md has"),
        ({"grid": {"activation": ["relu"]}}, "studies.s.grid.activation: unknown key. Did you mean model.activation?"),
        ({"max_steps": 3}, "studies.s.max_steps: unknown key. Did you mean train.max_steps?"),
        ({"model.sharing": {"strategy": "cycles", "unique_layers": 1}},
         "studies.s.model.sharing.strategy: 'cycles' is not known. Did you mean cycle?"),
        ({"model.num_layers": 4, "model.sharing": {"strategy": "cycle", "unique_layers": 1}},
         "studies.s.model: with sharing.unique_layers 1 all strategies are the same model: write"),
        ({"grid": {"model.ffn": [{"kind": "moe"}], "model.ffn.kind": ["kan"]}}, "ffn.kind: is set by another axis"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_variant_is_named_too(tmp_path, study, message):
    with pytest.raises(InputError) as raised:
        cells_of(tmp_path, model="gpt", **study)
    assert message in str(raised.value)


def test_a_key_of_another_family_is_refused_where_it_was_written(tmp_path):
    with pytest.raises(InputError, match=r"--set model.experts.gate: unknown key of family gpt_neo: it has none"):
        stream_cells(tmp_path, overrides=["model.experts.gate=switch"])


def test_an_optional_study_is_taken_only_when_it_is_named(tmp_path):
    path = tmp_path / "manifest.yaml"
    study = {"model": "gpt", "grid": {"model.activation": ["gelu", "relu"]}}
    studies = {"large": study | {"optional": True}, "small": study}
    path.write_text(yaml.safe_dump({"models": {"gpt": {"family": "gpt_neo"}}, "studies": studies}))
    document = loading.load(path)
    assert document.optional == ["large"]
    assert {cell.study for cell in grids.cells(document)} == {"small"}
    assert {cell.study for cell in grids.cells(document, studies=["large"])} == {"large"}
    assert {cell.study for cell in grids.cells(document, studies=document.studies)} == {"large", "small"}


def test_the_shipped_manifest_has_every_study_at_its_size():
    document = loading.load(ROOT / "experiments.yaml")
    brainformers = [f"brainformer_{size}" for size in ("small", "medium", "large_v2")]
    pipeline = [f"sharing_pipeline{step}" for step in ("_layers", "_shapes", "_alternatives", "_25k", "")]
    further = ["kan_order", "learning_rates", *pipeline, "sharing_depth", "sharing_parts", "layerwise_scaling"]
    llamas = ["activations_llama", "sharing_llama"]
    later = ["distillation", "pruning", "sample_efficiency", "edge", *brainformers, "brainformer_dense"]
    assert document.optional == [*further, "insides", "universal", *llamas, "linformer", *later]
    cells = grids.cells(document)
    assert len(expansion.expand(cells)) == 271
    studies = {study: [cell for cell in cells if cell.study == study] for study in {cell.study for cell in cells}}
    assert len(studies["activations"]) == 6 * 22
    assert len(studies["sparse_ffn"]) == 20
    assert (len(studies["sharing"]), len(studies["sharing_25k"]), len(studies["sharing_5h"])) == (32, 12, 2)
    assert all(str(cell.config.train.budget) == "5 hours" for cell in studies["sharing_5h"])
    assert {"width", "blocks", "ffn_depth", "heads", "qk_width", "kv_groups", "order", "bias"} <= studies.keys()
    targets = {"gpt_neo": 9_585_664, "roberta": 9_863_952}
    for cell in (*studies["sharing"], *studies["kv_groups"], *studies["qk_width"]):
        target = targets[cell.config.model.family]
        assert num_parameters(cell.config.model) == pytest.approx(target, rel=0.001), cell


def test_the_studies_of_llamas_have_the_axes_of_those_of_gpt_neos_and_models_of_their_size():
    document = loading.load(ROOT / "experiments.yaml")
    cells = grids.cells(document, studies=["activations", "activations_llama", "sharing", "sharing_llama"])

    def labels(study, family):
        cells_of_it = [cell for cell in cells if cell.study == study and cell.config.model.family == family]
        return sorted((cell.config.model.label, cell.config.seed) for cell in cells_of_it)

    own = [("swiglu", seed) for seed in (1, 2, 3, 4, 5, 42)]
    assert labels("activations_llama", "llama") == sorted(labels("activations", "gpt_neo") + own)
    as_llamas = sorted((label.replace("gelu", "swiglu"), seed) for label, seed in labels("sharing", "gpt_neo"))
    assert labels("sharing_llama", "llama") == as_llamas
    sizes = {num_parameters(cell.config.model) for cell in cells if cell.config.model.family == "llama"}
    assert all(size == pytest.approx(9_585_664, rel=0.0012) for size in sizes)


def test_speed_that_no_stage_measures_need_not_fit_the_model(tmp_path):
    assert cells_of(tmp_path, model="gpt", **{"evaluation.speed.tokens": 4_000})
    assert cells_of(tmp_path, model="bert", stages=["pretrain", "speed"], **{"evaluation.speed.new_tokens": 4_000})


def baselines(cells):
    return [shape for cell, shape in zip(cells, shapes(cells), strict=True) if cell.baseline]


GRID = {"grid": {"model": ["gpt", "bert"], "model.activation": ["relu", "gelu"]}, "seeds": [1, 2]}


def test_a_baseline_is_one_variant_of_each_family_with_all_seeds(tmp_path):
    cells = cells_of(tmp_path, **GRID, baseline={"model.activation": "gelu"})
    assert baselines(cells) == [(model, 32, "gelu", seed) for model in ("gpt", "bert") for seed in (1, 2)]


def test_a_family_that_no_baseline_matches_has_its_first_cell_as_one(tmp_path):
    assert {shape[:3] for shape in baselines(cells_of(tmp_path, **GRID))} == {("gpt", 32, "relu"), ("bert", 32, "relu")}
    cells = cells_of(tmp_path, **GRID, baseline=[{"model": "bert", "model.activation": "gelu"}])
    assert {shape[:3] for shape in baselines(cells)} == {("gpt", 32, "relu"), ("bert", 32, "gelu")}


def test_a_baseline_may_be_an_include_and_what_several_combinations_make(tmp_path):
    grid = {"grid": {"model": ["gpt"], "model.hidden_size": [64]}, "include": [{"model": "bert", "model.bias": False}]}
    assert len(baselines(cells_of(tmp_path, **grid, baseline={"model": "bert", "model.bias": False}))) == 2
    twice = {"model": "gpt", "grid": {"model.hidden_size": [16, 32], "match_params": [True, False]}}
    cells = cells_of(tmp_path, **twice, baseline={"model.hidden_size": 32})  # matched to itself it is the same
    assert {shape[1] for shape in baselines(cells)} == {32}


def test_a_baseline_changes_no_run(tmp_path):
    with_one = cells_of(tmp_path, **GRID, baseline={"model.activation": "gelu"})
    assert [expansion.identity(cell.config) for cell in with_one] == [
        expansion.identity(cell.config) for cell in cells_of(tmp_path, **GRID)
    ]


def test_every_shipped_study_has_a_question_and_one_baseline_of_each_family():
    document = loading.load(ROOT / "experiments.yaml")
    cells = grids.cells(document, studies=document.studies)
    runs = {run.id: run for run in expansion.expand(cells)}
    for study in expansion.studies(document, cells):
        assert study.description.endswith(("?", ".")), study
        families = {runs[run_id].config.family for run_id in study.runs}
        baselines = [runs[run_id].config for run_id in study.baselines]
        assert {config.family for config in baselines} == families, study
        assert len({config.model_copy(update={"seed": 0}).model_dump_json() for config in baselines}) == len(families)


def test_sections_that_cells_write_alike_are_checked_once_and_others_are_not_mixed_up(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text(
        "models: {gpt: {family: gpt_neo}}\nstudies:\n  s:\n    grid:\n      model: [gpt]\n"
        "      train.max_steps: [10, 20]\n      model.hidden_size: [64, 128]\n"
    )
    configs = [cell.config for cell in grids.cells(loading.load(path))]
    assert [(c.train.max_steps, c.model.hidden_size) for c in configs] == [(10, 64), (10, 128), (20, 64), (20, 128)]
    assert configs[0].train is configs[1].train
    assert configs[1].train is not configs[2].train


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("retry: 0", "retry: must be a mapping (key: value), not 0."),
        ("smoke: false", "smoke: must be a mapping (key: value), not False."),
        ("models: []", "models: must be a mapping (key: value), not []."),
        ("notify: {}", "notify.command: {}: Field required"),
        ("budget: {}", "budget.gpu_hours: {}: Field required"),
        ("budget: 0", "budget: must be a mapping (key: value), not 0."),
        ("budget: {gpu_hours: .nan}", "budget.gpu_hours: nan: Input should be a finite number"),
    ],
)
def test_a_section_that_says_nothing_is_no_section_that_is_left_out(tmp_path, line, said):
    models = "" if line.startswith("models") else "models: {gpt: {family: gpt_neo}}\n"
    path = tmp_path / "experiments.yaml"
    path.write_text(f"{models}studies: {{s: {{model: gpt}}}}\n{line}\n")
    with pytest.raises(InputError, match=re.escape(said)):
        loading.load(path)


def test_a_named_evaluation_stands_for_its_settings_and_its_stages(tmp_path):
    (cell,) = cells_of(tmp_path, model="gpt", evaluation="babylm_2026", **{"evaluation.limit": 100})
    assert cell.stages == ("pretrain", "add_tokenizer", "superglue", "babylm")
    assert superglue_tasks(cell.config) == ("boolq", "multirc", "rte", "wsc", "mrpc", "qqp", "mnli")
    assert cell.config.evaluation.limit == 100
    (plain,) = cells_of(tmp_path, model="gpt")
    assert superglue_tasks(plain.config) == SUPERGLUE_TASKS


def test_stages_that_are_named_beside_a_named_evaluation_win(tmp_path):
    stages = ["pretrain", "add_tokenizer", "babylm"]
    (cell,) = cells_of(tmp_path, model="gpt", evaluation="babylm_2026", stages=stages)
    assert cell.stages == tuple(stages)


def test_a_named_evaluation_under_defaults_is_every_study_s(tmp_path):
    path = tmp_path / "experiments.yaml"
    path.write_text(
        "defaults: {evaluation: babylm_2026}\nmodels: {gpt: {family: gpt_neo}}\n"
        "studies: {a: {model: gpt}, b: {model: gpt, evaluation.superglue.edition: babylm_2023}}\n"
    )
    a, b = grids.cells(loading.load(path))
    assert (a.config.evaluation.superglue.edition, b.config.evaluation.superglue.edition) == (
        "babylm_2026", "babylm_2023",
    )  # fmt: skip
    assert a.stages == b.stages == ("pretrain", "add_tokenizer", "superglue", "babylm")


def test_an_evaluation_that_nobody_has_named_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"studies\.s\.evaluation: 'babylm_2062' .* Did you mean babylm_2026\?"):
        cells_of(tmp_path, model="gpt", evaluation="babylm_2062")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, r"studies.s: evaluation.lm_eval.tasks: names no task"),
        ({"evaluation.lm_eval.tasks": ["a", "a"]}, r"evaluation.lm_eval.tasks: .*a task is named twice"),
        ({"evaluation.lm_eval": {"tasks": ["a"], "include_path": "/x"}}, r"include_path: .*below DATA_ROOT"),
        ({"evaluation.lm_eval.tasks": ["a"], "data.source": "builtin"}, r"the builtin data has none for it"),
    ],
)
def test_a_stage_of_lm_eval_without_tasks_or_data_is_refused(tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        cells_of(tmp_path, model="gpt", stages=["pretrain", "add_tokenizer", "lm_eval"], **more)


def test_what_lm_eval_is_asked_is_part_of_a_run_s_id(tmp_path):
    asked = [
        cells_of(tmp_path, model="gpt", **settings)
        for settings in ({}, {"evaluation.lm_eval.tasks": ["a"]}, {"evaluation.lm_eval.tasks": ["b"]})
    ]
    ids = [run.id for cells in asked for run in expansion.expand(cells)]
    assert len(set(ids)) == 3
    assert "lm_eval" not in asked[0][0].config.model_dump()["evaluation"]
