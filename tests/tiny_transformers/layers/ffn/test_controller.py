import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_transformers.layers.ffn import controller
from tiny_transformers.layers.ffn.controller import Controller
from tiny_transformers.layers.noise import gumbel

H, SIZE, BLOCKS, RANK = 16, 64, 8, 4


def layer(**settings) -> Controller:
    """Seeded, with every parameter, biases included, large enough to show."""
    torch.manual_seed(0)
    module = Controller(H, SIZE, BLOCKS, RANK, **settings)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    return module


def masked(module: Controller, x: Tensor) -> Tensor:
    """The definition in evaluation: all units, times the mask."""
    logits = module.v(module.u(x)).view(-1, module.num_blocks, SIZE // module.num_blocks)
    mask = F.one_hot(logits.argmax(-1), logits.shape[-1]).view(-1, SIZE)
    return mask * module.activation(F.linear(x, module.w1, module.b1)) @ module.w2 + module.b2


def only(way: str, module: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_sparse_is_faster", lambda *_: way == "sparse")


@pytest.mark.parametrize("way", ["sparse", "dense"])
@pytest.mark.parametrize("blocks", [8, 4])
def test_output_and_mask_are_the_known_ones(known, blocks, way, monkeypatch):
    case = {key.split("/")[1]: value for key, value in known.items() if key.startswith(f"cnt_n{blocks}/")}
    module = Controller(H, SIZE, blocks, len(case["U"])).eval()
    only(way, module, monkeypatch)
    state = {"u.weight": case["U"], "v.weight": case["V"], "w1": case["W1"], "b1": case["b1"]}
    module.load_state_dict({**state, "w2": case["W2"].T, "b2": case["b2"]})
    torch.testing.assert_close(module(case["x"]), case["y"], rtol=0, atol=1e-5)
    x = case["x"].flatten(0, 1)
    mask = module._mask(module._chosen(module.v(module.u(x)).unflatten(1, (blocks, -1))))
    assert torch.equal(mask.long(), case["mask"].flatten(0, 1))


@pytest.mark.parametrize("way", ["sparse", "dense"])
def test_both_ways_of_evaluation_are_the_definition_in_values_and_gradients(way, monkeypatch):
    monkeypatch.setattr(controller, "ROWS", 3 * BLOCKS)  # three tokens a piece
    module, x = layer().eval(), torch.randn(10, H, requires_grad=True)
    only(way, module, monkeypatch)
    inputs = [x, module.w1, module.b1, module.w2, module.b2]
    ours, theirs = module(x), masked(module, x)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(module(x), ours)
    ours, theirs = (torch.autograd.grad(y.square().sum(), inputs) for y in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_evaluation_of_few_tokens_reads_the_chosen_units_only():
    module, x = layer().eval(), torch.randn(1, 1, H)
    expected = module(x)
    chosen = module._chosen(module.v(module.u(x[0])).unflatten(1, (BLOCKS, -1)))
    off = module._mask(chosen)[0] == 0
    assert off.sum() == SIZE - BLOCKS
    for parameter in (module.w1, module.b1, module.w2):
        parameter.data[off] = torch.nan
    assert torch.equal(module(x), expected)


@pytest.mark.parametrize(
    ("size", "blocks", "tokens", "device", "sparse"),
    [
        (4032, 64, 1, "cpu", True),
        (4032, 64, 10_000, "cpu", True),  # one unit in 63 is on
        (4096, 512, 8, "cpu", True),
        (4096, 512, 9, "cpu", False),  # one unit in 8
        (4032, 64, 64, "cuda", True),
        (4032, 64, 65, "cuda", False),
    ],
)
def test_rows_are_gathered_where_that_was_measured_to_be_faster(size, blocks, tokens, device, sparse):
    with torch.device("meta"):
        module = Controller(256, size, blocks, 4)
    assert module._sparse_is_faster(device, tokens * blocks) == sparse


def test_training_has_exactly_one_unit_on_in_each_block():
    module = layer()
    mask = module._sampled(torch.randn(50, BLOCKS, SIZE // BLOCKS)).unflatten(1, (BLOCKS, -1))
    assert ((mask == 0).sum(-1) == SIZE // BLOCKS - 1).all()
    torch.testing.assert_close(mask.sum(-1), torch.ones(50, BLOCKS))


def test_training_draws_the_unit_with_the_softmax_of_the_logits():
    """The Gumbel-max trick: the temperature changes the gradient, not the draw."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    mask = Controller(H, 4, 1, 2)._sampled(logits.expand(40_000, 1, 4))
    torch.testing.assert_close(mask.mean(0), logits.softmax(0), rtol=0, atol=0.01)


def test_training_is_random_and_evaluation_is_not():
    module, x = layer(), torch.randn(20, H)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_the_controller_learns_by_the_gradient_of_the_softmax():
    module = layer(temperature=0.5)
    x, logits = torch.randn(6, H), torch.randn(6, BLOCKS, SIZE // BLOCKS, requires_grad=True)
    weights = torch.randn(6, SIZE)
    torch.manual_seed(1)
    ours = torch.autograd.grad((module._sampled(logits) * weights).sum(), logits)[0]
    torch.manual_seed(1)
    soft = ((logits + gumbel(logits)) / 0.5).softmax(-1).flatten(1)
    torch.testing.assert_close(ours, torch.autograd.grad((soft * weights).sum(), logits)[0])
    module(x).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_nearly_certain_logits_train_as_they_evaluate():
    module, x = layer(), torch.randn(9, H)
    module.v.weight.data *= 1e4
    torch.testing.assert_close(module.train()(x), module.eval()(x))


@pytest.mark.parametrize("training", [True, False])
def test_padding_does_not_change_the_result(training):
    module, x = layer().train(training), torch.randn(2, 5, H)
    torch.manual_seed(3)
    expected = module(x[:, :3])
    module.real = torch.tensor([0, 1, 2, 5, 6, 7])
    torch.manual_seed(3)
    y = module(x)
    torch.testing.assert_close(y[:, :3], expected)
    assert not y[:, 3:].any()
    assert module.auxiliary_loss is None


@pytest.mark.parametrize("training", [True, False])
def test_no_token_gives_no_output(training):
    assert layer().train(training)(torch.empty(0, H)).shape == (0, H)


@pytest.mark.parametrize("way", ["sparse", "dense"])
@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_and_autocast_come_near_float32(autocast, way, monkeypatch):
    whole, x = layer().eval(), torch.randn(20, H)
    expected, chosen = whole(x), whole._chosen(whole.v(whole.u(x)).unflatten(1, (BLOCKS, -1)))
    module = layer() if autocast else layer().to(torch.bfloat16)
    only(way, module, monkeypatch)
    monkeypatch.setattr(module, "_chosen", lambda _: chosen)  # near ties may go either way
    x = x if autocast else x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, trained = module.eval()(x), module.train()(x)
    assert y.dtype == trained.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)
    (y.float().square().sum() + trained.float().square().sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_state_dict_survives_a_round_trip():
    first, second, x = layer(), Controller(H, SIZE, BLOCKS, RANK), torch.randn(6, H)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(x), second.eval()(x))


def test_initialization_is_the_familys():
    torch.manual_seed(0)
    module = Controller(64, 640, 10, 3)
    assert module.w1.std().item() == pytest.approx(0.02, rel=0.02)
    assert module.w2.std().item() == pytest.approx(0.02, rel=0.02)
    assert not module.b1.any()
    assert not module.b2.any()
    before = module.w1.clone()
    module.w1._is_hf_initialized = True  # loaded
    module.initialize(0.5)
    assert torch.equal(module.w1, before)
    assert module.w2.std() > 0.4


def test_built_on_the_meta_device_it_can_be_drawn_later():
    with torch.device("meta"):
        module = Controller(H, SIZE, BLOCKS, RANK)
    assert all(parameter.is_meta for parameter in module.parameters())
    module.to_empty(device="cpu").initialize(0.5)
    assert 0.4 < module.w2.std() < 0.6
