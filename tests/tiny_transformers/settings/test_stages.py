"""The stages are declared once, and what is declared is there."""

import itertools
from importlib.util import find_spec

import pytest

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
    assert read_other_corpora(STAGES, is_stream=True) == ["blimp", "superglue", "lambada"]
    assert read_other_corpora(STAGES, is_stream=False) == ["bpc"]
