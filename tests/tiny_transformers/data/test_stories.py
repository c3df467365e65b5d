import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer

from tiny_transformers.common import contents
from tiny_transformers.common.work import Interrupted, TinyTransformersError
from tiny_transformers.data import sources, stories
from tiny_transformers.settings.config import VALIDATION_STORIES

FILES = ("ids.bin", "offsets.npy", "info.json")
TEXTS = ["The cat is in the park.", "A dog — and a café 🙂.", "The cat took this hat. " * 40, "", "The end."]


@pytest.fixture
def tokenizer_file(builtin_root):
    return builtin_root / "tokenizer" / "10k-tok" / "tokenizer.json"


@pytest.fixture
def story_file(tmp_path):
    """250 stories, one in five of them without text."""
    return write(
        tmp_path / "stories.jsonl", *[{"text": f"{text} {i}" if text else " "} for i in range(50) for text in TEXTS]
    )


def write(path, *rows, end="\n"):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + end for line in lines), encoding="utf-8", newline="")
    return path


def plain(path, tokenizer_file, max_length):
    """The three files, made in one go."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    texts = [row["text"].strip() for row in sources.read_rows(path, ["text"])]
    beyond = [max(0, len(tokenizer.encode(text).ids) - max_length) for text in texts if text]
    tokenizer.enable_truncation(max_length)
    ids = [tokenizer.encode(text).ids for text in texts if text]
    offsets = np.cumsum([0, *map(len, ids)])
    info = {"file": path.name, "stories": len(ids), "tokens": int(offsets[-1]), "empty": len(texts) - len(ids),
            "cut": sum(map(bool, beyond)), "tokens_cut": sum(beyond)}  # fmt: skip
    return np.array(sum(ids, []), np.uint16).tobytes(), offsets, json.dumps(info, indent=1).encode()


def assert_made(cache, path, tokenizer_file, max_length):
    (folder,) = (cache / "tokens").iterdir()  # and nothing half-made beside it
    ids, offsets, info = plain(path, tokenizer_file, max_length)
    np.save(cache / "expected.npy", offsets)
    assert [(folder / name).read_bytes() for name in FILES] == [ids, (cache / "expected.npy").read_bytes(), info]
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)


def child(code, *arguments):
    """A fresh process that tokenises in small parts."""
    code = f"""
import os, sys
from pathlib import Path
from tiny_transformers.data import stories
stories.PART = 1000
path, tokenizer_file, cache = map(Path, sys.argv[1:])
{code}
made = stories.tokenize_stories(path, tokenizer_file, 64, cache, workers)
print(len(made), int(made.ids.astype('int64').sum()))
"""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_stories_are_encoded_with_both_ends_and_cut_to_the_length(builtin_root, tokenizer_file, tmp_path):
    made = stories.tokenize_stories(builtin_root / VALIDATION_STORIES, tokenizer_file, 20, tmp_path)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    rows = sources.read_rows(builtin_root / VALIDATION_STORIES, ["text"])
    assert len(made) == len(rows)
    assert made.lengths.max() == 20
    for index in (0, len(made) - 1):
        whole = tokenizer.encode(rows[index]["text"]).ids
        expected = whole if len(whole) <= 20 else [*whole[:19], 2]
        assert made[index].tolist() == expected
    assert made.fingerprint == contents.fingerprint(builtin_root / VALIDATION_STORIES)
    assert isinstance(made.ids, np.memmap)
    told = f"300 documents; {made.cut} of them (100 %) are cut at data.max_length 20, and "
    assert made.told().startswith(told)
    with pytest.raises(IndexError):
        made[len(made)]


def test_the_cache_is_addressed_by_content(tokenizer_file, tmp_path):
    first = write(tmp_path / "a.jsonl", {"text": "The cat is in the park."})
    stories.tokenize_stories(first, tokenizer_file, 64, tmp_path)
    stories.tokenize_stories(
        write(tmp_path / "b.jsonl", {"text": "The cat is in the park."}), tokenizer_file, 64, tmp_path
    )
    assert len(list((tmp_path / "tokens").iterdir())) == 1
    stories.tokenize_stories(first, tokenizer_file, 32, tmp_path)
    stories.tokenize_stories(write(first, {"text": "The dog is in the park."}), tokenizer_file, 64, tmp_path)
    other = tmp_path / "tokenizer.json"
    other.write_text(tokenizer_file.read_text() + "\n")
    stories.tokenize_stories(first, other, 64, tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 4


@pytest.mark.parametrize("part", [1, 50, 1000, 10**6])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n \n", "\r"])
def test_the_bytes_depend_neither_on_parts_nor_on_line_ends(tokenizer_file, tmp_path, monkeypatch, part, end):
    monkeypatch.setattr(stories, "PART", part)
    rows = [{"text": text} for text in TEXTS * 2]
    file = write(tmp_path / "a.jsonl", *rows, '{"text": "No end of line: é🙂"}', end=end)
    file.write_bytes(file.read_bytes().removesuffix(end.encode()))
    stories.tokenize_stories(file, tokenizer_file, 64, tmp_path, workers=1)
    assert_made(tmp_path, file, tokenizer_file, 64)


def test_the_bytes_do_not_depend_on_the_number_of_workers(story_file, tokenizer_file, tmp_path, monkeypatch):
    monkeypatch.setattr(stories, "PART", 2000)
    with monkeypatch.context() as patch:
        patch.setattr(stories, "_encode_part", lambda *_: pytest.fail("the workers left something"))
        stories.tokenize_stories(story_file, tokenizer_file, 64, tmp_path, workers=3)
    assert_made(tmp_path, story_file, tokenizer_file, 64)


@pytest.mark.parametrize(
    ("function", "calls"), [("savez", 3), ("cumsum", 5)], ids=["before a part is written", "as the parts are joined"]
)
def test_what_was_killed_goes_on_with_the_missing_parts(
    story_file, tokenizer_file, tmp_path, monkeypatch, function, calls
):
    kill = f"""
import signal
workers, calls, function = 1, 0, stories.np.{function}
def deadly(*arguments, **settings):
    global calls
    calls += 1
    if calls == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments, **settings)
stories.np.{function} = deadly
"""
    victim = child(kill, story_file, tokenizer_file, tmp_path)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    (drafts,) = (tmp_path / "tokens").iterdir()
    monkeypatch.setattr(stories, "PART", 1000)
    parts = stories.EncodingTask(story_file, tokenizer_file, 64, tmp_path, 1000).parts()
    whole = len(list(drafts.glob("*[0-9].npz")))
    assert whole == (calls - 1 if function == "savez" else len(parts)) > 0
    encoded, encode_part = [], stories._encode_part
    monkeypatch.setattr(stories, "_encode_part", lambda *all: (encoded.append(all), encode_part(*all)))
    stories.tokenize_stories(story_file, tokenizer_file, 64, tmp_path, workers=1)
    assert len(encoded) == len(parts) - whole
    assert_made(tmp_path, story_file, tokenizer_file, 64)


def test_workers_killed_with_whoever_started_them_are_gone_on_from(story_file, tokenizer_file, tmp_path, monkeypatch):
    victim = child("workers = 2", story_file, tokenizer_file, tmp_path)
    while not list(tmp_path.glob("tokens/*/*.npz")):
        assert victim.poll() is None
    victim.kill()
    victim.wait()  # its workers may be at work still
    monkeypatch.setattr(stories, "PART", 1000)
    stories.tokenize_stories(story_file, tokenizer_file, 64, tmp_path, workers=2)
    made = {path.name for path in (tmp_path / "tokens").iterdir() if not path.name.startswith(".")}
    assert len(made) == 1
    victim.communicate()  # the pipe ends when the last worker does
    stories.tokenize_stories(story_file, tokenizer_file, 64, tmp_path, workers=2)
    assert_made(tmp_path, story_file, tokenizer_file, 64)


@pytest.mark.parametrize(("workers", "asked"), [(1, 3), (2, 1)])
def test_who_is_asked_to_stop_keeps_what_was_encoded(story_file, tokenizer_file, tmp_path, monkeypatch, workers, asked):
    monkeypatch.setattr(stories, "PART", 1000)
    answers = iter([False] * (asked - 1))
    with pytest.raises(Interrupted, match=r"while stories.jsonl was tokenised"):
        stories.tokenize_stories(
            story_file, tokenizer_file, 64, tmp_path, workers, should_stop=lambda: next(answers, True)
        )
    (drafts,) = (tmp_path / "tokens").iterdir()
    assert workers > 1 or len(list(drafts.glob("*.npz"))) == 2
    stories.tokenize_stories(story_file, tokenizer_file, 64, tmp_path, workers)
    assert_made(tmp_path, story_file, tokenizer_file, 64)


def test_a_worker_stops_when_whoever_started_it_is_gone(story_file, tokenizer_file, tmp_path, monkeypatch):
    parents = iter([1, 1])
    monkeypatch.setattr(stories.os, "getppid", lambda: next(parents, 2))
    task = stories.EncodingTask(story_file, tokenizer_file, 64, tmp_path / "tokens" / "key", 1000)
    task.drafts.mkdir(parents=True)
    assert stories.main([json.dumps([1, str(story_file), str(tokenizer_file), 64, str(task.folder), 1000])]) == 0
    assert len(list(task.drafts.glob("*.npz"))) == 2


def test_workers_that_die_leave_the_rest_to_whoever_started_them(story_file, tokenizer_file, tmp_path, monkeypatch):
    monkeypatch.setattr(stories, "PART", 2000)
    monkeypatch.setattr(stories.sys, "executable", "/bin/false")
    stories.tokenize_stories(story_file, tokenizer_file, 64, tmp_path, workers=2)
    assert_made(tmp_path, story_file, tokenizer_file, 64)


def test_what_another_has_claimed_is_done_last(story_file, tokenizer_file, tmp_path, monkeypatch):
    task = stories.EncodingTask(story_file, tokenizer_file, 64, tmp_path / "tokens" / "key", 1000)
    task.drafts.mkdir(parents=True)
    files = [file for _, _, file in task.parts()]
    assert all(stories._claim(file) for file in files[:3])
    assert not any(stories._claim(file) for file in files[:3])
    done = []
    monkeypatch.setattr(stories, "_encode_part", lambda *all: (done.append(all[-1]), all[-1].touch()))
    stories._encode_parts(task, should_stop=lambda: False)
    assert done[:-3] == files[3:]
    assert sorted(done[-3:]) == sorted(files[:3])


def test_jobs_that_want_the_same_cache_at_once_all_get_it(story_file, tokenizer_file, tmp_path):
    racers = [child(f"workers = {workers}", story_file, tokenizer_file, tmp_path) for workers in (1, 2, 2)]
    ended = [racer.communicate() for racer in racers]
    assert [(racer.returncode, errors) for racer, (_, errors) in zip(racers, ended, strict=True)] == [(0, b"")] * 3
    assert len({output for output, _ in ended}) == 1
    assert_made(tmp_path, story_file, tokenizer_file, 64)


@pytest.mark.parametrize(
    "function", ["concatenate", "cumsum"], ids=["while a part is encoded", "while they are joined"]
)
def test_another_job_may_be_first_at_any_moment(story_file, tokenizer_file, tmp_path, monkeypatch, function):
    monkeypatch.setattr(stories, "PART", 1000)
    interrupted = getattr(np, function)

    def late(*arguments):
        monkeypatch.setattr(stories.np, function, interrupted)
        stories.tokenize_stories(story_file, tokenizer_file, 64, tmp_path, workers=1)
        return interrupted(*arguments)

    monkeypatch.setattr(stories.np, function, late)
    assert len(stories.tokenize_stories(story_file, tokenizer_file, 64, tmp_path, workers=1)) == 200
    assert_made(tmp_path, story_file, tokenizer_file, 64)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_line_of_any_part_is_named_by_its_number_in_the_file(tokenizer_file, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(stories, "PART", 100)
    good = [{"text": "The cat."}, ""] * 40
    for bad, message in (('{"text": ', "line 81: not JSON"), ({"txt": ""}, "line 81: lacks the field 'text'")):
        file = write(tmp_path / "a.jsonl", *good, bad, *good, "[]")
        with pytest.raises(TinyTransformersError, match=f"a.jsonl: {message}"):
            stories.tokenize_stories(file, tokenizer_file, 64, tmp_path, workers)
        assert not list((tmp_path / "tokens").iterdir()), "nothing half-made stays"
    file.write_bytes(file.read_bytes() + b'{"text": "\xe9"}\n')
    file.write_bytes(file.read_bytes().replace(b'{"txt": ""}', b"").replace(b"[]", b""))
    with pytest.raises(TinyTransformersError, match="a.jsonl: line .*: is not UTF-8"):
        stories.tokenize_stories(file, tokenizer_file, 64, tmp_path, workers)


@pytest.mark.parametrize(("bad", "message"), [("", "line 81: not JSON"), (None, "was removed while it was used")])
def test_who_loses_the_drafts_to_a_job_that_found_bad_data_names_it_too(
    tokenizer_file, tmp_path, monkeypatch, bad, message
):
    rows = [{"text": "The cat."}] * 80
    file = write(tmp_path / "a.jsonl", *rows, *(['{"text": '] if bad is not None else []))

    def robbed(task, *_):
        shutil.rmtree(task.drafts)
        np.load(task.drafts / "0.npz")

    monkeypatch.setattr(stories, "_encode_parts", robbed)
    with pytest.raises(TinyTransformersError, match=message):
        stories.tokenize_stories(file, tokenizer_file, 64, tmp_path, workers=1)


def test_a_file_without_a_story_is_refused(tokenizer_file, tmp_path):
    for rows in ([], [{"text": ""}, {"text": "  "}]):
        with pytest.raises(TinyTransformersError, match="holds no story"):
            stories.tokenize_stories(write(tmp_path / "a.jsonl", *rows), tokenizer_file, 64, tmp_path)
        assert not list((tmp_path / "tokens").iterdir())


def test_a_file_that_changes_meanwhile_is_refused(story_file, tokenizer_file, tmp_path, monkeypatch):
    monkeypatch.setattr(stories, "PART", 10**6)
    encode_part = stories._encode_part

    def change(*arguments):
        encode_part(*arguments)
        story_file.write_text(story_file.read_text() + "\n")

    monkeypatch.setattr(stories, "_encode_part", change)
    with pytest.raises(TinyTransformersError, match="stories.jsonl: changed while it was read"):
        stories.tokenize_stories(story_file, tokenizer_file, 64, tmp_path)
    assert not list((tmp_path / "tokens").iterdir())


def test_the_cpus_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(stories.os, "sched_getaffinity", lambda _: set(range(16)))
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert stories.own_cpus() == 16
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    assert stories.own_cpus() == 8
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert stories.own_cpus() == 2
    monkeypatch.delattr(stories.os, "sched_getaffinity")  # as on macOS
    assert stories.own_cpus() == min(2, os.cpu_count())


def test_a_worker_loads_no_torch():
    code = "import sys, tiny_transformers.data.stories; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"set()\n"
