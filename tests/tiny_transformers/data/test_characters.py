import subprocess
import sys

import numpy as np
import pytest

from tiny_transformers.common.contents import fingerprint
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data import characters

TEXT = "a naïve café costs 3 € at № 7; 𝄞 is one character of four bytes.\n" * 50


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "char" / "enwik8.xml"
    path.parent.mkdir()
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture(params=["bytes", "characters"])
def units(request):
    return request.param


def whole(units):
    return list(TEXT.encode()) if units == "bytes" else list(map(ord, TEXT))


@pytest.mark.parametrize("read", [1 << 22, 7])  # 7: blocks end within characters
def test_a_stream_is_the_whole_file_in_order(file, tmp_path, units, read, monkeypatch):
    monkeypatch.setattr(characters, "READ", read)
    stream = characters.read_stream(file, units, tmp_path / "cache")
    assert stream.vocabulary == sorted(set(whole(units)))
    parts = [stream.train, stream.validation, stream.test]
    assert [stream.vocabulary[index] for part in parts for index in part] == whole(units)
    assert stream.fingerprint == fingerprint(file)


def test_it_is_cut_as_published(file, tmp_path):
    ids = np.zeros(100_000_000, np.uint8)  # pages that nothing touches take no memory
    published = characters.Stream(file, ids, [97], "")
    assert [len(part) for part in (published.train, published.validation, published.test)] == [
        90_000_000,
        5_000_000,
        5_000_000,
    ]
    small = characters.read_stream(file, "bytes", tmp_path / "cache")
    held_out = len(TEXT.encode()) // 20
    assert (len(small.validation), len(small.test)) == (held_out, held_out)


def test_a_split_is_preceded_by_the_unit_before_it(file, tmp_path):
    stream = characters.read_stream(file, "bytes", tmp_path)
    assert stream.preceded("validation").tolist() == [stream.train[-1], *stream.validation]
    assert stream.preceded("test").tolist() == [stream.validation[-1], *stream.test]


def test_ids_are_as_small_as_the_vocabulary_allows(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("".join(map(chr, range(0x4E00, 0x4E00 + 300))), encoding="utf-8")
    assert characters.read_stream(path, "characters", tmp_path / "cache").ids.dtype == np.uint16
    stream = characters.read_stream(path, "bytes", tmp_path / "cache")
    assert stream.ids.dtype == np.uint8
    assert len(stream.ids) == 900


def test_the_second_reader_encodes_nothing(file, tmp_path, units, monkeypatch):
    first = characters.read_stream(file, units, tmp_path / "cache")
    monkeypatch.setattr(characters, "_encode", None)
    second = characters.read_stream(file, units, tmp_path / "cache")
    assert isinstance(second.ids, np.memmap)
    assert (second.ids == first.ids).all()
    assert second.vocabulary == first.vocabulary


def test_other_bytes_and_other_units_are_another_stream(file, tmp_path):
    cache = tmp_path / "cache"
    characters.read_stream(file, "bytes", cache)
    characters.read_stream(file, "characters", cache)
    file.write_text(TEXT.upper())
    assert ord("a") not in characters.read_stream(file, "bytes", cache).vocabulary
    assert len(list((cache / "characters").iterdir())) == 3


def test_several_processes_make_it_at_once(file, tmp_path):
    code = (
        "import sys; from pathlib import Path; from tiny_transformers.data import characters;"
        "print(len(characters.read_stream(Path(sys.argv[1]), 'characters', Path(sys.argv[2])).ids))"
    )
    command = [sys.executable, "-c", code, str(file), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0].strip() for process in running] == [str(len(TEXT))] * 4
    assert len(list((tmp_path / "cache" / "characters").iterdir())) == 1, "no draft stays"


def test_no_torch_is_loaded():
    code = "import sys, tiny_transformers.data.characters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("content", "units", "message"),
    [
        (b"", "bytes", "stream.txt: is empty. Bring it again"),
        (b"short", "bytes", "has 5 bytes; a stream needs 20"),
        (b"ab\xff" * 20, "characters", "is not UTF-8 .*or set data.units to bytes"),
        ("é".encode() * 20 + b"\xc3", "characters", "is not UTF-8"),
    ],
)
def test_what_is_no_stream_is_refused(content, units, message, tmp_path):
    path = tmp_path / "stream.txt"
    path.write_bytes(content)
    with pytest.raises(TinyTransformersError, match=message):
        characters.read_stream(path, units, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "characters").glob("*")), "nothing half-made stays"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TinyTransformersError, match=r"no.txt: is missing. .*tiny-transformers fetch"):
        characters.read_stream(tmp_path / "no.txt", "bytes", tmp_path)


def test_a_model_without_room_for_every_unit_is_refused(file, tmp_path):
    stream = characters.read_stream(file, "characters", tmp_path)
    size = len(set(TEXT))
    characters.fits(stream, size)
    characters.fits(stream, size + 10)
    with pytest.raises(
        TinyTransformersError, match=f"{size} different units, .*room for {size - 1}. Set model.vocab_size to {size}."
    ):
        characters.fits(stream, size - 1)


def test_rows_are_parts_that_follow_each_other():
    made = characters.rows(np.arange(32), 3)
    assert made.tolist() == [[*range(10)], [*range(10, 20)], [*range(20, 30)]]
    with pytest.raises(TinyTransformersError, match="train.batch_size 3: a row must have 2 characters, .* 5 in all"):
        characters.rows(np.arange(5), 3)


@pytest.mark.parametrize("size", [1, 3, 4, 9, 100])
def test_a_pass_has_every_unit_but_the_first_of_a_row_as_a_target(size):
    made = characters.rows(np.arange(32, dtype=np.uint8), 3)
    blocks = -(-9 // size)
    passes = [[characters.block(made, start + number, size) for number in range(blocks)] for start in (0, blocks * 7)]
    for blocks_of_pass in passes:
        inputs, targets, begins = zip(*blocks_of_pass, strict=True)
        assert (np.concatenate(inputs, axis=1) == made[:, :-1]).all()
        assert (np.concatenate(targets, axis=1) == made[:, 1:]).all()
        assert begins == (True, *[False] * (blocks - 1))
        assert inputs[0].dtype == np.int64


def test_a_cache_that_the_disk_has_cut_is_no_shorter_stream(tmp_path):
    path = tmp_path / "text8.txt"
    path.write_text(" one two three" * 20)
    characters.read_stream(path, "bytes", tmp_path / "cache")
    (ids,) = (tmp_path / "cache").rglob("ids.bin")
    ids.write_bytes(ids.read_bytes()[:-40])
    with pytest.raises(TinyTransformersError, match="is damaged. Remove it"):
        characters.read_stream(path, "bytes", tmp_path / "cache")
