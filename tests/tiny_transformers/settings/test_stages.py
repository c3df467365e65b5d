"""The stages are declared once, and what is declared is there."""

import itertools
from importlib.util import find_spec

import pytest

from tiny_transformers.settings.architecture import GPTNeo, Roberta
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stages import STAGES, needed_by, read_other_corpora


@pytest.mark.parametrize("kind", STAGES.values(), ids=STAGES)
def test_a_stage_has_a_module_and_needs_only_what_is_done_before_it(kind):
    assert find_spec(kind.runner)
    assert set(kind.needs) <= set(itertools.takewhile(lambda name: name != kind.name, STAGES))


def test_what_a_stage_needs_is_needed_with_all_that_it_needs_itself():
    assert needed_by(["blimp"]) == {"add_tokenizer", "pretrain"}
    assert needed_by(["pretrain"]) == set()
    assert all(needed_by([stage]) >= set(STAGES[stage].needs) for stage in STAGES)


def test_stages_of_other_corpora_are_told():
    assert read_other_corpora(STAGES, is_stream=True) == ["blimp", "superglue", "lambada", "babylm", "lm_eval"]
    assert read_other_corpora(STAGES, is_stream=False) == ["bpc"]


def test_what_lm_eval_is_asked_for_has_a_column_and_its_parts_have_none():
    acc = STAGES["lm_eval"].measure_of("blimp_nl", "acc_norm")
    assert (acc.where, acc.title, acc.percent, acc.higher_is_better) == (
        ("lm_eval", "blimp_nl", "acc_norm"), "blimp_nl acc_norm", True, True,
    )  # fmt: skip
    perplexity = STAGES["lm_eval"].measure_of("wikitext", "word_perplexity")
    assert (perplexity.percent, perplexity.higher_is_better) == (False, False)
    assert STAGES["lm_eval"].measure_of("blimp_nl/binding", "acc") is None
    assert STAGES["blimp"].measure_of("blimp", "accuracy") is None


def test_a_longer_list_of_tasks_of_lm_eval_is_planned_for_longer():
    def flops(model, **settings):
        return STAGES["lm_eval"].flops(RunConfig(model=model, evaluation={"lm_eval": settings}))

    for model in (GPTNeo(), Roberta()):
        assert flops(model, tasks=["a", "b"]) == 2 * flops(model, tasks=["a"]) > 0
