"""The stage blimp: minimal pairs (BLiMP, Warstadt et al. 2020; BabyLM 2023's filter of it, and its supplement)."""

from __future__ import annotations

from typing import Literal

from tiny_transformers.settings.base import Settings
from tiny_transformers.settings.config import Data, RunConfig
from tiny_transformers.settings.costs import forward_flops, limited, one_mask_flops, rows_in
from tiny_transformers.settings.sections import by_sections
from tiny_transformers.settings.stage.kind import UNKNOWN, Measure, Sizes, StageKind, Tasks

# The layout of DATA_ROOT: BabyLM 2023's filter_data.zip (docs/data.md).
BLIMP_TASKS = (
    "anaphor_agreement", "argument_structure", "binding", "control_raising", "determiner_noun_agreement", "ellipsis",
    "filler_gap", "irregular_forms", "island_effects", "npi_licensing", "quantifiers", "subject_verb_agreement",
)  # fmt: skip
SUPPLEMENT_TASKS = (
    "hypernym", "qa_congruence_easy", "qa_congruence_tricky", "subject_aux_inversion", "turn_taking",
)  # fmt: skip
# What the builtin data has of them.
BUILTIN_BLIMP_TASKS = (
    "anaphor_agreement", "argument_structure", "determiner_noun_agreement", "irregular_forms", "npi_licensing",
    "subject_verb_agreement",
)  # fmt: skip
BUILTIN_SUPPLEMENT_TASKS = ("subject_aux_inversion",)
# Warstadt et al. 2020, the names of the files of their repository and of the configurations on the hub.
BLIMP_PARADIGMS = (
    "adjunct_island", "anaphor_gender_agreement", "anaphor_number_agreement", "animate_subject_passive",
    "animate_subject_trans", "causative", "complex_NP_island",
    "coordinate_structure_constraint_complex_left_branch", "coordinate_structure_constraint_object_extraction",
    "determiner_noun_agreement_1", "determiner_noun_agreement_2", "determiner_noun_agreement_irregular_1",
    "determiner_noun_agreement_irregular_2", "determiner_noun_agreement_with_adj_2",
    "determiner_noun_agreement_with_adj_irregular_1", "determiner_noun_agreement_with_adj_irregular_2",
    "determiner_noun_agreement_with_adjective_1", "distractor_agreement_relational_noun",
    "distractor_agreement_relative_clause", "drop_argument", "ellipsis_n_bar_1", "ellipsis_n_bar_2",
    "existential_there_object_raising", "existential_there_quantifiers_1", "existential_there_quantifiers_2",
    "existential_there_subject_raising", "expletive_it_object_raising", "inchoative", "intransitive",
    "irregular_past_participle_adjectives", "irregular_past_participle_verbs",
    "irregular_plural_subject_verb_agreement_1", "irregular_plural_subject_verb_agreement_2",
    "left_branch_island_echo_question", "left_branch_island_simple_question",
    "matrix_question_npi_licensor_present", "npi_present_1", "npi_present_2", "only_npi_licensor_present",
    "only_npi_scope", "passive_1", "passive_2", "principle_A_c_command", "principle_A_case_1", "principle_A_case_2",
    "principle_A_domain_1", "principle_A_domain_2", "principle_A_domain_3", "principle_A_reconstruction",
    "regular_plural_subject_verb_agreement_1", "regular_plural_subject_verb_agreement_2",
    "sentential_negation_npi_licensor_present", "sentential_negation_npi_scope", "sentential_subject_island",
    "superlative_quantifiers_1", "superlative_quantifiers_2", "tough_vs_raising_1", "tough_vs_raising_2",
    "transitive", "wh_island", "wh_questions_object_gap", "wh_questions_subject_gap",
    "wh_questions_subject_gap_long_distance", "wh_vs_that_no_gap", "wh_vs_that_no_gap_long_distance",
    "wh_vs_that_with_gap", "wh_vs_that_with_gap_long_distance",
)  # fmt: skip


PAIR_SCORES = "scores/blimp.npz"  # in a run's folder: what this stage keeps of every pair

SENTENCE_TOKENS = 12
DISTINCT_PREFIXES = 0.6  # of the tokens; a decoder computes a beginning that sentences share once
TASK_PAIRS = {"files": 63_280 / 17, "builtin": 200}  # pairs of a task, on average
FULL_PAIRS = 1_000.0  # of a paradigm of the full BLiMP
PAIR_BYTES = 330.0  # of a line, on average


class Blimp(Settings):
    data: Literal["filtered", "full"] = "filtered"  # BabyLM 2023's 17 tasks, or BLiMP's 67 paradigms
    start_token: Literal["bos", "eos"] = "bos"  # decoders: the context of the first token; BabyLM 2023 took eos
    leading_space: bool = True  # " " + sentence, as BabyLM 2023
    normalisation: Literal["none", "tokens", "characters"] = "none"  # what a sentence's log-likelihood is divided by
    pll: Literal["original", "word_l2r"] = "original"  # encoders: Salazar et al. 2020, or Kauf and Ivanova 2023


def blimp_files(data: Data, which: Literal["filtered", "full"] = "filtered") -> dict[str, str]:
    """Task -> its file below DATA_ROOT; BLiMP's groups first, then BabyLM's supplement. Of the full BLiMP a task is a
    paradigm, and there is no supplement."""
    if which == "full":
        return {paradigm: f"blimp/{paradigm}.jsonl" for paradigm in BLIMP_PARADIGMS}
    builtin = data.source == "builtin"
    blimp = BUILTIN_BLIMP_TASKS if builtin else BLIMP_TASKS
    supplement = BUILTIN_SUPPLEMENT_TASKS if builtin else SUPPLEMENT_TASKS
    return {task: f"filter-data/blimp_filtered/{task}.json" for task in blimp} | {
        task: f"filter-data/supplement_filtered/{task}.json" for task in supplement
    }


def files(config: RunConfig) -> list[str]:
    return list(blimp_files(config.data, config.evaluation.of(Blimp).data).values())


def flops(config: RunConfig, sizes: Sizes = UNKNOWN) -> float:
    return flops_of(config, config.evaluation.limit, sizes)


def flops_of(config: RunConfig, limit: int | None, sizes: Sizes = UNKNOWN) -> float:
    """The FLOPs of so many pairs of each task; None: of all."""
    sentences = _sentences(config, limit, sizes)
    if config.model.causal:
        return forward_flops(config) * sentences * SENTENCE_TOKENS * DISTINCT_PREFIXES
    return one_mask_flops(config, SENTENCE_TOKENS) * sentences * SENTENCE_TOKENS


@by_sections("data", "evaluation")
def _sentences(config: RunConfig, limit: int | None, sizes: Sizes) -> float:
    which = config.evaluation.of(Blimp).data
    usual = dict.fromkeys(TASK_PAIRS, FULL_PAIRS) if which == "full" else TASK_PAIRS
    files = blimp_files(config.data, which).values()
    return 2 * sum(limited(rows_in(config, file, PAIR_BYTES, usual, sizes), limit) for file in files)


def check(config: RunConfig) -> None:
    if config.data.source == "builtin" and config.evaluation.of(Blimp).data == "full":
        raise ValueError("evaluation.blimp.data: the builtin data has no full BLiMP; write filtered")


BLIMP = StageKind(
    "blimp",
    "tiny_transformers.evaluation.blimp",
    needs=("add_tokenizer",),
    reads="stories",
    by_default=True,
    settings=Blimp,
    keeps_defaults=True,
    files=files,
    flops=flops,
    by_size=True,
    check=check,
    keeps_rows=True,
    measures=(
        Measure("blimp_all", "BLiMP+suppl.", "blimp", "average", "accuracy"),
        Measure("blimp", "BLiMP", "blimp", "blimp", "accuracy", is_main=True),
        Measure("supplement", "suppl.", "blimp", "supplement", "accuracy"),
    ),
    tasks=Tasks(
        "blimp",
        "BLiMP by phenomenon",
        "accuracy",
        averages=("blimp", "supplement", "average", "micro"),
        group=lambda task: "supplement" if task in SUPPLEMENT_TASKS else "BLiMP",
    ),
)
