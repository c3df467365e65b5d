"""Compute a model's logits a second time, by the definitions in its settings, to see that it is the one asked for.

Written from the papers' formulas in plain products, one module after the other, in float64, and never by the layers
that train: what these do in other orders, in chunks and by kernels is here a line of algebra. Each tensor is asked for
by its name and shape, and none may be left over. All parameters are moved first, so that no formula hides in its
starting point (a slope of 1, a bias of 0)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tiny_transformers.common.work import Check
from tiny_transformers.models.definition.brainformer import brainformer
from tiny_transformers.models.definition.families import gpt_neo, llama, roberta
from tiny_transformers.models.definition.weights import Differs, Unknown, Weights
from tiny_transformers.models.language_model import LanguageModel
from tiny_transformers.settings.architecture import AnyModel, GPTNeo

ROUNDING = 1e-6  # of the largest logit; gates choose in float32
TOKENS = 12  # of the fixed text; of GPT-Neo as many more as its local attention looks back
MOVED = 0.3, 0.02  # deviations by which every parameter is moved: relative, and absolute


def check(model: LanguageModel, settings: AnyModel) -> Check:
    """Compare the logits that `model` gives for a fixed text with those of the definition. The value is the largest
    difference, in units of the largest logit, or what is wrong with a parameter."""
    moved = _moved(model)
    generator = torch.Generator().manual_seed(1)
    length = TOKENS + (settings.window_size if isinstance(settings, GPTNeo) else 0)
    ids = torch.randint(1, settings.vocab_size, (1, min(length, settings.positions or length)), generator=generator)
    weights = Weights({**moved.state_dict(), **dict(moved.named_parameters())})
    try:
        with torch.no_grad():
            expected = LOGITS[settings.family](weights, settings, ids[0])
            weights.all_asked(moved)
            found = moved(input_ids=ids, use_cache=False).logits[0]
    except Unknown as unknown:
        return Check("definition", passed=True, value=f"not checked: there is no definition of {unknown} here")
    except Differs as differs:
        return Check("definition", passed=False, value=str(differs))
    except (RuntimeError, ValueError, IndexError) as error:  # a module that cannot compute a text of this length
        return Check("definition", passed=False, value=" ".join(f"{type(error).__name__}: {error}".split())[:200])
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    return Check("definition", passed=difference <= ROUNDING, value=difference)


def _moved(model: LanguageModel) -> LanguageModel:
    moved: LanguageModel = copy.deepcopy(model).cpu().double().eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in moved.parameters():
            relative, absolute = torch.randn(2, *parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(1 + MOVED[0] * relative).add_(MOVED[1] * absolute)
    moved.schedule(1.0)
    moved.after_update()
    return moved


LOGITS: dict[str, Callable[[Weights, Any, Tensor], Tensor]] = {
    "gpt_neo": gpt_neo,
    "roberta": roberta,
    "llama": llama,
    "brainformer": brainformer,
}
