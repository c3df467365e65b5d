import errno
import hashlib
import json
import os
import shutil
import zipfile

import pytest
from tokenizers import Tokenizer

from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data import fetch
from tiny_transformers.data.sources import read_rows
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import (
    STREAMS,
    TRAIN_STORIES,
    VALIDATION_STORIES,
    Data,
    RunConfig,
    fetch_command,
)
from tiny_transformers.settings.corpora import CORPORA
from tiny_transformers.settings.stage.blimp import blimp_files
from tiny_transformers.settings.stage.lambada import FILE as LAMBADA
from tiny_transformers.settings.stages import required_files


@pytest.fixture
def sources(tmp_path, shared_data, monkeypatch):
    """Local stand-ins for the hub's data set, GPT-2's tokenizer and BabyLM's zip file."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    stories = tmp_path / "stories"
    stories.mkdir()
    for split in ("train", "validation"):
        lines = (shared_data / "tinystories" / f"{split}.jsonl").read_text().splitlines()[:20]
        (stories / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "gpt2.json").write_text(json.dumps(like_gpt2(read_tokenizer(shared_data))))
    archive = shutil.make_archive(str(tmp_path / "filter_data"), "zip", shared_data, "filter-data")
    return ["--data-root", str(tmp_path / "data"), "--stories", str(stories), "--tokenizer",
            str(tmp_path / "gpt2.json"), "--lambada", str(shared_data / "lambada"),
            "--filter-data", archive]  # fmt: skip


def read_tokenizer(shared_data):
    return json.loads((shared_data / "tokenizer" / "10k-tok" / "tokenizer.json").read_text())


def like_gpt2(study):
    """GPT-2's tokenizer as far as the study's tells it, with more merges than the study kept."""
    vocabulary = {token: index for token, index in study["model"]["vocab"].items() if 4 <= index < 9995}
    vocabulary |= {token: index for index, token in enumerate('!"#$')}
    merges = list(study["model"]["merges"])
    for first in list(vocabulary)[300:400]:  # tokens that the study cut off
        merges.append([first, "Ġthe"] if isinstance(merges[0], list) else f"{first} Ġthe")
        vocabulary[f"{first}Ġthe"] = len(vocabulary)
    gpt2 = json.loads(json.dumps(study))
    gpt2["model"] |= {"vocab": vocabulary, "merges": merges}
    return gpt2 | {"added_tokens": [], "post_processor": None}


def test_the_studys_tokenizer_is_cut_from_gpt2s(shared_data):
    study = read_tokenizer(shared_data)
    cut = fetch.cut_gpt2(like_gpt2(study))
    assert cut["model"]["vocab"] == study["model"]["vocab"]
    pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in study["model"]["merges"]]
    assert cut["model"]["merges"] == pairs
    ours, theirs = Tokenizer.from_str(json.dumps(cut)), Tokenizer.from_str(json.dumps(study))
    for line in (shared_data / "tinystories" / "validation.jsonl").read_text().splitlines()[:100]:
        text = json.loads(line)["text"]
        assert ours.encode(text).ids == theirs.encode(text).ids
        assert ours.encode("A <mask> b", text).ids == theirs.encode("A <mask> b", text).ids


def test_everything_is_fetched_from_local_sources_and_kept_the_second_time(sources, shared_data, tmp_path, capsys):
    assert fetch.main(sources) == 0
    root = tmp_path / "data"
    assert all((root / file).is_file() for file in required_files(RunConfig(model=GPTNeo())))
    assert read_rows(root / LAMBADA, ["text"]) == read_rows(shared_data / LAMBADA, ["text"])
    lines = (root / TRAIN_STORIES).read_text().splitlines()
    assert len(lines) == 20
    assert set(json.loads(lines[0])) == {"text"}
    assert "complete" in capsys.readouterr().out
    (root / LAMBADA).write_text("")
    assert fetch.main(sources) == 0
    assert (root / LAMBADA).stat().st_size > 0, "an empty file is brought again"
    before = (root / TRAIN_STORIES).stat().st_mtime_ns
    nowhere = ["--stories", "no/such", "--tokenizer", "no/such", "--filter-data", "/no/such", "--lambada", "no/such"]
    assert fetch.main([*sources[:2], *nowhere]) == 0, "nothing is needed any more"
    assert (root / TRAIN_STORIES).stat().st_mtime_ns == before


def test_what_cannot_be_had_is_named_and_the_rest_is_there(sources, tmp_path, capsys):
    for option in ("--stories", "--lambada"):
        sources[sources.index(option) + 1] = str(tmp_path / "nowhere")
    assert fetch.main(sources) == 2
    said = capsys.readouterr().err
    assert "stories from" in said
    assert "LAMBADA from" in said
    assert f"still lacks {TRAIN_STORIES}" in said
    assert f"{LAMBADA}. Run fetch again, where there is internet" in said
    assert (tmp_path / "data" / "tokenizer" / "10k-tok" / "tokenizer.json").is_file()
    assert not list((tmp_path / "data").rglob(".*")), "no half-written file stays"


def test_of_many_files_that_are_lacking_some_are_named_and_a_folder_that_is_shut_is_told(tmp_path, capsys, monkeypatch):
    assert fetch._report(tmp_path, [f"{number}.json" for number in range(7)], []) == 2
    assert "still lacks 0.json, 1.json, 2.json, 3.json, 4.json and 2 files more." in capsys.readouterr().err

    def shut(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "train.jsonl")

    for name in ("fetch_stories", "fetch_tokenizer", "fetch_filter_data", "fetch_lambada", "lacking_files"):
        monkeypatch.setattr(fetch, name, shut)
    assert fetch.main(["--data-root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("Permission denied: 'train.jsonl'")


def test_the_full_blimp_is_fetched_on_request_with_all_fields(sources, tmp_path, capsys):
    row = {"sentence_good": "A.", "sentence_bad": "B.", "UID": "u", "pair_id": "0"}
    files = blimp_files(Data(), "full")
    lacking, *others = files
    for paradigm in others:
        path = tmp_path / "blimp" / "data" / f"{paradigm}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row) + "\n")
    request = [*sources, "--full-blimp", str(tmp_path / "blimp")]
    assert fetch.main(request) == 2
    assert f"it has no {lacking}.jsonl" in capsys.readouterr().err
    shutil.copyfile(path, path.with_name(f"{lacking}.jsonl"))
    assert fetch.main(request) == 0
    written = [(tmp_path / "data" / file).read_text() for file in files.values()]
    assert [json.loads(text) for text in written] == [row] * 67


TEXT = "<page>\n  caf\u00e9 \r\n\n</page>\n"


def write_hub(folder, config, splits):
    """A data set's folder as the hub has it: a configuration whose splits are rows of `text`."""
    folder.mkdir()
    files = [{"split": split, "path": f"{split}.jsonl"} for split in splits]
    # JSON is YAML
    (folder / "README.md").write_text(
        f"---\nconfigs: {json.dumps([{'config_name': config, 'data_files': files}])}\n---\n"
    )
    for split, text in splits.items():
        (folder / f"{split}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    return str(folder)


def zipped(path, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return str(path)


@pytest.mark.parametrize("kind", ["file", "zip", "folder"])
def test_streams_are_fetched_on_request_byte_for_byte(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "raw.xml").write_bytes(TEXT.encode())
    source = {
        "file": lambda: str(tmp_path / "raw.xml"),
        "zip": lambda: zipped(tmp_path / "enwik8.zip", enwik8=TEXT),
        "folder": lambda: write_hub(tmp_path / "lines", "enwik8-raw", {"train": TEXT}),
    }[kind]()
    fetch.fetch_stream(tmp_path, source, "enwik8")
    path = tmp_path / STREAMS["enwik8"]
    assert path.read_bytes() == TEXT.encode()
    assert capsys.readouterr().out == f"{path}: {len(TEXT.encode())} bytes\n", (
        "nothing says that it is the published one"
    )
    fetch.fetch_stream(tmp_path, "/no/such", "enwik8")
    assert path.read_bytes() == TEXT.encode(), "what is there is kept"


def test_the_splits_of_a_data_set_are_parts_of_one_text(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    source = write_hub(tmp_path / "text8", "default", {"test": "e f", "train": "a b ", "validation": "c d "})
    fetch.fetch_stream(tmp_path, source, "text8")
    assert (tmp_path / STREAMS["text8"]).read_text() == "a b c d e f"


def test_what_came_from_elsewhere_must_be_what_was_published(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    address = (tmp_path / "text8.zip").as_uri()
    zipped(tmp_path / "text8.zip", text8="a b")
    with pytest.raises(TinyTransformersError, match="its 3 bytes are not those that were published"):
        fetch.fetch_stream(tmp_path, address, "text8")
    assert not list((tmp_path / "char").iterdir())
    monkeypatch.setitem(fetch.MD5, "text8", hashlib.md5(b"a b").hexdigest())
    fetch.fetch_stream(tmp_path, address, "text8")
    assert "3 bytes, as published" in capsys.readouterr().out


def test_a_zip_file_with_more_than_the_text_is_refused(tmp_path):
    with pytest.raises(TinyTransformersError, match="holds 2 files, not one"):
        fetch.fetch_stream(tmp_path, zipped(tmp_path / "x.zip", text8="a", readme="b"), "text8")
    with pytest.raises(TinyTransformersError, match="no text"):
        fetch.fetch_stream(tmp_path, zipped(tmp_path / "y.zip", text8=""), "text8")


def test_only_the_streams_that_are_asked_for_are_brought(sources, tmp_path, capsys):
    (tmp_path / "part.txt").write_text("a part of text8")
    assert fetch.main([*sources, "--text8", str(tmp_path / "part.txt")]) == 0
    assert [path.name for path in (tmp_path / "data" / "char").iterdir()] == ["text8.txt"]
    assert fetch.main([*sources, "--enwik8"]) == 2, "offline"
    assert "enwik8 from https://mattmahoney.net/dc/enwik8.zip: TinyTransformersError" in capsys.readouterr().err


def test_the_command_that_brings_what_is_lacking_asks_for_it():
    assert fetch_command([TRAIN_STORIES]) == "tiny-transformers fetch"
    lacking = [STREAMS["text8"], STREAMS["enwik8"], "blimp/passive_1.jsonl"]
    assert fetch_command(lacking) == "tiny-transformers fetch --full-blimp --enwik8 --text8"
    assert fetch_command(lacking[:1], "d") == "tiny-transformers fetch --data-root d --text8"


def test_a_broken_archive_leaves_nothing_behind(sources, tmp_path, capsys):
    archive = sources[-1]
    with open(archive, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(archive)
    assert fetch.main(sources) == 2
    assert "BadZipFile" in capsys.readouterr().err
    assert not (tmp_path / "data" / "filter-data").exists()


def test_offline_means_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    local = [
        word for option in ("--data-root", "--stories", "--tokenizer", "--lambada") for word in (option, str(tmp_path))
    ]
    assert fetch.main(local) == 2
    assert "HF_HUB_OFFLINE=1 forbids downloads" in capsys.readouterr().err


STORIES = "Once upon a time,\nthere was a bug.\n\nIt was big.\n<|endoftext|>\nTom ran.\nHe fell.\n<|endoftext|>\n"


def of(path):
    return [row["text"] for row in read_rows(path, texts=["text"])]


def test_stories_in_text_files_are_what_their_marks_part(sources, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("TinyStories-train.txt", "TinyStories-valid.txt"):
        (folder / name).write_text(STORIES)
    sources[sources.index("--stories") + 1] = str(folder)
    assert fetch.main(sources) == 0
    for file in (TRAIN_STORIES, VALIDATION_STORIES):
        assert of(tmp_path / "data" / file) == [
            "Once upon a time,\nthere was a bug.\n\nIt was big.",
            "Tom ran.\nHe fell.",
        ]


def test_text_without_marks_is_refused_until_a_rule_is_given(sources, tmp_path, capsys):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train.txt", "dev.txt"):
        (folder / name).write_text("One.\nTwo.\n\nThree.\n\n" + "word " * 511)
    sources[sources.index("--stories") + 1] = str(folder)
    assert fetch.main(sources) == 2
    assert ".txt: is text. Say what parts its documents: --documents line, blank_line" in capsys.readouterr().err
    assert fetch.main([*sources, "--documents", "blank_line"]) == 0
    assert ": 3 documents, of which at least 1 have more than 512 tokens" in capsys.readouterr().out
    assert of(tmp_path / "data" / TRAIN_STORIES)[:2] == ["One.\nTwo.", "Three."]


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_babylms_corpora_are_lines_of_their_own_folders(tmp_path, monkeypatch, packed):
    """The layout of 2023's zip file."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "babylm_data"
    for split, ending in (
        ("babylm_10M", "train"),
        ("babylm_100M", "train"),
        ("babylm_dev", "dev"),
        ("babylm_test", "test"),
    ):
        (folder / split).mkdir(parents=True)
        for domain in ("aochildes", "bnc_spoken"):
            (folder / split / f"{domain}.{ending}").write_text(f"{split} {domain} one.\n\n{split} {domain} two.\n")
    (folder / "README.md").write_text("# BabyLM")
    source = shutil.make_archive(str(tmp_path / "babylm"), "zip", tmp_path, "babylm_data") if packed else folder
    for name, size in (("babylm_10m", "babylm_10M"), ("babylm_100m", "babylm_100M")):
        fetch.fetch_corpus(tmp_path / "data", str(source), name)
        texts = [f"{split} {domain} {n}." for split in (size, "babylm_dev") for domain in ("aochildes", "bnc_spoken")
                 for n in ("one", "two")]  # fmt: skip
        train, validation = (of(tmp_path / "data" / file) for file in CORPORA[name].files)
        assert [*train, *validation] == texts
        assert len(train) == 4


def test_a_corpus_without_validation_has_one_document_in_a_hundred_held_out(tmp_path):
    (tmp_path / "mine.txt").write_text("\n".join(f"Line {number}." for number in range(250)))
    fetch.fetch_corpus(tmp_path / "data", str(tmp_path / "mine.txt"), "mine", "line")
    train, validation = (of(tmp_path / "data" / file) for file in fetch.corpus_files("mine"))
    assert validation == ["Line 99.", "Line 199."]
    assert train == [f"Line {number}." for number in range(250) if number not in (99, 199)]


def test_a_corpus_comes_from_a_data_set_by_its_id(tmp_path, monkeypatch):
    import datasets

    folder = tmp_path / "somebody"
    folder.mkdir()
    for split, text in (("train", "Een kat."), ("validation", "Een hond."), ("test", "Een vis.")):
        datasets.Dataset.from_dict({"text": [text], "more": [1]}).to_parquet(folder / f"{split}.parquet")
    monkeypatch.chdir(tmp_path)
    real = datasets.load_dataset
    monkeypatch.setattr(
        "datasets.load_dataset", lambda name, **how: real(str(folder), **how) if name == "a/b" else None
    )
    fetch.fetch_corpus(tmp_path / "data", "a/b", "nl")
    assert [of(tmp_path / "data" / file) for file in fetch.corpus_files("nl")] == [["Een kat."], ["Een hond."]]


@pytest.mark.parametrize("asked", ["mine", "text8=x", "tinystories=x", "my corpus=x", "=x"])
def test_a_corpus_that_cannot_be_named_so_is_refused(tmp_path, capsys, asked):
    with pytest.raises(SystemExit) as ended:
        fetch.main(["--data-root", str(tmp_path), "--corpus", asked])
    assert ended.value.code == 2
    assert "--corpus" in capsys.readouterr().err
