"""Models whose insides are known, and what the stage interpret finds in them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic
import torch
import variants
from torch.nn import functional as F

from tiny_transformers.common import insides
from tiny_transformers.common.contents import fingerprint
from tiny_transformers.common.insides import INSIDES, LEVELS
from tiny_transformers.common.work import CheckFailed, Interrupted
from tiny_transformers.evaluation import scoring
from tiny_transformers.evaluation.interpret import heads, layers, parts, stage, texts
from tiny_transformers.evaluation.interpret.texts import Texts, sentences
from tiny_transformers.evaluation.interpret.watching import Listener, look
from tiny_transformers.layers.ffn.controller import Controller
from tiny_transformers.layers.ffn.experts import GatedExperts
from tiny_transformers.layers.ffn.moe import MixtureOfExperts
from tiny_transformers.layers.ffn.pkm import ProductKeyMemory
from tiny_transformers.layers.span_attention import SpanAttention
from tiny_transformers.models.auto import build
from tiny_transformers.settings.architecture import Brainformer
from tiny_transformers.settings.brainformer_architecture import AdaptiveSpan, Experts
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.stage.interpret import Interpret

WIDTH, POSITIONS, VOCABULARY = 64, 62, 261
FEW = Interpret(units=2, new_tokens=2)
FOUND_HEAD, FOUND_UNIT = 0.95, 0.9  # from here on a head looks at the previous token, and a unit is of one


LEARNED_POSITIONS = ("gpt_neo", "roberta")  # families in which an embedding can say where a token stands


def known(family, variant="gelu", **sizes):
    """A model with room for its knowledge: as many directions as there are positions."""
    sizes = {"hidden_size": WIDTH, "qk_size": 2 * WIDTH, "heads": 2, "vocab_size": VOCABULARY,
             "max_position_embeddings": POSITIONS + 2} | sizes  # fmt: skip
    return build(variants.small(family, variant, **sizes), seed=1).eval()


def embeddings(model):
    base = model.base_model
    if hasattr(base, "wte"):
        return base.wte.weight, base.wpe.weight[:POSITIONS]
    return base.embeddings.word_embeddings.weight, base.embeddings.position_embeddings.weight[1 : 1 + POSITIONS]


def blocks(model):
    owner, name = model.stack()
    return list(getattr(owner, name).children())


def projections(block):
    if hasattr(block, "self_attn"):
        attention, mlp = block.self_attn, block.mlp
        return attention.q_proj, attention.k_proj, attention.o_proj, mlp.up_proj, mlp.down_proj
    if hasattr(block, "mlp"):
        attention = block.attn.attention
        return attention.q_proj, attention.k_proj, attention.out_proj, block.mlp.c_fc, block.mlp.c_proj
    attention = block.attention
    return (attention.self.query, attention.self.key, attention.output.dense, block.intermediate.dense,
            block.output.dense)  # fmt: skip


def directions():
    """(POSITIONS, WIDTH) orthonormal and of mean 0, so that a LayerNorm only makes them longer."""
    drawn = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = 1
    return torch.linalg.qr(drawn).Q.T[1 : 1 + POSITIONS]


@torch.no_grad()
def looks_at_the_previous_token(model):
    """Its second block's first head has for each position's query the key of the one before."""
    words, positions = embeddings(model)
    known = directions()
    words.zero_()
    positions.copy_(known)
    for linear in projections(blocks(model)[0])[2:]:
        silence(linear)
    query, key = projections(blocks(model)[1])[:2]
    for linear in (query, key):
        silence(linear)
    query.weight[:WIDTH] = 3 * known[:-1].T @ known[1:]
    key.weight[:WIDTH] = torch.eye(WIDTH)
    return model


@torch.no_grad()
def has_a_unit_for(model, token, unit):
    """In its first block a unit that sees nothing but the direction that only this token has."""
    words, positions = embeddings(model)
    positions.zero_()
    words[:, 0] = 0
    words[token] = 0
    words[token, 0] = 1
    silence(projections(blocks(model)[0])[2])
    first = projections(blocks(model)[0])[3]
    first.weight[unit] = 0
    first.weight[unit, 0] = 10
    first.bias[unit] = -20
    return model


@torch.no_grad()
def silence(linear):
    linear.weight.zero_()
    if linear.bias is not None:
        linear.bias.zero_()


@pytest.fixture
def read(tokenizer):
    """Texts of bytes: 30 of up to 60 letters, the token `q` in every third."""
    draw = np.random.default_rng(0)
    words = ["cat", "dog", "sat", "ran", "the", "a", "big", "red", "ball", "hat"]
    sample = []
    for number in range(30):
        text = " ".join(draw.choice(words, size=draw.integers(6, 14))) + (" q" if number % 3 == 0 else "") + " end"
        sample.append(tokenizer(text)["input_ids"][:60])
    shown = [tokenizer(text)["input_ids"] for text in ("the cat sat", "a dog ran")]
    return Texts(tokenizer, sample, shown, [shown[0][:-1]], are_characters=False, data={})


@pytest.fixture
def inspect(read, make_work):
    def inspected(model, settings=FEW, precision="float32"):
        work = make_work(build(variants.small("gpt_neo"), 1))
        causal = "roberta" not in model.config.model_type
        settings_of_model = work.config.model if causal else variants.small("roberta")
        work.config = work.config.model_copy(update={"model": settings_of_model})
        own = read if causal else replace(read, beginnings=[])
        with scoring.evaluating(model, precision):
            return stage.inspect(model.eval(), own, settings, work)

    return inspected


def most_previous(found):
    return max(head.previous for attention in found.attentions for head in attention.heads)


def most_selective(found):
    return max((part for module in found.feed_forwards for part in module.shown), key=lambda part: part.selectivity)


# -- heads and units that were built ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", LEARNED_POSITIONS)
def test_a_head_built_to_look_at_the_previous_token_is_found(family, inspect):
    found = inspect(looks_at_the_previous_token(known(family)))
    head, other = found.attentions[1].heads
    assert head.previous > FOUND_HEAD
    assert head.distance == pytest.approx(1, abs=0.6)  # the first token of an encoder has none before it
    assert head.relative_entropy < 0.1
    assert other.previous < 0.3  # its window is of four tokens, all alike
    assert other.relative_entropy == pytest.approx(1, abs=1e-3)
    picture = found.pictures[0]
    length = len(picture.tokens)
    drawn = np.array([LEVELS.index(letter) for letter in picture.weights[1][0]]).reshape(length, length)
    assert (drawn.argmax(1)[1:] == np.arange(length - 1)).all()


@pytest.mark.parametrize("family", LEARNED_POSITIONS)
def test_a_unit_built_for_one_token_is_found_with_that_token_on_top(family, inspect, tokenizer):
    (token,) = tokenizer("q", add_special_tokens=False)["input_ids"]
    found = inspect(has_a_unit_for(known(family), token, unit=7))
    part = found.feed_forwards[0].shown[0]
    assert part.number == 7
    assert part.selectivity > FOUND_UNIT
    assert part.tokens[0].token == "q"
    assert [context.token for context in part.contexts] == ["q"] * 5
    assert part.contexts[0].before.endswith(" ")
    for module in found.feed_forwards:
        assert len(module.shown) == FEW.units
        assert len({each.tokens[0].token for each in module.shown}) == FEW.units


def test_in_models_of_random_weights_neither_is_found(inspect):
    for seed in range(20):
        model = build(
            variants.small(variants.FAMILIES[seed % 2], vocab_size=VOCABULARY, max_position_embeddings=64), seed
        )
        found = inspect(model)
        assert most_previous(found) < 0.5
        assert most_selective(found).selectivity < 0.8


def test_units_that_never_give_anything_are_never_active(inspect):
    model = known("gpt_neo", "relu")
    first = projections(blocks(model)[0])[3]
    with torch.no_grad():
        first.weight[:12] = 0
        first.bias[:12] = -1
    module = inspect(model).feed_forwards[0]
    assert module.threshold == 0
    assert module.never_active == pytest.approx(12 / 48, abs=1e-4)
    assert module.effective < 1 - 12 / 48 + 1e-3


def test_what_a_smooth_activation_leaves_near_zero_is_not_active(inspect):
    model = known("gpt_neo")
    first = projections(blocks(model)[0])[3]
    with torch.no_grad():
        first.weight[:12] = 0
        first.bias[:12] = -6  # GELU: -6e-9
    module = inspect(model).feed_forwards[0]
    assert module.threshold > 0
    assert module.never_active == pytest.approx(12 / 48, abs=1e-4)


# -- figures of heads -------------------------------------------------------------------------------------------------


def test_figures_of_heads_are_those_of_a_loop_over_queries_and_keys():
    torch.manual_seed(0)
    weights = torch.randn(2, 3, 5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).softmax(-1)
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    sums, count = heads.figures(weights, real, torch.ones(5, 5).tril().bool())
    assert count == 4 + 2  # without the first query of each, which sees one key, and without padding
    for head in range(3):
        told = dict.fromkeys(heads.FIGURES, 0.0)
        for row, query in [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]:
            w = weights[row, head, query].tolist()
            entropy = -sum(x * math.log(x) for x in w if x)
            told["distance"] += sum(x * abs(query - key) for key, x in enumerate(w))
            told["entropy"] += entropy
            told["relative_entropy"] += entropy / math.log(query + 1)
            told["first"] += w[0]
            told["previous"] += w[query - 1]
            told["same"] += w[query]
            told["following"] += w[query + 1] if query < 4 else 0
        assert sums[:, head].tolist() == pytest.approx(list(told.values()), rel=1e-5)


def test_span_attention_says_what_it_weighs():
    torch.manual_seed(0)
    attention = SpanAttention(16, 2, 40, AdaptiveSpan(ramp=8, init=0.5), 0.0)
    attention.initialize(0.0)
    x, keys = torch.randn(2, 30, 16), torch.randn(8, 40)
    weights = attention.weights(x, keys)
    assert weights.shape == (2, 2, 30, 30)
    value = attention.value(x).unflatten(-1, (2, 8)).transpose(1, 2)
    expected = attention.out((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, keys), expected)
    assert (weights.sum(-1) <= 1 + 1e-5).all()
    assert weights.triu().abs().max() == 0  # not itself, and nothing behind


# -- parts ------------------------------------------------------------------------------------------------------------


def blended(module, x):
    """What experts give, weighted by their parts."""
    hidden = module.activation(torch.einsum("nh,ehi->nei", x, module.w1) + module.b1)
    each = torch.einsum("nei,eih->neh", hidden, module.w2) + module.b2
    return (module.parts(x)[..., None] * each).sum(1)


def read_values(module, x):
    return module.parts(x) @ module.values.weight


@pytest.mark.parametrize(
    ("module", "given_parts"),
    [
        (MixtureOfExperts(16, 24, 4, 2), blended),
        (GatedExperts(Experts(num_experts=4, gate="naive"), 16, 24, 30), blended),
        (GatedExperts(Experts(num_experts=4, gate="dense"), 16, 24, 30), blended),
        (Controller(16, 32, 8, 4), lambda module, x: module.parts(x) @ module.w2 + module.b2),
        (ProductKeyMemory(16, 6, 3, num_heads=2, query_size=8), read_values),
    ],
    ids=["moe", "gated", "dense gate", "controller", "pkm"],
)  # fmt: skip
def test_a_sparse_modules_parts_are_what_its_output_is_made_of(module, given_parts):
    module.eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    x = torch.randn(11, 16)
    torch.testing.assert_close(given_parts(module, x), module.tokens(x), rtol=1e-4, atol=1e-5)


def test_an_experts_tokens_are_those_that_go_there(inspect, tokenizer):
    model = known("gpt_neo", "moe_k1", layers=1)
    (token,) = tokenizer("q", add_special_tokens=False)["input_ids"]
    words, positions = embeddings(model)
    with torch.no_grad():
        positions.zero_()
        words[:, 0] = -1
        words[token], words[token, 0] = 0, 1
        silence(blocks(model)[0].attn.attention.out_proj)
        gate = blocks(model)[0].mlp.ffn.gate
        gate.weight.zero_()
        gate.weight[2, 0] = 9  # of q alone
        gate.weight[1, 0] = -9
    (module,) = inspect(model).feed_forwards
    assert (module.kind, module.parts, module.active) == ("expert", 4, 0.25)
    assert sum(module.usage) == pytest.approx(1, abs=1e-3)
    assert ("q", 1.0) in [(each.token, each.share) for each in module.shown[2].tokens]
    assert "q" not in [each.token for number in (0, 1, 3) for each in module.shown[number].tokens]


# -- layers -----------------------------------------------------------------------------------------------------------


def test_cka_is_1_for_equal_states_and_for_turned_and_scaled_ones():
    torch.manual_seed(0)
    x = torch.randn(200, 12)
    turned = 3 * x @ torch.linalg.qr(torch.randn(12, 12)).Q + 5
    values = layers.similarities([x, x.clone(), turned, torch.randn(200, 12)])
    assert values[0][1] == pytest.approx(1)
    assert values[0][2] == pytest.approx(1)
    assert values[0][3] < 0.2


def test_cka_is_that_of_gram_matrices():
    """Kornblith et al. 2019, eq. 3 and 4, by HSIC of the centred Gram matrices."""
    torch.manual_seed(0)
    x, y = torch.randn(50, 7), torch.randn(50, 9)
    y[:, :3] += x[:, :3]
    centre = torch.eye(50) - 1 / 50

    def hsic(a, b):
        return torch.trace(a @ a.T @ centre @ b @ b.T @ centre)

    expected = hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
    assert layers.similarities([x, y])[1][0] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("family", variants.FAMILIES)
def test_the_lens_is_the_final_answer_where_later_blocks_change_nothing(family, inspect):
    model = variants.perturb(known(family, layers=3))
    with torch.no_grad():
        for block in blocks(model)[1:]:
            for linear in (projections(block)[2], projections(block)[4]):
                silence(linear)
            for module in block.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.weight.fill_(1)
                    module.bias.zero_()
        if family == "roberta":  # what its first block gives is already normalised as the later ones would
            last = blocks(model)[0].output.LayerNorm
            last.weight.fill_(1)
            last.bias.zero_()
    found = inspect(model).layers
    embedding, *later = found.lens
    assert embedding.agreement < 0.9
    assert embedding.rank > 1.05
    for lens in later:
        assert (lens.agreement, lens.rank) == (1, 1)
        assert lens.divergence == pytest.approx(0, abs=1e-3)
    assert found.depth == pytest.approx((1 - embedding.agreement) / 3, abs=1e-3)
    assert found.cosine[1:] == pytest.approx([1, 1], abs=1e-4)
    assert found.similarity[1][2] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("family", "variant"), [("gpt_neo", "gelu"), ("gpt_neo", "universal"), ("gpt_neo", "halting"), ("llama", "gelu")]
)
def test_the_last_state_says_what_the_model_says(family, variant):
    model = variants.perturb(known(family, variant))
    ids = torch.randint(4, VOCABULARY, (2, 9))
    kept = []
    look(model, Listener(state=lambda _, state: kept.append(state)), ids, torch.ones_like(ids, dtype=torch.bool))
    said = layers.said(model, kept[-1].flatten(0, 1)).view(2, 9, -1)
    torch.testing.assert_close(said, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert len(kept) == model.config.num_hidden_layers + 1
    base = model.base_model
    places = base.wpe(torch.arange(9)) if family == "gpt_neo" else 0
    assert torch.equal(kept[0], model.get_input_embeddings()(ids) + places)


# -- every kind of model ----------------------------------------------------------------------------------------------

KINDS = {  # variant and family -> attentions, and kind and number of parts of each feed-forward module
    ("geglu", "gpt_neo"): (2, [("unit", 48)] * 2),
    ("kan", "roberta"): (2, [("unit", 48)] * 2),
    ("moe_k2", "roberta"): (2, [("expert", 4)] * 2),
    ("controller", "gpt_neo"): (2, [("unit", None)] * 2),
    ("pkm", "gpt_neo"): (2, [("value", None)] * 2),
    ("depth1", "roberta"): (2, []),
    ("depth3", "gpt_neo"): (2, [("unit", 48)] * 2),
    ("ssff", "gpt_neo"): (2, [("unit", 48)] * 2),
    ("ssf", "roberta"): (2, [("unit", 48)]),
    ("cycle_rev3", "roberta"): (6, [("unit", 48)] * 6),
    ("shared_moe", "gpt_neo"): (4, [("expert", 4)] * 4),
    ("shared_ff_moe", "gpt_neo"): (2, [("expert", 4)] * 2),
    ("shared_ff", "roberta"): (4, [("unit", 48)] * 4),
    ("shared_attention", "gpt_neo"): (4, [("unit", 48)] * 4),
    ("scaled", "gpt_neo"): (3, [("unit", 12), ("unit", 38), ("unit", 64)]),
    ("halting", "roberta"): (4, [("unit", 48)] * 4),
    ("one_kv_head", "gpt_neo"): (2, [("unit", 48)] * 2),
    ("swiglu", "llama"): (2, [("unit", 48)] * 2),
    ("depth3", "llama"): (2, [("unit", 48)] * 2),
    ("moe_k2", "llama"): (2, [("expert", 4)] * 2),
    ("ssff", "llama"): (2, [("unit", 48)] * 2),
    ("cycle_rev3", "llama"): (6, [("unit", 48)] * 6),
}


def owners(model, kind):
    """The numbers of the blocks that own a module of this kind, and do not borrow it."""
    (*_, name) = model.parts[kind]
    return {number for number, block in enumerate(blocks(model), 1) if name in dict(block.named_children())}


@pytest.mark.parametrize(("variant", "family"), KINDS)
def test_every_kind_of_model_is_looked_into(variant, family, inspect):
    attentions, modules = KINDS[variant, family]
    model = build(variants.small(family, variant, vocab_size=VOCABULARY, max_position_embeddings=64), 1)
    found = inspect(model)
    assert len(found.attentions) == attentions
    told = [(each.kind, each.parts) for each in found.feed_forwards]
    assert [kind for kind, _ in told] == [kind for kind, _ in modules]
    assert all(there == wanted for (_, there), (_, wanted) in zip(told, modules, strict=True) if wanted)
    assert len(found.layers.lens) == len(found.layers.cosine) + 1
    assert found.layers.lens[-1].agreement == 1
    assert [each.place.application for each in found.attentions] == list(range(1, attentions + 1))
    assert len(found.pictures[0].weights) == attentions
    assert bool(found.continuations) == found.causal != bool(found.blanks)
    if model.config.sharing:
        assert {each.place.weights for each in found.attentions} == owners(model, "attention")
        assert {each.place.weights for each in found.feed_forwards} == owners(model, "feed_forward")
        assert [each.place.layer for each in found.attentions] == list(range(1, attentions + 1))


def test_a_linformer_is_looked_into_but_for_its_heads_which_look_at_no_positions(inspect):
    found = inspect(known("roberta", "linformer"))
    assert (found.attentions, found.pictures) == ([], [])
    assert len(found.feed_forwards) == 2
    assert {score.task for score in stage.summarise(found)} == {"units", "layers"}


def test_a_brainformer_is_looked_into_module_by_module(inspect):
    settings = Brainformer(order="sgfgf.sf", hidden_size=32, intermediate_size=24, num_heads=2, attn_span=64,
                           vocab_size=VOCABULARY)  # fmt: skip
    found = inspect(build(settings, 1))
    assert [each.place.layer for each in found.attentions] == [1, 2]
    kinds = [(each.place.layer, each.kind, each.parts) for each in found.feed_forwards]
    assert kinds == [(1, "expert", 16), (1, "unit", 24)] * 2 + [(2, "unit", 24)]
    assert all(head.same == 0 for each in found.attentions for head in each.heads)


@pytest.mark.parametrize(
    "settings",
    [
        variants.small("gpt_neo", "pkm", vocab_size=VOCABULARY, max_position_embeddings=64),
        variants.small("roberta", "moe_k2", vocab_size=VOCABULARY, max_position_embeddings=64),
        variants.small("gpt_neo", "controller", vocab_size=VOCABULARY, max_position_embeddings=64),
        Brainformer(
            order="sgf", hidden_size=32, intermediate_size=24, num_heads=2, attn_span=64, vocab_size=VOCABULARY
        ),
    ],
    ids=["pkm", "moe", "controller", "brainformer"],
)
def test_in_bfloat16_the_same_is_found_but_for_rounding(settings, inspect):
    model = build(settings, 1)
    exact, rounded = inspect(model), inspect(model, precision="bfloat16")
    for one, other in zip(exact.attentions, rounded.attentions, strict=True):
        for head, same in zip(one.heads, other.heads, strict=True):
            assert head.model_dump() == pytest.approx(same.model_dump(), rel=0.05, abs=0.02)
    for one, other in zip(exact.feed_forwards, rounded.feed_forwards, strict=True):
        assert one.active == pytest.approx(other.active, abs=0.02)


def test_no_figure_depends_on_how_texts_are_batched(inspect, monkeypatch):
    model = variants.perturb(known("roberta", layers=1))
    at_once = inspect(model)
    monkeypatch.setitem(scoring.TOKENS_PER_BATCH, "cpu", 130)
    by_few = inspect(model)
    for one, other in zip(at_once.attentions, by_few.attentions, strict=True):
        for head, same in zip(one.heads, other.heads, strict=True):
            assert head.model_dump() == pytest.approx(same.model_dump(), abs=2e-4)
    assert at_once.layers.cosine == pytest.approx(by_few.layers.cosine, abs=2e-4)
    assert at_once.feed_forwards[0].shown[0].tokens == by_few.feed_forwards[0].shown[0].tokens
    assert at_once.feed_forwards[0].shown[0].contexts[0] == by_few.feed_forwards[0].shown[0].contexts[0]


def test_of_many_positions_so_many_states_are_kept(inspect, monkeypatch):
    monkeypatch.setattr(stage, "POSITIONS", 100)
    for family in variants.FAMILIES:
        found = inspect(known(family, layers=1)).layers
        assert 50 <= found.compared <= 100
        assert 50 <= found.positions <= 100


def test_a_model_is_left_as_it_was(inspect):
    model = known("gpt_neo").train()
    before = model.config._attn_implementation
    state = torch.get_rng_state()
    inspect(model)
    assert model.config._attn_implementation == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in blocks(model)[0].modules())
    assert torch.equal(torch.get_rng_state(), state)


# -- the stage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stories(write_rows):
    def write(work):
        rows = [{"text": f"Once upon a time Tom had {number} red balls. He was happy."} for number in range(40)]
        write_rows(work.data_root / work.config.data.files.files[1], rows)
        return work

    return write


def test_the_stage_writes_its_file_and_a_few_scores(family, make_work, stories):
    work = stories(make_work(family, interpret={"stories": 12, "new_tokens": 2}))
    outcome = stage.run(work)
    found = insides.read(work.run_dir / INSIDES)
    assert found.texts == 12
    assert len(found.continuations) == (5 if family.causal else 0)
    assert len(found.blanks) == (0 if family.causal else 10)
    assert len(found.pictures) == 10
    scores = {(score.task, score.metric): score.value for score in outcome.scores}
    assert scores["heads", "previous_most"] == most_previous(found)
    assert scores["layers", "lens_depth"] == found.layers.depth
    assert ("heads", "following") in scores or family.causal
    assert (work.run_dir / INSIDES).stat().st_size < 300_000
    file = work.config.data.files.files[1]
    assert outcome.data == {file: fingerprint(work.data_root / file)}


def test_the_same_model_gives_the_same_file(make_work, stories):
    work = stories(make_work(variants.small("gpt_neo", vocab_size=VOCABULARY, max_position_embeddings=64),
                             interpret={"stories": 5, "new_tokens": 4}))  # fmt: skip
    stage.run(work)
    once = (work.run_dir / INSIDES).read_bytes()
    stage.run(work)
    assert (work.run_dir / INSIDES).read_bytes() == once


def test_it_stops_when_it_is_asked_to(family, make_work, stories):
    work = stories(make_work(family))
    work.should_stop = lambda: True
    with pytest.raises(Interrupted):
        stage.run(work)
    assert not (work.run_dir / INSIDES).exists()


def test_a_model_that_diverged_is_no_model_to_look_into(make_work, stories):
    model = build(variants.small("gpt_neo", vocab_size=VOCABULARY, max_position_embeddings=64), 1)
    with torch.no_grad():
        model.base_model.ln_f.weight.fill_(torch.nan)
    with pytest.raises(CheckFailed, match="diverged"):
        stage.run(stories(make_work(model)))


def test_a_file_that_is_not_as_it_should_be_is_none(tmp_path):
    path = tmp_path / INSIDES
    assert insides.read(path) is None
    for text in ("", "[]", json.dumps({"causal": True})):
        path.write_text(text)
        assert insides.read(path) is None
    whole = synthetic.looked_into(variants.small("gpt_neo"), np.random.default_rng(0))
    insides.write(path, whole)
    assert insides.read(path) == whole
    told = whole.model_dump()
    shorter = {
        "attentions": told["attentions"][1:],
        "pictures": [told["pictures"][0] | {"tokens": ["one"]}],
        "layers": told["layers"] | {"cosine": [0.5]},
        "feed_forwards": [told["feed_forwards"][0] | {"kind": "expert"}],
    }
    for change in ({"more": 1}, *({name: value} for name, value in shorter.items())):
        path.write_text(json.dumps(told | change))
        assert insides.read(path) is None, change


def test_the_stage_reads_its_sentences_as_stories_begin_and_encoders_read_them_whole(family, make_work, stories):
    read = texts.read(stories(make_work(family)))
    begins, ends = ({ids[end] for ids in (*read.shown, *read.beginnings)} for end in (0, -1))
    assert begins == {read.tokenizer.bos_token_id}
    assert ends == {read.tokenizer.eos_token_id} or family.causal
    assert read.tokenizer.eos_token_id not in ends or not family.causal


def test_every_sentence_has_one_word_to_fill_in():
    assert all(each.word.isalpha() and "[" not in each.text and "]" not in each.text for each in sentences())


def test_a_model_with_too_few_positions_cannot_have_the_stage():
    from tiny_transformers.settings.stages import misfit

    config = RunConfig.model_validate(
        {"model": variants.small("gpt_neo").model_dump(), "data": {"source": "builtin", "max_length": 24},
         "evaluation": {"superglue": {"max_length": 24}, "speed": {"tokens": 8, "prompt_tokens": 4, "new_tokens": 4}}}
    )  # fmt: skip
    assert "60 positions" in misfit(config, ["interpret"])


def test_its_settings_are_no_part_of_a_run_that_says_nothing_of_them():
    model = variants.small("gpt_neo", max_position_embeddings=512)
    config = RunConfig.model_validate({"model": model.model_dump(), "data": {"source": "builtin"}})
    assert "interpret" not in config.model_dump(mode="json")["evaluation"]
    assert parts.threshold_share(F) == 0  # what has no activation of ours has a ReLU
