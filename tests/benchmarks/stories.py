"""Tokenising: ours beside the studies' way (datasets.map, padded to 512), our old single process, and its threads.

    OMP_NUM_THREADS=1 python tests/benchmarks/stories.py DATA_ROOT [--copies 6] [--rounds 2] [--workers 2]

The stories of DATA_ROOT, repeated `--copies` times; the sides take turns, each in a fresh process, and must agree.
Peak memory (RSS) is the process's + the largest worker's. Then ours and the old one with four times as much."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

TOKENIZER, LENGTH = "tokenizer/10k-tok", 512
STORIES = 2_119_719  # the whole of TinyStories
THREADS = {"TOKENIZERS_PARALLELISM": "true"}
SINGLE = {"TOKENIZERS_PARALLELISM": "false"}


def plain(path: Path, tokenizer: Path, folder: Path, _: int) -> tuple[int, int]:
    from datasets import disable_progress_bars, load_dataset
    from transformers import PreTrainedTokenizerFast

    disable_progress_bars()
    encode = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), pad_token="<pad>")
    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
    made = rows.map(
        lambda batch: encode(
            [text.strip() for text in batch["text"]], truncation=True, max_length=LENGTH, padding="max_length"
        ),
        batched=True,
        remove_columns=["text"],
    )
    tokens = sum(int(batch["attention_mask"].sum()) for batch in made.with_format("numpy").iter(1000))
    return len(made), tokens


def old(path: Path, tokenizer: Path, folder: Path, _: int) -> tuple[int, int]:
    import numpy as np
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(str(tokenizer))
    encode.enable_truncation(LENGTH)
    lengths = [0]
    with open(path, encoding="utf-8") as lines, open(folder / "ids.bin", "wb") as ids:
        stories = (text for line in lines if (text := json.loads(line)["text"].strip()))
        while batch := list(islice(stories, 1000)):
            for encoding in encode.encode_batch_fast(batch):
                np.asarray(encoding.ids, dtype=np.uint16).tofile(ids)
                lengths.append(len(encoding.ids))
    np.save(folder / "offsets.npy", np.cumsum(np.asarray(lengths, dtype=np.int64)))
    return len(lengths) - 1, sum(lengths)


def ours(path: Path, tokenizer: Path, folder: Path, workers: int) -> tuple[int, int]:
    from tiny_transformers.data.stories import tokenize_stories

    made = tokenize_stories(path, tokenizer, LENGTH, folder, workers)
    return len(made), int(made.offsets[-1])


def measure(side: str, path: Path, tokenizer: Path, folder: Path, workers: int) -> None:
    """Print what the parent reads: wall and CPU seconds from the first import on, peak memory in MB."""
    function = {"plain": plain, "old": old, "threads": old, "ours": ours}[side]
    start = time.perf_counter()
    stories, tokens = function(path, tokenizer, folder, workers)
    seconds = time.perf_counter() - start
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in usage)
    peaks = [each.ru_maxrss // 1024 for each in usage]
    print(json.dumps({"stories": stories, "tokens": tokens, "seconds": seconds, "cpu": cpu, "peaks": peaks}))


def turn(side: str, path: Path, tokenizer: Path, workers: int) -> tuple[dict[str, Any], bytes]:
    """One side in a fresh process and folder: its figures, and the ids that it wrote."""
    environment = os.environ | (
        THREADS | {"RAYON_NUM_THREADS": str(workers)} if side in ("threads", "plain") else SINGLE
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        command = [sys.executable, __file__, "--side", side, "--workers", str(workers), str(path), str(tokenizer), name]
        figures = json.loads(subprocess.check_output(command, env=environment | {"HF_HOME": name}).splitlines()[-1])
        files = [*Path(name).rglob("ids.bin")]
        return figures, subprocess.check_output(["sha256sum", files[0]]).split()[0] if files else b""


def repeated(source: Path, copies: int, path: Path) -> Path:
    with open(path, "wb") as file:
        for _ in range(copies):
            with open(source, "rb") as stories:
                shutil.copyfileobj(stories, file)
    return path


def show(name: str, turns: list[dict[str, Any]]) -> float:
    """CPU seconds a story, which other work on the machine hardly changes."""
    rate = statistics.median(each["stories"] / each["seconds"] for each in turns)
    cpu = statistics.median(each["cpu"] / each["stories"] for each in turns)
    peaks = " + ".join(str(max(each["peaks"][i] for each in turns)) for i in (0, 1))
    print(f"{name:22} {rate:8,.0f} stories/s {1e6 * cpu:6,.0f} us of CPU a story {peaks:>12} MB", flush=True)
    return cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", metavar="DATA_ROOT")
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options.side, *options.paths, options.workers)
        return
    root, workers = options.paths[0], options.workers
    source, tokenizer = root / "tinystories/train.jsonl", root / TOKENIZER / "tokenizer.json"
    sides = {"plain": workers, "old": 1, "threads": workers, "ours, 1": 1, f"ours, {workers}": workers}
    with tempfile.TemporaryDirectory() as name:
        path = repeated(source, options.copies, Path(name) / "stories.jsonl")
        figures: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        hashes = set()
        for _ in range(options.rounds):
            for side, processes in sides.items():
                found, digest = turn(side.split(",")[0], path, tokenizer, processes)
                figures[side].append(found)
                hashes |= {digest} - {b""}
        assert len(hashes) == 1, "the sides differ"
        assert len({each["tokens"] for turns in figures.values() for each in turns}) == 1, "the sides differ"
        count = figures["old"][0]["stories"]
        print(f"{path.stat().st_size / 1e6:,.0f} MB, {count:,} stories; load {os.getloadavg()[0]:.1f}")
        cpu = {side: show(side, turns) for side, turns in figures.items()}
        one = cpu["ours, 1"]
        print(f"in CPU time, plain / ours {cpu['plain'] / one:.2f}, old / ours {cpu['old'] / one:.2f}")
        print(f"{STORIES:,} stories: {STORIES * one / 60:.1f} minutes of CPU")
        repeated(source, 4 * options.copies, path)
        for side in ("old", f"ours, {workers}"):
            show(f"{side}, 4 x the file", [turn(side.split(",")[0], path, tokenizer, sides[side])[0]])


if __name__ == "__main__":
    main()
