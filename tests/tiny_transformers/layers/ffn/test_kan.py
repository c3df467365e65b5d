import copy
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from tiny_transformers.layers.ffn import kan
from tiny_transformers.layers.ffn.kan import KANLinear

IN, OUT = 4, 3
UNEVEN = [-3.0, -2.4, -1.5, -1.0, -0.9, -0.1, 0.3, 1.0, 1.8, 2.0]  # grid size 3, order 3


def basis(x: Tensor, t: Tensor, i: int, k: int) -> Tensor:
    """The definition: B_i of degree k on the knots t (K, in), at x (N, in)."""
    if k == 0:
        return ((t[i] <= x) & (x < t[i + 1])).to(x)
    rising = (x - t[i]) / (t[i + k] - t[i]) * basis(x, t, i, k - 1)
    return rising + (t[i + k + 1] - x) / (t[i + k + 1] - t[i + 1]) * basis(x, t, i + 1, k - 1)


def reference(layer: KANLinear, x: Tensor) -> list[Tensor]:
    """Output and gradients (of sum(y^2), in the order of `computed`), by the definition in float64."""
    x = x.detach().double().requires_grad_()
    weights = {name: p.detach().double().requires_grad_() for name, p in layer.named_parameters()}
    t = layer.grid.double().T
    bases = [basis(x, t, i, layer.spline_order) for i in range(layer.grid_size + layer.spline_order)]
    splines = weights["spline_weight"] * weights["spline_scaler"][..., None]
    y = F.silu(x) @ weights["base_weight"].T + torch.einsum("nic,oic->no", torch.stack(bases, -1), splines)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *weights.values()])]


def computed(layer: KANLinear, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad((y * y).sum(dtype=kan._working_dtype(y)), [x, *layer.parameters()])]


def assert_right(layer: KANLinear, x: Tensor, tolerance: float) -> None:
    """Values to `tolerance`, gradients to ten times that; relative to the largest, where that is more than 1."""
    for index, (mine, right) in enumerate(zip(computed(layer, x), reference(layer, x), strict=True)):
        limit = tolerance * (10 if index else 1) * max(1.0, right.abs().max().item())
        torch.testing.assert_close(mine.double(), right, atol=limit, rtol=0)


def drawn(grid_size: int = 3, spline_order: int = 3, **options) -> KANLinear:
    """A layer whose weights are all of size 1, so that every term counts."""
    torch.manual_seed(0)
    layer = KANLinear(IN, OUT, grid_size, spline_order, **options)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def points(layer: KANLinear, count: int = 200) -> Tensor:
    """Inside and outside of the grid, and exactly at every knot. -> (N, in)"""
    torch.manual_seed(1)
    low, high = layer.grid.min().item(), layer.grid.max().item()
    spread = torch.empty(count, IN, dtype=layer.grid.dtype).uniform_(low - 1, high + 1)
    return torch.cat([spread, layer.grid.T])


with safe_open(Path(__file__).parents[3] / "known_answers" / "kan.safetensors", "pt") as file:  # by make_kan.py there
    CASES = json.loads(file.metadata()["made_with"])["cases"]
    KNOWN = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict


def known(prefix: str) -> dict[str, Tensor]:
    """efficient-kan's figures below this name."""
    return {name.removeprefix(prefix): value for name, value in KNOWN.items() if name.startswith(prefix)}


def as_efficient_kans(case: str) -> torch.nn.Sequential:
    """Our layers with the options of theirs. A layer of theirs without scalers is one of ours with scalers of 1."""
    options = dict(CASES[case])
    options.pop("enable_standalone_scale_spline", None)
    widths = options.pop("widths", [IN, OUT])
    return torch.nn.Sequential(*(KANLinear(*pair, **options) for pair in pairwise(widths)))


@pytest.mark.parametrize("case", CASES)
def test_equal_seeds_draw_the_layer_of_efficient_kan(case):
    torch.manual_seed(0)
    assert torch.equal(torch.rand(8), KNOWN["stream"]), "torch draws other numbers than it did: run make_kan.py again"
    torch.manual_seed(0)
    ours = as_efficient_kans(case).state_dict()
    theirs = known(f"{case}/initial/")
    assert ours.keys() - theirs.keys() == ({"0.spline_scaler"} if case == "no_scaler" else set())
    if case == "large":  # whose least squares fail: make_kan.py says where they do
        ours.pop("0.spline_weight"), theirs.pop("0.spline_weight")
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", ["uniform", "fitted"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_efficient_kan(case, grid):
    right = known(f"{case}/{grid}/")
    model = as_efficient_kans(case)
    state = known(f"{case}/{grid}/state/")
    scaled = {name: tensor for name, tensor in model.state_dict().items() if name.endswith("scaler")}
    model.load_state_dict(state)
    for name in scaled.keys() - state.keys():  # of a layer that has none
        assert (model.get_parameter(name) == 1).all()
    assert [layer._grid_is_uniform() for layer in model] == [grid == "uniform"] * len(model)
    x = right["x"].requires_grad_()
    y = model(x)
    torch.testing.assert_close(y, right["y"], atol=1e-5, rtol=1e-5)
    y.square().sum().backward()
    grads = {"x": x.grad, **{name: parameter.grad for name, parameter in model.named_parameters()}}
    for name, grad in known(f"{case}/{grid}/grad/").items():
        torch.testing.assert_close(grads[name], grad, atol=1e-4, rtol=1e-4)
    model.zero_grad()
    regularization = sum(layer.regularization_loss(0.3, 2.0) for layer in model)
    torch.testing.assert_close(regularization, right["regularization"])
    regularization.backward()
    for name, grad in known(f"{case}/{grid}/regularization_grad/").items():
        torch.testing.assert_close(model.get_parameter(name).grad, grad)


@pytest.mark.parametrize("grid_size", [1, 3, 5, 20])
@pytest.mark.parametrize("spline_order", range(6))
def test_splines_are_those_of_the_recursion(spline_order, grid_size):
    layer = drawn(grid_size, spline_order)
    assert_right(layer, points(layer), 1e-5)
    layer = layer.double()  # its knots are float32's, and the closed form has none of their rounding
    layer.grid = layer.knots.tensor().expand_as(layer.grid).clone()
    assert_right(layer, points(layer), 1e-12)


def test_the_range_may_be_any():
    layer = drawn(7, 3, grid_range=(-0.25, 10))
    assert_right(layer, points(layer), 1e-5)


@pytest.mark.parametrize("spline_order", [2, 3, 4, 5])
def test_a_uniform_grid_needs_no_recursion(monkeypatch, spline_order):
    layer = drawn(5, spline_order)
    monkeypatch.setattr(kan, "cox_de_boor", None)
    assert layer(torch.randn(2, IN)).isfinite().all()


def test_outside_the_grid_only_silu_is_left():
    layer = drawn()
    x = torch.tensor([[-1e30], [-3.5], [3.0], [50.0], [1e30]]).expand(-1, IN)
    torch.testing.assert_close(layer(x), F.silu(x) @ layer.base_weight.T)


def test_many_chunks_of_rows_equal_one(monkeypatch):
    layer = drawn()
    x = torch.randn(101, IN)
    whole = computed(layer, x)
    monkeypatch.setattr(kan, "CHUNK_ON_CPU", 10 * 7 * IN)  # ten rows: the last chunk has one
    for some, all_ in zip(computed(layer, x), whole, strict=True):
        torch.testing.assert_close(some, all_, atol=1e-4, rtol=1e-5)
    monkeypatch.setattr(kan, "CHUNK_ON_CPU", 1)  # less than a row
    torch.testing.assert_close(layer(x), whole[0])


def test_nothing_larger_than_the_input_is_kept_for_the_backward_pass():
    layer, kept = drawn(), []
    x = torch.randn(100, IN, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()), lambda _: None):
        layer(x)
    assert max(kept) == x.numel()


def test_gradients_agree_with_differences():
    layer = drawn(4, 3).double()
    x = torch.empty(6, IN, dtype=torch.float64).uniform_(-3, 3).requires_grad_()
    names, weights = zip(*layer.named_parameters(), strict=True)

    def call(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), x)

    assert torch.autograd.gradcheck(call, (x, *weights))


def test_gradients_nobody_needs_are_left_out():
    layer = drawn()
    x = torch.randn(5, IN)
    layer(x).sum().backward()  # x needs none
    assert layer.base_weight.grad is not None
    layer = drawn().requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert layer.base_weight.grad is None


def uneven(layer: KANLinear) -> Tensor:
    shift = torch.arange(IN) / 10  # another grid for every feature
    return torch.tensor(UNEVEN).expand_as(layer.grid) * (1 + shift[:, None])


def test_a_grid_that_is_not_uniform_is_right_too():
    layer = drawn()
    layer.grid.copy_(uneven(layer))
    assert_right(layer, points(layer), 1e-5)


@pytest.mark.parametrize("assign", [False, True])
def test_a_loaded_grid_is_noticed(assign):
    layer = drawn()
    layer(points(layer))
    twin = copy.deepcopy(layer)
    state = {**copy.deepcopy(layer.state_dict()), "grid": uneven(layer)}
    layer.load_state_dict(state, assign=assign)
    assert_right(layer, points(layer), 1e-5)
    layer.load_state_dict(twin.state_dict(), assign=assign)
    assert layer._grid_is_uniform()
    twin.load_state_dict(state, assign=assign)
    assert_right(twin, points(twin), 1e-5)


def test_a_replaced_grid_is_noticed_though_written_as_often():
    layer = drawn()
    layer(points(layer))
    version = layer.grid._version
    layer.grid = uneven(layer).clone()
    while layer.grid._version < version:
        layer.grid.add_(0)
    assert layer.grid._version == version
    assert_right(layer, points(layer), 1e-5)


def test_a_copy_of_a_layer_looks_at_its_own_grid():
    layer = drawn()
    for _ in range(5):
        layer.grid.add_(0)
    layer(points(layer))
    twin = copy.deepcopy(layer)
    assert twin.grid._version < layer.grid._version
    while twin.grid._version < layer.grid._version:
        twin.grid.copy_(uneven(layer))
    assert_right(twin, points(twin), 1e-5)


def test_one_feature_with_another_grid_is_enough():
    layer = drawn()
    layer.grid[2] *= 1.01
    assert not layer._grid_is_uniform()
    assert_right(layer, points(layer), 1e-5)


def test_the_grid_is_compared_once(monkeypatch):
    layer, asked = drawn(), []
    monkeypatch.setattr(KANLinear, "_equals_knots", lambda _, grid: not asked.append(grid))
    for _ in range(3):
        layer(torch.randn(2, IN))
    assert len(asked) == 1
    layer.double()(torch.randn(2, IN).double())
    assert len(asked) == 2


def test_a_layer_made_in_inference_mode_works():
    with torch.inference_mode():
        layer = drawn()
        x = points(layer)
        y = layer(x)
        layer.grid.copy_(uneven(layer))  # of which PyTorch keeps no count here
        assert not layer._grid_is_uniform()
    torch.testing.assert_close(y, drawn()(x.clone()))


def assert_uniform(weight: Tensor, bound: float) -> None:
    assert 0.99 * bound < weight.abs().max() <= bound
    assert abs(weight.mean()) < 0.02 * bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_upstream_initialisation_is_kaiming_uniform():
    torch.manual_seed(0)
    layer = KANLinear(128, 200, scale_base=2.0)
    assert_uniform(layer.base_weight, math.sqrt(6 / (1 + 5 * 2**2) / 128))
    assert_uniform(layer.spline_scaler, math.sqrt(6 / (1 + 5) / 128))


def test_study_initialisation_is_xavier_uniform_with_scalers_of_one():
    torch.manual_seed(0)
    layer = KANLinear(128, 200, initialization="study")
    assert_uniform(layer.base_weight, math.sqrt(6 / (128 + 200)))
    assert (layer.spline_scaler == 1).all()


@pytest.mark.parametrize("initialization", ["upstream", "study"])
@pytest.mark.parametrize(("grid_size", "spline_order"), [(3, 3), (5, 3), (5, 1), (4, 2)])
def test_splines_begin_as_the_noise_drawn(initialization, grid_size, spline_order):
    torch.manual_seed(0)
    layer = KANLinear(16, 24, grid_size, spline_order, scale_noise=0.3, initialization=initialization)
    torch.manual_seed(0)
    torch.empty(24, 16).uniform_()  # base_weight is drawn first
    noise = (torch.rand(grid_size + 1, 16, 24) - 0.5) * 0.3 / grid_size
    inside = layer.grid.T[spline_order : spline_order + grid_size + 1]
    bases = torch.stack([basis(inside, layer.grid.T, i, spline_order) for i in range(grid_size + spline_order)], -1)
    torch.testing.assert_close(torch.einsum("pic,oic->pio", bases, layer.spline_weight), noise, atol=1e-6, rtol=0)
    shortest = torch.linalg.lstsq(bases.transpose(0, 1), noise.transpose(0, 1)).solution  # (in, count, out)
    torch.testing.assert_close(layer.spline_weight.permute(1, 2, 0), shortest, atol=1e-6, rtol=0)


def test_a_layer_built_on_the_meta_device_is_initialised_later():
    torch.manual_seed(0)
    direct = KANLinear(IN, OUT)
    with torch.device("meta"):
        layer = KANLinear(IN, OUT)
    layer.to_empty(device="cpu")
    for tensor in layer.state_dict().values():
        tensor.fill_(math.nan)
    torch.manual_seed(0)
    layer.initialize(0.02)
    for name, tensor in direct.state_dict().items():
        assert torch.equal(layer.state_dict()[name], tensor), name


def test_nothing_is_drawn_on_the_meta_device(monkeypatch):
    monkeypatch.setattr(KANLinear, "_fitted_to_noise", None)
    with torch.device("meta"):
        assert KANLinear(IN, OUT).grid.is_meta


def test_what_a_checkpoint_loaded_is_not_drawn_again():
    layer = drawn()
    layer.grid.copy_(uneven(layer))
    before = copy.deepcopy(layer.state_dict())
    for name in ("grid", "spline_weight"):
        getattr(layer, name)._is_hf_initialized = True
    layer.initialize(0.02)
    same = {name: torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items()}
    assert same == {"base_weight": False, "spline_weight": True, "spline_scaler": False, "grid": True}


def test_state_dict_is_that_of_efficient_kan():
    shapes = {name: tuple(tensor.shape) for name, tensor in KANLinear(6, 9, 5, 3).state_dict().items()}
    assert shapes == {"base_weight": (9, 6), "spline_weight": (9, 6, 8), "spline_scaler": (9, 6), "grid": (6, 12)}


def test_leading_dimensions_are_kept():
    layer = drawn()
    x = torch.randn(2, 7, IN)
    y = layer(x)
    assert y.shape == (2, 7, OUT)
    torch.testing.assert_close(y[1], layer(x[1]))
    torch.testing.assert_close(y[1, 2], layer(x[1, 2]))
    torch.testing.assert_close(layer(x.transpose(0, 1)), y.transpose(0, 1))


@pytest.mark.parametrize("spline_order", [1, 3])
def test_no_rows_are_no_trouble(spline_order):
    layer = drawn(3, spline_order)
    x = torch.empty(2, 0, IN, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == (2, 0, OUT)
    assert x.grad.shape == x.shape
    assert all((parameter.grad == 0).all() for parameter in layer.parameters())


@pytest.mark.parametrize("spline_order", [1, 3])
def test_an_input_of_another_width_is_refused(spline_order):
    with pytest.raises(RuntimeError):
        drawn(3, spline_order)(torch.randn(2, 2 * IN))


@pytest.mark.parametrize("cast", ["module", "autocast"])
@pytest.mark.parametrize(("grid_size", "spline_order"), [(3, 3), (5, 3), (5, 1)])
def test_bfloat16_is_float32_but_for_its_rounding(cast, grid_size, spline_order):
    layer = drawn(grid_size, spline_order)
    x = points(layer).bfloat16().float()
    right = computed(layer, x)
    if cast == "module":
        layer, x = layer.bfloat16(), x.bfloat16()
    assert layer._grid_is_uniform()
    with torch.autocast("cpu", torch.bfloat16, enabled=cast == "autocast"):
        mine = computed(layer, x)
    assert mine[0].dtype == torch.bfloat16
    assert {tensor.dtype for tensor in mine[1:]} == {torch.bfloat16 if cast == "module" else torch.float32}
    if spline_order == 1 and cast == "module":
        mine, right = mine[:1], right[:1]  # at a knot that was rounded, the slope is another interval's
    for some, exact in zip(mine, right, strict=True):
        assert (some.float() - exact).norm() < 0.02 * exact.norm()


def test_a_bfloat16_grid_that_is_not_uniform_is_worked_on_in_float32(monkeypatch):
    layer = drawn()
    layer.grid.copy_(uneven(layer))
    layer, x, seen = layer.bfloat16(), points(layer).bfloat16(), []
    recursion = kan.cox_de_boor
    monkeypatch.setattr(kan, "cox_de_boor", lambda *given: seen.append(given) or recursion(*given))
    for mine, exact in zip(computed(layer, x), reference(layer, x), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - exact).norm() < 0.02 * exact.norm()
    assert {given.dtype for given in seen[0][:2]} == {torch.float32}


def test_bfloat16_gradients_do_not_lose_rows_to_rounding(monkeypatch):
    layer = drawn().bfloat16()
    x = torch.full((2_000, IN), 0.3)
    monkeypatch.setattr(kan, "CHUNK_ON_CPU", 1)  # row by row: in bfloat16 a sum stops growing at 256 times its terms
    layer(x.bfloat16()).sum().backward()
    torch.testing.assert_close(layer.base_weight.grad.float(), F.silu(x).sum(0).expand(OUT, -1), atol=0, rtol=0.01)


def test_regularisation_is_the_norm_and_the_entropy_of_its_shares():
    layer = KANLinear(2, 1, grid_size=1, spline_order=1)
    with torch.no_grad():
        layer.spline_weight.copy_(torch.tensor([[[-1.0, 3.0], [6.0, -6.0]]]))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert layer.regularization_loss().item() == pytest.approx(8 + entropy)
    assert layer.regularization_loss(0.5, 10.0).item() == pytest.approx(4 + 10 * entropy)
    with torch.no_grad():
        layer.spline_weight[0, 0] = 0
    assert layer.regularization_loss().item() == pytest.approx(6)  # an edge of weight 0 has no share


def test_edges_without_weight_have_a_finite_gradient_and_leave_that_of_others():
    layer = KANLinear(3, 1)
    torch.nn.init.normal_(layer.spline_weight)
    with torch.no_grad():
        layer.spline_weight[0, 1] = 0
    layer.regularization_loss().backward()
    assert not layer.spline_weight.grad[0, 1].any()
    norm = layer.spline_weight.detach()[0, [0, 2]].requires_grad_()
    shares = norm.abs().mean(-1) / norm.abs().mean(-1).sum()
    (norm.abs().mean(-1).sum() - (shares * shares.log()).sum()).backward()
    torch.testing.assert_close(layer.spline_weight.grad[0, [0, 2]], norm.grad)
    layer.zero_grad()
    with torch.no_grad():
        layer.spline_weight.zero_()
    layer.regularization_loss().backward()
    assert not layer.spline_weight.grad.any()
