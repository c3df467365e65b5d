"""Linformer beside full attention: equal where nothing is mixed, and what padding and short texts come to."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from variants import OF_ENCODERS, perturb, small, tokens

from tiny_transformers.evaluation import masked
from tiny_transformers.layers.linformer import LinformerSelfAttention, Projection
from tiny_transformers.models import auto
from tiny_transformers.settings.architecture import Roberta, num_parameters

LENGTH = 12
SHARES = ("headwise", "key_value", "layerwise")


def built(share, k=5, **sizes):
    return perturb(auto.build(small("roberta", linformer={"k": k, "share": share}, **sizes), seed=1))


def projections(model):
    return [module for module in model.modules() if isinstance(module, Projection)]


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("share", SHARES)
def test_with_as_many_mixtures_as_tokens_and_nothing_mixed_it_is_full_attention(share, implementation):
    model = built(share, k=LENGTH)
    full = auto.build(small("roberta"), seed=2).eval()
    assert full.load_state_dict(model.state_dict(), strict=False).missing_keys == []
    for of in (model, full):
        of.set_attn_implementation(implementation)
    assert (model(tokens()).logits - full(tokens()).logits).abs().max() > 0.1
    for projection in projections(model):
        for matrix in projection.parameters():
            nn.init.eye_(matrix)  # (k, positions): the first k
    torch.testing.assert_close(model(tokens()).logits, full(tokens()).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_padding_and_what_stands_in_it_change_nothing(implementation):
    model, text = built("headwise"), tokens(rows=2, length=9)
    model.set_attn_implementation(implementation)
    expected = model(text).logits
    for padding in (0, 7):
        padded = nn.functional.pad(text, (0, 5), value=padding)
        mask = torch.zeros_like(padded)
        mask[:, :9] = 1
        torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, :9], expected, rtol=1e-4, atol=1e-4)
    hidden = model.states(nn.functional.pad(text, (0, 5)), mask)[:, :9]
    torch.testing.assert_close(hidden, model.base_model(text)[0], rtol=1e-4, atol=1e-4)
    assert (model(padded).logits[:, :9] - expected).abs().max() > 1e-2  # of which nobody said that it is padding


@torch.no_grad()
def test_a_text_takes_the_first_columns_and_heads_share_them():
    torch.manual_seed(0)
    projection = Projection(3, 8, apart=True)
    projection.initialize(0.02)
    key, value = torch.randn(2, 2, 4, 6, 5)  # (B, heads, T, D) each
    mixed = projection(key, value)
    for found, matrix, given in zip(mixed, (projection.keys, projection.values), (key, value), strict=True):
        for head in range(4):
            torch.testing.assert_close(found[:, head], matrix[:, :6] @ given[:, head])


@pytest.mark.parametrize(
    ("share", "matrices", "owners"), [("headwise", 6, 3), ("key_value", 3, 3), ("layerwise", 1, 1)]
)
def test_who_shares_what_is_as_the_settings_say(share, matrices, owners):
    model = built(share, layers=3)
    assert len(projections(model)) == owners
    assert sum(len([*projection.parameters()]) for projection in projections(model)) == matrices
    plain = num_parameters(small("roberta", layers=3))
    assert model.num_parameters() == num_parameters(small("roberta", layers=3, linformer={"k": 5, "share": share}))
    assert model.num_parameters() - plain == matrices * 5 * 23


def test_copies_share_as_their_models_do():
    model = built("layerwise")
    other = copy.deepcopy(model)
    with torch.no_grad():
        projections(other)[0].keys.zero_()
    assert not torch.equal(other(tokens()).logits, model(tokens()).logits)
    attentions = [module for module in other.modules() if isinstance(module, LinformerSelfAttention)]
    assert {id(attention._shared[0]) for attention in attentions} == {id(projections(other)[0])}


def test_mixtures_are_drawn_as_the_theorem_says():
    model = auto.build(small("roberta", linformer={"k": 50}, max_position_embeddings=201), seed=1)
    (projection,) = projections(model)
    assert projection.keys.shape == (50, 200)
    assert projection.keys.std().item() == pytest.approx(50**-0.5, rel=0.02)


def test_attention_weights_are_of_mixtures():
    model = built("layerwise")
    model.set_attn_implementation("eager")
    weights = model(tokens(), output_attentions=True).attentions
    assert [of.shape for of in weights] == [(3, 4, LENGTH, 5)] * 2
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(3, 4, LENGTH))


@pytest.mark.parametrize("variant", OF_ENCODERS)
def test_masked_tokens_take_whole_passes(variant):
    settings = small("roberta", variant)
    assert not masked.by_layers(auto.build(settings, seed=1))
    assert not settings.is_read_by_layers


def test_more_mixtures_than_positions_are_refused():
    with pytest.raises(ValidationError, match=r"linformer\.k 513 is more than the 512 positions"):
        Roberta(linformer={"k": 513})
