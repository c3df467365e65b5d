"""The optimizers of pretraining, and how large their steps are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tiny_transformers.settings.config import Train

BIASES = ("b1", "b2")  # of several experts at once: matrices by their shape only


class Adagrad(torch.optim.Optimizer):
    """Adagrad (Duchi et al. 2011) that takes shorter steps for tensors whose gradient is larger than `max_norm`.

    As the Brainformers': the sums of squares see the gradient as it is, and only the step is scaled by max_norm / norm.
    A gradient clipped beforehand would change next to nothing, since Adagrad divides by its size again."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        max_norm: float | None = None,
        weight_decay: float = 0.0,
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
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups: list[dict[str, Any]] = [{"params": list(trained.values())}]
    if settings.weight_decay:
        decayed = [parameter for name, parameter in trained.items() if decays(name, parameter)]
        others = [parameter for name, parameter in trained.items() if not decays(name, parameter)]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "adagrad":
        max_norm = settings.max_grad_norm if settings.clipping == "per_tensor" else None
        return Adagrad(groups, settings.learning_rate, max_norm, settings.weight_decay)
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay is for this parameter: matrices, as in Hugging Face's Trainer, which leaves out norms and
    biases. Left out are learnable activations and spans, too (He et al. 2015, section 2.1: decay would push a PReLU to
    a ReLU), and the biases of several experts, which are rows of one matrix."""
    return parameter.ndim > 1 and name.rpartition(".")[2] not in BIASES


def clip(model: nn.Module, settings: Train) -> Tensor:
    """Shorten the gradient to `max_grad_norm`, as a whole or each tensor's, and return the norm of all of it before: a
    scalar on the device, for which nobody has waited."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if settings.clipping == "global":
        return torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if settings.optimizer != "adagrad":  # which does it by itself
        for parameter in parameters:
            torch.nn.utils.clip_grad_norm_(parameter, settings.max_grad_norm)
    return norm


def learning_rate(settings: Train, *, step: int, done: float, warmed: float) -> float:
    """Return the learning rate of the step after `step` steps, when so much of the training is done, 0 to 1; `warmed`:
    how much of it was when the warm-up ended.

    It rises from 0 to `learning_rate`, and then stays or falls to 0 again: Hugging Face's schedules with warm-up. The
    Brainformers' code has the first of them."""
    if step < settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    return settings.learning_rate * (1.0 if settings.lr_scheduler_type == "constant" else (1 - done) / (1 - warmed))
