"""The steps of a Universal Transformer: halting and its cost beside a plain loop, the signal beside its formula."""

import math

import pytest
import torch
from variants import FAMILIES, perturb, small, tokens

from tiny_transformers.evaluation import masked
from tiny_transformers.layers.recurrence import Recurrence, waves
from tiny_transformers.models import auto
from tiny_transformers.settings import costs
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.recurrence import Halting
from tiny_transformers.settings.recurrence import Recurrence as Settings

HIDDEN, STEPS, EPSILON, PONDER = 6, 5, 0.05, 0.3
ROWS, LENGTH = 4, 7


@pytest.fixture
def halting():
    torch.manual_seed(0)
    settings = Settings(halting=Halting(epsilon=EPSILON, ponder=PONDER))
    module = Recurrence(settings, HIDDEN, LENGTH, STEPS, first=0, scale=1.0)
    with torch.no_grad():
        module.weight.normal_(0, 1)
        module.bias.fill_(-1)
    return module


def layer(x):
    return torch.tanh(x @ torch.linspace(-1, 1.5, HIDDEN * HIDDEN).view(HIDDEN, HIDDEN)) + 0.5 * x


def passed(module, x):
    for step in range(STEPS):
        x = module(x, layer(x), step)
    return x


def loop(module, x):
    """Of one position (H,): its result, its steps, and its remainder."""
    result, reached = torch.zeros(HIDDEN), 0.0
    for step in range(1, STEPS + 1):
        x = layer(x)
        probability = torch.sigmoid(module.weight[0] @ x + module.bias[0]).item()
        if step == STEPS or reached + probability >= 1 - EPSILON:
            return result + (1 - reached) * x, step, 1 - reached
        result, reached = result + probability * x, reached + probability
    raise AssertionError


@torch.no_grad()
def test_halting_and_its_cost_are_those_of_a_loop_over_positions(halting):
    x, real = torch.randn(ROWS, LENGTH, HIDDEN), torch.tensor([0, 3, 8, 20])
    halting.train().real = real
    found = passed(halting, x).flatten(0, 1)
    expected, steps, remainders = zip(*(loop(halting, one) for one in x.flatten(0, 1)), strict=True)
    torch.testing.assert_close(found, torch.stack(expected))
    assert set(steps) == {1, 2, 3, STEPS}  # some halt by themselves, others at the end
    cost = sum(steps[at] + remainders[at] for at in real.tolist()) / len(real)
    assert halting.auxiliary_loss.item() == pytest.approx(PONDER * cost)
    halting.eval().told = True
    passed(halting, x)
    assert halting.counted() == pytest.approx(sum(steps[at] for at in real.tolist()) / len(real))
    assert halting.counted() is None  # counted anew


def test_the_ponder_cost_makes_positions_halt_sooner(halting):
    halting.train().bias.requires_grad_()
    x = torch.randn(ROWS, LENGTH, HIDDEN)
    passed(halting, x)
    before = halting.auxiliary_loss.item()
    halting.auxiliary_loss.backward()
    assert halting.bias.grad < 0
    with torch.no_grad():
        halting.bias -= halting.bias.grad
    passed(halting, x)
    assert halting.auxiliary_loss.item() < before


def test_the_signal_has_the_papers_waves():
    found = waves(9, 6)
    for t, j in ((0, 0), (1, 0), (8, 1), (5, 2)):
        angle = t / 10_000 ** (2 * j / 6)
        assert found[t, 2 * j].item() == pytest.approx(math.sin(angle))
        assert found[t, 2 * j + 1].item() == pytest.approx(math.cos(angle))


def steps_of(model, ids, **given):
    """What the recurrence adds before each step, and what each step begins with: (steps, B, T, H) each."""
    module, added, states = model.recurrence(), [], []
    inner = module.before

    def before(state, step):
        states.append(state)
        added.append(inner(state, step) - state)
        return added[-1] + state

    module.before = before
    result = model.base_model(ids, **given)[0]
    del module.before
    return torch.stack(added), torch.stack(states), result


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES[:2])
def test_positions_and_steps_are_counted_from_1_wherever_a_text_stands(family):
    model = auto.build(small(family, "universal"), seed=1).eval()
    size, known = (0.02 if family == "gpt_neo" else 1.0), waves(13, 32).float()
    expected = size * (known[1:13] + known[1:4, None])[:, None]
    torch.testing.assert_close(steps_of(model, tokens())[0], expected.expand(-1, 3, -1, -1), rtol=1e-4, atol=1e-6)
    if family == "gpt_neo":
        cache = model(tokens()[:, :8], use_cache=True).past_key_values
        goes_on = steps_of(model, tokens()[:, 8:], past_key_values=cache)[0]
        torch.testing.assert_close(goes_on[:, 0], expected[:, 0, 8:], rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES[:2])
def test_without_signal_and_halting_it_is_a_layer_that_is_shared(family):
    shared = auto.build(small(family, layers=3, sharing={"strategy": "seq", "unique_layers": 1}), seed=1)
    universal = auto.build(small(family, "universal"), seed=1)
    assert shared.state_dict().keys() == universal.state_dict().keys()
    for model in (shared, universal):
        perturb(model)
    assert not torch.equal(universal(tokens()).logits, shared(tokens()).logits)
    universal.recurrence().waves.zero_()
    assert torch.equal(universal(tokens()).logits, shared(tokens()).logits)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES[:2])
def test_who_always_halts_has_one_step_and_who_never_does_has_all(family):
    halting, universal = perturb(auto.build(small(family, "halting"), seed=1)), auto.build(
        small(family, "universal", layers=4), seed=2
    ).eval()  # fmt: skip
    universal.load_state_dict(halting.state_dict(), strict=False)
    module = halting.recurrence()
    module.weight.zero_()
    module.bias.fill_(-100.0)
    torch.testing.assert_close(halting(tokens()).logits, universal(tokens()).logits)
    module.bias.fill_(100.0)
    _, states, result = steps_of(halting, tokens())
    _, free, _ = steps_of(universal, tokens())
    torch.testing.assert_close(states[1], free[1])
    assert torch.equal(states[2], states[1])  # carried on
    assert torch.equal(states[3], states[1])
    if family == "roberta":  # a GPT-Neo has a LayerNorm behind
        torch.testing.assert_close(result, states[1])


@torch.no_grad()
def test_others_see_a_halted_position_as_it_halted():
    model = perturb(auto.build(small("gpt_neo", "halting"), seed=1))
    module, block, place = model.recurrence(), model.transformer.h[0], 3
    module.probability = lambda state: (torch.arange(state.shape[1]) == place).float().expand(len(state), -1)
    signals, states, _ = steps_of(model, tokens())
    for step in (1, 2):
        expected = block(states[step] + signals[step])[0]
        expected[:, place] = states[1][:, place]
        torch.testing.assert_close(states[step + 1], expected)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES[:2])
def test_padding_counts_in_no_steps(family):
    model = perturb(auto.build(small(family, "halting"), seed=1))
    model.recurrence().bias.fill_(3.0 if family == "roberta" else 1.0)  # so that some halt early
    ids = tokens(rows=2, length=9)
    padded = torch.nn.functional.pad(ids, (0, 5))
    real = (padded != 0).flatten().nonzero().squeeze(1)
    model.states(ids)
    plain = model.counted()["steps_per_token"]
    model.states(padded, (padded != 0) if family == "roberta" else None, real)
    assert model.counted()["steps_per_token"] == pytest.approx(plain)
    assert 1 < plain < 4
    model(padded)  # of which nobody has said what is real
    assert model.counted() == {}


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_the_ponder_cost_is_of_real_tokens(family):
    model = auto.build(small(family, "halting", dropout=0.0), seed=1).train()
    ids = tokens(rows=2, length=9)
    costs = []
    for text in (ids, torch.nn.functional.pad(ids, (0, 5))):
        model(text, attention_mask=(text != 0).long())
        costs.append(model.auxiliary_loss().item())
    assert costs[0] == pytest.approx(costs[1])
    assert costs[0] > 0.01


@pytest.mark.parametrize(("variant", "alone"), [("cycle2", True), ("universal", False), ("halting", False)])
def test_masked_tokens_of_a_recurrent_encoder_take_whole_passes(variant, alone):
    settings = small("roberta", variant)
    assert masked.by_layers(auto.build(settings, seed=1)) is settings.is_read_by_layers is alone
    run = RunConfig(
        model=settings, data={"max_length": 20}, evaluation={"superglue": {"max_length": 20}}, train={"max_steps": 1}
    )
    forward, head, layers = run.weights_flops, costs.head_flops(run), settings.layers
    expected = (forward - head) * ((layers - 1) * 10 + (1 if alone else 10)) / layers + head
    assert costs.one_mask_flops(run, 10) == pytest.approx(expected)
