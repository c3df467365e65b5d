import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tiny_transformers.layers.ffn import gates
from tiny_transformers.settings.brainformer_architecture import Experts as Settings

H, VOCAB, EXPERTS, TOKENS = 16, 30, 4, 60
ALL = ["naive", "noisy", "gshard", "switch", "balanced", "hash", "random", "dense"]


def gate(name: str, **settings) -> gates.Gate:
    """Seeded, with logits far enough apart to show."""
    torch.manual_seed(0)
    built = gates.build(Settings(gate=name, **{"num_experts": EXPERTS, **settings}), H, VOCAB)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return built


def tokens(count: int = TOKENS) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, H), torch.randint(0, VOCAB, (count,))


def logits_of(built: gates.Gate, x: Tensor) -> Tensor:
    return x @ built.linear.weight.T + (0 if built.linear.bias is None else built.linear.bias)


def queued(chosen: Tensor, used: Tensor, capacity: int) -> Tensor:
    """One choice after the other, in the order of GShard's algorithm 1."""
    kept, taken = torch.zeros_like(used), [0] * EXPERTS
    for choice in range(chosen.shape[1]):
        for token in range(len(chosen)):
            expert = int(chosen[token, choice])
            if used[token, choice]:
                kept[token, choice] = taken[expert] < capacity
                taken[expert] += 1
    return kept


def evenness(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """E sum_e f_e P_e"""
    shares = torch.tensor([(chosen == expert).float().mean() for expert in range(EXPERTS)])
    return EXPERTS * (shares * probabilities.mean(0)).sum()


@pytest.mark.parametrize(("name", "k"), [("naive", 1), ("naive", 2), ("balanced", 3), ("random", 3), ("noisy", 2)])
def test_the_largest_logits_are_chosen_and_weighted_by_their_softmax(name, k):
    built, (x, _) = gate(name, top_k=k, **({"last_top_k": k} if name == "random" else {})).eval(), tokens()
    routing = built(x)
    for row, weights, chosen in zip(logits_of(built, x), routing.weights, routing.chosen, strict=True):
        best = sorted(range(EXPERTS), key=lambda e: -row[e])[:k]
        assert chosen.tolist() == best
        torch.testing.assert_close(weights, row[best].softmax(0))
    assert routing.kept is None
    assert routing.loss is None


def test_balanced_adds_the_product_of_the_experts_shares_and_mean_probabilities():
    built, (x, _) = gate("balanced", balance_loss=0.5), tokens()
    routing, logits = built(x), logits_of(built, x)
    torch.testing.assert_close(routing.loss, 0.5 * evenness(logits.softmax(-1), logits.topk(2).indices))
    assert built.eval()(x).loss is None


def test_dense_takes_all_experts_with_the_softmax_over_all():
    built, (x, _) = gate("dense"), tokens()
    routing = built(x)
    weights = torch.zeros(TOKENS, EXPERTS).scatter(1, routing.chosen, routing.weights)
    torch.testing.assert_close(weights, logits_of(built, x).softmax(-1))
    assert (routing.chosen.sort().values == torch.arange(EXPERTS)).all()


@pytest.mark.parametrize("training", [True, False])
def test_gshard_is_algorithm_1(training):
    built, (x, _) = gate("gshard", capacity=0.72).train(training), tokens()
    torch.manual_seed(2)
    routing = built(x)
    torch.manual_seed(2)
    drawn = torch.rand(TOKENS, 1)
    probabilities = logits_of(built, x).softmax(-1)
    best, chosen = probabilities.topk(2)
    weights = best / best.sum(1, keepdim=True)
    used = torch.cat([torch.ones(TOKENS, 1), drawn < 2 * weights[:, 1:] if training else torch.ones(TOKENS, 1)], 1)
    kept = queued(chosen, used.bool(), math.ceil(0.72 * 2 * TOKENS / EXPERTS))
    torch.testing.assert_close(routing.weights, weights)
    assert torch.equal(routing.chosen, chosen)
    if training:
        assert torch.equal(routing.kept, kept)
        assert (kept != used.bool()).any()  # the case is one in which tokens are dropped
        torch.testing.assert_close(routing.loss, 0.01 * evenness(probabilities, chosen[:, :1]))
    else:
        assert routing.kept is None  # there is room for all
        assert routing.loss is None


def test_gshard_uses_the_second_expert_with_twice_its_weight_as_probability():
    built = gate("gshard", capacity=100.0)
    x = tokens(1)[0].expand(20_000, H)
    routing = built(x)
    assert routing.kept[:, 0].all()
    assert routing.weights[0, 1] < 0.45  # else it would nearly always be used
    assert routing.kept[:, 1].float().mean().item() == pytest.approx(2 * routing.weights[0, 1].item(), abs=0.02)


@pytest.mark.parametrize(("name", "k", "capacity"), [("gshard", 2, 0.5), ("switch", 1, 1.2), ("switch", 1, 0.3)])
def test_no_expert_takes_more_tokens_than_its_capacity(name, k, capacity):
    built, x = gate(name, capacity=capacity), torch.ones(TOKENS, H)  # all tokens want the same experts
    if name == "switch":  # whose jitter would send some elsewhere
        built.linear.weight.data.zero_()
    routing = built(x)
    load = torch.bincount(routing.chosen[routing.kept], minlength=EXPERTS)
    assert load.max() == min(math.ceil(capacity * k * TOKENS / EXPERTS), TOKENS)
    assert routing.kept[: load.max(), 0].all()  # the first ones are served
    assert not routing.kept[load.max() :, 0].any()
    assert built.eval()(x).kept is None


@pytest.mark.parametrize("training", [True, False])
def test_switch_weighs_its_one_expert_by_its_probability_among_all(training):
    built, (x, _) = gate("switch", balance_loss=0.1).train(training), tokens()
    torch.manual_seed(2)
    routing = built(x)
    torch.manual_seed(2)
    if training:
        x = x * torch.empty_like(x).uniform_(0.9, 1.1)
    probabilities = logits_of(built, x).softmax(-1)
    chosen = probabilities.argmax(-1, keepdim=True)
    torch.testing.assert_close(routing.weights, probabilities.amax(-1, keepdim=True))
    assert torch.equal(routing.chosen, chosen)
    if training:
        assert torch.equal(routing.kept, queued(chosen, chosen >= 0, math.ceil(1.2 * TOKENS / EXPERTS)))
        torch.testing.assert_close(routing.loss, 0.1 * evenness(probabilities, chosen))
    else:
        assert routing.loss is None


def test_noisy_adds_noise_of_its_own_deviation_in_training_and_a_loss_of_importance_and_load():
    built, (x, _) = gate("noisy", balance_loss=0.1), tokens()
    torch.manual_seed(2)
    routing = built(x)
    torch.manual_seed(2)
    clean, deviation = logits_of(built, x), F.softplus(x @ built.noise.weight.T)
    noisy = clean + torch.randn(TOKENS, EXPERTS) * deviation
    kept, chosen = noisy.topk(2)
    torch.testing.assert_close(routing.weights, kept.softmax(-1))
    assert torch.equal(routing.chosen, chosen)

    importance, load = torch.zeros(EXPERTS), torch.zeros(EXPERTS)
    for n in range(TOKENS):
        for e in range(EXPERTS):
            importance[e] += routing.weights[n][chosen[n] == e].sum()
            second_of_others = sorted((noisy[n, other] for other in range(EXPERTS) if other != e), reverse=True)[1]
            load[e] += torch.distributions.Normal(0, 1).cdf((clean[n, e] - second_of_others) / deviation[n, e])
    expected = 0.1 * sum(amount.var() / amount.mean() ** 2 for amount in (importance, load))
    torch.testing.assert_close(routing.loss, expected)
    routing.loss.backward()
    assert built.noise.weight.grad.any()
    assert built.linear.bias is None


def test_the_estimated_load_of_noisy_is_how_often_an_expert_is_chosen():
    built, x = gate("noisy"), tokens(1)[0].expand(20_000, H)
    clean, deviation = logits_of(built, x), F.softplus(x @ built.noise.weight.T)
    noisy = clean + torch.randn_like(clean) * deviation
    often = torch.bincount(noisy.topk(2).indices.flatten(), minlength=EXPERTS)
    torch.testing.assert_close(built._load(clean, noisy, deviation), often.float(), rtol=0.03, atol=0)


def test_hash_gives_every_id_experts_of_its_own_with_equal_weights():
    built, (x, ids) = gate("hash", top_k=3), tokens()
    routing = built(x, ids)
    assert all(len(set(row)) == 3 for row in built.table.tolist())
    assert torch.equal(routing.chosen, built.table[ids])
    assert (routing.weights == 1 / 3).all()
    assert torch.equal(built(torch.randn(TOKENS, H), ids).chosen, routing.chosen)  # whatever the hidden states are
    assert len(set(map(tuple, built.table.tolist()))) > 5
    assert torch.bincount(built.table.flatten(), minlength=EXPERTS).min() > VOCAB * 3 / EXPERTS / 2
    with pytest.raises(ValueError, match="pass input_ids"):
        built(x, None)


def test_hash_tables_follow_the_seed():
    tables = []
    for seed in (0, 0, 1):
        built = gate("hash")
        torch.manual_seed(seed)
        built.initialize(0.02)
        tables.append(built.table)
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_random_takes_more_experts_the_longer_training_lasts():
    built, (x, _) = gate("random", num_experts=16, top_k=8), tokens()
    assert built.k == 16  # built or loaded, it is for evaluation
    seen = []
    for step in range(9):
        built.schedule(step / 8)
        assert built(x).chosen.shape == (TOKENS, built.k)
        seen.append(built.k)
    assert seen == [8, 9, 10, 11, 12, 13, 14, 15, 16]
    built.schedule(0.999)
    assert built.k == 15
    assert type(built.k) is int


def test_the_random_gate_is_frozen_but_lets_gradients_through_to_the_tokens():
    built, (x, _) = gate("random", top_k=1, last_top_k=2), tokens()
    x.requires_grad_()
    built(x).weights[:, 0].sum().backward()
    assert x.grad.any()
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in built.parameters())


@pytest.mark.parametrize("name", ALL)
def test_other_gates_have_no_schedule(name):
    built = gate(name, **({"top_k": 1} if name == "random" else {}))
    before = built.k
    built.schedule(0.0)
    assert (built.k == before) == (name != "random")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("training", [True, False])
def test_under_autocast_weights_and_losses_are_float32(name, training):
    built, (x, ids) = gate(name).train(training), tokens()
    with torch.autocast("cpu", torch.bfloat16):
        routing = built(x.bfloat16(), ids)
    assert routing.weights.dtype == torch.float32
    assert routing.loss is None or routing.loss.dtype == torch.float32
    assert (routing.loss is not None) == (training and name in ("noisy", "gshard", "switch", "balanced"))


@pytest.mark.parametrize("name", ALL)
def test_a_single_expert_and_no_token_are_nothing_special(name):
    for built, count in ((gate(name, num_experts=1), 5), (gate(name), 0)):
        x, ids = tokens(count)
        routing = built(x, ids)
        assert routing.weights.shape == routing.chosen.shape == (count, built.k)
        assert routing.loss is None or routing.loss.isfinite()


@pytest.mark.parametrize("name", ["balanced", "gshard", "switch", "noisy"])
def test_losses_are_least_for_an_even_load(name):
    """Four kinds of tokens, each the one of an expert, or all of the same."""
    built = gate(name, balance_loss=1.0, capacity=4.0) if name in ("gshard", "switch") else gate(name, balance_loss=1.0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.zero_()
        built.linear.weight[:, :EXPERTS] = 8 * torch.eye(EXPERTS)
    even = F.one_hot(torch.arange(TOKENS) % EXPERTS, H).float()
    assert built(even).loss < built(even[:1].expand(TOKENS, H)).loss - 0.5
