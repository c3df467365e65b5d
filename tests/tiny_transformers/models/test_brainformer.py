import copy
import json

import fresh
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, DynamicCache
from variants import perturb

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.layers import span_attention
from tiny_transformers.layers.ffn.experts import GatedExperts
from tiny_transformers.layers.span_attention import CHUNK, SpanAttention, look_back
from tiny_transformers.models import auto
from tiny_transformers.models.brainformer import Past, TinyBrainformerConfig, TinyBrainformerForCausalLM
from tiny_transformers.settings.architecture import Brainformer, num_parameters

FIXED, SHORT_RAMP = None, {"ramp": 5, "init": 0.125}
PUBLISHED = {  # groups of sgfgfg, width, units -> parameters at 205 different bytes, in millions
    "tiny": (2, 256, 256, 5.18), "small": (8, 256, 256, 20.2), "medium": (48, 256, 256, 120.4),
    "large_v2": (12, 768, 256, 109.5),
}  # fmt: skip
ORDERS = ["sf", "sg", "sgfgfg.sgfgfg", "s.s.sf.f.f", "ssffg", "sgs.f", "f.gs", "sfsf.g"]


def small(**settings):
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_heads": 4, "attn_span": 40, "vocab_size": 60}
    usual = {"order": "sgfsf.gs.sf", "adaptive_span": FIXED, "experts": {"num_experts": 4}}
    if "g" not in settings.get("order", "g"):
        del usual["experts"]
    return Brainformer(**sizes | usual | settings)


def characters(rows=2, length=150):
    return torch.randint(0, 60, (rows, length), generator=torch.Generator().manual_seed(1))


def attentions(model):
    return [module for module in model.modules() if isinstance(module, SpanAttention)]


def reaching(model, *reach):
    """With heads that look so far, in parts of attn_span."""
    with torch.no_grad():
        for attention in attentions(model):
            attention.reach.copy_(torch.tensor(reach))
    model.after_update()
    return model


def logits(model, ids, **past):
    with torch.no_grad():
        return model.eval()(ids, **past).logits


# --- counts


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_their_published_parameters(size):
    groups, hidden, inner, millions = PUBLISHED[size]
    model = Brainformer(order=".".join(["sgfgfg"] * groups), hidden_size=hidden, intermediate_size=inner)
    with torch.device("meta"):
        built = TinyBrainformerForCausalLM(auto.hf_config(model))
    assert built.num_parameters() == num_parameters(model)
    assert built.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("span", [FIXED, SHORT_RAMP])
def test_built_count_is_the_closed_form(order, tied, span):
    model = small(order=order, tie_word_embeddings=tied, adaptive_span=span, hidden_size=36, attn_span=50)
    assert auto.build(model, seed=0).num_parameters() == num_parameters(model)


@pytest.mark.parametrize("gate", ["naive", "noisy", "gshard", "switch", "balanced", "hash", "random", "dense"])
def test_built_count_is_the_closed_form_with_every_gate(gate):
    top = {"top_k": 2} if gate == "random" else {}
    model = small(experts={"num_experts": 4, "gate": gate, **top})
    built = auto.build(model, seed=0)
    assert sum(parameter.numel() for parameter in built.parameters()) == num_parameters(model)
    assert logits(built, characters()).isfinite().all()


# --- groups


def test_a_group_has_what_it_names_and_nothing_else():
    groups = auto.build(small(order="sgsg.f.s"), seed=0).model.groups
    assert [{name for name, _ in group.named_children()} for group in groups] == [
        {"attention", "experts", "norms"}, {"feed_forward", "norms"}, {"attention", "norms"},
    ]  # fmt: skip
    assert [sorted(group.norms) for group in groups] == [["g", "s"], ["f"], ["s"]]


def test_letters_of_a_group_share_weights_and_those_of_two_do_not():
    """sfsf is sf.sf with equal weights in both groups."""
    tied, apart = (perturb(auto.build(small(order=order), seed=1)) for order in ("sfsf", "sf.sf"))
    weights = tied.state_dict()
    doubled = {name.replace("groups.0", "groups.1"): tensor for name, tensor in weights.items()}
    apart.load_state_dict(weights | doubled)
    torch.testing.assert_close(logits(tied, characters()), logits(apart, characters()))
    with torch.no_grad():
        apart.model.groups[1].feed_forward.up.weight.mul_(2)
    assert (logits(tied, characters()) - logits(apart, characters())).abs().max() > 1e-3


def test_modules_are_applied_in_the_order_of_the_letters_with_a_norm_behind_each():
    model = perturb(auto.build(small(order="fsg.sf"), seed=1))
    seen = []
    for number, group in enumerate(model.model.groups):
        for letter, name in (("s", "attention"), ("f", "feed_forward"), ("g", "experts")):
            if letter in group.letters:
                getattr(group, name).register_forward_hook(lambda *_, of=f"{letter}{number}": seen.append(of))
                group.norms[letter].register_forward_hook(lambda *_, of=f"norm {letter}{number}": seen.append(of))
    logits(model, characters())
    assert seen == ["f0", "norm f0", "s0", "norm s0", "g0", "norm g0", "s1", "norm s1", "f1", "norm f1"]


def test_a_module_adds_to_its_input_and_the_norm_comes_last():
    group = perturb(auto.build(small(order="fgs"), seed=1)).model.groups[0]
    x = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(1))
    position_keys = torch.randn(8, 40, generator=torch.Generator().manual_seed(2))
    expected = group.norms["f"](x + group.feed_forward(x))
    expected = group.norms["g"](expected + group.experts(expected))
    expected = group.norms["s"](expected + group.attention(expected, position_keys))
    torch.testing.assert_close(group(x, position_keys, Past(None, None)), expected)


def test_the_feed_forward_module_of_a_group_is_the_one_that_is_priced():
    model = auto.build(small(order="sgf.sf.s"), seed=1)
    owner, name = model.stack()
    groups = list(getattr(owner, name))
    assert [model.feed_forward(group) for group in groups] == [groups[0].experts, groups[1].feed_forward, None]


def test_modules_are_looked_for_once_and_a_copy_has_its_own(monkeypatch):
    model = auto.build(small(), seed=0)
    model.after_update()
    model.schedule(0.5)
    model(input_ids=characters(), labels=characters())
    copied = copy.deepcopy(model)
    for each in (model, copied):
        assert each.all_of(SpanAttention) == attentions(each)
        assert each.all_of(GatedExperts) == [module for module in each.modules() if isinstance(module, GatedExperts)]
    assert not set(model.all_of(GatedExperts)) & set(copied.all_of(GatedExperts))
    monkeypatch.setattr(type(model), "modules", lambda _: pytest.fail("walked through all modules"))
    model.after_update()
    model.schedule(0.5)
    model.train()
    model._begin(model.model, (characters(),), {})
    model.auxiliary_loss()


# --- attention


def one_query_after_the_other(query, key, value, position_keys, log_mask):
    """`look_back`, by its definition."""
    length, span = query.shape[2], position_keys.shape[1]
    key, value = (F.pad(x, (0, 0, span, 0))[:, :, -(span + length) :] for x in (key, value))
    outputs = []
    for at in range(length):
        seen, values = key[:, :, at : at + span], value[:, :, at : at + span]  # the span before, not itself
        scores = torch.einsum("hbd,hbsd->hbs", query[:, :, at], seen) + query[:, :, at] @ position_keys
        mask = torch.ones(len(query), span) if log_mask is None else log_mask.exp()
        weights = scores.softmax(-1) * mask[:, None]
        outputs.append(torch.einsum("hbs,hbsd->hbd", weights / weights.sum(-1, keepdim=True), values))
    return torch.stack(outputs, dim=2)


def inputs(length, span, keys, masked=True):
    generator = torch.Generator().manual_seed(2)
    shapes = [(3, 2, length, 8), (3, 2, keys, 8), (3, 2, keys, 8), (8, span)] + [(3, span)] * masked
    drawn = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return drawn if masked else [*drawn, None]


@pytest.mark.parametrize(("length", "span", "keys"), [
    (2 * CHUNK, CHUNK, 3 * CHUNK), (100, 96, 120), (1, 128, 50), (70, 128, 70), (130, 7, 137), (130, 7, 300),
])  # fmt: skip
@pytest.mark.parametrize("masked", [True, False])
def test_chunks_compute_what_the_definition_says(length, span, keys, masked):
    given = inputs(length, span, keys, masked)
    outputs = look_back(*given), one_query_after_the_other(*given)
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    wanted = [tensor for tensor in given if tensor is not None]
    gradients = [torch.autograd.grad(output.square().sum(), wanted) for output in outputs]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_all_chunks_at_once_as_on_a_gpu_are_the_chunks_one_by_one():
    query, key, value, position_keys, log_mask = inputs(4 * CHUNK, 50, 4 * CHUNK + 50)
    band = span_attention._band(position_keys, log_mask, CHUNK, len(query))
    windows = (span_attention._at_once(x, 50 + CHUNK, CHUNK) for x in (key, value))
    at_once = span_attention._chunks(query, *windows, *band, CHUNK, 0.0)
    one_by_one = look_back(query, key, value, position_keys, log_mask)
    torch.testing.assert_close(at_once, one_by_one)
    gradients = (torch.autograd.grad(output.square().sum(), (key, value)) for output in (at_once, one_by_one))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_windows_and_their_gradients_are_slices_to_the_last_bit(dtype):
    width, windows = 5 * CHUNK // 2, 6  # of which three have a position in common
    whole = torch.randn(3, 2, width + (windows - 1) * CHUNK, 8).to(dtype).requires_grad_()
    ours = span_attention._windows(whole, width, CHUNK)
    theirs = [whole[:, :, at : at + width].flatten(0, 1) for at in range(0, windows * CHUNK, CHUNK)]
    weights = torch.randn(windows, *ours[0].shape).to(dtype)
    gradients = [
        torch.autograd.grad(sum((weight * window).sum() for weight, window in zip(weights, of, strict=True)), whole)[0]
        for of in (ours, theirs)
    ]
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert torch.equal(*gradients)


def test_a_position_sees_the_span_before_it_and_neither_itself_nor_what_comes():
    attention = auto.build(small(attn_span=20), seed=1).model.groups[0].attention
    x = torch.randn(1, 150, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    position_keys = torch.randn(8, 20, generator=torch.Generator().manual_seed(2))
    for at in (0, 1, 19, 64, 149):
        (gradient,) = torch.autograd.grad(attention(x, position_keys)[0, at].sum(), x)
        seen = [place for place in range(at) if gradient[0, place].abs().max() > 0]
        # Keys and values of what is seen; for its query a position has a gradient of its own, unless nothing is there.
        assert seen == list(range(max(0, at - 20), at)), at
        assert not gradient[0, at + 1 :].any()
    with torch.no_grad():  # nothing but zeros lies before the first position: what it is itself is no value to it
        assert not attention(x, position_keys)[0, 0].any()


def test_no_prediction_depends_on_what_comes_later():
    model = perturb(auto.build(small(), seed=1))
    ids = characters(1)
    changed = ids.clone()
    changed[:, 80:] = (changed[:, 80:] + 1) % 60
    before, after = logits(model, ids), logits(model, changed)
    assert torch.equal(before[:, :64], after[:, :64])
    torch.testing.assert_close(before[:, :80], after[:, :80], rtol=1e-5, atol=1e-5)
    assert (before - after)[:, 80:].abs().amax(-1).min() > 1e-4


# --- memory and cache


@pytest.mark.parametrize("lengths", [[50, 50, 50], [7, 1, 64, 30, 48], [1] * 150])
@pytest.mark.parametrize("past", ["cache of Hugging Face", "cache of spans in use", "memory"])
@pytest.mark.parametrize("span", [FIXED, SHORT_RAMP])
def test_segments_equal_the_whole_in_one_piece(lengths, past, span):
    model = auto.build(small(attn_span=90, adaptive_span=span), seed=1)
    if span:
        reaching(model, 0.0, 0.3, 0.5, 0.1)
        assert {attention.span for attention in attentions(model)} == {64}
    ids = characters()
    whole = logits(model, ids)
    if past == "memory":
        memory, parts = model.empty_memory(rows=2), []
        for segment in ids.split(lengths, dim=1):
            output = model.eval()(segment, memory=memory)
            memory = output.memory
            parts.append(output.logits)
    else:
        cache = DynamicCache(config=model.config) if past == "cache of Hugging Face" else model.new_cache()
        parts = [logits(model, segment, past_key_values=cache) for segment in ids.split(lengths, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-5)


def test_memory_is_of_every_application_detached_and_no_longer_than_needed():
    model = reaching(auto.build(small(attn_span=500, adaptive_span=SHORT_RAMP, order="ssf.sf"), seed=1), *[0.1] * 4)
    memory = model.empty_memory(rows=2)
    assert [tensor.shape for tensor in memory] == [(2, 0, 32)] * 3
    for kept in (100, 128, 128):  # a span in use of 55, rounded up to 64, and 64 more
        memory = model.model(input_ids=characters(length=100), memory=memory).memory
        assert [tensor.shape for tensor in memory] == [(2, kept, 32)] * 3
    assert not any(tensor.requires_grad for tensor in memory)
    assert not torch.equal(memory[0], memory[1])


def test_caches_keep_no_more_than_the_span():
    model = reaching(auto.build(small(attn_span=90, adaptive_span=SHORT_RAMP), seed=1), *[0.1] * 4)
    for cache, kept in ((DynamicCache(config=model.config), 90), (model.new_cache(), 64)):
        logits(model, characters(), past_key_values=cache)
        assert [layer.keys.shape for layer in cache.layers] == [(2, 4, kept, 8)] * 4
        assert cache.get_seq_length() == 150


def test_memory_and_cache_at_once_are_refused():
    model = auto.build(small(), seed=1)
    with pytest.raises(ValueError, match="two ways"):
        model.model(input_ids=characters(), memory=model.empty_memory(2), past_key_values=model.new_cache())


def test_a_static_cache_is_refused():
    model = auto.build(small(), seed=1)
    with pytest.raises(TinyTransformersError, match="static cache"):
        model.generate(characters(), max_new_tokens=5, cache_implementation="static")


# --- adaptive span


def test_the_mask_is_that_of_the_paper():
    attention = auto.build(small(attn_span=70, adaptive_span=SHORT_RAMP), seed=1).model.groups[0].attention
    with torch.no_grad():
        attention.reach.copy_(torch.tensor([0, 0.1, 0.5, 1]))
    mask = attention._log_mask(64).exp()
    for head, reach in enumerate((0, 0.1, 0.5, 1)):
        before = [min(1, max(0, (reach * 70 - x) / 5 + 1)) for x in range(64)]  # of the nearest position first
        assert mask[head].flip(0).tolist() == pytest.approx(before, abs=1e-5)


def test_adaptive_span_at_full_length_is_a_fixed_span():
    fixed, adaptive = (auto.build(small(attn_span=100, adaptive_span=span), seed=1) for span in (FIXED, SHORT_RAMP))
    reaching(adaptive, 1, 1, 1, 1)
    torch.testing.assert_close(logits(adaptive, characters()), logits(fixed, characters()), rtol=1e-6, atol=1e-6)
    assert adaptive.spans() == [[100] * 4] * 3
    reaching(adaptive, 0, 0, 0, 0)
    assert (logits(adaptive, characters()) - logits(fixed, characters())).abs().max() > 1e-3


def test_what_is_trimmed_away_has_no_weight():
    model = reaching(perturb(auto.build(small(attn_span=1000, adaptive_span=SHORT_RAMP), seed=1)), 0, 0.01, 0.1, 0.05)
    trimmed = logits(model, characters())
    assert {attention.span for attention in attentions(model)} == {128}
    for attention in attentions(model):
        attention._span = 1000
    torch.testing.assert_close(logits(model, characters()), trimmed, rtol=1e-6, atol=1e-6)


def test_less_is_computed_for_shorter_spans():
    model = auto.build(small(attn_span=1000, adaptive_span=SHORT_RAMP, order="sf"), seed=1)
    kept = []
    for reach in (0.9, 0.1):
        reaching(model, *[reach] * 4)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            model.train()(characters())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


def test_spans_are_reported_in_positions_and_follow_an_update():
    model = auto.build(small(attn_span=1000, adaptive_span=SHORT_RAMP, order="sf.sf"), seed=1)
    assert model.spans() == [[130] * 4] * 2  # an eighth of it, and the ramp
    assert attentions(model)[0].span == 192
    with torch.no_grad():
        attentions(model)[0].reach.copy_(torch.tensor([-0.5, 0.0001, 0.25, 7.0]))
    model.after_update()
    assert attentions(model)[0].reach.tolist() == pytest.approx([0, 0.0001, 0.25, 1])
    assert model.spans() == [[5, 6, 255, 1000], [130] * 4]
    assert attentions(model)[0].span == 1000
    model.load_state_dict(auto.build(small(attn_span=1000, adaptive_span=SHORT_RAMP, order="sf.sf"), 1).state_dict())
    assert attentions(model)[0].span == 192


def test_a_model_whose_heads_another_trainer_left_below_zero_still_reads(tmp_path):
    model = auto.build(small(attn_span=1000, adaptive_span=SHORT_RAMP), seed=1)
    with torch.no_grad():
        for attention in attentions(model):
            attention.reach.fill_(-0.01)
    model.save_pretrained(tmp_path)
    loaded = auto.load_lm(tmp_path)
    assert logits(loaded, characters()).isfinite().all()
    assert loaded.spans() == [[5] * 4] * 3


@pytest.mark.parametrize("reach", [0.0, 0.123, 1.0])
def test_a_reach_anywhere_has_a_finite_gradient(reach):
    model = reaching(auto.build(small(attn_span=100, adaptive_span=SHORT_RAMP), seed=1).train(), *[reach] * 4)
    model(characters(), labels=characters()).loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert all(attention.reach.grad.abs().max() > 0 for attention in attentions(model))


def test_span_loss_is_the_mean_reach_in_positions_summed_over_groups():
    span = {"ramp": 5, "init": 0.0, "loss": 1e-3}
    model = reaching(auto.build(small(attn_span=100, adaptive_span=span, order="ssf.sf"), seed=1), 0.1, 0.2, 0.4, 0.5)
    assert model.train().auxiliary_loss().item() == pytest.approx(2 * 1e-3 * 100 * 0.3)
    ids = characters()
    with_it = model(ids, labels=ids).loss
    without = model.loss_function(logits=model(ids).logits, labels=ids, vocab_size=60)
    torch.testing.assert_close(with_it, without + 0.06)
    assert model.eval().auxiliary_loss() == 0


# --- losses, weights


def test_loss_outside_of_the_model_is_that_inside():
    model = auto.build(small(), seed=1).eval()
    ids = characters()
    hidden = model.base_model(input_ids=ids)[0][:, :-1].flatten(0, 1)
    torch.testing.assert_close(model.loss_at(hidden, ids[:, 1:].flatten()) / len(hidden), model(ids, labels=ids).loss)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_drawn_as_the_original_draws_them(tied):
    model = auto.build(small(hidden_size=128, tie_word_embeddings=tied, adaptive_span=SHORT_RAMP), seed=3)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert model.model.position_keys.weight.std().item() == pytest.approx(1, rel=0.1)
    assert all(attention.reach.tolist() == pytest.approx([0.125] * 4) for attention in attentions(model))
    linears = [m for m in model.model.groups.modules() if type(m) is torch.nn.Linear] + [model.lm_head]
    for linear in linears[: -1 if tied else None]:
        assert 0.95 * 128**-0.5 < linear.weight.abs().max() * (linear.in_features / 128) ** 0.5 <= 128**-0.5
    assert 0 < model.lm_head.bias.abs().max() <= 128**-0.5
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_an_untrained_model_has_the_variance_of_logits_that_is_foretold():
    settings = small(hidden_size=256, vocab_size=205)
    variance = logits(auto.build(settings, seed=3), characters()).var(-1).mean().item()
    assert variance == pytest.approx(settings.initial_logit_variance, rel=0.1)


def test_equal_seeds_give_equal_weights():
    built, again, other = (auto.build(small(adaptive_span=SHORT_RAMP), seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(built[name], again[name]) for name in built)
    drawn = [name for name, tensor in built.items() if tensor.is_floating_point() and tensor.unique().numel() > 1]
    assert len(drawn) > 20
    assert not [name for name in drawn if torch.equal(built[name], other[name])]


def test_what_two_models_share_is_drawn_alike():
    one, other = (auto.build(small(**settings), 5).state_dict() for settings in ({}, {"order": "sgf.s.sg.sf"}))
    shared = [name for name in one if name in other]
    assert len(shared) > 20
    assert all(torch.equal(one[name], other[name]) for name in shared)


# --- experts


def test_gates_are_given_the_characters_and_the_schedule():
    model = auto.build(small(experts={"num_experts": 4, "gate": "random", "top_k": 1}), seed=1)
    experts = [module for module in model.modules() if isinstance(module, GatedExperts)]
    ids = characters()
    model.train()(ids)
    assert all(torch.equal(module.ids, ids) for module in experts)
    loads = []
    for fraction in (0.0, 1.0):
        model.schedule(fraction)
        model(ids)
        loads.append([int(module.load.sum()) for module in experts])
    assert loads == [[ids.numel()] * 2, [4 * ids.numel()] * 2]


def test_a_balance_loss_is_part_of_the_loss():
    model = auto.build(small(experts={"num_experts": 4, "gate": "noisy"}), seed=1).train()
    model(characters())
    assert model.auxiliary_loss().item() > 0


def test_dropout_is_of_training_and_of_weights_units_and_experts():
    model = auto.build(small(dropout=0.5), seed=1)
    assert torch.equal(logits(model, characters()), logits(auto.build(small(), seed=1), characters()))
    torch.manual_seed(0)
    for letter in "sfg":
        group = auto.build(small(dropout=0.5, order="sgf"), seed=1).train().model.groups[0]
        x = torch.randn(2, 30, 32)
        module = {"s": group.attention, "f": group.feed_forward, "g": group.experts}[letter]
        arguments = (x, torch.randn(8, 40)) if letter == "s" else (x,)
        assert not torch.equal(module(*arguments), module(*arguments)), letter
    group.experts.dropout, applied = 0.0, [group._applied("g", x, x, Past(None, None)) for _ in range(2)]
    assert (applied[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)  # their output as well


# --- Hugging Face


def test_saved_model_is_the_same_in_a_fresh_process_and_generates(tmp_path):
    model = perturb(auto.build(small(adaptive_span=SHORT_RAMP, experts={"num_experts": 4, "gate": "hash"}), seed=1))
    model.save_pretrained(tmp_path / "model")
    ids = characters(1, 70)
    torch.save(ids, tmp_path / "ids.pt")
    code = """
import json, sys, torch
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder + "/model", trust_remote_code=True)
ids = torch.load(folder + "/ids.pt")
with torch.no_grad():
    torch.save(model(ids).logits, folder + "/logits.pt")
texts = [model.generate(ids, max_new_tokens=100, do_sample=False, use_cache=cached) for cached in (True, False)]
print(json.dumps([type(model).__name__, *(text.tolist() for text in texts)]))
"""
    done = fresh.python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    name, cached, uncached = json.loads(done.stdout)
    assert name == "TinyBrainformerForCausalLM"
    assert len(cached[0]) == 170
    assert cached == uncached == model.generate(ids, max_new_tokens=100, do_sample=False).tolist()
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits(model, ids), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_load_lm_gives_back_what_was_saved(tmp_path, tied):
    model = perturb(auto.build(small(tie_word_embeddings=tied, adaptive_span=SHORT_RAMP), seed=1))
    model.save_pretrained(tmp_path)
    loaded = auto.load_lm(tmp_path)
    assert loaded.config.settings() == small(tie_word_embeddings=tied, adaptive_span=SHORT_RAMP)
    assert torch.equal(logits(loaded, characters()), logits(model, characters()))
    assert loaded.spans() == model.spans()


def test_several_texts_are_sampled_and_searched_at_once():
    model = perturb(auto.build(small(), seed=1))
    ids = characters(3, 50)
    alone = [model.generate(row[None], max_new_tokens=60, do_sample=False)[0] for row in ids]
    assert torch.equal(model.generate(ids, max_new_tokens=60, do_sample=False), torch.stack(alone))
    assert model.generate(ids, max_new_tokens=20, num_beams=3).shape == (3, 70)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_both_names_of_attention_load(tmp_path, implementation):
    auto.build(small(), seed=1).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=implementation)
    assert logits(loaded, characters()).isfinite().all()
    with pytest.raises(ValueError, match="eager and sdpa"):
        loaded.set_attn_implementation("flash_attention_2")


def test_padding_is_refused_on_the_left_and_changes_nothing_on_the_right():
    model = perturb(auto.build(small(), seed=1))
    ids, mask = characters(), torch.ones(2, 150, dtype=torch.long)
    mask[0, :3] = 0
    with pytest.raises(TinyTransformersError, match="must be on the right"):
        model(ids, attention_mask=mask)
    mask[0, :3], mask[0, -3:] = 1, 0
    assert torch.equal(logits(model, ids, attention_mask=mask)[0, :-3], logits(model, ids)[0, :-3])


def test_tuples_and_the_last_logits_on_request():
    model, ids = auto.build(small(), seed=1).eval(), characters()
    loss, first, _ = model(ids, labels=ids, return_dict=False)
    torch.testing.assert_close(first, logits(model, ids))
    assert loss.ndim == 0
    torch.testing.assert_close(logits(model, ids, logits_to_keep=1), first[:, -1:])


def test_configurations_that_cannot_be_are_refused():
    for wrong in ({"order": "sx"}, {"num_heads": 3}, {"experts": {"gate": "nave"}}, {"order": "s..f"}):
        with pytest.raises(Exception, match=r"no module|not a multiple|naive|empty"):
            TinyBrainformerConfig(**wrong)


def test_bfloat16_is_close_to_float32():
    model = auto.build(small(adaptive_span=SHORT_RAMP, attn_span=100), seed=1)
    exact = logits(model, characters())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = logits(model, characters())
        loss = model.train()(characters(), labels=characters()).loss
    loss.backward()
    assert (rounded.float() - exact).abs().mean() < 0.03 * exact.std()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
