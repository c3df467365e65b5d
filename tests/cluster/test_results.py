"""The ledger as studies, families and variants, read from the runs of experiments.yaml."""

import pytest
import synthetic

from cluster import manifest, plan, results
from cluster.ledger import Ledger
from cluster.results import BY_KEY


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
    for run in plan.expand(manifest.cells(manifest.load(synthetic.EXPERIMENTS))):
        for study in run.studies:
            key = study, run.config.model.family, run.config.model_copy(update={"seed": 0}).model_dump_json()
            by_study.setdefault(key[:2], {})[key[2]] = run.name, run.config
    for family, variants in by_study.items():
        labels = results._labels(list(variants.values()))
        assert len(set(labels)) == len(labels), family


def test_variants_that_differ_in_settings_which_no_name_tells_are_labelled_by_these(tmp_path):
    cells = [
        manifest.Cell(
            cell.study, cell.model,
            cell.config.model_copy(update={"train": cell.config.train.model_copy(update={"learning_rate": rate})}),
            cell.stages,
        )
        for cell in manifest.cells(manifest.load(synthetic.EXPERIMENTS), studies=["quickstart"])
        for rate in (1e-3, 5e-4)
    ]  # fmt: skip
    study = read(synthetic.make(tmp_path, plan.expand(cells), with_pairs=False))["quickstart"]
    labels = [variant.label for variant in study.families[0].variants]
    assert labels == [
        "gelu train.learning_rate=0.001", "gelu train.learning_rate=0.0005",
        "learnable_gelu train.learning_rate=0.001", "learnable_gelu train.learning_rate=0.0005",
    ]  # fmt: skip


def test_the_baseline_is_the_first_variant_unless_the_study_names_another(tmp_path):
    runs = synthetic.planned(["quickstart"])
    root = synthetic.make(tmp_path, runs, with_pairs=False)
    ledger = Ledger(root.ledger)
    ledger.put_study("quickstart", "Why?", [])
    ledger.close()
    study = read(root)["quickstart"]
    assert study.description == "Why?"
    assert [family.baseline.label for family in study.families] == ["gelu", "gelu"]
    learnable = next(run for run in runs if "gpt-learnable_gelu" in run.name)
    ledger = Ledger(root.ledger)
    ledger.put_study("quickstart", "Why?", [learnable.id])
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
