import json
import shutil

import pytest

from tiny_transformers.common import contents, texts
from tiny_transformers.common.work import TinyTransformersError, Work
from tiny_transformers.data import documents, sources
from tiny_transformers.settings.config import RunConfig
from tiny_transformers.settings.corpora import Corpus

TEXT = "Once upon a time,\nthere was a bug.\n\nIt was big.\n"
STORIES = f"{TEXT}<|endoftext|>\nTom ran.\nHe fell.\n<|endoftext|>\n"


def corpus(**rule):
    return Corpus(train="texts", validation="texts", **rule)


def texts_of(path, **rule):
    return list(texts.read(path, corpus(format="text", **rule)))


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("line", ["Once upon a time,", "there was a bug.", "It was big."]),
        ("blank_line", ["Once upon a time,\nthere was a bug.", "It was big."]),
        ("file", [TEXT.strip()]),
    ],
)
def test_a_rule_says_where_a_document_ends(tmp_path, rule, found):
    (tmp_path / "a.txt").write_text(TEXT)
    assert texts_of(tmp_path / "a.txt", documents=rule) == found
    (tmp_path / "b.txt").write_text(STORIES)
    with pytest.raises(TinyTransformersError, match=r"b.txt: line 5: holds <\|endoftext\|>.*documents: endoftext"):
        texts_of(tmp_path / "b.txt", documents=rule)


def test_who_is_later_leaves_the_file_that_others_are_reading_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(TEXT)
    given = tmp_path / "a.txt", corpus(format="text"), tmp_path / "cache"
    found = []

    def read_while_another_job_is_done(*words):
        monkeypatch.undo()
        found.append((first := documents.json_lines(*given), contents.state(first)))
        return texts.read(*words)

    monkeypatch.setattr(documents, "read", read_while_another_job_is_done)
    path = documents.json_lines(*given)
    assert found == [(path, contents.state(path))]


def test_end_of_text_parts_stories_of_several_lines(tmp_path):
    (tmp_path / "a.txt").write_text(STORIES)
    assert texts_of(tmp_path / "a.txt", documents="endoftext") == [TEXT.strip(), "Tom ran.\nHe fell."]


def test_a_folder_is_its_files_in_order_and_none_that_is_hidden(tmp_path):
    for name in ("b/one.train", "a.train", ".git/config", "b/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"of {name}")
    assert texts_of(tmp_path, documents="file") == ["of a.train", "of b/one.train"]


def test_what_is_read_is_made_once_and_named_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED", -1)
    (tmp_path / "a.txt").write_text(TEXT)
    rule, cache = corpus(format="text"), tmp_path / "cache"
    made = documents.json_lines(tmp_path / "a.txt", rule, cache)
    assert [json.loads(line)["text"] for line in made.read_text().splitlines()] == texts_of(tmp_path / "a.txt")
    monkeypatch.setattr(documents, "read", lambda *_: pytest.fail("read again"))
    assert documents.json_lines(tmp_path / "a.txt", rule, cache) == made
    monkeypatch.undo()
    assert documents.json_lines(tmp_path / "a.txt", corpus(format="text", documents="line"), cache) != made
    (tmp_path / "a.txt").write_text(f"{TEXT}More.")
    assert documents.json_lines(tmp_path / "a.txt", rule, cache) != made


def test_json_lines_are_read_where_they_are_or_by_another_field(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "A."}\n{"text": " "}\n{"text": "B."}\n')
    assert documents.json_lines(tmp_path / "a.jsonl", corpus(), tmp_path / "cache") == tmp_path / "a.jsonl"
    assert contents.corpus_fingerprint(tmp_path / "a.jsonl", corpus(), tmp_path) == contents.fingerprint(
        tmp_path / "a.jsonl"
    )
    (tmp_path / "b.jsonl").write_text('{"story": "A.", "text": 1}\n{"story": "B."}\n')
    made = documents.json_lines(tmp_path / "b.jsonl", corpus(field="story"), tmp_path / "cache")
    assert sources.read_rows(made) == [{"text": "A."}, {"text": "B."}]
    with pytest.raises(TinyTransformersError, match="b.jsonl: line 1: text is 1, not a text"):
        list(texts.read(tmp_path / "b.jsonl", corpus()))


def test_the_same_texts_train_the_same_model_whatever_their_files_are(tmp_path, builtin_root):
    """Batches of JSON lines, of one text file, and of a folder of them."""
    from tiny_transformers.data import corpus as batches_of

    root = tmp_path / "data"
    shutil.copytree(builtin_root / "tokenizer", root / "tokenizer")
    stories = [f"The {noun} sees the {other}." for noun in ("cat", "dog", "bird") for other in ("cat", "dog", "bird")]
    for split in ("train", "validation"):
        (root / f"{split}.jsonl").write_text("".join(json.dumps({"text": story}) + "\n" for story in stories))
        (root / f"{split}.txt").write_text("\n\n".join(stories))
        (root / split).mkdir()
        for number, story in enumerate(stories):
            (root / split / f"{number}.txt").write_text(story)
    kinds = [
        {"train": "train.jsonl", "validation": "validation.jsonl"},
        {"train": "train.txt", "validation": "validation.txt", "format": "text"},
        {"train": "train", "validation": "validation", "format": "text", "documents": "file"},
    ]
    steps = []
    for kind in kinds:
        config = RunConfig(
            model={"family": "gpt_neo"}, data={"corpus": "mine", "definition": kind}, train={"stories_per_step": 4}
        )
        work = Work(config=config, data_root=root, cache=tmp_path / "cache", run_dir=tmp_path)
        read = batches_of.read(work, 1_000)
        assert set(read.fingerprints) == {kind["train"], kind["validation"], "tokenizer/10k-tok/tokenizer.json"}
        steps.append([batch.input_ids.tolist() for batch in read.step(3).batches])
    assert steps[0] == steps[1] == steps[2]
