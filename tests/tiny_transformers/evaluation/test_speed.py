"""Inference speed: that what is timed is the saved model, in evaluation mode, and does what it says it does."""

import statistics
from functools import partial

import pytest
import torch
from longer import longer
from torch.nn.modules.module import register_module_forward_pre_hook
from variants import FAMILIES, PAIRS, perturb, small, tokens

from tiny_transformers.common.work import Interrupted, Work
from tiny_transformers.evaluation import speed
from tiny_transformers.models import auto
from tiny_transformers.models.language_model import CACHE_NAMES
from tiny_transformers.settings.architecture import Brainformer, flops_per_token, parameters
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.training import device

TINY = {"batch_sizes": [3, 1], "tokens": 9, "prompt_tokens": 3, "new_tokens": 5, "warmup": 1, "repetitions": 4}
PER_MEASUREMENT = {"tokens_per_second", "latency_s", "latency_low_s", "latency_high_s", "peak_memory_mb"}


@pytest.fixture(autouse=True)
def short_feed_forward(monkeypatch):
    monkeypatch.setattr(speed, "FEED_FORWARD_PASSES", 1)


def run_config(family, variant="gelu", precision="float32", **settings):
    model = small(family, variant)
    evaluation = {"superglue": {"max_length": 16}, "precision": precision, "speed": TINY | settings}
    return RunConfig.model_validate({"model": model, "data": {"max_length": 16}, "evaluation": evaluation})


@pytest.fixture
def make_work(tmp_path):
    """A run folder that holds a model and nothing else."""

    def make(family, variant="gelu", **settings):
        config = run_config(family, variant, **settings)
        work = Work(config=config, data_root=tmp_path / "none", cache=tmp_path / "none", run_dir=tmp_path / "run")
        perturb(auto.build(config.model, seed=1)).save_pretrained(work.model_dir)
        return work

    return make


@pytest.fixture
def loaded(monkeypatch):
    """The models that the stage loads, as it loads them; what is in `before` is done to each."""
    seen, before, load = [], [], auto.load_lm

    def spy(folder):
        seen.append(load(folder))
        for change in before:
            change(seen[-1])
        return seen[-1]

    monkeypatch.setattr(auto, "load_lm", spy)
    return seen, before


def by_name(outcome):
    """Name of the measurement -> metric -> value."""
    values = {}
    for score in outcome.scores:
        values.setdefault(score.task, {})[score.metric] = score.value
    return values


def noting_lengths(lengths):
    """Of the sequences that go through a decoder."""
    return lambda model: model.transformer.wte.register_forward_pre_hook(
        lambda _, args: lengths.append(args[0].shape[1])
    )


def names(family):
    tasks = ("encode",) if family == "roberta" else ("encode", "generate")
    return [*(f"{task}_b{size}" for task in tasks for size in (1, 3)), "feed_forward_b16"]


@pytest.mark.parametrize(
    ("variant", "family"), [pair if turn % 2 else longer(*pair) for turn, pair in enumerate(PAIRS)]
)
def test_every_variant_has_all_its_figures_and_they_agree(family, variant, make_work):
    work = make_work(family, variant, repetitions=2)
    outcome = speed.run(work)
    values = by_name(outcome)
    assert list(values) == names(family)
    tokens_of_a_pass = {"encode": 9, "generate": 5, "feed_forward": 256}
    for name, figures in values.items():
        task, _, size = name.rpartition("_b")
        assert set(figures) - {"latency_mean_s", "latency_sd_s"} == PER_MEASUREMENT
        assert 0 < figures["latency_low_s"] <= figures["latency_s"] <= figures["latency_high_s"]
        assert figures["tokens_per_second"] * figures["latency_s"] == pytest.approx(int(size) * tokens_of_a_pass[task])
        assert figures["peak_memory_mb"] > 0
    assert {score.n for score in outcome.scores} == {2}
    assert all(check.passed for check in outcome.checks)
    check_sizes(work.config.model, outcome.metrics)


def check_sizes(model, sizes):
    closed = parameters(model)
    modules = model.order.count("f") if model.order else model.layers
    if model.sharing:
        modules = model.sharing.unique("feed_forward", model.layers)
    alike = parameters(model.layer(0)).feed_forward  # of modules as the first one is
    assert sizes["parameters"] == closed.total
    assert sizes["parameters_without_embedding"] == closed.total - closed.embedding
    assert modules * (sizes["feed_forward_parameters"] + model.norm_parameters) == alike  # with norms
    assert 4 * closed.total < sizes["size_mb"] * 2**20 < 4 * closed.total + 20_000  # besides float32, names and buffers


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_timed_is_in_evaluation_mode_without_gradients_and_in_the_precision_asked_for(
    family, precision, make_work, loaded
):
    work, wrong = make_work(family, "moe_k2", precision=precision), []

    def look(module, _):
        if module.training or torch.is_grad_enabled():
            wrong.append(type(module).__name__)

    loaded[1].append(lambda model: model.train())
    handle = register_module_forward_pre_hook(look)
    try:
        outcome = speed.run(work)
    finally:
        handle.remove()
    assert not wrong
    assert outcome.metrics["precision"] == precision
    assert loaded[0][0].dtype == getattr(torch, precision)
    assert {parameter.dtype for parameter in loaded[0][0].parameters()} == {getattr(torch, precision)}


@pytest.mark.parametrize(("variant", "family"), PAIRS)
def test_the_feed_forward_module_is_what_the_block_adds_to_its_input(family, variant):
    # From outside the module: a norm's output on one side of it, the residual sum on the other.
    model = perturb(auto.build(small(family, variant), seed=1))
    owner, name = model.stack()
    block = next(block for block in getattr(owner, name).children() if model.feed_forward(block))
    seen = {}

    def keep(key, value):
        def hook(*given):
            seen.setdefault(key, value(*given))  # of a module at several places the first

        return hook

    if family == "llama":
        norm = block.post_attention_layernorm
        norm.register_forward_pre_hook(keep("residual", lambda _, args: args[0]))
        norm.register_forward_hook(keep("input", lambda *given: given[2]))
        block.register_forward_hook(keep("sum", lambda *given: given[2]))
    elif family == "gpt_neo":
        block.ln_2.register_forward_pre_hook(keep("residual", lambda _, args: args[0]))
        block.ln_2.register_forward_hook(keep("input", lambda *given: given[2]))
        block.register_forward_hook(keep("sum", lambda *given: given[2][0]))
    else:
        block.attention.register_forward_hook(keep("residual", lambda *given: given[2][0]))
        block.attention.register_forward_hook(keep("input", lambda *given: given[2][0]))
        block.output.LayerNorm.register_forward_pre_hook(keep("sum", lambda _, args: args[0]))
    with torch.no_grad():
        model(tokens())
        alone = speed.feed_forward(model)(seen["input"])
    torch.testing.assert_close(alone, seen["sum"] - seen["residual"], rtol=1e-4, atol=1e-4)
    assert alone.abs().max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_that_has_no_feed_forward_module_is_passed_over(family):
    model = auto.build(small(family, "ssff"), seed=1)  # blocks s, sf, f
    owner, name = model.stack()
    modules = [model.feed_forward(block) for block in getattr(owner, name).children()]
    assert [module is None for module in modules] == [True, False, False]
    assert {*speed.feed_forward(model).parameters()} == {*modules[1].parameters()}


def test_flops_of_the_module_are_its_part_of_the_models():
    for family in FAMILIES:
        one, two = small(family, layers=1), small(family, "depth4_geglu", layers=1)
        assert one.feed_forward_flops == 2 * 2 * 32 * 48
        difference = flops_per_token(two) - flops_per_token(one)
        assert difference == two.feed_forward_flops - one.feed_forward_flops


@pytest.mark.parametrize("gate", ["naive", "hash", "dense"])
@pytest.mark.parametrize("order", ["s.sgf", "sf.sg"])
def test_a_brainformers_first_module_is_measured_and_priced_whatever_its_gate(order, gate, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_heads": 4, "attn_span": 40, "vocab_size": 60}
    model = Brainformer(**sizes, order=order, experts={"num_experts": 4, "gate": gate})
    config = RunConfig(model=model, data={"corpus": "text8"}, evaluation={"speed": TINY})
    work = Work(config=config, data_root=tmp_path, cache=tmp_path, run_dir=tmp_path)
    auto.build(model, seed=1).save_pretrained(work.model_dir)
    outcome = speed.run(work)
    assert by_name(outcome)["feed_forward_b16"]["latency_s"] > 0
    block, logits = 2 * 32 * 24, 0 if gate == "hash" else 32 * 4
    biases = 4 * 32 if gate == "dense" else 0  # of all experts, by a product with the gate's values
    if order == "sf.sg":
        assert outcome.metrics["feed_forward_parameters"] == block + 24 + 32
        assert outcome.metrics["feed_forward_flops_per_token"] == 2 * block
    else:
        computed = 4 if gate == "dense" else 2
        assert outcome.metrics["feed_forward_flops_per_token"] == 2 * (computed * block + logits + biases)


@torch.inference_mode()
def test_passes_do_what_their_names_say():
    config = run_config("gpt_neo", batch_sizes=[2])
    model = perturb(auto.build(config.model, seed=1))
    encode, generate, feed_forward = speed.plan(model, config, cached=True)
    hidden, ids, alone = (each.action() for each in (encode, generate, feed_forward))
    whole = model(encode.action.args[1], output_hidden_states=True)
    torch.testing.assert_close(hidden, whole.hidden_states[-1])
    assert hidden.shape == (2, 9, 32)
    assert alone.shape == (16, 256, 32)
    again = ids[:, :3]
    for _ in range(5):  # greedily, by hand
        logits = model(again).logits[:, -1]
        logits[:, 2] = -torch.inf
        again = torch.cat([again, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(ids, again)


@pytest.mark.parametrize("family", FAMILIES)
def test_measured_tokens_are_no_special_ones(family):
    ids = speed._tokens(auto.build(small(family), seed=1), 50, 200)
    assert (ids.min(), ids.max()) == (4, 58)


def test_every_pass_generates_all_its_tokens_even_if_the_model_would_stop(make_work, loaded):
    work, generated = make_work("gpt_neo"), []

    def prefer_the_end(model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.transformer.ln_f.bias[0] = 1
            model.transformer.wte.weight[2, 0] = 3
            model.transformer.wte.weight[5, 0] = 1
        stock = model.generate

        def generate(*args, **kwargs):
            generated.append(stock(*args, **kwargs))
            return generated[-1]

        model.generate = generate

    loaded[1].append(prefer_the_end)
    speed.run(work)
    generated = generated[2:]  # behind the check of the cache
    assert [ids.shape for ids in generated] == 5 * [(1, 8)] + 5 * [(3, 8)]  # a warm-up and four passes each
    assert {*torch.cat(generated)[:, 3:].flatten().tolist()} == {5}


def without_cache(arguments):
    return {name: value for name, value in arguments.items() if name not in CACHE_NAMES}


def forward_forgets(model):
    """In silence, as a model that does not know the cache's name."""
    model.base_model.register_forward_pre_hook(lambda _, args, kwargs: (args, without_cache(kwargs)), with_kwargs=True)


def generation_forgets(model):
    """Where a cache that is passed by hand would be used."""
    prepared = model.prepare_inputs_for_generation
    model.prepare_inputs_for_generation = lambda *args, **kwargs: without_cache(prepared(*args, **kwargs))


@pytest.mark.parametrize("forget", [forward_forgets, generation_forgets])
def test_a_model_that_forgets_what_is_in_its_cache_generates_without_and_the_ledger_says_so(forget, make_work, loaded):
    work, lengths = make_work("gpt_neo"), []
    loaded[1].append(forget)
    loaded[1].append(noting_lengths(lengths))
    outcome = speed.run(work)
    (check,) = outcome.checks
    assert (check.name, check.passed, check.blocking) == ("generation_cache", False, False)
    assert check.value > 0.1
    assert outcome.metrics["generation_cache"] == "not used"
    assert lengths[-5:] == [3, 4, 5, 6, 7]
    assert set(by_name(outcome)) == set(names("gpt_neo"))


def test_with_a_cache_one_token_at_a_time_goes_through_the_model(make_work, loaded):
    work, lengths = make_work("gpt_neo"), []

    loaded[1].append(noting_lengths(lengths))
    outcome = speed.run(work)
    assert outcome.metrics["generation_cache"] == "used"
    assert outcome.checks[0].value < 1e-5
    assert lengths[-5:] == [3, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_batch_that_does_not_fit_is_said_not_to_and_the_rest_is_measured(error, make_work, monkeypatch, capsys):
    work, encode, tried = make_work("gpt_neo", batch_sizes=[1, 2, 4, 8]), speed._encode, []

    def short_of_memory(model, ids):
        tried.append(len(ids))
        if len(ids) == 4:
            raise error
        return encode(model, ids)

    monkeypatch.setattr(speed, "_encode", short_of_memory)
    outcome = speed.run(work)
    assert max(tried) == 4
    expected = ["encode_b1", "encode_b2", *(f"generate_b{size}" for size in (1, 2, 4, 8)), "feed_forward_b16"]
    assert list(by_name(outcome)) == expected
    assert {name: value for name, value in outcome.metrics.items() if value == "out of memory"} == {
        "encode_b4": "out of memory",
        "encode_b8": "out of memory",
    }
    assert capsys.readouterr().out.count("out of memory") == 2


def test_another_error_is_not_taken_for_a_lack_of_memory(make_work, monkeypatch):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(speed, "_encode", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        speed.run(make_work("roberta"))


def test_slow_passes_are_fewer_but_three_at_least(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])

    def action(seconds):
        clock[0] += seconds

    def counted(seconds, repetitions):
        measured = speed.Measurement("encode", 1, 10, partial(action, seconds), 3, repetitions)
        return len(speed.measure(measured).seconds)

    assert [counted(seconds, 10) for seconds in (1, 6, 10, 25, 100)] == [10, 10, 6, 3, 3]
    assert counted(100, 2) == 2


def test_warm_up_is_not_counted_and_the_median_is_of_the_rest(monkeypatch):
    clock, durations = [0.0], iter([50, 9, 1, 2, 3, 40])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])

    def action():
        clock[0] += next(durations)

    timing = speed.measure(speed.Measurement("encode", 1, 10, action, 2, 4))
    assert timing.seconds == [1, 2, 3, 40]
    assert (timing.latency, timing.interval, timing.tokens_per_second) == (2.5, (1, 40), 4)


def test_the_interval_holds_the_median_as_often_as_it_says():
    # Of 10 values the second and the ninth: 1 - 2 (1 + 10) / 2^10 = 0.979.
    assert speed.median_interval([float(value) for value in (10, 3, 1, 2, 9, 4, 8, 7, 5, 6)]) == (2, 9)
    assert speed.median_interval([2.0, 1.0, 3.0]) == (1, 3)
    assert speed.median_interval([1.0]) == (1, 1)
    draws = torch.randn(2_000, 100, generator=torch.Generator().manual_seed(0)).exp().tolist()
    held = statistics.mean(low <= 1 <= high for low, high in map(speed.median_interval, draws))
    assert 0.94 < held < 0.98


def test_a_stop_is_heard_between_passes(make_work, monkeypatch):
    work, done, encode = make_work("roberta"), [], speed._encode
    monkeypatch.setattr(speed, "_encode", lambda model, ids: done.append(1) or encode(model, ids))
    work.should_stop = lambda: len(done) == 3
    with pytest.raises(Interrupted):
        speed.run(work)
    assert len(done) == 3


def test_progress_reaches_the_end_and_the_log_has_a_line_for_each_measurement(make_work, capsys):
    work, seen = make_work("gpt_neo"), []
    work.progress = lambda fraction, text: seen.append((fraction, text))
    outcome = speed.run(work)
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert (0.2, "encode_b3, pass 4") in seen
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert [line.split()[0] for line in lines] == names("gpt_neo")
    assert len({len(line) for line in lines}) == 1
    assert outcome.metrics["threads"] == torch.get_num_threads()
    assert outcome.metrics["cpu"] == device.cpu_name() != ""


def test_memory_is_that_of_one_measurement():
    if torch.cuda.is_available() or not device.reset_peak_memory():
        pytest.skip("the peak of this process cannot be reset")

    def peak(megabytes):
        def action():
            return torch.ones(megabytes * 2**18)

        return speed.measure(speed.Measurement("encode", 1, 10, action, 1, 1)).peak_memory_mb

    before, large, after = peak(1), peak(400), peak(1)
    assert large - before == pytest.approx(400, abs=40)
    assert after == pytest.approx(before, abs=40)
