"""The originals' figures, beside the variants that are configured as theirs."""

from importlib import resources

import pytest
import synthetic

from cluster.manifest import grids, loading
from cluster.report import published
from cluster.report.results import FAMILIES, Family, Result, Study, Variant
from tiny_transformers.settings.config import RunConfig

TABLES = [file.name.removesuffix(".csv") for file in resources.files("cluster.report").joinpath("reference").iterdir()]


def study(name, *overrides):
    """A study of experiments.yaml under another name: a variant per cell, no run."""
    cells = grids.cells(loading.load(synthetic.EXPERIMENTS), studies=[name], overrides=overrides)
    families = []
    for family in FAMILIES:
        configs = {each.config.model_dump_json(exclude={"seed"}): each.config for each in cells}
        chosen = [config for config in configs.values() if config.model.family == family]
        variants = [
            Variant(f"{family}-{number}", config.model.label, family, config, 1, number == 0, ())
            for number, config in enumerate(chosen)
        ]
        if variants:
            families.append(Family(family, tuple(variants)))
    return Study("renamed", "", tuple(families))


def figures(of):
    """(family, label, measure) -> figure."""
    variants = {variant.key: variant for variant in of.variants}
    found = published.published(of)
    return {(variants[key].family, variants[key].label, measure): each for (key, measure), each in found.items()}


def test_activations_have_means_intervals_seeds_and_training_times():
    found = figures(study("activations"))
    gelu = found["gpt_neo", "gelu", "blimp_all"]
    assert (gelu.value, gelu.low, gelu.high, gelu.n) == (0.5782, 0.5697, 0.5868, 6)
    assert "statistics" in gelu.source
    assert found["roberta", "prelu", "superglue"].value == 0.5859
    assert found["gpt_neo", "kan_g3k3", "blimp_all"].n is None
    assert found["gpt_neo", "geglu", "training_hours"].value == pytest.approx(6335 / 3600, abs=1e-4)
    assert ("gpt_neo", "geglu", "blimp_all") not in found, "it has training times and no scores"
    assert ("gpt_neo", "swish", "blimp_all") not in found, "theirs is another function"
    assert found["gpt_neo", "swish_thesis", "blimp_all"].value == 0.5565


def test_the_drafts_figures_stand_only_where_there_are_no_later_ones():
    found = figures(study("activations"))
    assert found["gpt_neo", "kan_g3k3", "blimp_all"].value == 0.5538
    draft = found["roberta", "kan_g3k3", "superglue"]
    assert (draft.value, draft.table) == (0.6365, "activations_thesis")


def test_the_sparse_studys_averages_stand_beside_the_same_of_ours():
    found = figures(study("sparse_ffn"))
    assert found["gpt_neo", "moe4k1", "blimp_micro"].value == 0.5308
    assert found["roberta", "pkm56k42", "superglue_sparse"].value == 0.4648
    assert found["gpt_neo", "cnt16", "loss"].value == 1.918
    assert ("roberta", "cnt16", "loss") not in found, "it was not trained with masking"
    assert {measure for *_, measure in found} == {"blimp_micro", "superglue_sparse", "loss"}
    assert len(found) == 20 + 20 + 10


def test_sharing_is_found_by_size_strategy_and_steps():
    short, long = study("sharing"), study("sharing_25k")
    assert len(published.published(short)) == 32 * 3 - 1  # one perplexity is not in the notes
    gpt, bert = short.families
    wide = next(each for each in gpt.variants if each.config.model.hidden_size == 352 and each.label == "gelu-cycle3")
    assert wide.config.model.num_layers == 6
    assert published.published(short)[wide.key, "lambada"].value == 0.068
    deep = next(each for each in long.variants if each.family == "roberta" and each.label == "gelu-cycle_rev6")
    assert published.published(long)[deep.key, "lambada_ppl"].value == 551
    assert [each.value for each in figures(short).values()] != [each.value for each in figures(long).values()]


@pytest.mark.parametrize(
    "change",
    [
        "train.learning_rate=0.001",
        "train.max_steps=100",
        "train.stories_per_step=64",
        "data.source=builtin",
        "model.vocab_size=5000",
        "model.dropout=0.2",
        "model.intermediate_size=2048",
    ],
)
def test_another_configuration_has_no_published_figures(change):
    of = study("quickstart", change)
    assert published.published(of) == {}
    assert published.known_differences(of) == []


@pytest.mark.parametrize("change", ["train.precision=float32", "train.evaluations=3"])
def test_what_does_not_make_another_training_is_still_theirs(change):
    assert len(published.published(study("quickstart", change))) == len(published.published(study("quickstart"))) == 12


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        ("evaluation.limit=100", {"blimp_all", "superglue"}),
        ("evaluation.superglue.epochs=1", {"superglue"}),
        ("evaluation.superglue.tasks=[rte]", {"superglue"}),
        ("evaluation.superglue.limit=100", {"superglue"}),
        ("evaluation.blimp.leading_space=false", {"blimp_all"}),
        ("evaluation.blimp.data=full", {"blimp_all"}),
        ("evaluation.blimp.start_token=eos", set()),
    ],
)
def test_another_evaluation_has_no_published_figures_of_what_it_scores(change, lacking):
    found = {measure for *_, measure in figures(study("quickstart", change))}
    assert found == {"blimp_all", "superglue", "training_hours"} - lacking


@pytest.mark.parametrize(
    ("family", "model"),
    [
        ("gpt_neo", {"ffn": {"kind": "moe", "top_k": 1}, "other": {"balance_loss": 0.0}}),
        ("gpt_neo", {"ffn": {"kind": "controller", "num_blocks": 16}, "other": {"temperature": 1.0}}),
        ("gpt_neo", {"ffn": {"kind": "controller", "num_blocks": 16, "size": 3968}, "other": {"rank": 3}}),
        ("roberta", {"ffn": {"kind": "pkm", "top_k": 42, "num_subkeys": 56}, "other": {"num_heads": 2}}),
        ("roberta", {"ffn": {"kind": "pkm", "top_k": 42, "num_subkeys": 56}, "other": {"query_size": 512}}),
        ("gpt_neo", {"ffn": {"kind": "kan"}, "other": {"regularization": 1.0}}),
        ("roberta", {"ffn": {"kind": "kan"}, "other": {"layers": "both"}}),
    ],
)
def test_settings_of_a_feed_forward_module_that_no_label_tells_make_another_variant(family, model):
    def known(ffn):
        sizes = {"hidden_size": 256, "intermediate_size": 4096}
        if ffn["kind"] == "kan":
            sizes = {"hidden_size": 512, "intermediate_size": 256 if family == "gpt_neo" else 384}
        steps = 8280 if ffn["kind"] == "kan" else 16560
        settings = {"model": {"family": family, "ffn": ffn} | sizes, "train": {"max_steps": steps}}
        config = RunConfig.model_validate(settings)
        one = Variant("a", config.model.label, family, config, 1, True, ())
        return published.published(Study("s", "", (Family(family, (one,)),)))

    assert known(model["ffn"])
    assert not known(model["ffn"] | model["other"])


def test_hours_of_another_machine_are_said_to_be_so():
    assert "may share a GPU" in " ".join(published.known_differences(study("quickstart")))


def test_the_originals_own_code_is_theirs_too():
    of = study("activations", "model.activation=prelu", "model.activation_init=0", "model.initialization=study")
    assert figures(of)["gpt_neo", "prelu-init0-studyinit", "blimp_all"].value == 0.576


def test_differences_are_told_of_the_figures_that_are_shown_and_no_others():
    told = " ".join(published.known_differences(study("sparse_ffn")))
    assert "trained without masking" in told
    assert "micro average" in told
    assert "one seed" in told
    assert "Activations" not in told
    base = " ".join(published.known_differences(study("heads")))
    assert "mean of 17 tasks" in base
    assert "PReLU, Swish, KAN" not in base, "that is of variants that are not there"


def test_every_difference_concerns_a_figure():
    told = {
        each for name in ("activations", "sparse_ffn", "sharing") for each in published.known_differences(study(name))
    }
    assert told == {row["sentence"] for row in published._rows("differences")}


def test_every_table_is_read_and_every_figure_has_a_source_and_a_plausible_value():
    assert sorted(TABLES) == sorted([*published.TABLES, "differences"])
    for table in published.TABLES:
        for row in published._rows(table):
            figure = published._figure(row, table)
            assert figure.source
            assert figure.measure.percent is False or 0 <= figure.value < 0.75, row
            if figure.low is not None:
                assert figure.low <= figure.value <= figure.high


def test_ours_are_the_same_figure_of_each_run():
    of = study("activations")
    first = of.families[0].variants[0]
    scores, metrics = {("blimp", "average", "accuracy"): (0.5, 9)}, {("pretrain", "seconds"): "7200"}
    run = Result("id", "name", 42, (), {}, scores, metrics, (), None)
    ours = Variant(first.key, first.label, first.family, first.config, 1, True, (run,))
    found = published.published(of)
    assert found[first.key, "blimp_all"].ours(ours) == [0.5]
    assert found[first.key, "training_hours"].ours(ours) == [2.0]
    assert found[first.key, "superglue"].ours(ours) == []
