"""Tokenizers that are trained on a run's corpus."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from tokenizers import Tokenizer
from waiting import wait_for

from tiny_transformers.common.work import Interrupted
from tiny_transformers.data import vocabularies
from tiny_transformers.settings.config import Data, RunConfig

NOUNS = ("kat", "hond", "vogel", "muis", "café")
STORIES = [f"De {one} ziet de {other}. De {one} is blij!" for one in NOUNS for other in NOUNS] * 3


@pytest.fixture
def root(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text("\n".join(STORIES))
    return tmp_path


def data(size=300):
    files = {"train": "train.txt", "validation": "validation.txt", "format": "text", "documents": "line"}
    return Data(corpus="nl", definition=files, tokenizer={"vocab_size": size})


def test_it_has_as_many_tokens_as_asked_for_and_encodes_as_models_need_it(root):
    tokenizer = Tokenizer.from_file(str(vocabularies.find(data(290), root, root / "cache")))
    assert tokenizer.get_vocab_size() == 290
    assert [tokenizer.token_to_id(token) for token in vocabularies.SPECIAL] == [0, 1, 2, 3, 4]
    assert tokenizer.encode(STORIES[0]).tokens[:3] == ["<s>", "De", "Ġkat"]
    ids = tokenizer.encode("De kat.", "De hond.").ids
    assert (ids[0], ids.count(2), ids[-1]) == (1, 3, 2)
    assert tokenizer.decode(tokenizer.encode("Een café 🙂, \n  een Ω.").ids) == "Een café 🙂, \n  een Ω."


def test_it_is_trained_once_and_anew_for_another_size_or_corpus(root, monkeypatch):
    first = vocabularies.find(data(), root, root / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(vocabularies, "train", lambda *_: pytest.fail("trained again"))
        assert vocabularies.find(data(), root, root / "cache") == first
    assert vocabularies.find(data(290), root, root / "cache") != first
    (root / "train.txt").write_text("\n".join(STORIES[1:]))
    assert vocabularies.find(data(), root, root / "cache") != first


def test_two_processes_train_the_same_bytes(root):
    code = (
        "import sys; from pathlib import Path; from tiny_transformers.data import vocabularies\n"
        "from tiny_transformers.settings.config import Data\n"
        f"data = Data.model_validate_json({data().model_dump_json()!r})\n"
        f"print(vocabularies.find(data, Path({str(root)!r}), Path(sys.argv[1])).read_text())"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-c", code, str(root / f"cache{seed}")], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert json.loads(shown[0]) == json.loads(shown[1])


def test_who_comes_while_it_is_trained_waits_and_who_is_asked_to_stop_does(root, monkeypatch):
    monkeypatch.setattr(vocabularies, "POLL", 0.01)
    goes_on, trained = threading.Event(), []
    real = vocabularies.train

    def train(*given):
        trained.append(1)
        goes_on.wait()
        return real(*given)

    monkeypatch.setattr(vocabularies, "train", train)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(vocabularies.find(data(), root, root / "cache"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: trained)
    with pytest.raises(Interrupted, match="while another process trained the tokenizer"):
        vocabularies.find(data(), root, root / "cache", lambda: True)
    goes_on.set()
    for thread in threads:
        thread.join()
    assert (len(set(found)), trained) == (1, [1])
    assert not list((root / "cache" / "tokenizers").glob("*.claim"))


def test_a_claim_of_the_dead_is_taken_over(root, monkeypatch):
    done = vocabularies.find(data(), root, root / "cache")
    claim = done.parent.with_suffix(".claim")
    done.unlink()
    done.parent.rmdir()
    claim.touch()
    monkeypatch.setattr(vocabularies, "POLL", 0.01)
    with pytest.raises(Interrupted):
        vocabularies.find(data(), root, root / "cache", lambda: True)
    os.utime(claim, (time.time() - 100, time.time() - 100))
    assert vocabularies.find(data(), root, root / "cache", lambda: True) == done


def test_the_models_vocabulary_follows_the_tokenizers():
    def config(model):
        return RunConfig(model={"family": "gpt_neo", **model}, data={"tokenizer": {"kind": "bpe", "vocab_size": 4_000}})

    assert config({}).model.vocab_size == 4_000
    assert config({"vocab_size": 5_000}).model.vocab_size == 5_000
    with pytest.raises(ValueError, match="model.vocab_size 3000 has no room for data.tokenizer.vocab_size 4000"):
        config({"vocab_size": 3_000})
