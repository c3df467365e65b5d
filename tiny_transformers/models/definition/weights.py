"""A model's tensors, for its definition: each is asked for by its name and shape, and none may be left over."""

from __future__ import annotations

from torch import Tensor, nn


class Differs(Exception):
    """What a model has is not what its settings say."""


class Unknown(Exception):
    """There is no definition here: of an activation, or a kind of module, from elsewhere."""


class Weights:
    """A model's tensors by name. `at` has a common beginning of names."""

    def __init__(self, tensors: dict[str, Tensor], prefix: str = "", asked: set[str] | None = None) -> None:
        self.tensors, self.prefix, self.asked = tensors, prefix, set() if asked is None else asked

    def at(self, name: str) -> Weights:
        return Weights(self.tensors, f"{self.prefix}{name}.", self.asked)

    def __call__(self, name: str, *shape: int) -> Tensor:
        name = f"{self.prefix}{name}"
        if name not in self.tensors:
            raise Differs(f"{name} is absent")
        if self.tensors[name].shape != shape:
            raise Differs(f"{name} has the shape {tuple(self.tensors[name].shape)}, not {shape}")
        self.asked.add(name)
        return self.tensors[name]

    def all_asked(self, model: nn.Module) -> None:
        left = [name for name, _ in model.named_parameters() if name not in self.asked]
        if left:
            raise Differs(f"{left[0]} is no parameter of the model that was asked for")

    def linear(self, x: Tensor, name: str, outputs: int, *, bias: bool = True) -> Tensor:
        y = x @ self(f"{name}.weight", outputs, x.shape[-1]).T
        return y + self(f"{name}.bias", outputs) if bias else y

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        size = x.shape[-1]
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self(f"{name}.weight", size) + self(f"{name}.bias", size)

    def rms_norm(self, x: Tensor, name: str) -> Tensor:
        """Zhang & Sennrich 2019 (arXiv:1910.07467), eq. 4"""
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self(f"{name}.weight", x.shape[-1])
