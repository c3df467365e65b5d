import math

import pytest
import torch
from torch.nn import functional as F

from tiny_transformers.activations import LearnableGELU
from tiny_transformers.config import ACTIVATIONS
from tiny_transformers.gpt_neo import TinyGPTNeoConfig
from tiny_transformers.roberta import TinyRobertaConfig
from tiny_transformers.work import TinyTransformersError

X = torch.linspace(-6, 6, 48).reshape(4, 12)


def test_learnable_gelu_is_its_formula():
    activation = LearnableGELU(12)
    torch.nn.init.uniform_(activation.alpha, 0.5, 2)
    x, alpha = X.double(), activation.alpha.double()
    expected = 0.5 * alpha * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(activation(X).double(), expected, rtol=1e-6, atol=1e-6)


def test_learnable_gelu_starts_as_gelu():
    assert torch.equal(LearnableGELU(12)(X), F.gelu(X, approximate="tanh"))


def test_learnable_gelu_learns_one_factor_per_unit():
    activation = LearnableGELU(12)
    activation(X).sum().backward()
    torch.testing.assert_close(activation.alpha.grad, F.gelu(X, approximate="tanh").sum(0))


@pytest.mark.parametrize("configuration", [TinyGPTNeoConfig, TinyRobertaConfig])
def test_unknown_activation_is_refused_and_the_known_ones_named(configuration):
    with pytest.raises(TinyTransformersError, match="activation: 'gelou' is unknown.*learnable_gelu"):
        configuration(activation="gelou")


@pytest.mark.parametrize("configuration", [TinyGPTNeoConfig, TinyRobertaConfig])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_known_activation_is_accepted(configuration, activation):
    extra = {"num_layers": 2, "attention_types": [[["global", "local"], 1]]} if "GPT" in configuration.__name__ else {}
    assert configuration(activation=activation, **extra).activation == activation
