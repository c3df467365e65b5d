"""The tokenizer of a run: a file below DATA_ROOT, or one that is trained on the run's corpus, once for all runs.

Who trains it holds a claim that is touched as long as it works; others wait for the file, and take over from a claim
that has not been touched for a while. So none is trained twice but after a death, and then it is the same. No torch."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tiny_transformers.common.contents import corpus_fingerprint
from tiny_transformers.common.files import whole_folder
from tiny_transformers.common.texts import read
from tiny_transformers.common.work import Interrupted
from tiny_transformers.settings.config import Data, TrainedTokenizer, tokenizer_file

CACHE_FORMAT = 1  # raised when the same corpus would give another tokenizer
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")  # ids 0 to 4
BATCH = 1_000  # documents that are given to the trainer at once
TOUCHED, STALE, POLL = 5.0, 60.0, 1.0  # seconds


def find(data: Data, data_root: Path, cache: Path, should_stop: Callable[[], bool] = lambda: False) -> Path:
    """Return the tokenizer.json of a run, which is trained now if it has to be and nobody has.

    Raises TinyTransformersError for a corpus that cannot be read; Interrupted while another process trains it, if
    `should_stop` says so."""
    if isinstance(data.tokenizer, str):
        return data_root / tokenizer_file(data)
    corpus = data.files
    path = data_root / corpus.files[0]
    told = f"{CACHE_FORMAT} {corpus_fingerprint(path, corpus, cache)} {data.tokenizer.model_dump_json()}"
    folder = cache / "tokenizers" / hashlib.sha256(told.encode()).hexdigest()[:16]
    while not folder.is_dir():
        with _claimed(folder.with_suffix(".claim")) as mine:
            if mine and not folder.is_dir():
                with whole_folder(folder) as draft:
                    train(read(path, corpus), data.tokenizer).save(str(draft / "tokenizer.json"))
        if not mine:
            if should_stop():
                raise Interrupted("asked to stop while another process trained the tokenizer")
            time.sleep(POLL)
    return folder / "tokenizer.json"


def train(texts: Iterator[str], settings: TrainedTokenizer) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) with no more than `vocab_size` tokens, which encodes a
    text as `<s> text </s>` and a pair as `<s> A </s></s> B </s>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(lambda: list(islice(texts, BATCH)), []), trainer)
    ends = ("</s>", SPECIAL.index("</s>")), ("<s>", SPECIAL.index("<s>"))
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    return tokenizer


@contextmanager
def _claimed(claim: Path) -> Iterator[bool]:
    """Whether the claim is this process's, for the block, in which it is touched again and again."""
    claim.parent.mkdir(parents=True, exist_ok=True)
    if claim.exists() and _age(claim) > STALE:
        claim.unlink(missing_ok=True)
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        yield False
        return
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(TOUCHED):
            claim.touch()

    toucher = threading.Thread(target=touch, daemon=True)
    toucher.start()
    try:
        yield True
    finally:
        ended.set()
        toucher.join()
        claim.unlink(missing_ok=True)


def _age(path: Path) -> float:
    """Seconds since the file was touched, by the clock of its file system."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".now.") as now:
        try:
            return os.stat(now.name).st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
