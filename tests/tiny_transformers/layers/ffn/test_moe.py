import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tiny_transformers.layers.ffn.moe import MixtureOfExperts

H, SIZE, EXPERTS = 16, 23, 4


def layer(top_k: int = 2, experts: int = EXPERTS, **settings) -> MixtureOfExperts:
    """Seeded, with every parameter, noise and biases included, large enough to show."""
    torch.manual_seed(0)
    module = MixtureOfExperts(H, SIZE, experts, top_k, **settings)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return module


def all_experts(module: MixtureOfExperts, x: Tensor) -> Tensor:
    """The definition without noise: every expert computed, then weighted."""
    kept, chosen = module.gate(x).topk(module.top_k)
    weights = x.new_zeros(len(x), EXPERTS).scatter(1, chosen, kept.softmax(-1))
    hidden = F.relu(torch.einsum("nh,ehi->nei", x, module.w1) + module.b1)
    return torch.einsum("ne,neh->nh", weights, torch.einsum("nei,eih->neh", hidden, module.w2) + module.b2)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_output_balance_loss_and_gradients_are_the_known_ones(known, top_k):
    case = {key.split("/")[1]: value for key, value in known.items() if key.startswith(f"moe_k{top_k}/")}
    module = MixtureOfExperts(H, SIZE, EXPERTS, top_k, noisy=False)
    weights = {"gate.weight": "gate_weight", "w1": "W1", "b1": "b1", "w2": "W2", "b2": "b2"}
    module.load_state_dict({ours: case[theirs] for ours, theirs in weights.items()})
    x = case["x"].clone().requires_grad_()
    y = module(x)
    torch.testing.assert_close(y, case["y"], rtol=0, atol=1e-5)
    torch.testing.assert_close(module.auxiliary_loss, case["aux_loss"], rtol=0, atol=1e-6)
    (y.square().sum() + module.auxiliary_loss).backward()
    torch.testing.assert_close(x.grad, case["grad_x"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.gate.weight.grad, case["grad_gate_weight"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.w1.grad, case["grad_W1"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_sorted_tokens_give_values_and_gradients_of_all_experts_weighted(top_k):
    module, x = layer(top_k, noisy=False), torch.randn(50, H, requires_grad=True)
    inputs = [x, *module.parameters()]
    ours, theirs = module(x), all_experts(module, x)
    torch.testing.assert_close(ours, theirs)
    ours, theirs = (torch.autograd.grad(y.square().sum(), inputs) for y in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_only_the_chosen_experts_are_computed():
    module, x = layer(1, noisy=False), torch.randn(5, H)
    x = x[module.gate(x).argmax(-1) != 3]
    expected = module(x)
    for parameter in (module.w1, module.b1, module.w2, module.b2):
        parameter.data[3] = torch.nan
    assert len(x)
    assert torch.equal(module(x), expected)


def test_an_expert_without_tokens_has_a_gradient_of_zeros():
    module, x = layer(1, noisy=False), torch.randn(1, H)
    chosen = int(module.gate(x).argmax())
    module(x).sum().backward()
    for parameter in (module.w1, module.b1, module.w2, module.b2):
        gradients = parameter.grad.flatten(1).abs().sum(1)
        assert [bool(gradient) for gradient in gradients] == [expert == chosen for expert in range(EXPERTS)]


def test_one_expert_equals_the_dense_block():
    module, x = layer(1, experts=1), torch.randn(2, 7, H)
    hidden = F.relu(F.linear(x, module.w1[0].T, module.b1[0]))
    torch.testing.assert_close(module(x), F.linear(hidden, module.w2[0].T, module.b2[0]))
    assert module.auxiliary_loss == 0


def test_noise_is_added_in_training_only():
    module, x = layer(2), torch.randn(30, H)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
    torch.testing.assert_close(module(x), all_experts(module, x))


def test_noise_has_the_standard_deviation_softplus_of_its_logits():
    module, x = layer(EXPERTS), torch.randn(1, H).expand(20_000, H)
    kept, chosen = module._gated(x)
    weights = torch.zeros(20_000, EXPERTS).scatter(1, chosen, kept)
    noisy = weights.log() - weights.log()[:, :1]  # the logits, but for a constant of each token
    clean, deviation = module.gate(x[:1])[0], F.softplus(module.noise(x[:1]))[0]
    torch.testing.assert_close(noisy.mean(0), clean - clean[0], rtol=0, atol=0.05)
    torch.testing.assert_close(noisy.var(0)[1:], (deviation**2 + deviation[0] ** 2)[1:], rtol=0.05, atol=0)


def test_gate_and_noise_learn():
    module = layer(2)
    module(torch.randn(30, H)).square().sum().backward()
    assert module.gate.weight.grad.abs().sum() > 0
    assert module.noise.weight.grad.abs().sum() > 0


def test_balance_loss_is_the_squared_coefficient_of_variation_of_importance():
    module = layer(2, noisy=False, balance_loss=0.5)
    weights, chosen = torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([[0, 1], [1, 3]])
    module._gated = lambda _: (weights, chosen)
    module(torch.randn(2, H))
    importance = torch.tensor([0.75, 0.75, 0.0, 0.5])
    torch.testing.assert_close(module.auxiliary_loss, 0.5 * importance.var() / importance.mean() ** 2)


def test_no_token_gives_no_balance_loss_and_no_nan():
    module = layer(2)
    y = module(torch.empty(0, H))
    (y.sum() + module.auxiliary_loss).backward()
    assert module.auxiliary_loss == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in module.parameters())


def test_an_evaluation_clears_the_balance_loss():
    module = layer()
    module(torch.randn(3, H))
    assert module.auxiliary_loss is not None
    module.eval()(torch.randn(3, H))
    assert module.auxiliary_loss is None


def test_padding_changes_neither_result_nor_balance_loss():
    module, x = layer(2, noisy=False), torch.randn(2, 5, H)
    expected, module.auxiliary_loss, loss = module(x[:, :3]), None, module.auxiliary_loss
    module.real = torch.tensor([0, 1, 2, 5, 6, 7])
    y = module(x)
    torch.testing.assert_close(y[:, :3], expected)
    assert not y[:, 3:].any()
    torch.testing.assert_close(module.auxiliary_loss, loss)


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_and_autocast_come_near_float32(training):
    module, x = layer(EXPERTS, noisy=False).train(training), torch.randn(20, H)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, weights = module(x), module._gated(x)[0]
    assert y.dtype == torch.bfloat16
    assert weights.dtype == torch.float32
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)
    y.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    half = module.to(torch.bfloat16)
    y = half(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)
    y.float().sum().backward()


def test_state_dict_survives_a_round_trip():
    first, second, x = layer(), MixtureOfExperts(H, SIZE, EXPERTS, 2), torch.randn(6, H)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(x), second.eval()(x))


def test_initialization_is_the_familys_or_the_studys():
    torch.manual_seed(0)
    module = MixtureOfExperts(64, 200, EXPERTS, 1)
    assert module.w1.std().item() == pytest.approx(0.02, rel=0.02)
    assert module.w2.std().item() == pytest.approx(0.02, rel=0.02)
    assert not module.b1.any()
    assert not module.b2.any()
    module = MixtureOfExperts(64, 200, EXPERTS, 1, study_initialization=True)
    for parameter in (module.w1, module.b1, module.w2, module.b2):
        assert parameter.abs().max().item() == pytest.approx(1 / 8, rel=0.05)
        assert parameter.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.1)


def test_built_on_the_meta_device_it_can_be_drawn_later():
    with torch.device("meta"):
        module = MixtureOfExperts(H, SIZE, EXPERTS, 2)
    assert all(parameter.is_meta for parameter in module.parameters())
    module.to_empty(device="cpu").initialize(0.5)
    assert 0.4 < module.w2.std() < 0.6


def test_what_was_loaded_is_not_drawn_again():
    module = layer()
    before = module.w1.clone()
    module.w1._is_hf_initialized = True
    module.initialize(0.02)
    assert torch.equal(module.w1, before)
    assert module.w2.std() < 0.03
