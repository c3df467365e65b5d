"""What kernels of a GPU compute, in plain products."""

import torch


def varlen_attn(query, key, value, starts, starts_of_keys, longest, longest_of_keys, *, scale, window_size):
    """torch.nn.attention.varlen's, for texts that have as many keys as queries. (N, heads, D) -> (N, heads, D)"""
    assert query.shape[-1] == key.shape[-1] == value.shape[-1], "the kernel has one width"
    assert query.shape[-1] % 8 == 0, "the kernel has a multiple of 8"
    assert longest == longest_of_keys
    before, after = window_size
    place = torch.arange(len(query))
    text = torch.searchsorted(starts, place, right=True)
    text_of_keys = torch.searchsorted(starts_of_keys, place, right=True)
    behind = place[:, None] - place
    visible = (text[:, None] == text_of_keys) & (behind >= -after)
    if before >= 0:
        visible = visible & (behind <= before)
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(-1), value)
