"""Corpora are looked through before anything is submitted."""

import json

import pytest
import yaml

from cluster.errors import InputError
from cluster.manifest import grids, loading
from cluster.plan import expansion
from cluster.submit import corpora

MODELS = {"gpt": {"family": "gpt_neo", "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}}
MINE = {"train": "mine/t", "validation": "mine/v", "format": "text", "documents": "line"}


@pytest.fixture
def runs(tmp_path):
    """Those of a corpus of one's own, whose documents are cut at 12 tokens or at 16."""
    study = {"model": "gpt", "grid": {"data.max_length": [12, 16]}, "data.corpus": "mine", "stages": ["pretrain"]}
    (tmp_path / "m.yaml").write_text(
        yaml.safe_dump({"models": MODELS, "corpora": {"mine": MINE}, "studies": {"s": study}})
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/v").write_text("a b\n")
    tokenizer(tmp_path, ["<pad>", "<s>", "</s>", "<unk>", "<mask>"], {})
    return expansion.expand(grids.cells(loading.load(tmp_path / "m.yaml")))


def test_documents_that_are_certainly_cut_are_told_of(runs, tmp_path, root):
    (tmp_path / "mine/t").write_text("a b\n" * 49 + "a b c d e f g h i j k l\n")
    told = "".join(corpora.look_through(runs, tmp_path, root))
    assert told.startswith("mine, train: at least 1 of 50 documents (2 %) are cut at data.max_length 12")
    assert told.count("mine, train") == 1
    assert "2 % of all words are not read" in told
    (tmp_path / "mine/t").write_text("a b\n" * 100 + "a b c d e f g h i j k l\n")
    assert corpora.look_through(runs, tmp_path, root) == [], "hardly any"
    (tmp_path / "mine/t").write_text("a <mask> b\na <mask> <s>\n")
    (told,) = corpora.look_through(runs, tmp_path, root)
    assert told.startswith("mine, train: some of 2 documents hold <mask> (2), <s> (1), which a tokenizer reads as its")
    assert not root.path.exists(), "a dry run leaves nothing"


def test_what_a_job_would_refuse_is_refused_before_anything_is_submitted(runs, tmp_path, root):
    (tmp_path / "mine/t").write_text("a b\nc<|endoftext|>\n")
    with pytest.raises(InputError, match=r"mine/t: line 2: holds .*documents: endoftext.* Nothing was submitted\."):
        corpora.look_through(runs, tmp_path, root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"added": ["<pad>", "<s>", "</s>", "<unk>"]}, "tokenizer.json: lacks <mask>"),
        ({"added": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]}, "tokenizer.json: <pad> is 1; models need it to be 0"),
        ({"vocab": {"a": 10_000}}, "has ids up to 10000, the model only 10000. Set model.vocab_size to 10001"),
        ({"vocab": None}, "tokenizer.json: is no tokenizer.json of Hugging Face's tokenizers"),
    ],
)
def test_a_tokenizer_that_no_model_of_the_runs_could_read_by_is_refused(runs, tmp_path, root, change, message):
    (tmp_path / "mine/t").write_text("a b\n")
    told = {"added": ["<pad>", "<s>", "</s>", "<unk>", "<mask>"], "vocab": {"a": 5}}
    tokenizer(tmp_path, **told)
    assert corpora.look_through(runs, tmp_path, root) == []
    tokenizer(tmp_path, **told | change)
    with pytest.raises(InputError, match=f"{message}.* Nothing was submitted"):
        corpora.look_through(runs, tmp_path, root)


def tokenizer(folder, added, vocab):
    path = folder / "tokenizer/10k-tok/tokenizer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = [{"id": index, "content": token} for index, token in enumerate(added)]
    path.write_text(json.dumps({"added_tokens": tokens, "model": {"vocab": vocab}}))
