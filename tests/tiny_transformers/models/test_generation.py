"""Generation, in all its ways: with the cache as without, and as by the classes of transformers. What models refuse."""

import pytest
import torch
from longer import kept
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)
from variants import FAMILIES, SMALL, perturb, small, tokens

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.models import auto
from tiny_transformers.models.language_model import CACHE, CACHE_NAMES
from tiny_transformers.settings.architecture import Brainformer

NEW = 8
WAYS = {"greedy": {}, "sampled": {"do_sample": True}, "beams": {"num_beams": 3}}
ways = pytest.mark.parametrize("way", WAYS)
names = pytest.mark.parametrize("name", CACHE_NAMES)


def gpt(variant="gelu", **sizes):
    return perturb(auto.build(small("gpt_neo", variant, max_position_embeddings=40, **sizes), seed=1))


def llama(variant="swiglu", **sizes):
    return perturb(auto.build(small("llama", variant, max_position_embeddings=40, **sizes), seed=1))


def stock(model):
    """The class of transformers with the weights of ours."""
    sizes = SMALL | {"max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if model.config.model_type == "tiny_llama":
        layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": True}
        theirs = LlamaForCausalLM(LlamaConfig(**sizes, **layers)).eval()
    else:
        layers = {"num_layers": 2, "num_heads": 4, "window_size": 4, "attention_types": [[["global", "local"], 1]]}
        theirs = GPTNeoForCausalLM(GPTNeoConfig(**sizes, **layers)).eval()
    theirs.load_state_dict(model.state_dict())
    return theirs


def brainformer(gate="naive", seed=1, span=20, **settings):
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_heads": 4, "attn_span": span, "vocab_size": 60}
    usual = {"order": "sgsf.s", "experts": {"num_experts": 4, "gate": gate}}
    return perturb(auto.build(Brainformer(**sizes | usual | settings), seed))


DECODERS = {"gpt": gpt, "brainformer": brainformer, "brainformer_hash": lambda: brainformer("hash"), "llama": llama} | {
    variant: lambda variant=variant: gpt(variant)
    for variant in ("kv_groups", "ssff", "fsfs", "cycle_rev3", "moe_k2", "halting")
}
DECODERS |= {
    f"llama_{variant}": lambda variant=variant: llama(variant)
    for variant in ("kv_groups", "ssff", "fsfs", "cycle_rev3")
}
STOCK = pytest.mark.parametrize("made", [gpt, llama])  # those whose stock settings a class of transformers has
MORE = {
    "brainformer_hash",
    "ssff",
    "moe_k2",
    "llama_kv_groups",
    "llama_ssff",
    "llama_cycle_rev3",
}  # of what others have
decoders = pytest.mark.parametrize("decoder", [kept(name not in MORE, name) for name in DECODERS])


def generated(model, ids, **settings):
    torch.manual_seed(0)
    usual = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return model.generate(ids, **usual | settings)


# --- with the cache, and without


@ways
@decoders
def test_generation_is_the_same_with_the_cache_and_without(decoder, way):
    model, prompt = DECODERS[decoder](), tokens(rows=2, length=17)
    cached, uncached = (generated(model, prompt, use_cache=used, **WAYS[way]) for used in (True, False))
    assert cached.shape == (2, 17 + NEW)
    assert torch.equal(cached, uncached)


@decoders
def test_an_assistant_changes_nothing(decoder):
    if decoder.endswith(("ssff", "fsfs")) and CACHE == "past_key_values":
        pytest.skip(
            "this release of transformers cannot crop the entries of a cache that blocks without attention have"
        )
    model, prompt = DECODERS[decoder](), tokens(rows=1, length=17)
    kind = decoder.partition("_")[0]
    other = {"brainformer": lambda: brainformer(seed=2), "llama": lambda: llama(layers=1)}.get(
        kind, lambda: gpt(num_layers=1)
    )()
    assistants = model, other  # all whose proposals are taken, and hardly any
    expected = generated(model, prompt, use_cache=False)
    for assistant in assistants:
        assert torch.equal(generated(model, prompt, assistant_model=assistant), expected)


@decoders
def test_generation_goes_on_from_a_cache(decoder):
    model, prompt = DECODERS[decoder](), tokens(rows=2, length=17)
    half = generated(model, prompt, max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True)
    left = {"max_new_tokens": NEW - 5, "min_new_tokens": NEW - 5}
    mask = torch.ones_like(half.sequences)  # a model may have written padding
    whole = generated(model, half.sequences, attention_mask=mask, **left, **{CACHE: half.get(CACHE)})
    assert torch.equal(whole, generated(model, prompt, use_cache=False))


@names
@decoders
def test_the_cache_is_known_by_the_name_that_any_release_has_for_it(decoder, name):
    model, text = DECODERS[decoder](), tokens(rows=2, length=12)
    whole = model(text)
    for read in (model, model.base_model):
        before = read(text[:, :8], use_cache=True)
        after = read(text[:, 8:], **{name: before.get(CACHE)})
        torch.testing.assert_close(torch.cat([before[0], after[0]], dim=1), read(text)[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(TinyTransformersError, match="two names for one thing"):
        model(text, **dict.fromkeys(CACHE_NAMES, whole.get(CACHE)))


# --- beside transformers' own class


@ways
@pytest.mark.parametrize("padding", [0, 5])
@STOCK
def test_a_stock_decoder_generates_what_the_class_of_transformers_does(made, padding, way):
    ours, prompt = made(), tokens(rows=2, length=12)
    prompt[0, :padding] = 0
    mask = (prompt != 0).long()
    texts = [generated(model, prompt, attention_mask=mask, **WAYS[way]) for model in (ours, stock(ours))]
    assert torch.equal(*texts)


@pytest.mark.parametrize("used", [True, False])
@STOCK
def test_padding_on_the_left_changes_nothing_that_is_generated(made, used):
    model, prompt = made("kv_groups"), tokens(rows=1, length=12)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), prompt], dim=1)
    texts = generated(model, prompt), generated(model, padded, attention_mask=(padded != 0).long(), use_cache=used)
    assert torch.equal(texts[0][:, 12:], texts[1][:, 17:])


@STOCK
def test_a_stock_decoder_with_an_assistant_or_a_cache_does_as_the_class_of_transformers(made):
    ours, assistant, prompt = made(), made(layers=1), tokens(rows=1, length=12)
    theirs = stock(ours)
    assert torch.equal(*(generated(model, prompt, assistant_model=assistant) for model in (ours, theirs)))
    half = [generated(model, prompt, return_dict_in_generate=True) for model in (ours, theirs)]
    longer = [
        generated(model, text.sequences, **{CACHE: text.get(CACHE)})
        for model, text in zip((ours, theirs), half, strict=True)
    ]
    assert torch.equal(*longer)


# --- a Brainformer's inputs and outputs


def test_a_brainformer_refuses_to_generate_behind_padding_on_the_left():
    model, prompt = brainformer(), tokens(rows=2, length=12)
    mask = torch.ones_like(prompt)
    mask[0, :3] = 0
    with pytest.raises(TinyTransformersError, match="must be on the right"):
        generated(model, prompt, attention_mask=mask)


def test_hidden_states_of_a_brainformer_are_its_embeddings_and_what_comes_out_of_each_group(tmp_path):
    model, text = brainformer(), tokens()
    asked = model(text, output_hidden_states=True).hidden_states
    assert len(asked) == 3
    outputs = [model.model.embed_tokens(text)]
    for group in model.model.groups:
        group.register_forward_hook(lambda *given: outputs.append(given[2]))
    whole = model.model(text)
    assert all(torch.equal(*pair) for pair in zip(asked, outputs, strict=True))
    assert torch.equal(asked[-1], whole.last_hidden_state)
    assert whole.hidden_states is None
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, output_hidden_states=True)
    assert all(torch.equal(*pair) for pair in zip(asked, loaded(text).hidden_states, strict=True))
    assert loaded(text, output_hidden_states=False).hidden_states is None
    every = generated(loaded, text, return_dict_in_generate=True, output_hidden_states=True).hidden_states
    assert [len(states) for states in every] == [3] * NEW


def test_attention_weights_of_a_brainformer_are_refused(tmp_path):
    model, text = brainformer(), tokens()
    with pytest.raises(TinyTransformersError, match="output_attentions"):
        model(text, output_attentions=True)
    with pytest.raises(TinyTransformersError, match="output_attentions"):
        generated(model, text, output_attentions=True, return_dict_in_generate=True)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, output_attentions=True, attn_implementation="eager")
    with pytest.raises(TinyTransformersError, match="output_attentions"):
        loaded(text)
    assert torch.equal(loaded(text, output_attentions=False).logits, model(text).logits)


def test_a_brainformer_reads_embeddings_in_place_of_characters():
    model, text = brainformer(), tokens()
    embedded = model.get_input_embeddings()(text)
    assert torch.equal(model(inputs_embeds=embedded).logits, model(text).logits)
    assert torch.equal(generated(model, None, inputs_embeds=embedded), generated(model, text)[:, text.shape[1] :])
    for wrong in ({}, {"input_ids": text, "inputs_embeds": embedded}):
        with pytest.raises(TinyTransformersError, match="give one"):
            model(**wrong)


def test_a_gate_that_chooses_by_character_is_given_the_characters_with_the_embeddings():
    model, text = brainformer("hash"), tokens()
    embedded = model.get_input_embeddings()(text)
    assert torch.equal(model(input_ids=text, inputs_embeds=embedded).logits, model(text).logits)
    for ids in (None, text[:, 1:]):
        with pytest.raises(TinyTransformersError, match="chooses experts by character"):
            model(input_ids=ids, inputs_embeds=embedded)


def test_an_embedding_is_resized_unless_a_gate_has_drawn_experts_for_its_characters(tmp_path):
    model, text = brainformer(tie_word_embeddings=True), tokens()
    before = model(text).logits
    model.resize_token_embeddings(70)
    torch.testing.assert_close(model(text).logits[..., :60], before)
    assert generated(model, torch.full((1, 5), 69)).shape == (1, 5 + NEW)
    model.save_pretrained(tmp_path)
    assert torch.equal(auto.load_lm(tmp_path)(text).logits, model(text).logits)
    model = brainformer("hash")
    for asked in ((70,), (None, 64)):
        with pytest.raises(TinyTransformersError, match="cannot be resized"):
            model.resize_token_embeddings(*asked)
    for asked in (None, 60):
        assert model.resize_token_embeddings(asked) is model.get_input_embeddings()


def test_huggingfaces_trainer_divides_a_brainformers_loss_by_all_labels_and_evaluates_its_logits_alone(tmp_path):
    model, text = brainformer(), tokens()
    loss, part = (model(text, labels=text, num_items_in_batch=items).loss for items in (None, torch.tensor(66)))
    torch.testing.assert_close(part, loss / 2)  # of 3 rows of 12 characters, 33 are foretold
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    trainer = Trainer(model, arguments)
    assert trainer.model_accepts_loss_kwargs
    predicted = trainer.predict([{"input_ids": row, "labels": row} for row in text]).predictions
    torch.testing.assert_close(torch.from_numpy(predicted), model(text).logits)


# --- what is not known is refused


def encoder():
    return perturb(auto.build(small("roberta"), seed=1))


def classifier(folder, family):
    auto.build(small(family), seed=1).save_pretrained(folder)
    return auto.load_classifier(folder, num_labels=2, seed=1).eval()


HEADS = {
    "gpt": lambda _: gpt(),
    "encoder": lambda _: encoder(),
    "brainformer": lambda _: brainformer(),
    **{f"{family}_classifier": lambda folder, family=family: classifier(folder, family) for family in FAMILIES},
}


@pytest.mark.parametrize("head", HEADS)
def test_an_argument_that_a_model_does_not_know_is_refused_by_name(head, tmp_path):
    model = HEADS[head](tmp_path)
    for read in (model, model.base_model):
        with pytest.raises(TypeError, match="'kv_cache'"):
            read(tokens(), kv_cache=object())
        with pytest.raises(TypeError, match="'is_causal'"):
            read(tokens(), is_causal=False)
        assert read(tokens(), return_dict=False, output_hidden_states=True)[0].isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_arguments_that_wrappers_pass_without_a_value_are_none(family):
    model = perturb(auto.build(small(family), seed=1))
    assert torch.equal(model(tokens(), kv_cache=None, past_key_values=None).logits, model(tokens()).logits)


@names
def test_an_encoder_refuses_a_cache(name):
    with pytest.raises(TinyTransformersError, match="has no cache"):
        encoder()(tokens(), **{name: brainformer().new_cache()})


# --- attention weights


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("variant", "applied"), [("gelu", 2), ("ssff", 2), ("fsfs", 2), ("ffss", 2), ("cycle2", 6),
                                                  ("shared_attention", 4), ("shared_ff", 4)])  # fmt: skip
def test_attention_weights_are_those_of_every_application_of_attention(family, variant, applied, implementation):
    model = perturb(auto.build(small(family, variant), seed=1))
    model.set_attn_implementation(implementation)
    text, mask = tokens(), torch.ones(3, 12)
    mask[0, 8:] = 0
    output = model(text, attention_mask=mask, output_attentions=True)
    assert [weights.shape for weights in output.attentions] == [(3, 4, 12, 12)] * applied
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 12))
        assert weights[0, ..., :8, 8:].max() < 1e-6
    real = mask.bool()
    usual = model(text, attention_mask=mask)
    torch.testing.assert_close(output.logits[real], usual.logits[real], rtol=1e-4, atol=1e-4)
    assert usual.attentions is None
    as_tuple = model(text, attention_mask=mask, output_attentions=True, return_dict=False)
    assert len(as_tuple[-1]) == applied
