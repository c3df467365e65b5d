import json
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer

from tiny_transformers import data
from tiny_transformers.architecture import GPTNeo
from tiny_transformers.config import VALIDATION_STORIES, Data, RunConfig, required_files
from tiny_transformers.files import whole_file, whole_folder
from tiny_transformers.work import TinyTransformersError

BUILTIN = RunConfig(model=GPTNeo(), data=Data(source="builtin"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return data.resolve_root(BUILTIN, None, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tokenizer_file(root):
    return root / "tokenizer" / "10k-tok" / "tokenizer.json"


def write(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_builtin_data_is_made_once_and_is_complete(root):
    assert all((root / file).is_file() for file in required_files(BUILTIN))
    made = root.stat().st_mtime_ns
    assert data.resolve_root(BUILTIN, None, root.parent) == root
    assert root.stat().st_mtime_ns == made


def test_a_data_root_that_lacks_files_names_every_one(tmp_path):
    config = RunConfig(model=GPTNeo())
    for file in required_files(config)[1:-1]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    with pytest.raises(TinyTransformersError) as raised:
        data.resolve_root(config, tmp_path, tmp_path)
    first, last = required_files(config)[0], required_files(config)[-1]
    assert f"{tmp_path}: lacks {first}, {last}. Put it there, or run" in str(raised.value)
    (tmp_path / first).write_text("")
    with pytest.raises(TinyTransformersError, match=f"lacks {first}, {last}"):  # an empty one is as good as none
        data.resolve_root(config, tmp_path, tmp_path)
    assert data.resolve_root(config, tmp_path, tmp_path, ["blimp"]) == tmp_path
    with pytest.raises(TinyTransformersError, match="--data-root"):
        data.resolve_root(config, None, tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        (["", " "], "is empty"),
        ([{"a": 1}, "", '{"a": '], "line 3: not JSON"),
        ([{"a": 1}, {"b": 2}], "line 2: lacks the field 'a'; it has b"),
        (["[1]"], "line 1: .* is no JSON object"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path, rows, message):
    with pytest.raises(TinyTransformersError, match=f"rows.json.*{message}"):
        data.read_rows(write(tmp_path / "rows.json", *rows), ["a"])


def test_blank_lines_are_passed_over_and_a_missing_file_is_told(tmp_path):
    assert data.read_rows(write(tmp_path / "rows.json", {"a": 1}, "", {"a": 2}), ["a"]) == [{"a": 1}, {"a": 2}]
    with pytest.raises(TinyTransformersError, match="none.json: is missing"):
        data.read_rows(tmp_path / "none.json", ["a"])
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(TinyTransformersError, match="is not UTF-8"):
        data.read_rows(tmp_path / "latin.json", ["a"])


def test_a_sample_covers_the_file_evenly_and_in_order():
    rows = list(range(100))
    assert data.sample(rows, None) == rows
    assert data.sample(rows, 1000) == rows
    assert data.sample(rows, 4) == [0, 25, 50, 75]
    assert len(set(data.sample(rows, 99))) == 99


def test_stories_are_encoded_with_both_ends_and_cut_to_the_length(root, tokenizer_file, tmp_path):
    stories = data.tokenize_stories(root / VALIDATION_STORIES, tokenizer_file, 20, tmp_path)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    rows = data.read_rows(root / VALIDATION_STORIES, ["text"])
    assert len(stories) == len(rows)
    assert stories.lengths.max() == 20
    for index in (0, len(stories) - 1):
        whole = tokenizer.encode(rows[index]["text"]).ids
        expected = whole if len(whole) <= 20 else [*whole[:19], 2]
        assert stories[index].tolist() == expected
    assert stories.fingerprint == data.fingerprint(root / VALIDATION_STORIES)
    assert isinstance(stories.ids, np.memmap)
    with pytest.raises(IndexError):
        stories[len(stories)]


def test_the_cache_is_addressed_by_content(tokenizer_file, tmp_path):
    first = write(tmp_path / "a.jsonl", {"text": "The cat is in the park."})
    data.tokenize_stories(first, tokenizer_file, 64, tmp_path)
    data.tokenize_stories(
        write(tmp_path / "b.jsonl", {"text": "The cat is in the park."}), tokenizer_file, 64, tmp_path
    )
    assert len(list((tmp_path / "tokens").iterdir())) == 1
    data.tokenize_stories(first, tokenizer_file, 32, tmp_path)
    data.tokenize_stories(write(first, {"text": "The dog is in the park."}), tokenizer_file, 64, tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 3


def test_stories_without_text_are_left_out_and_counted(tokenizer_file, tmp_path):
    file = write(tmp_path / "a.jsonl", {"text": "The cat."}, {"text": "  "}, {"text": "The dog."})
    assert len(data.tokenize_stories(file, tokenizer_file, 64, tmp_path)) == 2
    (info,) = (tmp_path / "tokens").glob("*/info.json")
    assert json.loads(info.read_text())["empty"] == 1
    with pytest.raises(TinyTransformersError, match="holds no story"):
        data.tokenize_stories(write(tmp_path / "b.jsonl", {"text": ""}), tokenizer_file, 64, tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 1, "nothing half-made stays"


def test_jobs_that_want_the_same_cache_at_once_all_get_it(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tiny_transformers import data\n"
        "from tiny_transformers.config import *; from tiny_transformers.architecture import GPTNeo\n"
        "cache = Path(sys.argv[1]); config = RunConfig(model=GPTNeo(), data=Data(source='builtin'))\n"
        "root = data.resolve_root(config, None, cache)\n"
        "stories = data.tokenize_stories(root / TRAIN_STORIES, root / 'tokenizer/10k-tok/tokenizer.json', 64, cache)\n"
        "print(len(stories), int(stories.ids.astype('int64').sum()))"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(3)]
    assert len({racer.communicate()[0] for racer in racers}) == 1
    assert all(racer.returncode == 0 for racer in racers)
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()], "no draft stays"


def test_a_folder_is_whole_or_absent(tmp_path):
    def write_half():
        with whole_folder(tmp_path / "model") as draft:
            (draft / "half").write_text("x")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert list(tmp_path.iterdir()) == []
    for text in ("old", "new"):
        with whole_folder(tmp_path / "model", replace=True) as draft:
            (draft / "weights").write_text(text)
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "scores" / "blimp.npz"

    def write_half():
        with whole_file(path) as draft:
            draft.write_text("x")
            raise OSError("disk full")

    with whole_file(path) as draft:
        draft.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    with whole_file(path) as draft:
        draft.write_text("new")
    assert path.read_text() == "new"
    assert [*path.parent.iterdir()] == [path]
