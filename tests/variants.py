"""Every kind of model of the study, small: what the tests of these families run over."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from tiny_transformers.models.auto import build
from tiny_transformers.models.language_model import LanguageModel
from tiny_transformers.settings.activations import ACTIVATIONS
from tiny_transformers.settings.architecture import GPTNeo, Llama, Model, Roberta

FAMILIES = ("gpt_neo", "roberta", "llama")
SMALL = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 24}
MEMORY = {"kind": "pkm", "top_k": 3, "num_heads": 2, "query_size": 8}
# Variant and family: those that Hugging Face's classes are.
STOCK = [
    *((variant, family) for family in ("gpt_neo", "roberta") for variant in ("gelu", "relu", "silu")),
    *((variant, "llama") for variant in ("swiglu", "geglu")),
]

_SHARING = {
    f"{strategy}{unique}": {"layers": 6, "sharing": {"strategy": strategy, "unique_layers": unique}}
    for strategy in ("seq", "cycle", "cycle_rev")
    for unique in (2, 3)
}
# Name -> settings besides SMALL; `layers` and `heads` are whatever the family calls them.
VARIANTS: dict[str, dict[str, Any]] = {
    **{activation: {"activation": activation} for activation in ACTIVATIONS if activation != "swiglu"},
    "swish_one": {"activation": "swish", "activation_parameters": "one", "activation_init": 0.5},
    "kan": {"ffn": {"kind": "kan"}},
    "kan_other_grid": {"ffn": {"kind": "kan", "grid_size": 5, "spline_order": 2, "layers": "both"}},
    "kan_intermediate": {"ffn": {"kind": "kan", "layers": "intermediate", "regularization": 1e-3}},
    **{f"moe_k{k}": {"ffn": {"kind": "moe", "top_k": k}} for k in (1, 2, 3)},
    "moe_gelu": {"ffn": {"kind": "moe", "top_k": 2, "num_experts": 3}, "activation": "gelu"},
    "controller": {"ffn": {"kind": "controller", "num_blocks": 8}},
    "pkm": {"ffn": MEMORY},
    "depth1": {"ffn": {"depth": 1}},
    "depth3": {"ffn": {"depth": 3}},
    "depth4_geglu": {"ffn": {"depth": 4}, "activation": "learnable_geglu"},
    "1_layer": {"layers": 1},
    "1_head": {"heads": 1},
    "qk": {"qk_size": 8},
    "v": {"v_size": 64},
    "kv_groups": {"num_key_value_heads": 2},
    "one_kv_head": {"num_key_value_heads": 1, "qk_size": 16},
    "bias": {"bias": True},
    "no_bias": {"bias": False},
    "no_bias_kv_groups": {"bias": False, "num_key_value_heads": 2},
    "ssff": {"order": "s.sf.f"},
    "fsfs": {"order": "fsfs"},
    "ffss": {"order": "ffss"},
    "ssf": {"order": "ssf"},
    **_SHARING,
    "shared_moe": {"layers": 4, "sharing": {"strategy": "cycle", "unique_layers": 2}, "ffn": {"kind": "moe"}},
    "shared_attention": {"layers": 4, "sharing": {"strategy": "seq", "unique_layers": 2, "modules": "attention"}},
    "shared_ff": {"layers": 4, "sharing": {"strategy": "seq", "unique_layers": 2, "modules": "feed_forward"}},
    "shared_first": {"layers": 3, "sharing": {"strategy": "seq", "unique_layers": 1, "first": 2}},
    "shared_ff_first": {
        "layers": 3,
        "sharing": {"strategy": "seq", "unique_layers": 1, "modules": "feed_forward", "first": 2},
    },
    "shared_ff_moe": {
        "sharing": {"strategy": "seq", "unique_layers": 1, "modules": "feed_forward"},
        "ffn": {"kind": "moe"},
    },
    "scaled": {"layers": 3, "scaling": {"attention": (0.5, 1.0), "feed_forward": (0.25, 4 / 3)}},
    "scaled_heads": {"scaling": {"attention": (0.5, 1.0)}},
    "scaled_units": {"scaling": {"feed_forward": (1.0, 0.5)}},
    "study_dense": {"activation": "prelu", "initialization": "study"},
    "study_kan": {"ffn": {"kind": "kan"}, "initialization": "study"},
    "study_moe": {"ffn": {"kind": "moe"}, "initialization": "study"},
    "universal": {"layers": 3, "recurrence": {}},
    "universal_2": {"layers": 4, "sharing": {"strategy": "cycle", "unique_layers": 2}, "recurrence": {}},
    "halting": {"layers": 4, "recurrence": {"halting": {}}},
    "halting_moe": {"layers": 3, "recurrence": {"halting": {"ponder": 0.1}}, "ffn": {"kind": "moe"}},
    "halting_alone": {"layers": 3, "recurrence": {"signal": False, "halting": {"epsilon": 0.05}}},
    "swiglu": {"activation": "swiglu"},
}
OF_ENCODERS: dict[str, dict[str, Any]] = {  # and of no decoders
    "linformer": {"linformer": {"k": 5}},
    "linformer_kv_groups": {"linformer": {"k": 6, "share": "headwise"}, "num_key_value_heads": 2, "qk_size": 16},
    "linformer_key_value": {"linformer": {"k": 5, "share": "key_value"}, "order": "ssff", "v_size": 64},
    "linformer_shared": {
        "layers": 4,
        "linformer": {"k": 5, "share": "headwise"},
        "sharing": {"strategy": "cycle", "unique_layers": 2},
    },
}
_BY_FAMILY = {  # what each family has code of its own for: attention, and the order of modules
    "gelu", "1_head", "qk", "v", "kv_groups", "one_kv_head", "bias", "no_bias", "no_bias_kv_groups", "ssff", "fsfs",
    "ffss", "ssf", "shared_attention", "shared_ff", "scaled", "universal", "halting",
}  # fmt: skip
_OF_LLAMA = (  # its own code, and a module of every kind in its place
    "gelu", "swiglu", "learnable_geglu", "kan", "kan_intermediate", "moe_k2", "controller", "pkm", "depth3", "v",
    "kv_groups", "one_kv_head", "bias", "ssff", "fsfs", "cycle2", "cycle_rev3", "study_dense",
    "shared_ff", "shared_attention", "scaled",
)  # fmt: skip
# Whose code others have, with other numbers or a function that has tests of its own: `make test-longer` has them where
# a test goes over variants and families.
MORE_OF_THE_SAME = {
    *(name for name in ACTIVATIONS if name not in {
        "gelu", "silu", "none", "swish_thesis", "prelu", "geglu", "learnable_geglu", "swiglu"}),
    "swish_one", "kan_other_grid", "moe_k1", "moe_k3", "moe_gelu", "depth1", "depth4_geglu", "1_layer", "no_bias",
    "ssf", "seq3", "cycle3", "cycle_rev2", "shared_first", "scaled_heads", "scaled_units", "study_kan", "study_moe",
    "universal_2", "halting_alone", "linformer_kv_groups",
}  # fmt: skip
# And these in another family than one that has them.
_IN_ONE_FAMILY = {"1_head", "v", "one_kv_head", "bias", "no_bias_kv_groups", "fsfs", "shared_ff"}
_OF_A_SHORT_LLAMA = {
    "gelu", "swiglu", "kan", "moe_k2", "pkm", "kv_groups", "bias", "ssff", "shared_ff", "scaled", "cycle2"
}  # fmt: skip
# Variant and family: those variants in both of the first two, the others, whose modules are the same in both, in one or
# the other.
PAIRS = [
    *(
        (variant, family)
        for number, variant in enumerate(VARIANTS)
        for place, family in enumerate(FAMILIES[:2])
        if variant in _BY_FAMILY or number % 2 == place
    ),
    *((variant, "roberta") for variant in OF_ENCODERS),
    *((variant, "llama") for variant in _OF_LLAMA),
]


def is_more_of_the_same(variant: str, family: str) -> bool:
    """Whether what goes over variants and families has this one among the longer tests only."""
    if variant in MORE_OF_THE_SAME:
        return True
    if family == "llama":
        return variant not in _OF_A_SHORT_LLAMA
    return variant in _IN_ONE_FAMILY and family != FAMILIES[sorted(_IN_ONE_FAMILY).index(variant) % 2]


# All that there are.
EVERY = [
    *((variant, family) for variant in VARIANTS for family in FAMILIES[:2]),
    *((variant, "llama") for variant, settings in VARIANTS.items() if "recurrence" not in settings),
    *((variant, "roberta") for variant in OF_ENCODERS),
]
DECODERS = [(variant, family) for variant, family in PAIRS if family != "roberta"]
ENCODERS = [variant for variant, family in PAIRS if family == "roberta"]


def small(family: str, variant: str = "gelu", **sizes: Any) -> GPTNeo | Roberta | Llama:
    settings = SMALL | {"heads": 4} | (VARIANTS | OF_ENCODERS)[variant] | sizes
    layers, heads = settings.pop("layers", 2), settings.pop("heads")
    if family == "gpt_neo":
        return GPTNeo(**{"window_size": 4, "num_layers": layers, "num_heads": heads} | settings)
    return (Llama if family == "llama" else Roberta)(
        **{"num_hidden_layers": layers, "num_attention_heads": heads} | settings
    )


def perturb(model: Any) -> Any:
    """Move every parameter away from where an initialisation could have put it."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tokens(rows: int = 3, length: int = 12) -> torch.Tensor:
    return torch.randint(4, 60, (rows, length), generator=torch.Generator().manual_seed(1))


def digest(model: Any) -> str:
    """Of all weights, to the last bit."""
    weights = model.state_dict().values()
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights)).hexdigest()


def preferring(family: Model, tokenizer: Any, letter: str | None) -> LanguageModel:
    """A model to which `letter` is likelier than any other token, wherever it stands; None: all are alike."""
    model = build(family, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        if letter and family.family == "roberta":
            model.lm_head.bias[tokenizer(letter, add_special_tokens=False)["input_ids"]] = 3
        elif letter and family.family == "llama":
            model.model.norm.weight[0] = model.model.embed_tokens.weight[:, 0] = 1  # whatever was read
            model.model.embed_tokens.weight[tokenizer(letter, add_special_tokens=False)["input_ids"], 0] = 3
        elif letter:
            model.transformer.ln_f.bias[0] = 1
            model.transformer.wte.weight[tokenizer(letter, add_special_tokens=False)["input_ids"], 0] = 3
    return model
