import math

import pytest
import torch
from torch.nn import functional as F

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers.activations import GEGLU, LearnableGEGLU, LearnableGELU, PReLU, Swish, SwishThesis, build
from tiny_transformers.models.gpt_neo import TinyGPTNeoConfig
from tiny_transformers.models.roberta import TinyRobertaConfig
from tiny_transformers.settings.activations import ACTIVATIONS

X = torch.linspace(-6, 6, 48).reshape(4, 12)


def test_learnable_gelu_starts_as_gelu():
    assert torch.equal(LearnableGELU(12, 1.0)(X), F.gelu(X, approximate="tanh"))


def test_learnable_gelu_learns_one_factor_per_unit():
    activation = LearnableGELU(12, 1.0)
    activation(X).sum().backward()
    torch.testing.assert_close(activation.alpha.grad, F.gelu(X, approximate="tanh").sum(0))


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS = {
    Swish: lambda x, a: x / (1 + torch.exp(-a * x)),
    SwishThesis: lambda x, a: a * x**2 / (1 + torch.exp(-a * x)),
    PReLU: lambda x, a: torch.where(x > 0, x, a * x),
    LearnableGELU: lambda x, a: a * gelu(x),
}


@pytest.mark.parametrize("parameters", [12, 1])
@pytest.mark.parametrize("kind", FORMULAS)
def test_learnable_activations_are_their_formulas_with_their_gradients(kind, parameters):
    activation = kind(parameters, 1.0).double()
    torch.nn.init.uniform_(activation.alpha, 0.5, 2, generator=torch.Generator().manual_seed(0))
    alpha = activation.alpha.detach().clone().requires_grad_()
    x, same = (X.double().clone().requires_grad_() for _ in range(2))
    y, expected = activation(x), FORMULAS[kind](same, alpha)
    torch.testing.assert_close(y, expected)
    for result in (y, expected):
        result.square().sum().backward()
    torch.testing.assert_close(x.grad, same.grad)
    torch.testing.assert_close(activation.alpha.grad, alpha.grad)


def test_gated_activations_multiply_values_by_the_gelu_of_gates():
    values, gates = X.chunk(2, dim=-1)
    torch.testing.assert_close(GEGLU()(X), values * gelu(gates))
    learnable = LearnableGEGLU(6, 1.0)
    torch.nn.init.uniform_(learnable.alpha, 0.5, 2)
    torch.testing.assert_close(learnable(X), values * learnable.alpha * gelu(gates))


def test_swish_starts_as_silu_and_that_of_the_thesis_does_not():
    torch.testing.assert_close(Swish(12, 1.0)(X), F.silu(X))
    assert (SwishThesis(12, 1.0)(X) >= 0).all()
    torch.testing.assert_close(SwishThesis(12, 1.0)(torch.full((1, 12), 4.0)), torch.full((1, 12), 15.7122))


def test_prelu_has_a_slope_per_unit_at_any_length():
    # torch's own takes the second axis, the positions of a text, for the units.
    activation = PReLU(12, 0.25)
    torch.nn.init.uniform_(activation.alpha, 0, 1)
    text = -torch.rand(2, 7, 12)
    torch.testing.assert_close(activation(text), activation.alpha * text)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_units_go_in_and_units_come_out(name):
    configuration = TinyRobertaConfig(activation=name, intermediate_size=6)
    inputs = X if ACTIVATIONS[name].gated else X[:, :6]
    assert build(configuration, "gelu")(inputs).shape == (4, 6)
    if name == "none":
        assert torch.equal(build(configuration, "gelu")(inputs), inputs)


@pytest.mark.parametrize("configuration", [TinyGPTNeoConfig, TinyRobertaConfig])
def test_unknown_activation_is_refused_and_the_known_ones_named(configuration):
    with pytest.raises(TinyTransformersError, match="activation: 'gelou' is unknown.*learnable_gelu"):
        configuration(activation="gelou")


@pytest.mark.parametrize("configuration", [TinyGPTNeoConfig, TinyRobertaConfig])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_known_activation_is_accepted(configuration, activation):
    extra = {"num_layers": 2, "attention_types": [[["global", "local"], 1]]} if "GPT" in configuration.__name__ else {}
    assert configuration(activation=activation, **extra).activation == activation
