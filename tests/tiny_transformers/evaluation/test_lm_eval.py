"""Against lm-eval itself: the real command line on real sentences, and its class for Hugging Face's models."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh
import numpy as np
import pytest
import torch
import yaml
from lm_eval import tasks as stock_tasks
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, PreTrainedModel

from tiny_transformers.common.work import TinyTransformersError, Work
from tiny_transformers.data import sources, tokenizer
from tiny_transformers.evaluation import blimp, lm_eval_tasks, scoring
from tiny_transformers.evaluation.lm_eval_model import TinyTransformersLM
from tiny_transformers.models import auto
from tiny_transformers.settings import config
from tiny_transformers.settings.architecture import GPTNeo, Model
from tiny_transformers.settings.config import RunConfig, tokenizer_file
from tiny_transformers.settings.stage.blimp import BLIMP_TASKS, SUPPLEMENT_TASKS, blimp_files
from tiny_transformers.settings.stage.lambada import FILE as LAMBADA

TASKS = Path(lm_eval_tasks.__path__[0])
FILES = blimp_files(config.Data())
NAMES = {task: ("blimp_supplement_" if task in SUPPLEMENT_TASKS else "blimp_filtered_") + task for task in FILES}
PAIRS, PASSAGES = 12, 12
SMALL = GPTNeo(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64)
TOLERANCE = 1e-4


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """Likelihoods that differ from token to token, as those of a trained model."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


# --- the task files


@pytest.fixture
def root(tmp_path: Path, write_rows: Callable[..., None]) -> Path:
    for file in FILES.values():
        rows = [("A cat sleeps.", "A cat sleep."), ("The same.", "The same."), ("He ran.", "He runned.")]
        write_rows(tmp_path / file, [{"sentence_good": good, "sentence_bad": bad} for good, bad in rows])
    write_rows(tmp_path / LAMBADA, [{"text": "Once upon a time"}])
    return tmp_path


def load(root: Path | None, *names: str) -> dict[str, Any]:
    metadata = {"data_root": str(root)} if root else {}
    return TaskManager(include_path=TASKS, include_defaults=False, metadata=metadata).load(list(names))


def test_there_is_a_task_for_every_file_and_a_group_for_every_average(root: Path) -> None:
    loaded = load(root, "babylm_blimp")
    assert {name: task.config.dataset_kwargs["file"] for name, task in loaded["tasks"].items()} == {
        NAMES[task]: file for task, file in FILES.items()
    }
    members = {name: {task.task_name for task in group.get_all_tasks()} for name, group in loaded["groups"].items()}
    assert members == {
        "blimp_filtered": {NAMES[task] for task in BLIMP_TASKS},
        "blimp_supplement": {NAMES[task] for task in SUPPLEMENT_TASKS},
        "babylm_blimp": set(NAMES.values()),
    }
    averages = [metric for group in loaded["groups"].values() for metric in group.aggregate_metric_list]
    assert [(average.metric, average.weight_by_size) for average in averages] == [("acc", False)] * 3


def test_lambada_is_lm_evals_own_but_for_the_file(root: Path) -> None:
    stock = yaml.safe_load((Path(stock_tasks.__path__[0]) / "lambada" / "lambada_openai.yaml").read_text())
    ours = load(root, "lambada_local")["tasks"]["lambada_local"].config
    for key in ("output_type", "doc_to_text", "doc_to_target", "metric_list"):
        assert getattr(ours, key) == stock[key], key
    assert ours.dataset_kwargs == {"file": LAMBADA}


def test_pairs_of_equal_sentences_are_left_out(root: Path) -> None:
    task = load(root, NAMES["ellipsis"])["tasks"][NAMES["ellipsis"]]
    assert [doc["sentence_bad"] for doc in task.test_docs()] == ["A cat sleep.", "He runned."]


def test_the_data_is_where_the_environment_says(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_TRANSFORMERS_DATA", str(root))
    assert load(None, "lambada_local")["tasks"]["lambada_local"].test_docs()[0] == {"text": "Once upon a time"}


def test_absent_data_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINY_TRANSFORMERS_DATA", raising=False)
    with pytest.raises(TinyTransformersError, match="--metadata data_root=DIR"):
        load(None, "lambada_local")
    with pytest.raises(TinyTransformersError, match=r"anaphor_agreement.json: is missing"):
        load(root / "elsewhere", NAMES["anaphor_agreement"])


# --- the command lines, on real sentences


@pytest.fixture(scope="module")
def work(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A decoder with the real tokenizer, and some pairs of every file, evenly spaced."""
    folder = tmp_path_factory.mktemp("lm_eval")
    run_config = RunConfig(model=SMALL)
    work = Work(config=run_config, data_root=folder / "data", cache=folder / "cache", run_dir=folder / "run")
    spread(auto.build(SMALL, seed=1)).save_pretrained(work.model_dir)
    tokenizer.load_tokenizer(shared_data / tokenizer_file(run_config.data), run_config).save_pretrained(work.model_dir)
    for file, count in {**dict.fromkeys(FILES.values(), PAIRS), LAMBADA: PASSAGES}.items():
        rows = sources.sample(sources.read_rows(shared_data / file, ()), count)
        if file == FILES["binding"]:
            rows.append(rows[-1] | {"sentence_good": "The same.", "sentence_bad": "The same."})
        (work.data_root / file).parent.mkdir(parents=True, exist_ok=True)
        (work.data_root / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return work


# A command line of lm-eval's that does not read its own 14,000 task files first, which takes most of the time.
WITHOUT_ITS_TASKS = """
import runpy, sys
from lm_eval.tasks import TaskManager
whole = TaskManager.__init__
TaskManager.__init__ = lambda *given, **named: whole(*given, **named, include_defaults=False)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
Run = SimpleNamespace  # results: of every task and group; samples: of every task, in the order of the file


@pytest.fixture(scope="module")
def runs(work: Work) -> dict[str, Run]:
    """Both command lines on the same folders; who calls stock lm-eval has not imported the package."""
    commands = {
        "hf": ["lm_eval", "--model", "hf", "--batch_size", "8", "--model_args",
               f"pretrained={work.model_dir},trust_remote_code=True,add_bos_token=False"],
        "ours": ["tiny_transformers.lm_eval", "--model", "tiny-transformers", "--model_args",
                 f"pretrained={work.model_dir},start_token=none"],
    }  # fmt: skip
    with contextlib.chdir(work.cache.parent):
        for name, command in commands.items():
            what = ["--tasks", "babylm_blimp", "lambada_local", "--include_path", TASKS, "--device", "cpu"]
            kept = ["--log_samples", "--output_path", work.cache / name]
            done = fresh.python(WITHOUT_ITS_TASKS, *command, *what, *kept, TINY_TRANSFORMERS_DATA=work.data_root)
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return {name: read_run(work.cache / name) for name in commands}


def read_run(folder: Path) -> Run:
    (results,) = folder.rglob("results_*.json")
    samples = {}
    for task in [*NAMES.values(), "lambada_local"]:
        (file,) = folder.rglob(f"samples_{task}_2*.jsonl")
        rows = sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda row: row["doc_id"])
        samples[task] = np.array([float(answer[0]) for row in rows for (answer,) in row["resps"]])
    return Run(results=json.loads(results.read_text())["results"], samples=samples)


@pytest.mark.parametrize("which", ["hf", "ours"])
def test_lm_eval_finds_the_accuracies_of_our_blimp_stage(runs: dict[str, Run], work: Work, which: str) -> None:
    scores = {(score.task, score.metric): score for score in blimp.run(work).scores}
    names = NAMES | {"average": "babylm_blimp", "blimp": "blimp_filtered", "supplement": "blimp_supplement"}
    found = {task: runs[which].results[name]["acc,none"] for task, name in names.items()}
    assert found == pytest.approx({task: scores[task, "accuracy"].value for task in names}, abs=1e-9)
    assert len(set(found.values())) > 5  # not all at chance
    assert {len(runs[which].samples[name]) for name in NAMES.values()} == {2 * PAIRS}  # nor the pair of equals


@pytest.mark.parametrize("which", ["hf", "ours"])
def test_lm_eval_finds_the_log_likelihoods_of_our_engine(runs: dict[str, Run], work: Work, which: str) -> None:
    tok, model = AutoTokenizer.from_pretrained(work.model_dir), auto.load_lm(work.model_dir)
    for task, file in FILES.items():
        rows = sources.read_rows(work.data_root / file, ())[:PAIRS]
        texts = [" " + row[field] for row in rows for field in ("sentence_good", "sentence_bad")]
        sequences = [[tok.bos_token_id, *ids] for ids in tok(texts, add_special_tokens=False)["input_ids"]]
        ours = scoring.decoder_log_likelihoods(model, sequences)
        np.testing.assert_allclose(runs[which].samples[NAMES[task]], ours, rtol=0, atol=TOLERANCE, err_msg=task)


def test_lambada_is_the_same_through_both(runs: dict[str, Run]) -> None:
    stock, ours = (runs[which] for which in ("hf", "ours"))
    np.testing.assert_allclose(ours.samples["lambada_local"], stock.samples["lambada_local"], rtol=0, atol=TOLERANCE)
    assert len(ours.samples["lambada_local"]) == PASSAGES
    for metric in ("acc,none", "perplexity,none"):
        assert ours.results["lambada_local"][metric] == pytest.approx(
            stock.results["lambada_local"][metric], rel=TOLERANCE
        )


# --- the model class, request by request


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, argument, i, ("a_task", i, 1)) for i, argument in enumerate(arguments)]


@pytest.fixture
def make(make_work: Callable[..., Work], family: Model) -> Callable[..., Any]:
    """The model class over a model of bytes that sees 64 of them."""
    folder = make_work(spread(auto.build(family, seed=1))).model_dir
    return lambda kind=TinyTransformersLM, **arguments: kind(str(folder), device="cpu", **arguments)


decoders = pytest.mark.parametrize("family", ["decoder"], indirect=True)
encoders = pytest.mark.parametrize("family", ["encoder"], indirect=True)


@decoders
@pytest.mark.parametrize(("start_token", "add_bos_token"), [("none", False), ("bos", True)])
def test_requests_are_understood_as_lm_evals_own_class_does(
    make: Callable[..., Any], start_token: str, add_bos_token: bool
) -> None:
    ours = make(start_token=start_token)
    stock = make(HFLM, add_bos_token=add_bos_token, batch_size=4, max_length=ours.max_length)
    contexts = ["", "a cat", "a cat ", "two  spaces  ", "x" * 200, "é" * 30, "<s>", "<s>a cat", "<s> a cat ", "a<s>"]
    asked = [(context, end) for context in contexts for end in (" sat", "s", " on a mat. " * 5, "<s>s", "</s>")]
    for context in filter(None, contexts):  # and what is the likeliest, byte by byte
        ids = torch.tensor([ours.tok_encode(context.strip() or context)[-ours.max_length :]])
        best = int(ours.model(ids).logits[0, -1].argmax())
        asked.append((context.strip() or context, ours.tokenizer.decode([best])))
    expected = stock.loglikelihood(requests("loglikelihood", *asked))
    found = ours.loglikelihood(requests("loglikelihood", *asked))
    np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], rtol=0, atol=TOLERANCE)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert {greedy for _, greedy in found} == {True, False}


@decoders
@pytest.mark.parametrize("start_token", ["bos", "eos"])
def test_long_texts_are_scored_in_the_windows_of_lm_eval(make: Callable[..., Any], start_token: str) -> None:
    ours = make(start_token=start_token)
    prefix = {"bos": 1, "eos": 2}[start_token]
    stock = make(HFLM, add_bos_token=False, batch_size=4, max_length=ours.max_length, prefix_token_id=prefix)
    lengths = ours.max_length, ours.max_length + 1
    texts = [("short",), ("",), ("a long text, " * 20,), *(("b" * length,) for length in lengths)]
    texts += [("<s>short",), ("<s>",), ("<s>" + "a long text, " * 20,), ("</s>short",), ("a<s>b</s>",)]
    expected = stock.loglikelihood_rolling(requests("loglikelihood_rolling", *texts))
    found = ours.loglikelihood_rolling(requests("loglikelihood_rolling", *texts))
    np.testing.assert_allclose(found, expected, rtol=0, atol=10 * TOLERANCE)  # of some 260 tokens


@decoders
def test_a_rolling_text_does_not_score_the_start_token_unless_it_is_written_there(make: Callable[..., Any]) -> None:
    ours, stock = make(), make(HFLM, add_bos_token=True, batch_size=4, max_length=63)
    texts = [("short",), ("a longer text",)]
    written = [(f"<s>{text}",) for (text,) in texts]
    expected = stock.loglikelihood_rolling(requests("loglikelihood_rolling", *texts, *written))
    found = ours.loglikelihood_rolling(requests("loglikelihood_rolling", *texts, *written))
    np.testing.assert_allclose(found[2:], expected[2:], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found[2:], expected[:2], rtol=0, atol=TOLERANCE)  # what is scored there in any case
    assert (np.subtract(found[:2], expected[:2]) > 0.1).all()


@decoders
@pytest.mark.parametrize(("start_token", "before"), [("bos", [1]), ("eos", [2]), ("none", [])])
def test_the_start_token_stands_before_the_context(
    make: Callable[..., Any], start_token: str, before: list[int]
) -> None:
    ours = make(start_token=start_token)
    context, end = (ours.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a cat", " sat"))
    ((found, _),) = ours.loglikelihood(requests("loglikelihood", ("a cat", " sat")))
    expected = scoring.score_decoder(ours.model, [before + context + end], scored=[len(before + context)])
    assert found == pytest.approx(expected.log_likelihoods[0], abs=1e-6)


@decoders
def test_a_context_of_spaces_is_none(make: Callable[..., Any]) -> None:  # lm-eval's own class fails here
    spaces, none = make(start_token="none").loglikelihood(requests("loglikelihood", (" ", "a cat"), ("", " a cat")))
    assert spaces == none


@encoders
@pytest.mark.parametrize("pll", ["original", "word_l2r"])
def test_an_encoder_gives_the_pseudo_log_likelihood_of_the_continuation(make: Callable[..., Any], pll: str) -> None:
    ours = make(pll=pll)
    asked = [("", " a cat sat on a mat."), ("a cat", " sat."), ("a cat ", "sat."), ("x" * 200, " sat")]
    lengths = [(0, 20), (5, 5), (5, 5), (59, 4)]  # of what is seen of the context, and of what is scored
    sequences, words = [], []
    for (context, end), (seen, scored) in zip(asked, lengths, strict=True):
        encoded = ours.tokenizer(context + end, add_special_tokens=False)
        start = [1] if seen == len(encoded.input_ids) - scored else []  # `<s>` is cut first
        sequences.append([*start, *encoded.input_ids[-seen - scored :], 2])
        words.append([*([None] * len(start)), *encoded.word_ids()[-seen - scored :], None])
    assert [len(sequence) for sequence in sequences] == [22, 12, 12, 64]
    expected = scoring.score_encoder(
        ours.model, sequences, ours.tokenizer.mask_token_id, words=words if pll == "word_l2r" else None,
        scored=[len(sequence) - 1 - length for sequence, (_, length) in zip(sequences, lengths, strict=True)],
    )  # fmt: skip
    found = ours.loglikelihood(requests("loglikelihood", *asked))
    np.testing.assert_allclose([x for x, _ in found], expected.log_likelihoods, rtol=0, atol=1e-5)
    assert [greedy for _, greedy in found] == expected.greedy.tolist()


@encoders
def test_an_encoder_scores_long_texts_in_windows(make: Callable[..., Any]) -> None:
    ours = make()
    short, long = ours.loglikelihood_rolling(requests("loglikelihood_rolling", ("short",), ("a long text, " * 20,)))
    ((expected, _),) = ours.loglikelihood(requests("loglikelihood", ("", "short")))
    assert short == pytest.approx(expected, abs=1e-5)
    assert np.isfinite(long)
    with pytest.raises(TinyTransformersError, match="pll=original"):
        make(pll="word_l2r").loglikelihood_rolling(requests("loglikelihood_rolling", ("short",)))


def test_what_cannot_be_done_is_said(make: Callable[..., Any]) -> None:
    ours = make()
    with pytest.raises(TinyTransformersError, match=r"a_task: generates text, .*--model hf"):
        ours.generate_until(requests("generate_until", ("a", {})))
    with pytest.raises(TinyTransformersError, match="the continuation has 80 tokens"):
        ours.loglikelihood(requests("loglikelihood", ("a", "x" * 80)))
    with pytest.raises(TinyTransformersError, match="start_token=cls: it is one of bos, eos, none"):
        make(start_token="cls")
