"""What torch.compile is given, and when: by graphs that are captured and run as they are, on the CPU."""

import functools

import kernels
import numpy as np
import pytest
import torch
from longer import longer
from variants import PAIRS, small

from tiny_transformers.common.work import Interrupted, TinyTransformersError, Work
from tiny_transformers.data.batches import Example, micro_batches, packed_batches
from tiny_transformers.layers import packed
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.training import compiling, pretrain
from tiny_transformers.training.compiling import TIMED, WARM, Compiling
from tiny_transformers.training.curve import Counters
from tiny_transformers.training.pretrain import Training

GRAPHS = 4
LENGTH = 40  # the most positions; decoders' windows are shorter
MODEL = {"family": "gpt_neo", "num_layers": 2, "num_heads": 4, "hidden_size": 32, "intermediate_size": 48,
         "vocab_size": 1_000, "window_size": 16, "max_position_embeddings": LENGTH, "dropout": 0.0}  # fmt: skip
# Layers that differ in attention only, many, unlike ones, of which a part goes by the data; masks that come and go.
CHOSEN = [
    ("gelu", "gpt_neo", {"layers": 6}),
    ("ffss", "gpt_neo", {}),
    ("moe_k2", "gpt_neo", {}),
    ("gelu", "roberta", {}),
    ("swiglu", "llama", {"layers": 6}),
]
LENGTHS = [5, 6, 8, 9], [LENGTH, 30, 20], [LENGTH] * 2, [12] * 12, [24] * 3, [LENGTH], [7]
FORMS = (
    [pytest.param(*form, id="-".join(form[:2])) for form in CHOSEN[:2]]
    + [longer(*form, id="-".join(form[:2])) for form in CHOSEN[2:]]
    + [longer(variant, family, {}, id=f"{variant}-{family}-longer") for variant, family in PAIRS]
)


@pytest.fixture
def captured(monkeypatch):
    """The graphs that torch.compile has captured, which run as they are. As many are allowed as by default."""
    graphs = []

    def backend(graph, inputs):  # noqa: ARG001
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return graphs


@pytest.fixture
def work(builtin_root, builtin_cache, tmp_path):
    """A function: settings -> the work of a run folder of that name."""

    def make(model=None, name="run", **train):
        run = RunConfig(
            model=model or MODEL,
            train={"max_steps": 60, "stories_per_step": 4, "micro_batch_tokens": 80, "evaluations": 2,
                   "eval_stories": 4, "precision": "float32"} | train,
            data={"source": "builtin", "max_length": 32},
            evaluation={"superglue": {"max_length": 32}},
        )  # fmt: skip
        (tmp_path / name).mkdir(exist_ok=True)
        return Work(run, data_root=builtin_root, cache=builtin_cache, run_dir=tmp_path / name)

    return make


def batches(causal, seed):
    """Of many texts and of one, of few tokens and as many as there are positions, with and without padding."""
    random = np.random.default_rng(seed)
    for lengths in LENGTHS:
        texts = [random.integers(4, 900, length) for length in lengths]
        yield from micro_batches([Example(text, text) for text in texts], 2**31, causal=causal, longest=LENGTH)


@pytest.mark.parametrize(("variant", "family", "sizes"), FORMS)
def test_no_model_needs_more_than_four_graphs(work, captured, variant, family, sizes):
    causal = family != "roberta"
    sizes = sizes | {"max_position_embeddings": LENGTH if causal else LENGTH + 2}
    model = small(family, variant, vocab_size=1_000, **sizes | ({"window_size": 16} if family == "gpt_neo" else {}))
    training = Training(work(model, compile=True, precision="bfloat16"))
    for seed in range(2):
        training._step()
        training._backward(list(batches(causal, seed)))
        training._evaluate()
    assert 1 <= len(captured) <= GRAPHS
    assert not [reason for reason in torch._dynamo.utils.counters["unimplemented"] if "limit" in reason]


@pytest.mark.parametrize(("variant", "family", "sizes"), [
    longer("gelu", "gpt_neo", {"layers": 4}), ("moe_k2", "gpt_neo", {}),
    longer("swiglu", "llama", {"layers": 4}),
    longer("ffss", "gpt_neo", {}),
])  # fmt: skip
def test_nor_does_one_whose_texts_lie_in_rows(work, captured, monkeypatch, variant, family, sizes):
    monkeypatch.setattr(packed, "has_kernel", lambda _: True)
    monkeypatch.setattr(packed, "varlen_attn", kernels.varlen_attn)
    sizes = sizes | {"max_position_embeddings": LENGTH} | ({"window_size": 16} if family == "gpt_neo" else {})
    training = Training(work(small(family, variant, vocab_size=1_000, **sizes), compile=True, packed=True))
    training.resume()
    assert training.corpus.packed
    for seed in range(2):
        training._step()
        training._backward([batch for lengths in LENGTHS for batch in rows(lengths, seed)])
        training._evaluate()
    assert 1 <= len(captured) <= GRAPHS
    assert not [reason for reason in torch._dynamo.utils.counters["unimplemented"] if "limit" in reason]


def rows(lengths, seed):
    random = np.random.default_rng(seed)
    texts = [random.integers(4, 900, length) for length in lengths]
    return packed_batches([Example(text, text) for text in texts], 2**31, as_padded=False)


def test_a_training_that_meets_more_shapes_than_are_compiled_says_so(work, captured, capsys):
    training = Training(work(compile=True))
    with torch._dynamo.config.patch(recompile_limit=1):
        for seed in range(2):
            training._step()
            training._backward(list(batches(causal=True, seed=seed)))
        training._step()
    assert len(captured) == 1
    assert capsys.readouterr().out.count("warning: torch.compile has met more shapes") == 1


def test_compiled_blocks_compute_what_others_do(work, captured):
    """A window that is narrower than the text, too."""
    models = {}
    for compiled in (True, False):
        training = Training(work(MODEL | {"num_layers": 2, "order": "ssf"}, str(compiled), compile=compiled))
        training.compiling.begin(0)
        total, _ = training._backward(list(batches(causal=True, seed=1)))
        models[compiled] = [total, *(parameter.grad for parameter in training.model.parameters())]
    assert captured
    for ours, theirs in zip(models[True], models[False], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# --- when it repays

RATE = 1e-5  # seconds a token


@pytest.fixture
def measured(work, monkeypatch, tmp_path):
    """A function: of a training that measures whether compiling repays itself, by what the test says."""
    monkeypatch.setattr(compiling, "measures", lambda *_: True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    return lambda **settings: Compiling(work(**settings), torch.device("cpu"), Model())


class Model:
    """Counts how often it was compiled."""

    compiled = 0

    def compile_blocks(self, *, whole):
        assert whole
        self.compiled += 1
        return True


def steps(training, counters, first, count, rate, left):
    for step in range(first, first + count):
        training.begin(step)
        training.time(step, rate, left, counters)


def test_what_is_left_has_to_repay_compiling(measured, capsys):
    needed = compiling.SECONDS / compiling.GAIN  # seconds
    for name, left, compiles in (("long", 1.1 * needed, True), ("short", 0.9 * needed, False)):
        training = measured(name=name)
        steps(training, Counters(), 0, WARM + TIMED, RATE, left)
        training.begin(WARM + TIMED)
        assert training.on == bool(training.model.compiled) == compiles
        assert training.choice.plain == RATE
        assert ("not compiled" in capsys.readouterr().out) != compiles


@pytest.mark.parametrize(("compiled", "kept"), [(0.5 * RATE, True), (1.5 * RATE, False)])
def test_the_faster_way_is_kept_and_what_was_measured_is_told(measured, capsys, compiled, kept):
    training, counters = measured(), Counters(step=100, tokens=1_000, seconds=1.0, compiling=(1_000, 40.0))
    counters.steady_tokens = 7
    steps(training, counters, 0, WARM + TIMED, RATE, left=1e6)
    assert counters.steady_tokens == 0  # what compiled steps reach is to be known
    steps(training, counters, WARM + TIMED, WARM + TIMED, compiled, left=1e6)
    training.begin(99)
    assert training.on == kept
    assert training.figures(counters)["compiled"] == kept
    assert training.figures(counters)["compiled_speedup"] == pytest.approx(RATE / compiled)
    assert f"{RATE / compiled:.2f} times as fast; compiling took 40 s" in capsys.readouterr().out


def test_compiling_takes_what_it_took_where_that_is_noted_beside_what_it_made(measured):
    first, counters = measured(name="first"), Counters(compiling=(1_000, 5.0 + 1_000 * RATE / 2))
    steps(first, counters, 0, WARM + TIMED, RATE, left=1e6)
    steps(first, counters, WARM + TIMED, WARM + TIMED, RATE / 2, left=1e6)
    again = measured(name="again", max_steps=70)
    steps(again, Counters(), 0, WARM + TIMED, RATE, left=1.1 * 5 / compiling.GAIN)
    assert again.choice.since == WARM + TIMED
    other = measured(name="other", precision="bfloat16")
    steps(other, Counters(), 0, WARM + TIMED, RATE, left=1.1 * 5 / compiling.GAIN)
    assert other.choice.since is None


def test_a_sitting_computes_each_step_as_the_one_before_it_did(measured):
    steps(measured(), Counters(), 0, WARM + TIMED, RATE, left=1e6)
    on_trial = measured()  # from a checkpoint before it
    steps(on_trial, Counters(), 3, 60, 2 * RATE, left=1e6)
    again, ways = measured(), []
    for step in range(70):
        again.begin(step)
        ways.append(again.on)
    assert ways == [WARM + TIMED <= step < 2 * (WARM + TIMED) for step in range(70)]


@pytest.fixture
def clock(captured, monkeypatch, tmp_path):
    """Of trainings that measure: a label takes a second, a compiled one half of it, and a graph a hundred."""
    begun, now = pretrain.time.monotonic(), [0.0]
    forward = Compiling.forward

    def timed(self, batch):
        now[0] += len(batch.labels) * (0.5 if self.on else 1.0)
        return forward(self, batch)

    monkeypatch.setattr(Compiling, "forward", timed)
    monkeypatch.setattr(pretrain.time, "monotonic", lambda: begun + now[0] + 100 * len(captured))
    monkeypatch.setattr(compiling, "measures", lambda *_: True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))


@pytest.mark.usefixtures("clock")
def test_a_run_that_was_stopped_while_it_measured_ends_as_one_that_was_not(work, monkeypatch):
    settings = {"max_steps": 2 * (WARM + TIMED) + 4, "model": MODEL | {"dropout": 0.1}}
    whole, cut = work(name="whole", **settings), work(name="cut", **settings)
    outcome = pretrain.run(whole)
    assert outcome.metrics["compiled"] == 1
    assert outcome.metrics["compiled_speedup"] == pytest.approx(2, rel=0.2)
    reached = []
    cut.progress = lambda fraction, _: reached.append(fraction)
    cut.should_stop = lambda: reached[-1] > (WARM + TIMED + 3) / settings["max_steps"]
    with pytest.raises(Interrupted):
        pretrain.run(cut)
    monkeypatch.setattr(compiling, "GAIN", 0.0)  # asked again, it would not
    assert pretrain.run(work(name="cut", **settings)).metrics["compiled"] == 1
    assert (cut.model_dir / "model.safetensors").read_bytes() == (whole.model_dir / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("clock")
def test_time_to_compile_is_in_no_rate_and_no_estimate(work, captured):
    outcome = pretrain.run(work(compile=True, max_steps=20))
    assert len(captured) > 1
    assert outcome.metrics["compile_seconds"] == pytest.approx(100 * len(captured), rel=0.02)
    assert outcome.metrics["seconds"] > 100 * len(captured)
    assert 2.0 < outcome.metrics["tokens_per_second"] < 2.2  # a story's first token is no label
    counters = Counters(seconds=50.0, steady_tokens=900, steady_seconds=9.0, compiling=(100, 41.0))
    assert counters.seconds_left(0.5) == pytest.approx(10)
    assert counters.seconds_left(0.5, by_hours=True) == pytest.approx(50)


@pytest.mark.usefixtures("clock")
def test_a_training_goes_on_without_where_the_compiler_fails(work, monkeypatch, capsys):
    def broken(graph, inputs):  # noqa: ARG001
        raise RuntimeError("no code for this card")

    settings = {"max_steps": WARM + TIMED + 4, "model": MODEL | {"dropout": 0.1}}
    pretrain.run(work(name="plain", compile=False, **settings))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile.func, backend=broken))
    monkeypatch.setattr(compiling, "GAIN", 100.0)
    assert pretrain.run(work(name="failed", **settings)).metrics["compiled"] == 0
    assert "goes on without compiling, and so slower: torch.compile failed" in capsys.readouterr().out
    weights = [(work(name=name).model_dir / "model.safetensors").read_bytes() for name in ("failed", "plain")]
    assert weights[0] == weights[1]
    with pytest.raises(TinyTransformersError, match=r"torch.compile failed: .*set train\.compile to false"):
        pretrain.run(work(name="asked", compile=True, **settings))


@pytest.mark.parametrize(("tools", "compiles"), [(("gcc",), True), (("clang",), True), ((), False)])
def test_a_dense_model_on_a_gpu_may_be_compiled_where_there_is_a_compiler(
    monkeypatch, tmp_path, capsys, tools, compiles
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    for tool in tools:
        (tmp_path / tool).touch(0o755)
    assert compiling.measures(torch.device("cuda"), same_shapes=True) == compiles
    assert ("neither CC nor clang nor gcc is found" in capsys.readouterr().out) != compiles
    assert not compiling.measures(torch.device("cpu"), same_shapes=True)
    assert not compiling.measures(torch.device("cuda"), same_shapes=False)
