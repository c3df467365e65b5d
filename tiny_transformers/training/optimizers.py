"""The optimizers of pretraining, and how large their steps are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformers.settings.config import Train


class Adagrad(torch.optim.Optimizer):
    """Adagrad (Duchi et al. 2011) that takes shorter steps for tensors whose gradient is larger than `max_norm`.

    As the Brainformers': the sums of squares see the gradient as it is, and only the step is scaled by max_norm / norm.
    A gradient clipped beforehand would change next to nothing, since Adagrad divides by its size again."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, max_norm: float | None = None, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "max_norm": max_norm, "weight_decay": weight_decay, "eps": 1e-10})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            if group["weight_decay"]:
                gradients = [*torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["sum"] = torch.zeros_like(parameter)
            sums = [self.state[parameter]["sum"] for parameter in parameters]
            torch._foreach_addcmul_(sums, gradients, gradients)
            steps = torch._foreach_div(gradients, torch._foreach_add(torch._foreach_sqrt(sums), group["eps"]))
            if group["max_norm"] is not None:
                norms = torch.stack(torch._foreach_norm(gradients))
                torch._foreach_mul_(steps, list((group["max_norm"] / (norms + 1e-10)).clamp(max=1).unbind()))
            torch._foreach_add_(parameters, steps, alpha=-group["lr"])


def build(model: nn.Module, settings: Train) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "adagrad":
        max_norm = settings.max_grad_norm if settings.clipping == "per_tensor" else None
        return Adagrad(parameters, settings.learning_rate, max_norm, settings.weight_decay)
    return torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def clip(model: nn.Module, settings: Train) -> float:
    """Shorten the gradient to `max_grad_norm`, as a whole or each tensor's. The norm of all of it before."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if settings.clipping == "global":
        return torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm).item()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if settings.optimizer != "adagrad":  # which does it by itself
        for parameter in parameters:
            torch.nn.utils.clip_grad_norm_(parameter, settings.max_grad_norm)
    return norm.item()


def learning_rate(settings: Train, *, step: int, done: float) -> float:
    """Return the learning rate of the step after `step` steps, when so much of the training is done, 0 to 1."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    return settings.learning_rate * warm * (1 - done if settings.lr_scheduler_type == "linear" else 1)
