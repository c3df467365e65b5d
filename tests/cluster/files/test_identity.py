"""A run's id is that of its whole settings as canonical JSON, whatever was written before it."""

import hashlib
import json
import random

import pytest

from cluster.files.identity import Identities, identity
from tiny_transformers.settings.config import RunConfig

DECODER, ENCODER, LLAMA = {"family": "gpt_neo"}, {"family": "roberta"}, {"family": "llama"}
MODELS = [  # every kind of value that a model has: numbers, words, truth, settings in it, lists
    DECODER, ENCODER, LLAMA, DECODER | {"bias": False}, DECODER | {"dropout": 0.1}, ENCODER | {"dropout": 1e-7},
    DECODER | {"activation": "swish", "activation_init": 1.0}, DECODER | {"activation": "prelu"},
    DECODER | {"ffn": {"kind": "kan", "regularization": 1e-3}}, DECODER | {"ffn": {"kind": "moe", "top_k": 1}},
    ENCODER | {"ffn": {"kind": "moe", "top_k": 2}}, DECODER | {"ffn": {"depth": 3}}, DECODER | {"order": "ssff"},
    DECODER | {"num_layers": 4, "sharing": {"strategy": "cycle", "unique_layers": 2}},
    DECODER | {"num_layers": 3, "scaling": {"feed_forward": [0.25, 1.0]}},
    DECODER | {"num_layers": 3, "recurrence": {"halting": {}}}, ENCODER | {"linformer": {"k": 16}},
    LLAMA | {"num_key_value_heads": 2}, {"family": "brainformer"}, {"family": "brainformer", "adaptive_span": None},
    {"family": "program", "parameters": {"rate": 0.1, "name": "ä\"\n", "on": True}, "stages": {"a": {"command": "b"}}},
]  # fmt: skip
SECTIONS = {
    "data": [{}, {"source": "builtin"}, {"max_length": 64}],
    "train": [{}, {"max_steps": 3, "anchors": [0.5]}, {"budget": {"hours": 1}}, {"learning_rate": 1e-5}],
    "evaluation": [{}, {"limit": 50}, {"superglue": {"epochs": 2}}],
    "smoke": [False, True], "probe": [False, True], "seed": [0, 1, 2**32 - 1],
}  # fmt: skip


def drawn(seed):
    """Settings in any order; some have sections, models or a model's settings in common, as objects."""
    draw, configs = random.Random(seed), []
    for number in range(60):
        tree = {"model": draw.choice(MODELS)} | {name: draw.choice(values) for name, values in SECTIONS.items()}
        if tree["model"]["family"] == "brainformer":
            tree["data"] = {"corpus": draw.choice(["enwik8", "text8"]), "tokenizer": "none"}
        elif tree["model"]["family"] != "program":
            tree["model"] = tree["model"] | {"intermediate_size": 256 + number}
        config = RunConfig.model_validate(tree)
        teacher = {"name": "t", "model": config.model, "train": config.train, "seed": 1, "alpha": 0.5}
        if tree["model"]["family"] == "gpt_neo" and draw.random() < 0.3:
            config = RunConfig.model_validate(tree | {"teacher": teacher})
        more = {} if draw.random() < 0.5 else {"model": config.model.model_copy(deep=True)}
        configs += [config, config.model_copy(update={"seed": number, **more})]
    return draw.sample(configs, k=len(configs))


@pytest.mark.parametrize("seed", range(10))
def test_an_id_is_that_of_all_settings_whatever_was_written_before(seed):
    identities, configs = Identities(), drawn(seed)
    for config in configs:
        settings = config.model_dump(mode="json", exclude={"teacher": {"name"}, "data": {"definition"}})
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        assert identities.of(config) == hashlib.sha256(text.encode()).hexdigest()[:12] == identity(config)
    assert {config.model.family for config in configs} == {"gpt_neo", "roberta", "llama", "brainformer", "program"}
