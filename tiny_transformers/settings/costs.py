"""The costs of several stages have this in common: the usual sizes of the data, and FLOPs in closed form. No torch.

FLOPs of a forward pass are those of `architecture.flops_per_token`, and with the backward pass three times as many
(Kaplan et al. 2020, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping

from tiny_transformers.settings.architecture import Architecture, Brainformer, flops_per_token
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.sections import by_sections
from tiny_transformers.settings.stage.kind import Sizes

# Mean sizes of the data, as counted in the real files (docs/data.md); the builtin data is smaller.
BUILTIN_STORY_TOKENS = 45
LONGEST_STORY = {"files": 512, "builtin": 64}  # tokens, about, before data.max_length cuts it
# Of a stream: training, validation and test, in the published split (tiny_transformers/data/characters.py).
CHARACTERS = {"files": (90_000_000, 5_000_000, 5_000_000), "builtin": (1_000_000, 55_000, 55_000)}
SPLITS = (0.9, 0.05, 0.05)  # of a stream that is there
TOKEN_BYTES = 4.0  # of text, with what stands around it in a line of JSON


def story_tokens(config: RunConfig) -> float:
    """Return the tokens of a story on average."""
    if config.data.source == "builtin":
        return BUILTIN_STORY_TOKENS
    return min(config.data.files.document_tokens, config.data.max_length)


def rows_in(config: RunConfig, file: str, row_bytes: float, usual: Mapping[str, float], sizes: Sizes) -> float:
    """Return how many rows a file has by its size, each of so many bytes; one that is not there has the `usual` number
    of its source, and so has builtin data, which is always the same."""
    if config.data.source == "builtin" or file not in sizes:
        return usual[config.data.source]
    return sizes[file] / row_bytes


def characters(config: RunConfig, split: int, sizes: Sizes) -> float:
    """Return the characters of a split of a stream: 0 training, 1 validation, 2 test."""
    usual = {source: float(of[split]) for source, of in CHARACTERS.items()}
    return rows_in(config, config.data.files.files[0], 1 / SPLITS[split], usual, sizes)


def limited(rows: float, limit: int | None) -> float:
    """Return how many rows are used where no more than `limit` are; None: all."""
    return min(rows, limit or rows)


def keys_of_a_token(config: RunConfig) -> float:
    """Return how many keys a token meets, at most: of the longest texts; of a stream, as many as it looks back."""
    if isinstance(config.model, Brainformer):
        return config.model.expected_keys
    return min(config.data.max_length, LONGEST_STORY[config.data.source])


@by_sections("data", "train")
def training_tokens(config: RunConfig) -> float:
    """Return the tokens that pretraining goes through; 0 with a budget of hours, which leaves that to the speed."""
    train = config.train
    if train.max_steps is not None:
        if config.data.is_stream:
            return train.max_steps * train.batch_size * train.block_size
        return train.max_steps * train.stories_per_step * story_tokens(config)
    return float((train.budget and train.budget.tokens) or 0)


def forward_flops(config: RunConfig) -> float:
    """Return the FLOPs of one token. In a stream all see as far as their heads do, so that what scores take is known.

    As in training: on a GPU a controller's evaluation goes through all units, too, where tokens are many."""
    scores = config.model.score_flops(keys_of_a_token(config)) if config.data.is_stream else 0
    return config.weights_flops + scores


def step_flops(config: RunConfig) -> float:
    """Return the FLOPs of one token of pretraining, forward and backward; with a teacher's forward pass, if it has
    one."""
    taught = flops_per_token(config.teacher.model) if config.teacher else 0
    return 3.0 * forward_flops(config) + taught


def head_flops(config: RunConfig) -> float:
    """Return the FLOPs of the language model's head at one position."""
    return 2.0 * config.model.vocab_size * config.model.hidden_size


def one_mask_flops(config: RunConfig, length: int) -> float:
    """Return the FLOPs of an encoder's answer for one masked token among so many: its head, and its last block where
    masked.py of tiny_transformers/evaluation/ reads the model, are at that token alone."""
    forward, head, layers = config.weights_flops, head_flops(config), config.model.layers
    last = length if isinstance(config.model, Architecture) and not config.model.is_read_by_layers else 1
    return (forward - head) * ((layers - 1) * length + last) / layers + head
