"""A linear layer with a learnable function on every edge, of a Kolmogorov-Arnold network (KAN).

Liu et al. 2024, arXiv:2404.19756, section 2.2: phi(x) = w_b silu(x) + w_s sum_j c_j B_j(x), B_j a grid's B-splines.
Arguments, parameters and buffer are named and shaped as in efficient-kan (github.com/Blealtan/efficient-kan), so that
state dicts load both ways; one of its layers that has no spline_scaler gets ones. Its recursion is here only for grids
that are not uniform: on a uniform grid all B-splines are shifts of one, which has a closed form, and the backward pass
computes them again instead of keeping them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import initialization as init

from tiny_transformers.layers import activations
from tiny_transformers.layers.layer import Layer
from tiny_transformers.settings.feed_forward.kan import KAN

# Values of features worked on at a time. On a CPU they should stay in the cache, while the matrix products want some
# hundreds of rows (measured: 2**20 is best, twice or half of it little worse); elsewhere only the memory counts.
CHUNK_ON_CPU = 2**20
CHUNK = 2**26


class Knots(NamedTuple):
    """A uniform grid: the knots are start + i step, and `bases` B-splines of degree `order` stand on them."""

    order: int
    bases: int
    start: float
    step: float

    def tensor(self) -> Tensor:
        """-> (bases + order + 1,), float64, on the CPU even while models are built on the meta device"""
        return self.start + self.step * torch.arange(self.bases + self.order + 1, dtype=torch.float64, device="cpu")


class KANLinear(Layer):
    """y_o = sum_i base_weight_oi silu(x_i) + spline_scaler_oi sum_j spline_weight_oij B_j(x_i).

    `initialization` "upstream" is efficient-kan's; "study" has a Xavier-uniform base_weight and spline_scaler 1, and
    so knows no scale_base and no scale_spline."""

    grid: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        grid_size: int = 5,  # intervals in grid_range
        spline_order: int = 3,  # degree of the polynomials
        scale_noise: float = 0.1,
        scale_base: float = 1.0,
        scale_spline: float = 1.0,
        grid_range: tuple[float, float] = (-1, 1),
        initialization: Literal["upstream", "study"] = "upstream",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.grid_size, self.spline_order = grid_size, spline_order
        self.scale_noise, self.scale_base, self.scale_spline = scale_noise, scale_base, scale_spline
        self.initialization = initialization
        step = (grid_range[1] - grid_range[0]) / grid_size
        self.knots = Knots(spline_order, grid_size + spline_order, grid_range[0] - spline_order * step, step)
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.empty(out_features, in_features, self.knots.bases))
        self.spline_scaler = nn.Parameter(torch.empty(out_features, in_features))
        self.register_buffer("grid", torch.empty(in_features, self.knots.bases + spline_order + 1))
        self._compared: tuple[Tensor, int | None, bool] | None = None  # the grid, its version, whether it is `knots`
        self.initialize(0.0)

    def initialize(self, std: float) -> None:  # noqa: ARG002
        """`std` is not used: a spline's scale follows from the noise it is fitted to, the others' from the fan-in.

        The order of drawing is efficient-kan's, so equal seeds give equal layers, but for large grids, of which its
        splines are not fitted to the noise on a CPU (docs/models.md says from which size on)."""
        if self.grid.is_meta:
            return  # nothing to write to; called again when there is
        init.copy_(self.grid, self.knots.tensor().expand_as(self.grid))
        study = self.initialization == "study"
        if study:
            init.xavier_uniform_(self.base_weight)
        else:
            init.kaiming_uniform_(self.base_weight, a=math.sqrt(5) * self.scale_base)
        init.copy_(self.spline_weight, self._fitted_to_noise())
        if study:
            init.ones_(self.spline_scaler)
        else:
            init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5) * self.scale_spline)

    def _fitted_to_noise(self) -> Tensor:
        """Coefficients of splines that are uniform noise at the grid_size + 1 knots of the range. -> (out, in, bases)

        Least squares, and of the many solutions the shortest: by the pseudo-inverse, all features having one grid."""
        points = self.grid_size + 1
        noise = torch.rand(points, self.in_features, self.out_features, device=self.grid.device, dtype=torch.float32)
        noise = (noise - 0.5) * self.scale_noise / self.grid_size
        knots = self.knots.tensor()
        inside = knots[self.spline_order : self.spline_order + points, None]
        bases = cox_de_boor(inside, knots[None], self.spline_order)[:, 0]  # (points, bases)
        return torch.einsum("cp,pio->oic", torch.linalg.pinv(bases).to(noise), noise)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in) -> (..., out), in the dtype of the weights, or of autocast"""
        rows, weight = x.reshape(-1, x.shape[-1]), self._weight()
        # Of degrees 0 and 1 the value or the slope jumps at a knot, so the side counts, and rounding would choose it.
        if self.spline_order >= 2 and self._grid_is_uniform():
            y = _UniformSpline.apply(rows, weight, self.knots)
        else:
            rows = rows.to(_working_dtype(x))
            bases = cox_de_boor(rows, self.grid.to(rows.dtype), self.spline_order)  # (N, in, bases)
            features = torch.cat([bases.transpose(1, 2), F.silu(rows)[:, None]], dim=1)
            y = F.linear(features.flatten(1).to(weight.dtype), weight)
        return y.view(*x.shape[:-1], self.out_features)

    def _weight(self) -> Tensor:
        """One matrix for all features, the splines' and then silu's. -> (out, (bases + 1) in)"""
        splines = self.spline_weight * self.spline_scaler[..., None]  # (out, in, bases)
        weight = torch.cat([splines.transpose(1, 2), self.base_weight[:, None]], dim=1).flatten(1)
        device = weight.device.type
        return weight.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else weight

    def _grid_is_uniform(self) -> bool:
        """Whether the grid is the constructor's; efficient-kan's update_grid makes another one.

        Compared again only when the tensor was replaced or written to, since on a GPU the answer has to be waited for.
        (Writing through `.data` is not seen: PyTorch does not count it.)"""
        grid = self.grid
        version = None if grid.is_inference() else grid._version
        if self._compared is None or self._compared[0] is not grid or version is None or self._compared[1] != version:
            self._compared = (grid, version, grid.is_meta or self._equals_knots(grid))
        return self._compared[2]

    def _equals_knots(self, grid: Tensor) -> bool:
        knots = self.knots.tensor()
        rounding = max(1e-6, torch.finfo(grid.dtype).eps) * knots.abs().max()  # efficient-kan's float32, or our cast
        return bool(((grid.double() - knots.to(grid.device)).abs() <= rounding.to(grid.device)).all())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """A layer of efficient-kan's that was made with `enable_standalone_scale_spline=False` has no scalers: ones."""
        splines, scaler = state_dict.get(f"{prefix}spline_weight"), f"{prefix}spline_scaler"
        if splines is not None and scaler not in state_dict:
            state_dict[scaler] = torch.ones_like(splines[..., 0])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compared": None}  # a copy's grid has versions of its own

    def regularization_loss(self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0) -> Tensor:
        """L1 norm of the edges' functions and the entropy of its shares: Liu et al. 2024, eqs. 2.17 to 2.20. -> ()

        There the norm is of phi's values, averaged over samples. As in efficient-kan it is of the spline's weights
        here: the values of single edges, (N, out, in), exist nowhere when a layer is one matrix product. An edge
        without any weight has no share, and no gradient, where efficient-kan's are not numbers."""
        norm = self.spline_weight.abs().mean(-1)  # (out, in)
        total, least = norm.sum(), torch.finfo(norm.dtype).tiny
        shares = (norm / total.clamp_min(least)).clamp_min(least)
        return regularize_activation * total + regularize_entropy * torch.special.entr(shares).sum()


def cox_de_boor(x: Tensor, grid: Tensor, order: int) -> Tensor:
    """B-splines by the recursion of Cox and de Boor on any increasing knots; a support is closed on the left only.

    x: (N, in), grid: (in, K) -> (N, in, K - 1 - order)"""
    x = x[..., None]
    bases = ((grid[:, :-1] <= x) & (x < grid[:, 1:])).to(x.dtype)
    for degree in range(1, order + 1):
        share = (x - grid[:, :-degree]) / (grid[:, degree:] - grid[:, :-degree])  # of the way through the support
        bases = share[..., :-1] * bases[..., :-1] + (1 - share[..., 1:]) * bases[..., 1:]
    return bases


class _UniformSpline(torch.autograd.Function):
    """Features times weight^T, with a backward pass that keeps x and weight only. (There is no second derivative.)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, knots: Knots) -> Tensor:
        """x: (N, in), weight: (out, (bases + 1) in) -> (N, out)"""
        ctx.save_for_backward(x, weight)
        ctx.knots = knots
        y = weight.new_empty(len(x), len(weight))
        for some, y_some in _chunks(knots, x, y):
            torch.mm(_features(some, knots, weight.dtype)[0], weight.T, out=y_some)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """grad: (N, out) -> (N, in), (out, (bases + 1) in)"""
        x, weight = ctx.saved_tensors
        need_x, need_weight, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if need_x else None
        grad_weight = torch.zeros_like(weight, dtype=_working_dtype(weight)) if need_weight else None
        for some, grad_some, slot in _chunks(ctx.knots, x, grad, x if grad_x is None else grad_x):
            features, slopes = _features(some, ctx.knots, weight.dtype, need_slopes=need_x)
            if grad_weight is not None:
                _add_product(grad_weight, grad_some.T, features)
            if slopes is not None:
                slot.copy_(_grad_x(some, slopes, grad_some @ weight))
        return grad_x, None if grad_weight is None else grad_weight.to(weight.dtype), None


def _chunks(knots: Knots, x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each."""
    values = CHUNK_ON_CPU if x.device.type == "cpu" else CHUNK
    rows = max(1, values // ((knots.bases + 1) * x.shape[1]))
    return zip(*(tensor.split(rows) for tensor in (x, *others)), strict=True)


def _features(x: Tensor, knots: Knots, dtype: torch.dtype, need_slopes: bool = False) -> tuple[Tensor, Tensor | None]:
    """The B-splines and silu of x, as `dtype`, and if asked the splines' derivatives, as computed.

    x: (n, in) -> (n, (bases + 1) in), (n, bases, in)"""
    x = x.to(_working_dtype(x))
    features = x.new_empty(len(x), knots.bases + 1, x.shape[1])
    slopes = _splines(x, knots, features[:, :-1], need_slopes)
    features[:, -1] = F.silu(x)
    return features.flatten(1).to(dtype), slopes


def _splines(x: Tensor, knots: Knots, values: Tensor, need_slopes: bool) -> Tensor | None:
    """Write all B-splines of x into `values`, (n, bases, in), and return their derivatives if asked.

    With k the degree and v the distance from the middle of a spline's support, in steps, the spline is
    b(v) = 1/k! sum_j (-1)^j C(k+1, j) relu((k+1)/2 - j - v)^k (Schoenberg 1946; de Boor, A Practical Guide to Splines).
    Since v >= 0, half of the terms are zero, and those left are small: little is lost in their difference.
    A step is `unit` long here, so that 1/k! is in the powers already. In place, since memory is what takes the time."""
    k = knots.order
    unit = math.factorial(k) ** (-1 / k)
    # From the grid's middle, often 0, less is lost than from its start.
    middles = torch.arange(knots.bases, dtype=x.dtype, device=x.device).sub_((knots.bases - 1) / 2).mul_(unit)
    middle = knots.start + (knots.bases + k) / 2 * knots.step
    offset = (x - middle).mul_(unit / knots.step)[:, None] - middles[:, None]  # (n, bases, in)
    reach = offset.abs().neg_().add_((k + 1) / 2 * unit).clamp_min_(0)  # relu((k+1)/2 - v)
    power = reach if k == 2 else torch.empty_like(reach)  # reach^(k-1)
    slopes = None
    for j in range(k // 2 + 1):
        sign = (-1) ** j * math.comb(k + 1, j)
        if j:
            reach.sub_(unit).clamp_min_(0)
        if k > 2:
            torch.mul(reach, reach, out=power)
        for _ in range(k - 3):
            power.mul_(reach)
        if j == 0:
            torch.mul(power, reach, out=values)
            slopes = power.clone() if need_slopes else None
            continue
        values.addcmul_(power, reach, value=sign)
        if slopes is not None:
            slopes.add_(power, alpha=sign)
    # d|offset|/d offset is the sign, and at 0, where it has none, the slope is 0 anyway
    return None if slopes is None else slopes.mul_(offset.sign_()).mul_(-k * unit / knots.step)


def _grad_x(x: Tensor, slopes: Tensor, grad: Tensor) -> Tensor:
    """x: (n, in), slopes: (n, bases, in), overwritten, grad of the features: (n, (bases + 1) in) -> (n, in)"""
    by_feature = grad.unflatten(1, (-1, x.shape[1]))
    silu = torch.ops.aten.silu_backward(by_feature[:, -1].to(slopes.dtype), x.to(slopes.dtype))
    return slopes.mul_(by_feature[:, :-1]).sum(1).add_(silu)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b; of half-precision factors into a float32 total, since chunks would add up their rounding."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _working_dtype(tensor: Tensor) -> torch.dtype:
    """At least float32: B-splines are differences."""
    return torch.promote_types(tensor.dtype, torch.float32)


def build(
    ffn: KAN,
    config: Any,
    gelu: str,
    first: nn.Linear,  # noqa: ARG001 - it gives way
    last: nn.Linear,
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The layers of a block; with `layers: intermediate` the last one stays linear."""
    h, size = config.hidden_size, config.intermediate_size
    spline: dict[str, Any] = {
        "grid_size": ffn.grid_size,
        "spline_order": ffn.spline_order,
        "initialization": "study" if config.initialization == "study" else "upstream",
    }
    both = ffn.layers != "intermediate"
    between = activations.build(config, gelu)
    if not both and last.in_features != size:
        last = nn.Linear(size, h)
    return KANLinear(h, size, **spline), between, KANLinear(size, h, **spline) if both else last
