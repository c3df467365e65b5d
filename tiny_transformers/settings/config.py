"""The settings of one run: model (see `architecture`), data, training, evaluation, seed.

The words are those of Hugging Face where it has one. Unknown keys are refused. No torch here: the login node
reads this module to plan, a compute node to work, so a size or a file name is stated once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, PositiveInt, create_model, field_validator, model_validator

from tiny_transformers.settings.architecture import AnyModel, Brainformer, Model, flops_per_token, num_parameters
from tiny_transformers.settings.base import Probability, Settings, added
from tiny_transformers.settings.corpora import CORPORA, STREAMS, Corpus
from tiny_transformers.settings.kinds import KnownNow
from tiny_transformers.settings.program import Program
from tiny_transformers.settings.pruning import Pruning
from tiny_transformers.settings.stage.kind import STAGES
from tiny_transformers.settings.teaching import Teaching, unteachable

# Raised when the same settings would give another result; it is part of every run id. A change that concerns some runs
# only raises theirs: all others keep their ids (`recipe_of`).
RECIPE = 3


class TrainedTokenizer(Settings):
    """One that is trained on the corpus; `model.vocab_size` follows."""

    kind: Literal["bpe"] = "bpe"  # byte-level
    vocab_size: Annotated[int, Field(ge=261, le=65_536)] = 10_000  # with 256 bytes and five special tokens


class Data(Settings):
    """`files`: DATA_ROOT in the layout of docs/data.md. `builtin`: made by the package from a grammar."""

    source: Literal["files", "builtin"] = "files"
    corpus: str = added("tinystories")  # one that is known, or that the manifest defines; stories, or a stream
    # The folder DATA_ROOT/tokenizer/<name>, which builtin data brings, or one to be trained; streams have none.
    tokenizer: str | TrainedTokenizer = "10k-tok"
    max_length: PositiveInt = 512  # tokens a story is cut at
    units: Literal["bytes", "characters"] = added("bytes")  # streams: what a token is; in text8 they are the same
    definition: Corpus | None = added(None)  # of a corpus of the manifest; where its files are is no part of a run's id
    revision: str | None = added(None)  # of what is read, since a name has another content than it had at first

    @model_validator(mode="after")
    def _is_defined(self) -> Data:
        if self.definition is None and self.corpus not in CORPORA:
            raise ValueError(f"corpus {self.corpus} is not defined: known are {', '.join(CORPORA)}")
        return self

    @property
    def files(self) -> Corpus:
        """Where it is; of builtin data, what stands in for it."""
        if self.source == "builtin" and self.corpus not in STREAMS:
            return CORPORA["enwik8" if self.is_stream else "tinystories"]
        return self.definition or CORPORA[self.corpus]

    @property
    def is_stream(self) -> bool:
        return (self.definition or CORPORA[self.corpus]).stream is not None

    @property
    def label(self) -> str:
        """The corpus as names of runs have it; of TinyStories as they were at first, nothing."""
        parts = [] if self.corpus == "tinystories" else [self.corpus]
        return "-".join([*parts, *([self.revision] if self.revision else [])])


class Budget(Settings):
    """The budget of a training: exactly one of the two."""

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
    compile: bool | None = None  # torch.compile; null: dense models on a GPU, where it repays
    # A step's texts in rows without padding, of decoders without dropout; null: on a GPU with a kernel for them. That
    # kernel has not run on a GPU yet, and what is lost if it fails is every training: so it has to be asked for.
    packed: bool | None = added(False)
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
    pruning: Pruning | None = added(None)  # of linear layers' weights
    # Copies of the weights on the way: after so many tokens, or, below 1, after such a share of the training.
    anchors: tuple[Annotated[float, Field(gt=0)], ...] = added(())

    @field_validator("anchors")
    @classmethod
    def _are_tokens_or_shares(cls, anchors: tuple[float, ...]) -> tuple[float, ...]:
        for number in anchors:
            if number == 1 or (number > 1 and not number.is_integer()):
                raise ValueError(f"{number:g} is neither a share, below 1, nor a whole number of tokens, above 1")
        if len(set(anchors)) < len(anchors):
            raise ValueError("an anchor is named twice")
        return tuple(sorted(anchors))  # their order changes nothing, nor the run's id

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
        if self.pruning and self.max_steps is None:
            raise ValueError("pruning goes by the share of max_steps that is done: it cannot be combined with a budget")
        end = self.budget and self.budget.tokens
        if end and self.anchors and self.anchors[-1] > end:
            raise ValueError(f"anchors: {self.anchors[-1]:,.0f} tokens are more than the budget's {end:,}")
        return self

    def fraction(self, *, step: float, tokens: int, seconds: float) -> float:
        """How much of the training is done, 0 to 1, after so many steps, tokens of stories, and seconds in steps."""
        if self.max_steps is not None:
            return step / self.max_steps
        assert self.budget is not None
        done = tokens / self.budget.tokens if self.budget.tokens else seconds / 3600 / (self.budget.hours or 1)
        return min(1.0, done)


S = TypeVar("S", bound=Settings)


class Evaluation(Settings):
    """The settings that all stages heed; those of each one that has some are beside it, in a section of the stage's
    name (`evaluation_class`)."""

    limit: PositiveInt | None = None  # rows used of each file, evenly spaced; null: all
    precision: Literal["float32", "bfloat16"] = "float32"  # of what is not trained: blimp, lambada, speed

    def of(self, settings: type[S]) -> S:
        """Return the settings of the stage that has this class of them."""
        section: S = getattr(self, _section(type(self), settings))
        return section


@cache
def _section(evaluation: type[Evaluation], settings: type[Settings]) -> str:
    for name, field in evaluation.model_fields.items():
        if field.annotation is settings:
            return name
    raise LookupError(f"no stage that is known has the settings {settings.__name__}")


def evaluation_class() -> type[Evaluation]:
    """The class of `RunConfig.evaluation`, with a section for each stage that is known now and has settings."""
    return _with_sections(len(STAGES))  # none is ever taken away


@cache
def _with_sections(_: int) -> type[Evaluation]:
    sections: dict[str, Any] = {}
    for kind in STAGES.values():
        if kind.settings:
            stock = kind.settings()
            sections[kind.name] = kind.settings, stock if kind.keeps_defaults else added(stock)
    return create_model("Evaluation", __base__=Evaluation, __module__=__name__, **sections)


def _of_now(value: Any) -> Any:
    """Settings of the plain class, or from before a stage was added, as values to be checked."""
    return vars(value) if isinstance(value, Evaluation) and not isinstance(value, evaluation_class()) else value


def _stock_evaluation() -> Evaluation:
    return evaluation_class()()


def _tell_stock_evaluation(schema: dict[str, Any]) -> None:
    schema["default"] = _stock_evaluation().model_dump(mode="json")


EvaluationNow = Annotated[Evaluation, KnownNow(STAGES, lambda: Annotated[evaluation_class(), BeforeValidator(_of_now)])]


# What only stories have, and only streams. A layer for all models may set either; what is of no use is dropped.
STORY_SETTINGS = ("stories_per_step", "eval_stories", "mlm_probability")
STREAM_SETTINGS = ("batch_size", "block_size", "batch_split", "eval_characters")
STOCK_TRAINING = {  # whether a corpus is a stream -> what is dropped, at its defaults
    is_stream: {name: Train.model_fields[name].default for name in useless}
    for is_stream, useless in ((True, STORY_SETTINGS), (False, STREAM_SETTINGS))
}


class Teacher(Teaching):
    """The trained model that a run learns from: its run is as the student's, except for this."""

    name: str  # the model's in the manifest; no part of a run's id
    model: Model
    train: Train
    seed: int
    recipe: int | None = None


class RunConfig(Settings):
    """Everything that can change a run's result."""

    model: Model
    data: Data = Data()
    train: Train = Train()
    evaluation: EvaluationNow = Field(default_factory=_stock_evaluation, json_schema_extra=_tell_stock_evaluation)
    teacher: Teacher | None = added(None)  # `train.teacher` of a manifest
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    smoke: bool = False  # a trial of the machinery: kept apart, never counted
    probe: bool = added(False)  # a few steps that measure memory and speed: kept apart, never counted
    recipe: int | None = None  # null: that by which the code makes such a run now

    # Closed forms that are asked for again and again are computed once.

    @cached_property
    def parameters(self) -> int:
        """The model's."""
        return num_parameters(self.model)

    @cached_property
    def weights_flops(self) -> int:
        """Return the FLOPs of one token in a forward pass of training, attention scores left out."""
        return flops_per_token(self.model, training=True)

    @cached_property
    def taught_by(self) -> RunConfig | None:
        """The settings of the run whose model is this one's teacher. Raises ValidationError for such as no run has."""
        if self.teacher is None:
            return None
        own = self.teacher.model_dump(include={"model", "train", "seed", "recipe"})
        return RunConfig(**own, data=self.data, evaluation=self.evaluation, smoke=self.smoke)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Without what was computed of the settings that are changed."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("parameters", "weights_flops", "taught_by"):
            copied.__dict__.pop(name, None)
        return copied

    @property
    def positions(self) -> int:
        """Tokens that the model can see at once, no more than anything has."""
        return self.model.positions or 2**31

    @property
    def reads_data(self) -> bool:
        """Whether there is a model, which is made of data in the layout of docs/data.md."""
        return not isinstance(self.model, Program)

    @property
    def family(self) -> str:
        """Whose scores may be held against each other: models of one family and one corpus."""
        return "-".join([self.model.family, *([self.data.label] if self.data.label else [])])

    @model_validator(mode="before")
    @classmethod
    def _vocabulary_follows(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or not isinstance(model := settings.get("model"), dict):
            return settings
        data = settings.get("data")
        tokenizer = data.get("tokenizer") if isinstance(data, dict) else getattr(data, "tokenizer", None)
        if isinstance(tokenizer, dict):
            tokenizer = TrainedTokenizer.model_validate(tokenizer)
        if "vocab_size" in model or not isinstance(tokenizer, TrainedTokenizer):
            return settings
        return settings | {"model": model | {"vocab_size": tokenizer.vocab_size}}

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        """In one validator: pydantic takes longer to call each of these than they take."""
        is_stream = self.data.is_stream
        self._check_vocabulary(is_stream)
        self._check_corpus(is_stream)
        self._forget_useless(is_stream)
        if self.teacher:
            self._check_teacher(self.teacher)
        self._resolve(recipe=self.recipe or recipe_of(self.model, self.train))
        self._check_model()
        return self

    def _check_vocabulary(self, is_stream: bool) -> None:
        tokenizer = self.data.tokenizer
        size = 0 if isinstance(tokenizer, str) or is_stream else tokenizer.vocab_size
        if self.model.vocab_size < size:
            raise ValueError(
                f"model.vocab_size {self.model.vocab_size} has no room for data.tokenizer.vocab_size {size}: leave it "
                "out, and it follows"
            )

    def _check_corpus(self, is_stream: bool) -> None:
        if isinstance(self.model, Brainformer) != is_stream:
            wanted = "a stream, such as enwik8 or text8" if isinstance(self.model, Brainformer) else "tinystories"
            raise ValueError(
                f"data.corpus {self.data.corpus} is not for models of family {self.model.family}: write {wanted}"
            )

    def _forget_useless(self, is_stream: bool) -> None:
        stock = STOCK_TRAINING[is_stream]
        if not stock.items() <= vars(self.train).items():
            self._resolve(train=self.train.model_copy(update=stock))

    def _check_teacher(self, teacher: Teacher) -> None:
        if teacher.alpha == 1:  # plain training, and so the very run that has no teacher
            self._resolve(teacher=None)
        elif wrong := unteachable(self.model, teacher.model):
            raise ValueError(f"train.teacher {teacher.name}: {wrong}")

    def _check_model(self) -> None:
        if self.data.max_length > self.positions:
            raise ValueError(f"data.max_length {self.data.max_length} exceeds the model's {self.positions} positions")
        if self.train.pruning:
            self.train.pruning.check(self.model)
        for kind in STAGES.values():
            if kind.check:
                kind.check(self)


def recipe_of(model: AnyModel, train: Train) -> int:
    """Return the recipe by which such a model is trained now: the number of the newest change that concerns it.

    4: a warm-up begins at 0 and ends at `learning_rate`, from where it falls; `weight_decay` leaves out norms, biases
    and learnable activations; an adaptive span learns from the position where its ramp ends, too."""
    learns_span = isinstance(model, Brainformer) and model.adaptive_span is not None
    return 4 if train.warmup_steps or train.weight_decay or learns_span else RECIPE


# Labels whose logits are in memory at once (tiny_transformers/layers/head.py).
HEAD_ROWS = {"cpu": 1_024, "cuda": 8_192}
CPU_TOKENS = 3_072  # what a CPU's caches hold the activations of; more at once is slower (docs/performance.md)


def tokens_at_once(config: RunConfig, *, gpu: bool) -> int:
    """Padded tokens of a micro-batch: as set, and on a CPU no more than are fast, unless that changed the result."""
    tokens = config.train.micro_batch_tokens
    return tokens if gpu or not config.model.micro_batch_is_free else min(tokens, CPU_TOKENS)


# The layout of DATA_ROOT: BabyLM 2023's filter_data.zip beside TinyStories and a tokenizer (docs/data.md).
TRAIN_STORIES, VALIDATION_STORIES = CORPORA["tinystories"].files
CURVE = "curve.jsonl"  # in a run's folder: the losses while it was trained; see tiny_transformers/training/curve.py
COMPILING = "compiling.json"  # in a run's folder: which steps are compiled; see tiny_transformers/training/compiling.py
FUNCTIONS = "functions.json"  # in a run's folder: what it learned; see tiny_transformers/training/functions.py
ANCHORS = "anchors"  # in a run's folder: the weights on the way; see tiny_transformers/training/anchors.py


def anchor_name(number: float) -> str:
    """An anchor as folders and scores have it: `0.1`, a share, or `1000000`, tokens."""
    return str(int(number)) if number > 1 else repr(number)


def tokenizer_file(data: Data) -> str:
    """Where a tokenizer is that is not trained here, below DATA_ROOT."""
    return f"tokenizer/{data.tokenizer}/tokenizer.json"


def tokenizer_name(data: Data) -> str:
    """The tokenizer among what a result has read."""
    if isinstance(data.tokenizer, str):
        return tokenizer_file(data)
    return f"tokenizer/{data.tokenizer.kind}-{data.tokenizer.vocab_size}/tokenizer.json"


def tokenizer_files(data: Data) -> list[str]:
    """The tokenizer's file below DATA_ROOT; none if it is trained."""
    return [tokenizer_file(data)] if isinstance(data.tokenizer, str) else []


def stream_files(config: RunConfig) -> list[str]:
    """The one file of a stream's characters; of stories none."""
    return config.data.files.files if config.data.is_stream else []


def lacking_files(root: Path, files: Iterable[str]) -> list[str]:
    """Those of these files and folders that are not below `root`, or are empty, which `fetch` brings again."""
    return [file for file in files if not _holds_something(root / file)]


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0


def fetch_command(lacking: Iterable[str], root: Path | None = None) -> str:
    """Return the command that brings them, as the user would type it."""
    lacking = list(lacking)
    babylm = {f"--corpus {name}": f"corpora/{name}/" for name in CORPORA if name.startswith("babylm_")}
    asked = {"--full-blimp": "blimp/", **{f"--{corpus}": file for corpus, file in STREAMS.items()}, **babylm}
    words = ["tiny-transformers fetch", *(["--data-root", str(root)] if root else [])]
    return " ".join([*words, *(option for option, begin in asked.items() if any(f.startswith(begin) for f in lacking))])
