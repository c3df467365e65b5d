import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tiny_transformers.layers.ffn import pkm
from tiny_transformers.layers.ffn.pkm import ProductKeyMemory

H, SUBKEYS, HEADS, QUERY = 16, 6, 3, 12


@pytest.fixture(params=[True, False], ids=["key first", "query first"])
def order(request, monkeypatch) -> None:
    """Both orders of the products, whatever the sizes."""
    monkeypatch.setattr(pkm, "_key_first", lambda *_: request.param)


def layer(top_k: int = 4, **settings) -> ProductKeyMemory:
    """Seeded, with every parameter and running statistic its own."""
    torch.manual_seed(0)
    module = ProductKeyMemory(H, SUBKEYS, top_k, HEADS, QUERY, **settings)
    torch.nn.init.normal_(module.query.weight, 0.0, 0.3)
    for tensor in (module.norm.weight, module.norm.bias, module.norm.running_mean, module.norm.running_var):
        torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return module


def plain(module: ProductKeyMemory, x: Tensor) -> Tensor:
    """The definition: torch's batch normalization, all k x k sums, all values."""
    heads, n, half = module.keys_left.shape
    query = module.norm(module.query(x)) if module.norm.training and len(x) > 1 else _by_running_statistics(module, x)
    query = query.view(-1, heads, 2 * half)
    left, rows = torch.einsum("bhd,hnd->bhn", query[..., :half], module.keys_left).topk(module.top_k)
    right, columns = torch.einsum("bhd,hnd->bhn", query[..., half:], module.keys_right).topk(module.top_k)
    best, chosen = (left.unsqueeze(-1) + right.unsqueeze(-2)).flatten(-2).topk(module.top_k)
    indices = (rows.unsqueeze(-1) * n + columns.unsqueeze(-2)).flatten(-2).gather(-1, chosen)
    return torch.einsum("bhk,bhkd->bd", best.softmax(-1), module.values(indices))


def _by_running_statistics(module: ProductKeyMemory, x: Tensor) -> Tensor:
    norm = module.norm
    return F.batch_norm(module.query(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)


@pytest.mark.parametrize("top_k", [2, 4])
@pytest.mark.usefixtures("order")
def test_output_with_the_studys_values_is_the_known_one(known, top_k):
    case = {key.split("/")[1]: value for key, value in known.items() if key.startswith(f"pkm_k{top_k}/")}
    module = ProductKeyMemory(H, SUBKEYS, top_k, HEADS, QUERY, study_values=True).eval()
    names = {"keys_left": "keys_left", "keys_right": "keys_right", "values.weight": "values", "query.weight": "Wq"}
    names |= {"norm.weight": "bn_weight", "norm.bias": "bn_bias"}
    names |= {"norm.running_mean": "bn_mean", "norm.running_var": "bn_var"}
    state = {ours: case[theirs] for ours, theirs in names.items()}
    module.load_state_dict({**state, "norm.num_batches_tracked": torch.tensor(1)})
    torch.testing.assert_close(module(case["x"]), case["y"], rtol=0, atol=1e-5)
    module.study_values = False  # same keys, same weights, other values
    x = case["x"].flatten(0, 1)
    torch.testing.assert_close(module(x), plain(module, x), rtol=0, atol=1e-5)
    assert (module(case["x"]) - case["y"]).abs().max() > 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("top_k", [1, 4, 6])
@pytest.mark.usefixtures("order")
def test_values_gradients_and_statistics_are_those_of_the_definition(top_k, training):
    module, twin, x = layer(top_k).train(training), layer(top_k).train(training), torch.randn(40, H)
    twin.norm.momentum = torch.nn.BatchNorm1d(1).momentum
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = module(ours), plain(twin, theirs)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    for (name, first), second in zip(module.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    for first, second in zip(module.norm.buffers(), twin.norm.buffers(), strict=True):
        torch.testing.assert_close(first, second)
    assert module.auxiliary_loss is None


def test_statistics_do_not_suffer_from_a_large_mean():
    module, twin, x = layer(), layer(), torch.randn(500, H) + 100
    torch.testing.assert_close(module(x), plain(twin, x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(module.norm.running_var, twin.norm.running_var, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 7, 42])
def test_the_largest_sums_are_all_among_the_compared_ones(k):
    generator = torch.Generator().manual_seed(k)
    ranks = torch.tensor(pkm._ranks(k)).T
    for _ in range(20):
        left, right = torch.rand(2, k, generator=generator).pow(3).sort(-1, descending=True).values
        compared = left[ranks[0]] + right[ranks[1]]
        assert torch.equal(compared.topk(k).values, (left.unsqueeze(1) + right).flatten().topk(k).values)
    assert len(pkm._ranks(42)) == 168  # of 1,764


def test_the_cheaper_order_of_products_is_taken():
    assert pkm._key_first(tokens=4096, hidden=256, heads=4, n=56, half=512)  # training on the study's sizes
    assert not pkm._key_first(tokens=1, hidden=256, heads=4, n=56, half=512)  # generation
    assert not pkm._key_first(tokens=10**6, hidden=256, heads=4, n=512, half=64)  # more sub-keys than their size


def test_equal_scores_read_k_different_values():
    module = layer(4).eval()
    module.keys_left.data.zero_()
    module.keys_right.data.zero_()
    module.values.weight.data = torch.eye(36, H)
    chosen = module._best(module._scores(torch.randn(3, H)))[2]
    assert all(len(set(head.tolist())) == 4 for token in chosen for head in token)


@pytest.mark.parametrize("padded", [False, True])
def test_a_single_token_is_normalized_by_the_running_statistics_even_in_training(padded):
    module, x = layer(), torch.randn(1, 3, H)
    before = [buffer.clone() for buffer in module.norm.buffers()]
    module.real = torch.tensor([0]) if padded else None
    y = module(x if padded else x[:, :1])
    torch.testing.assert_close(y[:, 0], _eval(x[:, 0]))
    assert all(torch.equal(*pair) for pair in zip(before, module.norm.buffers(), strict=True))
    y.sum().backward()
    assert module.query.weight.grad.isfinite().all()


def _eval(x: Tensor) -> Tensor:
    return plain(layer().eval(), x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.usefixtures("order")
def test_no_token_gives_no_output(training):
    module = layer().train(training)
    y = module(torch.empty(0, H))
    assert y.shape == (0, H)
    y.sum().backward()
    assert module.norm.running_var.isfinite().all()


def test_padding_changes_neither_result_nor_statistics():
    module, twin, x = layer(), layer(), torch.randn(2, 5, H)
    module.real = torch.tensor([0, 1, 2, 5, 6, 7])
    y = module(x)
    torch.testing.assert_close(y[:, :3], twin(x[:, :3]))
    assert not y[:, 3:].any()
    for first, second in zip(module.norm.buffers(), twin.norm.buffers(), strict=True):
        torch.testing.assert_close(first, second)


def test_evaluation_is_deterministic_and_moves_no_statistic():
    module, x = layer().eval(), torch.randn(20, H)
    before = [buffer.clone() for buffer in module.buffers()]
    assert torch.equal(module(x), module(x))
    assert all(torch.equal(*pair) for pair in zip(before, module.buffers(), strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.usefixtures("order")
def test_autocast_changes_nothing_of_this_module(training):
    module, x = layer().train(training), torch.randn(20, H)
    expected = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
        torch.testing.assert_close(y.float(), expected)
        module(x.bfloat16()).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.usefixtures("order")
def test_a_bfloat16_module_computes_as_the_float32_module_of_its_weights(training):
    half, x = layer().to(torch.bfloat16).train(training), torch.randn(20, H).bfloat16()
    whole = layer().to(torch.bfloat16).float().train(training)
    y = half(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), whole(x.float()), rtol=0.05, atol=0.05)
    torch.testing.assert_close(half.norm.running_var.float(), whole.norm.running_var, rtol=0.02, atol=0.02)
    y.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in half.parameters())


def test_state_dict_survives_a_round_trip_and_holds_what_is_learned():
    first, second, x = layer(), ProductKeyMemory(H, SUBKEYS, 4, HEADS, QUERY), torch.randn(6, H)
    first(x)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(x), second.eval()(x))
    assert "ranks" not in first.state_dict()


def test_sub_keys_are_drawn_uniformly_by_the_querys_size():
    torch.manual_seed(0)
    module = ProductKeyMemory(H, 30, 4, 2, 400)
    for keys in (module.keys_left, module.keys_right):
        assert keys.abs().max().item() == pytest.approx(1 / 20, rel=0.01)
        assert keys.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.05)
    before = module.keys_left.clone()
    module.keys_left._is_hf_initialized = True  # loaded
    module.initialize(0.02)
    assert torch.equal(module.keys_left, before)


def test_built_on_the_meta_device_it_can_be_drawn_and_loaded_later():
    expected, x = layer().eval(), torch.randn(6, H)
    with torch.device("meta"):
        module = ProductKeyMemory(H, SUBKEYS, 4, HEADS, QUERY).eval()
    assert all(parameter.is_meta for parameter in module.parameters())
    module.to_empty(device="cpu")
    module.ranks.fill_(99)
    module.initialize(0.02)
    module.load_state_dict(expected.state_dict())
    assert torch.equal(module(x), expected(x))
