"""The ledger as studies, families and variants, read from the runs of experiments.yaml."""

from dataclasses import replace

import pytest
import synthetic

from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import expansion
from cluster.report import results
from cluster.report.results import BY_KEY


def grid_of(runs, *baselines, overrides=()):
    return {"overrides": list(overrides), "stages": list(runs[0].stages), "runs": [run.id for run in runs],
            "baselines": list(baselines)}  # fmt: skip


def read(root):
    ledger = Ledger(root.ledger, read_only=True)
    try:
        return {study.name: study for study in results.read(ledger)}
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return read(synthetic.make(tmp_path_factory.mktemp("output"), synthetic.planned(), with_pairs=False))


def test_a_variant_is_the_runs_that_differ_in_their_seed_only(studies):
    gpt, bert = studies["activations"].families
    assert [(family.title, len(family.variants)) for family in (gpt, bert)] == [("GPT-Neo", 11), ("RoBERTa", 11)]
    for variant in (*gpt.variants, *bert.variants):
        assert [run.seed for run in variant.runs] == [1, 2, 3, 4, 5, 42]
        assert len({run.run_id for run in variant.runs}) == 6
    assert sum(len(study.runs) for study in studies.values()) == 208, "four runs are in two studies"


@pytest.mark.parametrize(
    ("study", "labels"),
    [
        ("activations", ["gelu", "relu", "silu", "swish", "swish_thesis", "prelu", "learnable_gelu", "geglu",
                         "learnable_geglu", "none", "kan_g3k3"]),
        ("sparse_ffn", ["gelu", "moe4k3", "moe4k2", "moe4k1", "cnt64", "cnt32", "cnt16", "pkm56k42", "pkm56k28",
                        "pkm56k14"]),
        ("heads", ["1H", "16H", "2H", "4H", "8H"]),
    ],
)  # fmt: skip
def test_a_label_says_what_sets_a_variant_apart_and_no_more(studies, study, labels):
    found = [variant.label for variant in studies[study].families[0].variants]
    assert sorted(found) == sorted(labels)


def test_every_label_of_the_shipped_manifest_is_unique_in_its_family():
    by_study = {}
    document = loading.load(synthetic.EXPERIMENTS)
    for run in expansion.expand(grids.cells(document, studies=document.studies)):
        for study in run.studies:
            key = study, run.config.family, run.config.model_copy(update={"seed": 0}).model_dump_json()
            by_study.setdefault(key[:2], {})[key[2]] = run.name, run.config
    for family, variants in by_study.items():
        labels = results._labels(list(variants.values()))
        assert len(set(labels)) == len(labels), family


@pytest.mark.parametrize("named", [True, False])
def test_variants_that_differ_in_settings_which_no_name_tells_are_labelled_by_these(tmp_path, named):
    """Runs of an older version have names that do not tell."""
    cells = [
        loading.Cell(
            cell.study, cell.model,
            cell.config.model_copy(update={"train": cell.config.train.model_copy(update={"learning_rate": rate})}),
            cell.stages,
        )
        for cell in grids.cells(loading.load(synthetic.EXPERIMENTS), studies=["quickstart"])
        for rate in (1e-3, 5e-4)  # the study's baseline is the second
    ]  # fmt: skip
    runs = expansion.expand(cells)
    if not named:
        runs = [replace(run, name=run.name.replace("-learning_rate=0.001", "")) for run in runs]
    study = read(synthetic.make(tmp_path, runs, with_pairs=False))["quickstart"]
    labels = [variant.label for variant in study.families[0].variants]
    usual = "" if named else " learning_rate=0.0005"
    assert sorted(labels) == [
        f"gelu{usual}", "gelu learning_rate=0.001", f"learnable_gelu{usual}", "learnable_gelu learning_rate=0.001",
    ]  # fmt: skip


def test_the_baseline_is_the_first_variant_unless_the_study_names_another(tmp_path):
    runs = synthetic.planned(["quickstart"])
    root = synthetic.make(tmp_path, runs, with_pairs=False)
    ledger = Ledger(root.ledger)
    ledger.put_study("quickstart", "Why?", [grid_of(runs)])
    ledger.close()
    study = read(root)["quickstart"]
    assert study.description == "Why?"
    assert [family.baseline.label for family in study.families] == ["gelu", "gelu"]
    learnable = next(run for run in runs if "gpt-learnable_gelu" in run.name)
    ledger = Ledger(root.ledger)
    ledger.put_study("quickstart", "Why?", [grid_of(runs, learnable.id)])
    ledger.close()
    study = read(root)["quickstart"]
    assert [family.baseline.label for family in study.families] == ["learnable_gelu", "gelu"]
    assert [variant.is_baseline for variant in study.families[0].variants] == [True, False]


def test_figures_are_those_of_the_ledger_and_none_is_made_up(tmp_path):
    runs = synthetic.planned(["quickstart"])
    failing = lambda run: "blimp" if run is runs[0] else None  # noqa: E731
    root = synthetic.make(tmp_path, runs, failing=failing, with_pairs=False)
    ledger = Ledger(root.ledger)
    scores = {(row["run_id"], row["stage"], row["task"], row["metric"]): row["value"] for row in ledger.scores()}
    (study,) = results.read(ledger)
    ledger.close()
    for run in study.runs:
        for measure in results.MEASURES:
            assert run.value(measure) == scores.get((run.run_id, *measure.where))
    first = next(run for run in study.runs if run.run_id == runs[0].id)
    assert first.value(BY_KEY["blimp"]) is None
    assert first.missing == ("blimp",)
    assert first.training_seconds > 0
    # Stages of 1,000 s each, two runs at a time.
    assert first.gpu_hours == pytest.approx(4 * 1000 / 3600 / 2)


def test_a_grid_with_other_settings_is_held_against_its_own_baseline(tmp_path):
    runs = synthetic.planned(["quickstart", "heads"])
    root = synthetic.make(tmp_path, runs, with_pairs=False)
    own = [run for run in runs if run.studies == ("quickstart",)]
    pilot, dropped = own[:1], own[1:]
    shared = [run for run in runs if run.studies == ("quickstart", "heads")]
    ledger = Ledger(root.ledger)
    grids = [grid_of(shared, shared[0].id), grid_of(pilot, pilot[0].id, overrides=["train.max_steps=500"])]
    ledger.put_study("quickstart", "Why?", grids)
    ledger.close()
    studies = read(root)
    assert [run.run_id for run in studies["quickstart"].runs] == [run.id for run in shared]
    (variant,) = studies["quickstart train.max_steps=500"].variants
    assert (variant.is_baseline, variant.runs[0].run_id) == (True, pilot[0].id)
    left = studies["quickstart, no longer in the manifest"]
    assert [run.run_id for run in left.runs] == [run.id for run in dropped]


def test_a_study_sees_its_own_stages_of_a_run_that_it_shares(tmp_path):
    runs = synthetic.planned(["heads", "qk_width"])
    shared = next(run for run in runs if len(run.studies) == 2)
    failing = lambda run: "speed" if run is shared else None  # noqa: E731
    studies = read(synthetic.make(tmp_path, runs, failing=failing, with_pairs=False))
    seen = {name: next(run for run in study.runs if run.run_id == shared.id) for name, study in studies.items()}
    assert seen["heads"].missing == ()
    assert seen["qk_width"].missing == ("speed",)
    assert seen["qk_width"].gpu_hours > seen["heads"].gpu_hours


def test_a_study_sees_the_scores_of_its_own_stages_only(tmp_path):
    runs = synthetic.planned(["heads", "qk_width"])
    shared = next(run for run in runs if len(run.studies) == 2)
    studies = read(synthetic.make(tmp_path, runs, with_pairs=False))
    seen = {name: next(run for run in study.runs if run.run_id == shared.id) for name, study in studies.items()}
    for run in seen.values():
        assert {place[0] for place in (*run.scores, *run.metrics, *run.data)} <= set(run.stages)
    assert "speed" in {place[0] for place in (*seen["qk_width"].scores, *seen["qk_width"].metrics)}
    assert "speed" not in seen["heads"].stages
    whole = replace(seen["qk_width"], data={("pretrain", "train"): "1", ("blimp", "a"): "2", ("superglue", "b"): "3"})
    assert {*whole.with_stages(["blimp"]).data} == {("pretrain", "train"), ("blimp", "a")}, "what it was trained on"


@pytest.mark.parametrize(
    "names", [("a b", "a_b"), ("../../x", ".._.._x"), ("研究", "学习"), ("a~20b", "a b"), ("x" * 300, "x" * 299)]
)
def test_no_two_studies_have_one_stem_and_none_leads_elsewhere(names):
    stems = [results.stem(name) for name in names]
    assert len(set(stems)) == 2
    assert not any("/" in stem for stem in stems)
    assert all(len(stem) < 100 for stem in stems)
