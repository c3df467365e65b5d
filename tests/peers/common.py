"""transformers' own tests of models and configurations, on our classes and on those that ours extend.

Not collected by a plain `pytest`, for its name: run.py fetches the package `transformers_tests`, runs this file, and
compares."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import ModuleType
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin
from variants import small, tokens

from tiny_transformers.models import auto, brainformer, gpt_neo, llama, roberta
from tiny_transformers.settings.architecture import Brainformer

# Every kind of variant, in two blocks, as the tests want them: a name of variants.py, and settings besides.
VARIANTS: dict[str, dict[str, Any]] = {
    "gelu": {}, "prelu": {}, "geglu": {}, "kan_other_grid": {}, "moe_k2": {}, "controller": {}, "pkm": {}, "depth3": {},
    "v": {}, "one_kv_head": {}, "no_bias_kv_groups": {}, "ssf": {}, "ffss": {"order": "sff"},
    "seq2": {"layers": 2, "sharing": {"strategy": "seq", "unique_layers": 1}},
}  # fmt: skip
BRAINFORMERS: dict[str, dict[str, Any]] = {
    **{gate: {"experts": {"num_experts": 4, "gate": gate}} for gate in ("naive", "noisy", "switch", "hash", "dense")},
    "adaptive": {"order": "sf.sf", "adaptive_span": {"ramp": 5, "init": 0.125}},
    "tied": {"order": "sf.sf", "tie_word_embeddings": True},
}
# One test makes a message of every tensor before it knows whether it needs it: half the time of all.
torch.set_printoptions(threshold=0, edgeitems=1)
# The tests go by the names of classes in these.
HEADS = {
    "Model": modeling_auto.MODEL_MAPPING_NAMES,
    "ForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "ForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "ForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}


class Tester:
    """What the tests ask of a kind of model: a small configuration, inputs, and the sizes of both."""

    batch_size, seq_length, is_training = 3, 7, True

    def __init__(self, configure: Callable[[], Any]) -> None:
        config = configure()
        self.get_config = configure
        self.hidden_size, self.num_attention_heads = config.hidden_size, config.num_attention_heads
        self.num_hidden_layers, self.pad_token_id = config.num_hidden_layers, config.pad_token_id

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        ids = tokens(self.batch_size, self.seq_length)
        return self.get_config(), {"input_ids": ids, "attention_mask": ids.new_ones(ids.shape)}


class ModelTests(ModelTesterMixin):
    test_can_init_all_missing_weights_before_2023 = True

    @contextmanager
    def subTest(self, *args: Any, **params: Any) -> Iterator[None]:  # noqa: ARG002
        """Of which one test has hundreds, reported one by one: here the first that fails ends the test."""
        with suppress(unittest.SkipTest):
            yield

    def setUp(self) -> None:
        self.model_tester = Tester(self.configure)

    def test_config(self) -> None:
        config = self.configure()
        said = {name: value for name, value in config.to_diff_dict().items() if name in SETTINGS}
        ConfigTester(self, config_class=type(config), **said).run_common_tests()


def define(name: str, classes: list[Any], configure: Callable[[], Any], **members: Any) -> None:
    """Define a class of tests, for pytest to find: `<family>_<kind>`."""
    generates = [GenerationTesterMixin] if any(model_class.can_generate() for model_class in classes) else []
    members |= {"__module__": __name__, "all_model_classes": tuple(classes), "configure": staticmethod(configure)}
    globals()[name] = type(name, (ModelTests, *generates, unittest.TestCase), members)


# What a configuration is asked to keep. With a small vocabulary and nothing else said, GPT-Neo's would warn of its ids.
SETTINGS = {"hidden_size", "ffn", "sharing", *auto.VARIANT, *brainformer.SETTINGS} - {"vocab_size"}


def our_classes(module: ModuleType, prefix: str, heads: tuple[str, ...]) -> list[Any]:
    """Of a family; the tests learn their names."""
    for head in heads:
        HEADS[head][prefix] = prefix + head
    return [getattr(module, prefix + head) for head in heads]


def stock_config(config: Any, config_class: Any) -> Any:
    """Of the class that ours extends, with all of `config` that it has a word for."""
    own = {"model_type", "transformers_version", "architectures", "auto_map"}
    known = config_class().to_dict().keys() - own
    return config_class(**{name: value for name, value in config.to_dict().items() if name in known})


def define_family(name: str, family: str, ours: list[Any], kinds: Iterable[str] = VARIANTS) -> None:
    theirs = [getattr(transformers, model_class.__name__.removeprefix("Tiny")) for model_class in ours]
    plain = auto.hf_config(small(family))
    define(f"{name}_stock", theirs, partial(stock_config, plain, theirs[0].config_class))
    for variant in kinds:
        define(f"{name}_{variant}", ours, partial(auto.hf_config, small(family, variant, **VARIANTS[variant])))


def define_brainformers(ours: list[Any]) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_heads": 4, "attn_span": 40, "vocab_size": 60}
    for name, settings in BRAINFORMERS.items():
        model = Brainformer(**sizes | {"order": "sg.sf", "adaptive_span": None} | settings)
        # Its attention never has a matrix of weights to give; tests that ask for one along with other things leave it.
        define(f"Brainformer_{name}", ours, partial(auto.hf_config, model), has_attentions=False)


GPT_NEO, ROBERTA = (
    ("Model", "ForCausalLM", "ForSequenceClassification"),
    ("Model", "ForMaskedLM", "ForSequenceClassification"),
)
define_family("GPTNeo", "gpt_neo", our_classes(gpt_neo, "TinyGPTNeo", GPT_NEO))
define_family("Roberta", "roberta", our_classes(roberta, "TinyRoberta", ROBERTA))
define_family("Llama", "llama", our_classes(llama, "TinyLlama", GPT_NEO), kinds=("ffss", "seq2"))
define_brainformers(our_classes(brainformer, "TinyBrainformer", ("Model", "ForCausalLM")))
