"""The settings of one run: model (see `architecture`), data, training, evaluation, seed.

The words are those of Hugging Face where it has one. Unknown keys are refused. No torch here: the login node
reads this module to plan, a compute node to work, so a size or a file name is stated once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from tiny_transformers.settings.architecture import Brainformer, Model
from tiny_transformers.settings.base import Probability, Settings, added
from tiny_transformers.settings.stages import STAGES, read_other_corpora

RECIPE = 3  # raised when the same settings would give another result: it is part of every run id
Task = Literal["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "boolq", "multirc", "wsc"]


class Data(Settings):
    """`files`: DATA_ROOT in the layout of docs/data.md. `builtin`: made by the package from a grammar."""

    source: Literal["files", "builtin"] = "files"
    corpus: Literal["tinystories", "enwik8", "text8"] = added("tinystories")  # stories, or one stream of characters
    tokenizer: str = "10k-tok"  # the folder DATA_ROOT/tokenizer/<name>; builtin data brings its own; streams: none
    max_length: PositiveInt = 512  # tokens a story is cut at
    units: Literal["bytes", "characters"] = added("bytes")  # streams: what a token is; in text8 they are the same

    @property
    def is_stream(self) -> bool:
        return self.corpus != "tinystories"


class Budget(Settings):
    """What a training may use; exactly one of the two."""

    hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # in steps, not evaluations or checkpoints
    tokens: PositiveInt | None = None  # of the stories, without padding; of a stream, characters

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.hours is None) == (self.tokens is None):
            raise ValueError("a budget is either hours or tokens: set one of them")
        return self

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens" if self.hours is None else f"{self.hours:g} hours"


class Train(Settings):
    """Hugging Face Trainer's words; one step is one optimizer step."""

    max_steps: PositiveInt | None = 8_280  # one epoch of TinyStories at 256 stories a step; null: there is a budget
    budget: Budget | None = None  # in place of max_steps, which is then null
    stories_per_step: PositiveInt = 256
    micro_batch_tokens: PositiveInt = 8_192  # padded, at most at once on the device; see `tokens_at_once`
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware has it
    compile: bool | None = None  # torch.compile; null: on a GPU, in trainings that are long enough for it
    optimizer: Literal["adamw", "adagrad"] = added("adamw")
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    lr_scheduler_type: Literal["linear", "constant"] = added("linear")  # linear: falls to zero
    warmup_steps: Annotated[int, Field(ge=0)] = added(0)  # in which the learning rate rises from zero
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_betas: tuple[Probability, Probability] = (0.9, 0.999)
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    clipping: Literal["global", "per_tensor"] = added("global")  # by the norm of all, or of each tensor
    mlm_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15  # encoders only
    evaluations: PositiveInt = 10  # on validation, evenly spaced; a checkpoint is written with each
    eval_stories: PositiveInt | None = None  # the first so many of the validation stories; null: all
    # Streams, in place of stories_per_step: a step reads the next block of each row, a row being a part of the stream.
    batch_size: PositiveInt = added(64)  # rows
    block_size: PositiveInt = added(512)  # characters of a row in a step
    batch_split: PositiveInt = added(1)  # micro-batches of a step, at least; see micro_batch_tokens
    eval_characters: PositiveInt | None = added(None)  # the first so many of the validation split; null: all

    @model_validator(mode="before")
    @classmethod
    def _budget_wins(cls, settings: Any) -> Any:
        """Without the steps that do not count then, so that they are not part of a run's id."""
        if isinstance(settings, dict) and settings.get("budget") is not None:
            return settings | {"max_steps": None}
        return settings

    @model_validator(mode="after")
    def _ends(self) -> Train:
        if self.max_steps is None and self.budget is None:
            raise ValueError("max_steps is null and there is no budget: set one of them")
        return self

    def fraction(self, *, step: float, tokens: int, seconds: float) -> float:
        """How much of the training is done, 0 to 1, after so many steps, tokens of stories, and seconds in steps."""
        if self.max_steps is not None:
            return step / self.max_steps
        assert self.budget is not None
        done = tokens / self.budget.tokens if self.budget.tokens else seconds / 3600 / (self.budget.hours or 1)
        return min(1.0, done)


class Blimp(Settings):
    data: Literal["filtered", "full"] = "filtered"  # BabyLM 2023's 17 tasks, or BLiMP's 67 paradigms
    start_token: Literal["bos", "eos"] = "bos"  # decoders: the context of the first token; BabyLM 2023 took eos
    leading_space: bool = True  # " " + sentence, as BabyLM 2023
    normalisation: Literal["none", "tokens", "characters"] = "none"  # what a sentence's log-likelihood is divided by
    pll: Literal["original", "word_l2r"] = "original"  # encoders: Salazar et al. 2020, or Kauf and Ivanova 2023


class Superglue(Settings):
    """Fine-tuning, BabyLM 2023's hyperparameters."""

    tasks: Annotated[tuple[Task, ...], Field(min_length=1)] | None = None  # null: all that the data has
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    batch_size: PositiveInt = 64
    epochs: PositiveInt = 10  # at most
    eval_every: PositiveInt = 200  # optimizer steps
    patience: PositiveInt = 10  # evaluations without an improvement of `threshold`
    threshold: Annotated[float, Field(ge=0)] = 0.001
    max_length: PositiveInt = 128  # tokens
    seeds: PositiveInt = 1  # fine-tunings of every task, each with a head and an order of its own; scores are means
    limit: PositiveInt | None = None  # rows used of each of its files; null: as evaluation.limit
    select_on: Literal["validation", "train_split"] = "validation"  # the weights: BabyLM's way, or a part of train

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: tuple[Task, ...] | None) -> tuple[Task, ...] | None:
        if tasks and len(set(tasks)) < len(tasks):
            raise ValueError("a task is named twice, and an average would count it twice")
        return tasks


class Lambada(Settings):
    start_token: Literal["bos", "eos", "none"] = "bos"  # decoders: what stands before the passage; lm-eval: none
    passages: PositiveInt | None = 1_000  # encoders: so many, evenly spaced, get a pseudo-perplexity; null: all


class Bpc(Settings):
    """Bits per character of a split of the stream, all of it."""

    split: Literal["validation", "test"] = "test"
    batch_size: PositiveInt = 1  # rows that the split is cut into; 1: each character sees all that is before it


class Speed(Settings):
    """The inference study."""

    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 8, 64, 512)
    tokens: PositiveInt = 256  # of an encoded sequence
    prompt_tokens: PositiveInt = 16  # decoders: what generation begins with
    new_tokens: PositiveInt = 64  # decoders: generated, greedily
    warmup: PositiveInt = 3  # passes that are not counted
    repetitions: PositiveInt = 10  # passes that are


class Evaluation(Settings):
    limit: PositiveInt | None = None  # rows used of each file, evenly spaced; null: all
    precision: Literal["float32", "bfloat16"] = "float32"  # of what is not trained: blimp, lambada, speed
    blimp: Blimp = Blimp()
    superglue: Superglue = Superglue()
    lambada: Lambada = Lambada()
    bpc: Bpc = added(Bpc())
    speed: Speed = Speed()

    @property
    def superglue_limit(self) -> int | None:
        return self.superglue.limit or self.limit


# What only stories have, and only streams. A layer for all models may set either; what is of no use is dropped.
STORY_SETTINGS = ("stories_per_step", "eval_stories", "mlm_probability")
STREAM_SETTINGS = ("batch_size", "block_size", "batch_split", "eval_characters")


class RunConfig(Settings):
    """Everything that can change a run's result."""

    model: Model
    data: Data = Data()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    smoke: bool = False  # a trial of the machinery: kept apart, never counted
    recipe: int = RECIPE

    @property
    def positions(self) -> int:
        """Tokens that the model can see at once, no more than anything has."""
        return self.model.positions or 2**31

    @property
    def family(self) -> str:
        """Whose scores may be held against each other: models of one family and, where that has several, one corpus."""
        return f"{self.model.family}-{self.data.corpus}" if self.data.is_stream else self.model.family

    @model_validator(mode="after")
    def _model_reads_corpus(self) -> RunConfig:
        if isinstance(self.model, Brainformer) != self.data.is_stream:
            wanted = "enwik8 or text8" if isinstance(self.model, Brainformer) else "tinystories"
            raise ValueError(
                f"data.corpus {self.data.corpus} is not for models of family {self.model.family}: write {wanted}"
            )
        return self

    @model_validator(mode="after")
    def _forget_useless(self) -> RunConfig:
        useless = STORY_SETTINGS if self.data.is_stream else STREAM_SETTINGS
        stock = {name: Train.model_fields[name].default for name in useless}
        if any(getattr(self.train, name) != default for name, default in stock.items()):
            self._resolve(train=self.train.model_copy(update=stock))
        return self

    @model_validator(mode="after")
    def _story_fits_model(self) -> RunConfig:
        for name, length in (
            ("data.max_length", self.data.max_length),
            ("evaluation.superglue.max_length", self.evaluation.superglue.max_length),
        ):
            if length > self.positions:
                raise ValueError(f"{name} {length} exceeds the model's {self.positions} positions")
        if self.data.source == "builtin" and self.evaluation.blimp.data == "full":
            raise ValueError("evaluation.blimp.data: the builtin data has no full BLiMP; write filtered")
        return self


def misfit(config: RunConfig, stages: Iterable[str]) -> str | None:
    """What of these stages cannot be done with the model or the data, in words; the settings alone do not tell."""
    others = read_other_corpora(stages, config.data.is_stream)
    if others:
        return f"stages: {others[0]} is not for models of {config.data.corpus}"
    tasks = set(config.evaluation.superglue.tasks or ()) - set(BUILTIN_SUPERGLUE_TASKS)
    if "superglue" in stages and config.data.source == "builtin" and tasks:
        return f"evaluation.superglue.tasks: the builtin data has {', '.join(BUILTIN_SUPERGLUE_TASKS)} only"
    speed = config.evaluation.speed
    longest = {"tokens": speed.tokens}
    if config.model.causal:
        longest["prompt_tokens + new_tokens"] = speed.prompt_tokens + speed.new_tokens
    for name, length in longest.items():
        if "speed" in stages and length > config.positions:
            return f"evaluation.speed.{name} {length} exceeds the model's {config.positions} positions"
    return None


# Labels whose logits are in memory at once (tiny_transformers/layers/head.py).
HEAD_ROWS = {"cpu": 1_024, "cuda": 8_192}
CPU_TOKENS = 3_072  # what a CPU's caches hold the activations of; more at once is slower (docs/performance.md)


def tokens_at_once(config: RunConfig, *, gpu: bool) -> int:
    """Padded tokens of a micro-batch: as set, and on a CPU no more than are fast, unless that changed the result."""
    tokens = config.train.micro_batch_tokens
    return tokens if gpu or not config.model.micro_batch_is_free else min(tokens, CPU_TOKENS)


# The layout of DATA_ROOT: BabyLM 2023's filter_data.zip beside TinyStories and a tokenizer (docs/data.md).
BLIMP_TASKS = (
    "anaphor_agreement", "argument_structure", "binding", "control_raising", "determiner_noun_agreement", "ellipsis",
    "filler_gap", "irregular_forms", "island_effects", "npi_licensing", "quantifiers", "subject_verb_agreement",
)  # fmt: skip
SUPPLEMENT_TASKS = (
    "hypernym", "qa_congruence_easy", "qa_congruence_tricky", "subject_aux_inversion", "turn_taking",
)  # fmt: skip
SUPERGLUE_TASKS: tuple[Task, ...] = (
    "cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "boolq", "multirc", "wsc",
)  # fmt: skip
# What the builtin data has of them.
BUILTIN_BLIMP_TASKS = (
    "anaphor_agreement", "argument_structure", "determiner_noun_agreement", "irregular_forms", "npi_licensing",
    "subject_verb_agreement",
)  # fmt: skip
BUILTIN_SUPPLEMENT_TASKS = ("subject_aux_inversion",)
BUILTIN_SUPERGLUE_TASKS: tuple[Task, ...] = ("cola", "sst2", "rte")
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

TRAIN_STORIES = "tinystories/train.jsonl"
VALIDATION_STORIES = "tinystories/validation.jsonl"
LAMBADA = "lambada/lambada_test.jsonl"
STREAMS = {"enwik8": "char/enwik8.xml", "text8": "char/text8.txt"}  # corpus -> its file
CURVE = "curve.jsonl"  # in a run's folder: the losses while it was trained; see tiny_transformers/training/curve.py
FUNCTIONS = "functions.json"  # in a run's folder: what it learned; see tiny_transformers/training/functions.py
PAIR_SCORES = "scores/blimp.npz"  # in a run's folder: what the stage blimp keeps of every pair


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


def superglue_tasks(config: RunConfig) -> tuple[Task, ...]:
    have = BUILTIN_SUPERGLUE_TASKS if config.data.source == "builtin" else SUPERGLUE_TASKS
    return have if config.evaluation.superglue.tasks is None else config.evaluation.superglue.tasks


def superglue_files(task: str) -> dict[str, str]:
    """Split -> its file below DATA_ROOT. MNLI is scored on two validation files."""
    splits = ("train", "validation_matched", "validation_mismatched") if task == "mnli" else ("train", "validation")
    return {split: f"filter-data/glue_filtered/{task}.{split}.json" for split in splits}


def required_files(config: RunConfig, stages: tuple[str, ...] = STAGES) -> list[str]:
    """What these stages read below DATA_ROOT; for the builtin data, what its generator must have written."""
    tokenizer = f"tokenizer/{config.data.tokenizer}/tokenizer.json"
    stream = [STREAMS[config.data.corpus]] if config.data.is_stream else []
    files = {
        "pretrain": stream or [TRAIN_STORIES, VALIDATION_STORIES, tokenizer],
        "add_tokenizer": stream or [tokenizer, VALIDATION_STORIES],
        "blimp": list(blimp_files(config.data, config.evaluation.blimp.data).values()),
        "superglue": [file for task in superglue_tasks(config) for file in superglue_files(task).values()],
        "lambada": [LAMBADA],
        "bpc": stream,
        "speed": [],
    }
    return list(dict.fromkeys(file for stage in stages for file in files[stage]))


def lacking_files(root: Path, files: Iterable[str]) -> list[str]:
    """Those of these that are not below `root`, or are empty, which `fetch` brings again."""
    return [file for file in files if not (root / file).is_file() or not (root / file).stat().st_size]


def fetch_command(lacking: Iterable[str], root: Path | None = None) -> str:
    """What brings them, as the user would type it."""
    lacking = list(lacking)
    asked = {"--full-blimp": "blimp/", **{f"--{corpus}": file for corpus, file in STREAMS.items()}}
    words = ["tiny-transformers fetch", *(["--data-root", str(root)] if root else [])]
    return " ".join([*words, *(option for option, begin in asked.items() if any(f.startswith(begin) for f in lacking))])
