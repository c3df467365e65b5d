import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from tiny_transformers.layers.ffn.experts import Experts, GatedExperts
from tiny_transformers.layers.ffn.gates import Routing
from tiny_transformers.layers.layer import Layer
from tiny_transformers.settings.brainformer_architecture import Brainformer
from tiny_transformers.settings.brainformer_architecture import Experts as Settings

H, SIZE, VOCAB, EXPERTS = 16, 24, 30, 4
ALL = ["naive", "noisy", "gshard", "switch", "balanced", "hash", "random", "dense"]
LOSSES = ["noisy", "gshard", "switch", "balanced"]


def experts(gate: str, dropout: float = 0.0, **settings) -> GatedExperts:
    torch.manual_seed(0)
    module = GatedExperts(Settings(gate=gate, **{"num_experts": EXPERTS, **settings}), H, SIZE, VOCAB, dropout)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    module.ids = torch.randint(0, VOCAB, (2, 20))
    return module


def tight(gate: str) -> GatedExperts:
    """Where a gate has a capacity, one that does not suffice."""
    return experts(gate, **({"capacity": 0.4} if gate in ("gshard", "switch") else {}))


def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 20, H, requires_grad=True)


def routing_of(module: GatedExperts, x: Tensor) -> Routing:
    torch.manual_seed(2)
    return module.gate(x.flatten(0, 1), module.ids.flatten())


def all_experts(module: GatedExperts, x: Tensor) -> Tensor:
    """The definition: every expert computes every token, then they are weighted."""
    routing, flat = routing_of(module, x), x.flatten(0, 1)
    counted = routing.weights if routing.kept is None else routing.weights * routing.kept
    weights = torch.zeros(len(flat), EXPERTS).scatter(1, routing.chosen, counted)
    hidden = F.relu(torch.einsum("nh,ehi->nei", flat, module.w1) + module.b1)
    y = torch.einsum("nei,eih->neh", hidden, module.w2) + module.b2
    return torch.einsum("ne,neh->nh", weights, y).view_as(x)


def assert_same_gradients(ours: Tensor, theirs: Tensor, inputs: list[Tensor]) -> None:
    ours, theirs = (
        torch.autograd.grad(y.square().sum(), inputs, allow_unused=True, materialize_grads=True) for y in (ours, theirs)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gate", ALL)
@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients_are_those_of_all_experts_weighted(gate, training):
    module, x = tight(gate).train(training), tokens()
    torch.manual_seed(2)
    ours, theirs = module(x), all_experts(module, x)
    torch.testing.assert_close(ours, theirs)
    kept = routing_of(module, x).kept
    assert (kept is None) == (not training or gate not in ("gshard", "switch"))
    assert kept is None or not kept.all()  # where tokens can be dropped, some are
    assert_same_gradients(ours, theirs, [x, *(p for p in module.parameters() if p.requires_grad)])


@pytest.mark.parametrize("gate", ["naive", "noisy", "balanced", "hash", "random"])
def test_nor_does_it_matter_if_all_experts_are_chosen(gate):
    module, x = experts(gate, top_k=EXPERTS), tokens()
    torch.manual_seed(2)
    ours, theirs = module(x), all_experts(module, x)
    torch.testing.assert_close(ours, theirs)
    assert module.load.tolist() == [40] * EXPERTS
    assert_same_gradients(ours, theirs, [x, *(p for p in module.parameters() if p.requires_grad)])
    y = module.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("gate", ALL)
def test_load_is_how_many_tokens_each_expert_computed(gate):
    module, x = tight(gate), tokens()
    torch.manual_seed(2)
    module(x)
    routing = routing_of(module, x)
    kept = torch.ones_like(routing.chosen, dtype=torch.bool) if routing.kept is None else routing.kept
    assert module.load.tolist() == [int((kept & (routing.chosen == e)).sum()) for e in range(EXPERTS)]
    assert module.load.dtype == torch.long
    assert not module.load.requires_grad
    assert "load" not in module.state_dict()


def test_load_of_random_grows_with_its_schedule():
    module, x = experts("random", top_k=1), tokens()
    for fraction, k in ((0.0, 1), (0.5, 2), (1.0, 4)):
        module.schedule(fraction)
        module(x)
        assert module.gate.k == k
        assert module.load.sum() == 40 * k


@pytest.mark.parametrize("gate", ALL)
def test_an_expert_that_computes_nothing_is_not_computed(gate):
    module, x = tight(gate).eval(), tokens()
    routing = routing_of(module, x)
    chosen = torch.where(routing.chosen == 3, 2, routing.chosen)
    kept = torch.arange(chosen.numel()).view_as(chosen) % 3 > 0
    expected = module.weighted(x.flatten(0, 1), routing.weights, chosen, kept)
    for parameter in (module.w1, module.b1, module.w2, module.b2):
        parameter.data[3] = torch.nan
    assert torch.equal(module.weighted(x.flatten(0, 1), routing.weights, chosen, kept), expected)


def test_if_all_choices_are_dropped_the_output_is_zero():
    module, x = experts("naive"), tokens().flatten(0, 1)
    routing = module.gate(x)
    y = module.weighted(x, routing.weights, routing.chosen, torch.zeros_like(routing.chosen, dtype=torch.bool))
    assert not y.any()
    assert module.load.tolist() == [0] * EXPERTS
    y.sum().backward()
    assert not module.w1.grad.any()


@pytest.mark.parametrize("kept", [None, "some", "none"])
def test_one_kernel_for_all_experts_has_their_values_and_gradients(kept):
    """A GPU's path, on a CPU: torch's function is the same, its kernel is not."""
    module, x = experts("naive"), tokens().flatten(0, 1).detach()
    routing = module.gate(x)
    chosen = torch.where(routing.chosen == 3, 2, routing.chosen)  # an expert without tokens
    if kept:
        kept = torch.arange(chosen.numel()).view_as(chosen) % 3 > (0 if kept == "some" else 2)
    results = []
    for kernel in (True, False):
        module._has_kernel = lambda _, kernel=kernel: kernel
        module.zero_grad()
        inputs = x.clone().requires_grad_()
        y = module.weighted(inputs, routing.weights.detach(), chosen, kept)
        y.square().sum().backward()
        results.append([y, inputs.grad, module.load, *(p.grad for p in (module.w1, module.b1, module.w2, module.b2))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_one_kernel_takes_experts_of_any_size():
    """As many parameters as a dense module has are seldom a multiple of what a GPU's rows have to be."""
    module, x = Experts(H - 3, 13, 4), torch.randn(20, H - 3)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    weights, chosen = torch.rand(20, 2), torch.rand(20, 4).topk(2).indices
    results = []
    for kernel in (True, False):
        module._has_kernel = lambda _, kernel=kernel: kernel
        module.zero_grad()
        module.weighted(x, weights, chosen).square().sum().backward()
        results.append([parameter.grad for parameter in module.parameters()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_one_kernel_under_autocast_is_of_bfloat16():
    module, x = experts("naive"), tokens().flatten(0, 1)
    weights, chosen, *_ = module.gate(x)
    expected = module.weighted(x, weights, chosen)
    module._has_kernel = lambda _: True
    with torch.autocast("cpu", torch.bfloat16):
        y = module.weighted(x, weights, chosen)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)


def test_without_a_gpu_experts_are_computed_one_by_one():
    module = experts("naive").bfloat16()
    assert not module._has_kernel(torch.zeros(4, H, dtype=torch.bfloat16))


@pytest.mark.parametrize("gate", ALL)
@pytest.mark.parametrize("dropped", [False, True])
def test_bfloat16_and_autocast_come_near_float32(gate, dropped):
    module, x = (tight(gate) if dropped else experts(gate)).eval(), tokens()
    x = x.detach()[:1, :1]  # one token: the experts that two precisions choose may differ with more
    module.ids = module.ids[:1, :1]
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("gate", ALL)
def test_a_loss_of_the_gate_adds_up_over_applications_in_training(gate):
    module, x = experts(gate), tokens()
    losses = []
    for _ in range(2):
        torch.manual_seed(2)
        module(x)
        losses.append(module.auxiliary_loss)
    assert (losses[0] is not None) == (gate in LOSSES)
    if losses[0] is not None:
        torch.testing.assert_close(losses[1], 2 * losses[0])
    module.eval()
    module.auxiliary_loss = None
    module(x)
    assert module.auxiliary_loss is None


@pytest.mark.parametrize("gate", ["naive", "hash", "switch"])
def test_padding_changes_nothing_for_real_tokens(gate):
    module, x = experts(gate).eval(), tokens()
    module.real = torch.cat([torch.arange(12), torch.arange(20, 32)])
    y = module(x)
    assert not y[:, 12:].any()
    assert module.load.sum() == 24 * module.gate.k
    module.real, module.ids = None, module.ids[:, :12]
    torch.testing.assert_close(y[:, :12], module(x[:, :12]))


def test_dropout_is_inside_the_experts_and_in_training_only():
    module, x = experts("naive", dropout=0.5), torch.randn(1, H).expand(1, 20_000, H)
    dropped, whole = module(x), module.eval()(x)
    assert torch.equal(whole, module(x))
    torch.testing.assert_close(dropped.mean(1), whole.mean(1), rtol=0, atol=0.05)
    assert dropped.std(1).min() > 0.2
    torch.nn.init.zeros_(module.w2)
    assert torch.equal(module.train()(x), module.eval()(x))  # what is left, the last biases, is not dropped


def test_hash_without_ids_says_what_is_missing():
    module = experts("hash")
    module.ids = None
    with pytest.raises(ValueError, match="pass input_ids"):
        module(tokens())


@pytest.mark.parametrize("gate", ALL)
def test_parameters_are_as_many_as_planned(gate):
    planned = Brainformer(order="sg", hidden_size=H, num_heads=2, intermediate_size=SIZE, experts=Settings(gate=gate))
    module = GatedExperts(planned.experts, H, SIZE, planned.vocab_size)
    norm = 2 * H
    assert sum(p.numel() for p in module.parameters()) == planned.feed_forward_parameters - norm


def test_everything_is_drawn_as_torch_draws_linear_layers():
    module = GatedExperts(Settings(gate="noisy"), 64, 400, VOCAB)
    drawn = {
        64: (module.w1, module.b1, module.gate.linear.weight, module.gate.noise.weight),
        400: (module.w2, module.b2),
    }
    for inputs, parameters in drawn.items():
        for parameter in parameters:
            assert parameter.abs().max().item() == pytest.approx(inputs**-0.5, rel=0.05)
            assert parameter.std().item() == pytest.approx((inputs * 3) ** -0.5, rel=0.1)


def test_a_copy_has_made_no_pass():
    module = experts("switch")
    module(tokens())
    copied = copy.deepcopy(module)
    assert copied.ids is None
    assert copied.auxiliary_loss is None


class Config(PreTrainedConfig):
    model_type = "experts"
    gate = "naive"


class Model(PreTrainedModel):
    """As our models are drawn: `variant.Variant` and the Brainformer call `initialize` of every Layer."""

    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.experts = GatedExperts(Settings(gate=config.gate, num_experts=EXPERTS), H, SIZE, VOCAB)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, Layer):
            module.initialize(0.02)


@pytest.mark.parametrize("gate", ALL)
def test_experts_and_gate_survive_save_and_load(tmp_path, gate):
    model = Model(Config(gate=gate))
    model.save_pretrained(tmp_path)
    loaded = Model.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert ("experts.gate.table" in model.state_dict()) == (gate == "hash")
    assert loaded.experts.gate.k == model.experts.gate.k
    if gate == "random":  # frozen, whatever `from_pretrained` makes of requires_grad
        loaded.experts(torch.randn(1, 3, H)).sum().backward()
        assert loaded.experts.w1.grad.any()
        assert loaded.experts.gate.linear.weight.grad is None
