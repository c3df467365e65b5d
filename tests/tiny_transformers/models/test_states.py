import pytest
import torch
from variants import FAMILIES, small, tokens

from tiny_transformers.models import auto

EVERYWHERE = ("gelu", "moe_k2", "pkm", "controller", "kv_groups", "ssff", "cycle2")


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        *((family, variant) for family in FAMILIES for variant in EVERYWHERE),
        ("gpt_neo", "halting"),
        ("roberta", "halting"),
    ],
)
def test_states_are_those_of_the_forward_pass_to_the_last_bit(family, variant):
    """With padding, dropout and statistics over the real tokens; the gradient, too."""
    ids = torch.cat([tokens(), torch.zeros(3, 4, dtype=torch.long)], dim=1)
    ids[0, 12:] = tokens(1, 4)
    mask = (ids != 0).long() if family == "roberta" else None
    real = (ids != 0).flatten().nonzero().squeeze(1)
    ways = (
        lambda model: model.states(ids, mask, real),
        lambda model: model.base_model(ids, attention_mask=mask, use_cache=False)[0],
    )
    found = []
    for way in ways:
        model = auto.build(small(family, variant), seed=1).train()
        torch.manual_seed(2)
        hidden = way(model).flatten(0, 1)[real]
        (hidden.square().sum() + model.auxiliary_loss()).backward()
        found.append([hidden, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)])
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
