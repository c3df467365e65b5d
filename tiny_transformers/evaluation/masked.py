"""A RoBERTa's last hidden state at one position of each row: what scoring one masked token needs, and no more.

Equal to the model's forward pass but for rounding. Rows that differ in a few tokens only, as those of one sentence
with one mask each, share what a token and its position alone decide; and the last attention has one query a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import RobertaForMaskedLM
from transformers.models.roberta.modeling_roberta import RobertaAttention

from tiny_transformers.training.device import carried


def reads(model: Any) -> bool:
    """Whether `states_at` can be asked: of a RoBERTa, unless the weights of its attention are packed for 8 bits."""
    if not isinstance(model, RobertaForMaskedLM):
        return False
    attending = (block.attention for block in model.base_model.encoder.layer.children())
    return all(isinstance(each.self.query.weight, Tensor) for each in attending if isinstance(each, RobertaAttention))


def by_layers(model: Any) -> bool:
    """Whether layers and their attention are what they are in a stock model, so that they can be read one by one."""
    return not any(getattr(model.config, name, None) for name in ("recurrence", "linformer"))


def states_at(model: Any, ids: NDArray[np.int64], real: NDArray[np.bool_], at: NDArray[np.int64]) -> Tensor:
    """ids, real: (B, T), at: (B,) -> (B, H). `model` is a masked RoBERTa, stock or ours, evaluating."""
    if not by_layers(model):
        mask = None if real.all() else carried(real, model.device)
        states = model.states(carried(ids, model.device), mask)
        return states[torch.arange(len(at), device=model.device), carried(at, model.device)]
    embeddings, blocks = model.base_model.embeddings, list(model.base_model.encoder.layer)
    attending = [place for place, block in enumerate(blocks) if isinstance(block.attention, RobertaAttention)]
    first, last = attending[0], attending[-1]

    # Not on the model's device: to know how many kinds there are a GPU would be waited for.
    length = ids.shape[1]
    different, places = np.unique(ids * length + np.arange(length), return_inverse=True)
    kinds, where, read = (carried(x, model.device) for x in (different, places.reshape(ids.shape), at))
    positions = kinds % length + model.config.pad_token_id + 1
    x = embeddings(input_ids=(kinds // length)[None], position_ids=positions[None])  # (1, U, H)
    for block in blocks[:first]:
        x = block(x)
    mask = None
    if not real.all():
        mask = torch.zeros(real.shape, dtype=x.dtype, device=x.device)
        mask = mask.masked_fill(carried(~real, x.device), torch.finfo(x.dtype).min)[:, None, None]  # (B, 1, 1, T)
    if first == last:
        x = x[0, where]
    else:
        x = blocks[first].feed_forward_chunk(_attend(blocks[first].attention, x[0], where, mask))  # (B, T, H)
        for block in blocks[first + 1 : last]:
            x = block(x, mask)
    own = x[torch.arange(len(x), device=x.device), read]  # (B, H)
    attended = _attend_from(blocks[last].attention.self, own, x, mask)
    y = blocks[last].feed_forward_chunk(blocks[last].attention.output(attended, own)[:, None])
    for block in blocks[last + 1 :]:
        y = block(y)
    return y[:, 0]


def _attend(module: Any, kinds: Tensor, where: Tensor, mask: Tensor | None) -> Tensor:
    """An attention's output, all projections of which see every kind of token once: (U, H), (B, T) -> (B, T, H).

    The sum over heads and j of W_o (a_j W_v x_j) = a_j (W_o W_v x_j): the output's projection comes before the sum. At
    14 tokens that is 4 to 13 % of a pass, at 100 nothing, at 250 a loss of 16 %."""
    attention, out = module.self, module.output
    heads, groups, _ = _heads(attention)
    query, key = (
        linear(kinds)[where].unflatten(-1, (n, -1)).transpose(1, 2)  # (B, heads, T, D)
        for linear, n in ((attention.query, heads), (attention.key, groups))
    )
    scores = attention.scaling * query @ key.repeat_interleave(heads // groups, 1).transpose(2, 3)
    weights = (scores if mask is None else scores + mask).softmax(-1).permute(0, 2, 3, 1)  # (B, T, T, heads)
    value = attention.value(kinds).unflatten(-1, (groups, -1)).repeat_interleave(heads // groups, 1)  # (U, heads, V)
    value = torch.einsum("unv,hnv->unh", value, out.dense.weight.unflatten(1, (heads, -1))).flatten(1)
    output = weights.flatten(2) @ value[where].unflatten(-1, (heads, -1)).flatten(1, 2)  # (B, T, H)
    if out.dense.bias is not None:
        output = output + out.dense.bias
    return out.LayerNorm(output + kinds[where])


def _attend_from(attention: Any, own: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """One query a row: own (B, H), its row's states x (B, T, H) -> (B, heads * V).

    q (W_k x_j) = (q W_k) x_j, and the sum over j of a_j (W_v x_j) = W_v (the sum of a_j x_j): what is projected is one
    vector a row and head instead of every x_j. The keys' bias adds the same to all scores, and the a_j sum to 1."""
    heads, groups, _ = _heads(attention)
    query = attention.query(own).unflatten(-1, (groups, heads // groups, -1))  # (B, kv_heads, heads of each, D)
    into = torch.einsum("bgnd,gdh->bgnh", query, _by_head(attention.key, groups)).flatten(1, 2)  # (B, heads, H)
    scores = attention.scaling * into @ x.transpose(1, 2)  # (B, heads, T)
    mixed = (scores if mask is None else scores + mask[:, 0]).softmax(-1) @ x  # (B, heads, H)
    value = attention.value
    output = torch.einsum("bgnh,gvh->bgnv", mixed.unflatten(1, (groups, -1)), _by_head(value, groups))
    if value.bias is not None:
        output = output + value.bias.unflatten(0, (groups, 1, -1))
    return output.flatten(1)


def _heads(attention: Any) -> tuple[int, int, int]:
    """How many heads queries, keys and values have."""
    heads = attention.num_attention_heads
    groups = attention.key.out_features * heads // attention.query.out_features
    return heads, groups, groups


def _by_head(linear: nn.Linear, heads: int) -> Tensor:
    return linear.weight.unflatten(0, (heads, -1))  # (heads, D, H)
