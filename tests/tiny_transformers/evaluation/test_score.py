"""Models of others, as Hugging Face saves them, are scored by what they say themselves, or refused in a sentence."""

import json
import math
import re

import pytest
import torch
import transformers
from lm_eval.api.instance import Instance
from transformers import logging as hf_logging
from variants import small

from cluster.cli import entry
from tiny_transformers import score
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.evaluation.lm_eval_model import TinyTransformersLM
from tiny_transformers.models import auto
from tiny_transformers.settings.config import Data
from tiny_transformers.settings.stage.blimp import blimp_files
from tiny_transformers.settings.stage.lambada import FILE as LAMBADA

VOCABULARY = 261  # of the fixture `tokenizer`
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT_2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
GPT_NEO = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "window_size": 8,
    "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64,
}  # fmt: skip
DECODERS = {
    "GPT2LMHeadModel": ("GPT2Config", GPT_2),
    "GPTNeoForCausalLM": ("GPTNeoConfig", GPT_NEO),
    "LlamaForCausalLM": ("LlamaConfig", SIZES | {"max_position_embeddings": 64, "num_key_value_heads": 1}),
}
ENCODERS = {
    "RobertaForMaskedLM": ("RobertaConfig", SIZES | {"max_position_embeddings": 65, "type_vocab_size": 1}),
    "BertForMaskedLM": ("BertConfig", SIZES | {"max_position_embeddings": 64}),
}
PAIRS = [("the cat sleeps", "the cat sleep"), ("dogs bark", "dogs barks"), ("no one came", "no one come")]
PASSAGES = ["my dog, my dog, my dog", "one two three four", "she said yes"]


def made(name):
    config, sizes = (DECODERS | ENCODERS)[name]
    torch.manual_seed(3)
    return getattr(transformers, name)(getattr(transformers, config)(**sizes)).eval()


@pytest.fixture
def saved(tmp_path, tokenizer):
    """A folder as `save_pretrained` makes it."""
    hf_logging.disable_progress_bar()

    def save(model):
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.fixture
def data_root(tmp_path, write_rows):
    rows = [{"sentence_good": good, "sentence_bad": bad, "UID": "u"} for good, bad in PAIRS]
    for file in blimp_files(Data()).values():
        write_rows(tmp_path / "data" / file, rows)
    write_rows(tmp_path / "data" / LAMBADA, [{"text": text} for text in PASSAGES])
    return tmp_path / "data"


@torch.no_grad()
def log_likelihood(model, tokenizer, text, encoder, first=1):
    """By the definition, a token at a time: of a decoder after <s>, of an encoder between <s> and </s>."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[1, *ids, *([2] if encoder else [])]])
    total = 0.0
    for place in range(first, ids.shape[1] - encoder):
        seen = ids.clone() if encoder else ids[:, :place]
        if encoder:
            seen[0, place] = tokenizer.mask_token_id
        logits = model(input_ids=seen).logits[0, place if encoder else -1]
        total += logits.log_softmax(-1)[ids[0, place]].item()
    return total, ids.shape[1] - 1 - encoder


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_a_model_of_others_is_scored_by_its_own_likelihoods(saved, data_root, tokenizer, name):
    model, encoder = made(name), name in ENCODERS
    found = score.score(saved(model), data_root, ["blimp", "lambada"])
    right = [
        log_likelihood(model, tokenizer, f" {good}", encoder)[0]
        > log_likelihood(model, tokenizer, f" {bad}", encoder)[0]
        for good, bad in PAIRS
    ]
    values = {(each.task, each.metric): each.value for outcome in found.values() for each in outcome.scores}
    assert values["micro", "accuracy"] == pytest.approx(sum(right) / len(right))
    whole = [log_likelihood(model, tokenizer, text, encoder) for text in PASSAGES]
    mean = sum(total for total, _ in whole) / sum(tokens for _, tokens in whole)
    assert values["passage", "perplexity"] == pytest.approx(math.exp(-mean), rel=1e-4)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "RobertaForMaskedLM"])
def test_lm_evals_model_class_takes_models_of_others(saved, tokenizer, name):
    model = made(name)
    (answer,) = TinyTransformersLM(saved(model)).loglikelihood(
        [Instance("loglikelihood", {}, ("the cat", " sleeps"), 0)], disable_tqdm=True
    )
    right, _ = log_likelihood(model, tokenizer, "the cat sleeps", name in ENCODERS, first=1 + len("the cat"))
    assert answer[0] == pytest.approx(right, rel=1e-5)


def test_the_command_prints_the_scores_and_writes_them(saved, data_root, tmp_path, capfd):
    words = ["score", saved(made("GPT2LMHeadModel")), "--stages", "lambada", "--data-root", data_root, "--limit", 2]
    with pytest.raises(SystemExit) as ended:
        entry.main([*map(str, words), "--to", str(tmp_path / "found.json")])
    assert ended.value.code == 0
    assert "last_word accuracy" in capfd.readouterr().out
    (told,) = json.loads((tmp_path / "found.json").read_text()).values()
    assert {row["n"] for row in told["scores"]} == {2}


def t5():
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def classifier():
    return transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(**ENCODERS["RobertaForMaskedLM"][1])
    )


def of_pictures():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    return transformers.ViTModel(transformers.ViTConfig(**sizes))


def small_vocabulary():
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT_2 | {"vocab_size": 99}))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (t5, "t5 is an encoder-decoder, and gives a text alone no likelihood."),
        (of_pictures, "vit is no language model, so it gives a text no likelihood."),
        (classifier, "the weights do not fit RobertaForMaskedLM: lacks lm_head.bias"),
        (small_vocabulary, "its tokenizer has 261 tokens, its model 99: they do not belong together."),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused_in_a_sentence(saved, data_root, make, told):
    with pytest.raises(TinyTransformersError, match=re.escape(told)):
        score.score(saved(make()), data_root, ["blimp"])


def test_a_folder_without_a_model_a_tokenizer_or_a_known_type_is_refused(saved, data_root, tmp_path, capsys):
    with pytest.raises(TinyTransformersError, match="holds no model"):
        score.score(tmp_path, data_root, ["blimp"])
    made("GPT2LMHeadModel").save_pretrained(tmp_path / "bare")
    with pytest.raises(TinyTransformersError, match="holds no tokenizer"):
        score.score(tmp_path / "bare", data_root, ["blimp"])
    (tmp_path / "bare" / "tokenizer.json").write_text("{}")
    with pytest.raises(TinyTransformersError, match="its tokenizer cannot be loaded"):
        score.score(tmp_path / "bare", data_root, ["blimp"])
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "a_new_kind"}')
    with pytest.raises(TinyTransformersError, match="cannot be loaded"):
        score.score(tmp_path / "bare", data_root, ["blimp"])
    folder = saved(made("GPT2LMHeadModel"))
    with pytest.raises(SystemExit) as refused:
        score.main([str(folder), "--stages", "superglue", "--data-root", "."])
    assert refused.value.code == 2
    assert "superglue: a saved model can be scored on blimp, lambada" in capsys.readouterr().err


def test_data_is_where_the_environment_says_unless_the_command_does(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TINY_TRANSFORMERS_DATA", raising=False)
    words = [str(saved(made("GPT2LMHeadModel"))), "--stages", "blimp"]
    with pytest.raises(SystemExit) as refused:
        score.main(words)
    assert refused.value.code == 2
    assert "--data-root DIR, or TINY_TRANSFORMERS_DATA, says where the data is" in capsys.readouterr().err
    monkeypatch.setenv("TINY_TRANSFORMERS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="nowhere: there is no such folder"):
        score.main(words)


@pytest.mark.parametrize("name", ["GPTNeoForCausalLM", "ours"])
def test_masks_that_an_older_gpt_neo_saved_are_passed_over(tmp_path, name):
    model = auto.build(small("gpt_neo"), seed=1) if name == "ours" else made(name)
    state = model.state_dict()
    state["transformer.h.0.attn.attention.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    state["transformer.h.0.attn.attention.masked_bias"] = torch.tensor(-1e9)
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = auto.load_lm(tmp_path)
    ids = torch.tensor([[1, 9, 8, 7]])
    torch.testing.assert_close(loaded(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    if name == "ours":
        model.save_pretrained(tmp_path, state_dict=state | {"transformer.h.0.more": torch.ones(1)})
        with pytest.raises(TinyTransformersError, match=r"has transformer\.h\.0\.more besides"):
            auto.load_lm(tmp_path)
