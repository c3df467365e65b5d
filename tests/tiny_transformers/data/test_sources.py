import json

import pytest

from tiny_transformers.common.files import whole_file, whole_folder
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data import sources
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import Data, RunConfig
from tiny_transformers.settings.stages import required_files

BUILTIN = RunConfig(model=GPTNeo(), data=Data(source="builtin"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return sources.resolve_root(BUILTIN, None, tmp_path_factory.mktemp("cache"))


def write(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_builtin_data_is_made_once_and_is_complete(root):
    assert all((root / file).is_file() for file in required_files(BUILTIN))
    made = root.stat().st_mtime_ns
    assert sources.resolve_root(BUILTIN, None, root.parent) == root
    assert root.stat().st_mtime_ns == made


def test_a_data_root_that_lacks_files_names_every_one(tmp_path):
    config = RunConfig(model=GPTNeo())
    for file in required_files(config)[1:-1]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
    with pytest.raises(TinyTransformersError) as raised:
        sources.resolve_root(config, tmp_path, tmp_path)
    first, last = required_files(config)[0], required_files(config)[-1]
    assert f"{tmp_path}: lacks {first}, {last}. Put it there, or run" in str(raised.value)
    (tmp_path / first).write_text("")
    with pytest.raises(TinyTransformersError, match=f"lacks {first}, {last}"):  # an empty one is as good as none
        sources.resolve_root(config, tmp_path, tmp_path)
    assert sources.resolve_root(config, tmp_path, tmp_path, ["blimp"]) == tmp_path
    with pytest.raises(TinyTransformersError, match="--data-root"):
        sources.resolve_root(config, None, tmp_path)


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
        sources.read_rows(write(tmp_path / "rows.json", *rows), ["a"])


def test_blank_lines_are_passed_over_and_a_missing_file_is_told(tmp_path):
    assert sources.read_rows(write(tmp_path / "rows.json", {"a": 1}, "", {"a": 2}), ["a"]) == [{"a": 1}, {"a": 2}]
    with pytest.raises(TinyTransformersError, match="none.json: is missing"):
        sources.read_rows(tmp_path / "none.json", ["a"])
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}\n')
    with pytest.raises(TinyTransformersError, match=r"latin.json: line 1: is not UTF-8 \(invalid continuation byte\)"):
        sources.read_rows(tmp_path / "latin.json", ["a"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        *((value, "is .*, not a text") for value in ("null", "3", "1.5", "NaN", "true", '["a", "b"]', '{"b": 1}')),
        (r'"a \ud800 b"', r"holds \\ud800, half of a character"),
        (r'"\udc00"', r"holds \\udc00, half of a character"),
        ("[" * 100_000 + "]" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, bad, message):
    file = write(tmp_path / "rows.json", {"a": "A text."}, "", f'{{"a": {bad}}}')
    with pytest.raises(TinyTransformersError, match=f"rows.json: line 3: (a )?{message}"):
        sources.read_rows(file, texts=["a"])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252", "shift-jis"])
def test_another_encoding_is_refused_with_the_line(tmp_path, encoding):
    (tmp_path / "rows.json").write_bytes(b'{"a": "A text."}\n' + '{"a": "\xb6 \xd7"}\n'.encode(encoding))
    with pytest.raises(TinyTransformersError, match=r"rows.json: line 2: is not UTF-8"):
        sources.read_rows(tmp_path / "rows.json", texts=["a"])


def test_pairs_of_surrogates_and_a_byte_order_mark_are_text(tmp_path):
    (tmp_path / "rows.json").write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}\r\n{"a": "\xe2\x80\xa8"}')
    assert sources.read_rows(tmp_path / "rows.json", texts=["a"]) == [{"a": "\U0001f600"}, {"a": "\u2028"}]


def test_a_sample_covers_the_file_evenly_and_in_order():
    rows = list(range(100))
    assert sources.sample(rows, None) == rows
    assert sources.sample(rows, 1000) == rows
    assert sources.sample(rows, 4) == [0, 25, 50, 75]
    assert len(set(sources.sample(rows, 99))) == 99


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
