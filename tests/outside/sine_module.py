import torch
from torch import Tensor

from tiny_transformers.layers.activations import Learnable


class Sine(Learnable):
    def forward(self, x: Tensor) -> Tensor:
        """x: (..., units) -> (..., units)"""
        return torch.sin(self.alpha * x)
