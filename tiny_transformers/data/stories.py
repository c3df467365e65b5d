"""Stories as token ids, mapped from disk: made once for all runs, by as many processes as there are CPUs.

The story file is cut at line ends into parts; each is encoded and kept as a file that is whole or absent, so whoever
comes after a kill goes on with the parts that are missing, and the parts are then joined. Memory is one part's, however
long the file. No torch: a worker is a fresh process that loads numpy and tokenizers only, never a fork of one that has
threads. Processes and not the library's own threads: 6 % of the work is Python's (JSON, lists to arrays), which under
one lock would stop it at some 15 CPUs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tiny_transformers.common import progress
from tiny_transformers.common.contents import known_fingerprint, state
from tiny_transformers.common.files import whole_file, whole_folder
from tiny_transformers.common.rows import numbered_rows
from tiny_transformers.common.work import Interrupted, TinyTransformersError

CACHE_FORMAT = 1  # raised when the same stories would be stored otherwise
PART = 4 << 20  # bytes of the story file: a second's work, and what a kill can cost each process
PARTS_FORMAT = 2  # raised when a part says more: those of another version of the code are passed over
BATCH = 100  # stories encoded at once
LARGEST_VOCABULARY = 2**16  # ids are stored as uint16
MUCH = 0.1  # the share of the stories that are cut, or of their tokens, of which people are told
BAD_DATA = 2  # a worker's exit code
POLL = 0.05  # seconds


@dataclass(frozen=True)
class Stories:
    """Tokenised stories, mapped from disk: story i is ids[offsets[i]:offsets[i + 1]]."""

    ids: NDArray[np.uint16]  # (tokens of all stories,)
    offsets: NDArray[np.int64]  # (stories + 1,)
    fingerprint: str  # SHA-256 of the story file
    max_length: int  # tokens
    empty: int  # texts without a word, which are left out
    cut: int | None = None  # stories that were longer; None: a version made them that did not count
    tokens_cut: int = 0  # theirs behind the cut

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.uint16]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(stories,) tokens of each, <s> and </s> included."""
        return np.diff(self.offsets)

    @property
    def is_much_cut(self) -> bool:
        return max(self._shares) > MUCH

    @property
    def _shares(self) -> tuple[float, float]:
        """Of the stories that are cut, and of their tokens that are left out."""
        return (self.cut or 0) / len(self), self.tokens_cut / (len(self.ids) + self.tokens_cut)

    def figures(self) -> dict[str, int]:
        """How many there are, and what of them is not read."""
        left_out = {"documents_empty": self.empty, "documents_cut": self.cut, "tokens_cut": self.tokens_cut}
        return {"documents": len(self), **{name: number for name, number in left_out.items() if number}}

    def told(self) -> str:
        """The same in words."""
        words = [f"{len(self):,} documents"]
        if self.cut:
            stories, tokens = self._shares
            words.append(
                f"{self.cut:,} of them ({100 * stories:.0f} %) are cut at data.max_length {self.max_length}, and "
                f"{100 * tokens:.0f} % of all tokens with them"
            )
        return "; ".join([*words, *([f"{self.empty:,} without text left out"] if self.empty else [])])


@dataclass(frozen=True)
class EncodingTask:
    """The inputs and the place of an encoding: the same for every process that takes part."""

    path: Path  # the story file
    tokenizer_file: Path
    max_length: int  # tokens
    folder: Path  # where ids.bin, offsets.npy and info.json will be
    part: int  # bytes

    @property
    def drafts(self) -> Path:
        """All that is unfinished; shared by all who make the same folder, and gone once it is there."""
        return self.folder.with_name(f".{self.folder.name}.parts")

    def parts(self) -> list[tuple[int, int, Path]]:
        """First byte, last byte + 1 and the file of each part; they begin and end where lines do."""
        size = self.path.stat().st_size
        cuts = [0]
        with open(self.path, "rb") as file:
            while cuts[-1] < size:
                file.seek(cuts[-1] + self.part)
                file.readline()
                cuts.append(min(file.tell(), size))
        return [(begin, end, self.drafts / f"{begin}-{end}-{PARTS_FORMAT}.npz") for begin, end in pairwise(cuts)]

    def tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.from_file(str(self.tokenizer_file))
        if tokenizer.get_vocab_size() > LARGEST_VOCABULARY:
            raise TinyTransformersError(
                f"{self.tokenizer_file}: has more than {LARGEST_VOCABULARY:,} tokens, the most there is."
            )
        tokenizer.enable_truncation(self.max_length)
        tokenizer.no_padding()
        return tokenizer


def tokenize_stories(
    path: Path,
    tokenizer_file: Path,
    max_length: int,
    cache: Path,
    workers: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Stories:
    """The stories of a file of JSON lines (key `text`) as `<s> ... </s>`, each cut to `max_length` tokens, both ends
    kept. Made once and kept in cache/tokens; a story without text is left out. What is left out is counted
    in info.json. The bytes do not depend on the number of workers (processes; by default `own_cpus`).

    Raises TinyTransformersError for a file that cannot be read, or a vocabulary of more than 65,536 tokens; Interrupted
    if `should_stop` says so, which is asked before each part: what was encoded is kept for the next time."""
    source, tokenizer_hash = known_fingerprint(path, cache), known_fingerprint(tokenizer_file, cache)
    key = hashlib.sha256(f"{CACHE_FORMAT} {source} {tokenizer_hash} {max_length}".encode()).hexdigest()[:16]
    task = EncodingTask(path, tokenizer_file, max_length, cache / "tokens" / key, PART)
    if not task.folder.is_dir():
        _make(task, workers or own_cpus(), should_stop)
    _remove(task.drafts)
    offsets = np.load(task.folder / "offsets.npy")
    ids = np.memmap(task.folder / "ids.bin", dtype=np.uint16, mode="r", shape=(int(offsets[-1]),))
    info = json.loads((task.folder / "info.json").read_text(encoding="utf-8"))
    return Stories(ids, offsets, source, max_length, info["empty"], info.get("cut"), info.get("tokens_cut", 0))


def own_cpus() -> int:
    """The CPUs that this process may use. Runs that share a node are each given their share as OMP_NUM_THREADS."""
    limits = [os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS")]
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    return max(1, min([own, *(int(limit) for limit in limits if limit.isdecimal())]))


def _make(task: EncodingTask, workers: int, should_stop: Callable[[], bool]) -> None:
    task.tokenizer()  # refused before any work
    task.drafts.mkdir(parents=True, exist_ok=True)
    before = state(task.path)
    try:
        parts = [file for _, _, file in task.parts()]
        workers = min(workers, sum(not file.exists() for file in parts))
        with progress.shown(
            f"tokenising {task.path.name}",
            lambda: f"{sum(file.exists() for file in parts):,} of {len(parts):,} parts",
        ):
            if workers > 1:
                _run_workers(task, workers, should_stop)
            with _unless_made(task):
                _encode_parts(task, should_stop)  # all of it, or what a worker that was killed left
                _join(task, before)
    except TinyTransformersError:
        _remove(task.drafts)
        for _ in numbered_rows(
            task.path, texts=["text"]
        ):  # a part knows only its own lines: this raises with the file's
            pass
        raise  # it was not the data


def _run_workers(task: EncodingTask, count: int, should_stop: Callable[[], bool]) -> None:
    """Raises TinyTransformersError as soon as one finds bad data. Of a worker that dies otherwise the rest is left."""
    work = [str(task.path), str(task.tokenizer_file), task.max_length, str(task.folder), task.part]
    single = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tiny_transformers.data.stories", json.dumps([os.getpid(), *work])]
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            workers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, env=os.environ | single))
        while any(worker.poll() is None for worker in workers) and not should_stop():
            if any(worker.returncode == BAD_DATA for worker in workers):
                raise TinyTransformersError(f"{task.path}: is not as it should be.")
            time.sleep(POLL)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _encode_parts(task: EncodingTask, should_stop: Callable[[], bool]) -> None:
    """Encode what is missing, beside any number of others, of this job or of others on other nodes.

    A claim, made by exclusive creation, only says: take another part first. When none is left unclaimed, what is still
    missing is done, claimed or not. So a dead worker's claim needs no rule of when it is stale, which would need clocks
    that agree; what it costs is that who has nothing else to do does, once, what another is about to finish."""
    tokenizer, parts = task.tokenizer(), task.parts()
    for heed in (True, False):
        for begin, end, file in parts:
            if task.folder.is_dir():
                return
            if should_stop():
                raise Interrupted(f"asked to stop while {task.path.name} was tokenised; what was encoded is kept")
            if not file.exists() and (_claim(file) or not heed):
                _encode_part(task, tokenizer, begin, end, file)
        random.shuffle(parts)  # so that not all take the same


def _claim(file: Path) -> bool:
    try:
        file.with_suffix(".claim").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _encode_part(task: EncodingTask, tokenizer: Tokenizer, begin: int, end: int, file: Path) -> None:
    stories = (row["text"].strip() for _, row in numbered_rows(task.path, (), ["text"], begin, end))
    ids, empty, cut, tokens_cut = [np.empty(0, np.uint16)], 0, 0, 0
    ends = tokenizer.num_special_tokens_to_add(is_pair=False)
    while batch := list(islice(stories, BATCH)):
        texts = [text for text in batch if text]
        empty += len(batch) - len(texts)
        encodings = tokenizer.encode_batch_fast(texts)
        ids += [np.asarray(encoding.ids, dtype=np.uint16) for encoding in encodings]
        behind = [rest for encoding in encodings if (rest := encoding.overflowing)]  # pieces, each with both ends
        cut += len(behind)
        tokens_cut += sum(len(piece) - ends for rest in behind for piece in rest)
    lengths = np.asarray([len(story) for story in ids[1:]], dtype=np.int64)
    with whole_file(file) as draft, open(draft, "wb") as stream:
        np.savez(stream, ids=np.concatenate(ids), lengths=lengths, left_out=[empty, cut, tokens_cut])


def _join(task: EncodingTask, before: tuple[int, ...]) -> None:
    """Write ids.bin, offsets.npy and info.json; a part at a time is in memory."""
    if task.folder.is_dir():
        return
    if state(task.path) != before:
        raise TinyTransformersError(f"{task.path}: changed while it was read. Start again.")
    files = [file for _, _, file in task.parts()]
    stories = sum(len(np.load(file)["lengths"]) for file in files)
    if not stories:
        raise TinyTransformersError(f"{task.path}: holds no story. Bring it again with `tiny-transformers fetch`.")
    tokens, left_out = 0, np.zeros(3, np.int64)
    with whole_folder(task.folder, drafts=task.drafts) as folder:
        with open(folder / "ids.bin", "wb") as ids, open(folder / "offsets.npy", "wb") as offsets:
            first = np.zeros(1, np.int64)
            header = np.lib.format.header_data_from_array_1_0(first) | {"shape": (stories + 1,)}
            np.lib.format.write_array_header_1_0(offsets, header)
            first.tofile(offsets)
            for file in files:
                with np.load(file) as part:
                    part["ids"].tofile(ids)
                    ends = tokens + np.cumsum(part["lengths"])
                    left_out += part["left_out"]
                ends.tofile(offsets)
                tokens = int(ends[-1]) if len(ends) else tokens
        counts = dict(zip(("empty", "cut", "tokens_cut"), left_out.tolist(), strict=True))
        info = {"file": task.path.name, "stories": stories, "tokens": tokens, **counts}
        (folder / "info.json").write_text(json.dumps(info, indent=1))


@contextmanager
def _unless_made(task: EncodingTask) -> Iterator[None]:
    """Another job may finish first and remove the drafts from under this one, which then has nothing left to do; or
    find bad data and remove them."""
    try:
        yield
    except FileNotFoundError:
        if not task.folder.is_dir():
            raise TinyTransformersError(f"{task.drafts}: was removed while it was used. Start again.") from None


def _remove(drafts: Path) -> None:
    """Renamed first, for another job may be about to rename what it has in there: all of it, or nothing."""
    if drafts.is_dir():
        old = tempfile.mkdtemp(dir=drafts.parent, prefix=".old.")
        with suppress(FileNotFoundError):
            os.rename(drafts, old)
        shutil.rmtree(old)


def main(arguments: Sequence[str]) -> int:
    """A worker: encodes parts until none is missing, or until whoever started it is gone."""
    parent, path, tokenizer_file, max_length, folder, part = json.loads(arguments[0])
    task = EncodingTask(Path(path), Path(tokenizer_file), max_length, Path(folder), part)
    try:
        with _unless_made(task):
            _encode_parts(task, should_stop=lambda: os.getppid() != parent)
    except TinyTransformersError:
        return BAD_DATA  # who started it says what and where
    except Interrupted:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
