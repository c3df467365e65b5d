"""Bring the data to DATA_ROOT, on a machine with internet: compute nodes have none.

Stories and LAMBADA come through `datasets`, the tokenizer is cut from GPT-2's, BabyLM 2023's evaluation data is a zip
file; the full BLiMP, enwik8 and text8, which no study reads unless it says so, are brought on request. Each file is
written under another name and renamed when it is whole; whole files are kept, so an interrupted fetch is simply run
again. Any source may be a local folder or file: the same code reads it."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import shutil
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, get_args

from tiny_transformers.common import progress, refusals
from tiny_transformers.common.files import whole_file, whole_folder
from tiny_transformers.common.survey import survey
from tiny_transformers.common.work import TinyTransformersError
from tiny_transformers.data import published
from tiny_transformers.data.sources import read_rows
from tiny_transformers.settings.architecture import GPTNeo
from tiny_transformers.settings.config import (
    STREAMS,
    TRAIN_STORIES,
    VALIDATION_STORIES,
    Data,
    RunConfig,
    lacking_files,
    tokenizer_file,
)
from tiny_transformers.settings.corpora import NAME as CORPUS_NAME
from tiny_transformers.settings.corpora import Corpus, Documents
from tiny_transformers.settings.stage import lambada
from tiny_transformers.settings.stage.blimp import blimp_files
from tiny_transformers.settings.stages import required_files

STORIES = "roneneldan/TinyStories"
LAMBADA_TEST = "EleutherAI/lambada_openai"  # OpenAI's copy of the test set, its configuration default: lm-eval's
FULL_BLIMP = "nyu-mll/blimp"  # a configuration per paradigm
GPT2 = "openai-community/gpt2"
BABYLM_DATA = "https://github.com/babylm/babylm.github.io/raw/main/babylm_data.zip"  # of 2023, with both sizes
MAHONEY = "https://mattmahoney.net/dc/{}.zip"  # enwik8 and text8, 100,000,000 bytes each, as published
MD5 = {"enwik8": "a1fa5ffddb56f4953e226637dabbb36a", "text8": "3bea1919949baf155f99411df5fada7e"}
IN_ONE_ROW = {"enwik8": "enwik8-raw"}  # on the hub, the configuration that is not cut into lines
FILTER_DATA = "https://github.com/babylm/evaluation-pipeline-2023/raw/main/filter_data.zip"
FEW = 5  # files that are named where more are lacking
VOCABULARY = 10_000
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0 to 3, in place of the four that GPT-2 has there
MASK = "<mask>"  # the last id


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 if DATA_ROOT is complete, 2 if something is missing or a source could not be read."""
    parser = argparse.ArgumentParser(prog="tiny-transformers fetch", description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=os.environ.get("TINY_TRANSFORMERS_DATA"))
    parser.add_argument("--stories", default=STORIES, help=f"a data set's id, or a folder ({STORIES})")
    parser.add_argument("--tokenizer", default=GPT2, help=f"GPT-2's tokenizer: an id, or its tokenizer.json ({GPT2})")
    parser.add_argument(
        "--filter-data", default=FILTER_DATA, help="BabyLM 2023's filter_data: an address, zip or folder"
    )
    parser.add_argument("--lambada", default=LAMBADA_TEST, help=f"a data set's id, or a folder ({LAMBADA_TEST})")
    parser.add_argument(
        "--corpus",
        action="append",
        type=_named_source,
        default=[],
        metavar="NAME[=SOURCE]",
        help="also a corpus: a data set's id, a folder or file, a zip file or its address (babylm_10m, babylm_100m)",
    )
    parser.add_argument(
        "--documents",
        choices=get_args(Documents),
        help="what parts the documents of sources that are text (of BabyLM's: line)",
    )
    parser.add_argument(
        "--full-blimp",
        nargs="?",
        const=FULL_BLIMP,
        help=f"also the 67 paradigms of BLiMP: an id, or a folder of <paradigm>.jsonl ({FULL_BLIMP})",
    )
    for corpus in STREAMS:
        parser.add_argument(
            f"--{corpus}",
            nargs="?",
            const=MAHONEY.format(corpus),
            help=f"also {corpus}: a zip file, its address, a text file, or a data set's id ({MAHONEY.format(corpus)})",
        )
    options = parser.parse_args(arguments)
    if options.data_root is None:
        parser.error("--data-root DIR, or TINY_TRANSFORMERS_DATA, says where to")
    data_root = Path(options.data_root)
    wanted = required_files(RunConfig(model=GPTNeo()))
    sources: list[tuple[str, Callable[[Path, str], None], str]] = [
        ("stories", partial(fetch_stories, rule=options.documents), options.stories),
        ("tokenizer", fetch_tokenizer, options.tokenizer),
        ("evaluation data", fetch_filter_data, options.filter_data),
        ("LAMBADA", fetch_lambada, options.lambada),
    ]
    if options.full_blimp is not None:
        wanted += blimp_files(Data(), "full").values()
        sources.append(("the full BLiMP", fetch_full_blimp, options.full_blimp))
    for name, source in options.corpus:
        wanted += corpus_files(name)
        sources.append((f"corpus {name}", partial(fetch_corpus, name=name, rule=options.documents), source))
    for corpus, file in STREAMS.items():
        if getattr(options, corpus) is not None:
            wanted.append(file)
            sources.append((corpus, partial(fetch_stream, corpus=corpus), getattr(options, corpus)))
    problems = []
    for what, fetch, source in sources:
        try:
            fetch(data_root, source)
        except Exception as error:  # noqa: BLE001 - the hub's libraries raise all sorts; the others can still be had
            problems.append(f"{what} from {source}: {refusals.explain(error)}")
    try:
        return _report(data_root, wanted, problems)
    except PermissionError as error:
        print(refusals.explain(error), file=sys.stderr)
        return 2


def _named_source(text: str) -> tuple[str, str]:
    name, _, source = text.partition("=")
    if not CORPUS_NAME.fullmatch(name) or name in STREAMS or name == Data().corpus:
        raise argparse.ArgumentTypeError(f"{name}: name a corpus by letters, digits and _, as none of ours is named")
    if not source and name not in published.BABYLM:
        raise argparse.ArgumentTypeError(f"say where {name} is: --corpus {name}=SOURCE")
    return name, source or BABYLM_DATA


def corpus_files(name: str) -> list[str]:
    """Return where `fetch` puts a corpus, below DATA_ROOT: training and validation."""
    return [f"corpora/{name}/{split}.jsonl" for split in ("train", "validation")]


def fetch_corpus(data_root: Path, source: str, name: str, rule: Documents | None = None) -> None:
    """A corpus as JSON lines with the key `text`."""
    missing = {Path(file).stem: data_root / file for file in corpus_files(name) if not _kept(data_root / file)}
    if not missing:
        return
    if Path(source).exists() or "://" in source:
        is_text = Path(source).is_file() and not zipfile.is_zipfile(source)
        with nullcontext(Path(source)) if is_text else _unpacked(source) as folder:
            of_babylm = published.BABYLM.get(name, ())
            splits = published.local(folder, rule or ("line" if of_babylm else None), of_babylm)
            _write_splits(missing, splits)
        return
    from datasets import load_dataset

    rows = load_dataset(source, streaming=True)
    _write_splits(missing, published.with_validation({split: partial(_column, rows[split]) for split in rows}))


def _column(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (row["text"] for row in rows)


def _write_splits(missing: dict[str, Path], splits: dict[str, published.Texts]) -> None:
    for split, path in missing.items():
        count = _write_lines(path, ({"text": text} for text in splits[split]()))
        print(f"{path}: {count:,} documents{_longer(path)}", flush=True)


def _longer(path: Path) -> str:
    """Say how many documents certainly have more tokens than are read of one, unless a manifest says otherwise."""
    length = Data().max_length
    longer = survey(path, Corpus(train="t", validation="v"), None).longer(length)
    return f", of which at least {longer:,} have more than {length} tokens (data.max_length)" if longer else ""


def fetch_stories(data_root: Path, source: str, rule: Documents | None = None) -> None:
    """TinyStories' two splits, as JSON lines with the key `text`."""
    wanted = {"train": data_root / TRAIN_STORIES, "validation": data_root / VALIDATION_STORIES}
    missing = {split: path for split, path in wanted.items() if not _kept(path)}
    if not missing:
        return
    if published.has_text(Path(source)):
        _write_splits(missing, published.local(Path(source), rule))
        return
    from datasets import load_dataset

    for split, path in missing.items():
        rows = load_dataset(source, split=split, streaming=True)
        count = _write_lines(path, ({"text": row["text"]} for row in rows))
        print(f"{path}: {count:,} stories", flush=True)


def fetch_tokenizer(data_root: Path, source: str) -> None:
    """The study's 10k tokenizer, cut from GPT-2's."""
    folder = (data_root / tokenizer_file(Data())).parent
    if _kept(folder / "tokenizer.json"):
        return
    path = Path(source)
    if not path.is_file():
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(source, "tokenizer.json"))
    cut = cut_gpt2(json.loads(path.read_text(encoding="utf-8")))
    with whole_folder(folder, replace=True) as draft:
        (draft / "tokenizer.json").write_text(json.dumps(cut, ensure_ascii=False, indent=1), encoding="utf-8")
    print(f"{folder}: {len(cut['model']['vocab']):,} tokens", flush=True)


def fetch_filter_data(data_root: Path, source: str) -> None:
    """The filtered BLiMP, its supplement and (Super)GLUE."""
    wanted = [file for file in required_files(RunConfig(model=GPTNeo())) if file.startswith("filter-data/")]
    if all(_kept(data_root / file) for file in wanted):
        return
    with _unpacked(source) as folder:
        for file in wanted:
            name = Path(file).relative_to("filter-data")
            found = [path for path in folder.rglob(name.name) if path.parent.name == name.parent.name]
            if found and not _kept(data_root / file):
                with whole_file(data_root / file) as draft:
                    shutil.copyfile(found[0], draft)
    print(
        f"{data_root / 'filter-data'}: {sum((data_root / file).is_file() for file in wanted)} of {len(wanted)} files",
        flush=True,
    )


def fetch_lambada(data_root: Path, source: str) -> None:
    """LAMBADA's test set as JSON lines with the key `text`."""
    if _kept(data_root / lambada.FILE):
        return
    from datasets import load_dataset

    rows = load_dataset(source, "default", split="test", streaming=True)
    count = _write_lines(data_root / lambada.FILE, ({"text": row["text"]} for row in rows))
    print(f"{data_root / lambada.FILE}: {count:,} passages", flush=True)


def fetch_full_blimp(data_root: Path, source: str) -> None:
    """BLiMP's paradigms, a file each, with all fields that they have."""
    for paradigm, file in blimp_files(Data(), "full").items():
        if not _kept(data_root / file):
            count = _write_lines(data_root / file, _paradigm(source, paradigm))
            print(f"{data_root / file}: {count:,} pairs", flush=True)


def _paradigm(source: str, paradigm: str) -> Iterable[dict[str, Any]]:
    if Path(source).is_dir():
        found = sorted(Path(source).rglob(f"{paradigm}.jsonl"))
        if not found:
            raise TinyTransformersError(f"it has no {paradigm}.jsonl")
        return read_rows(found[0], texts=["sentence_good", "sentence_bad"])
    from datasets import load_dataset

    rows: Iterable[dict[str, Any]] = load_dataset(source, paradigm, split="train", streaming=True)
    return rows


def fetch_stream(data_root: Path, source: str, corpus: str) -> None:
    """enwik8 or text8, the file as it was published. A local source may be another text, as a part of it."""
    path = data_root / STREAMS[corpus]
    if _kept(path):
        return
    with whole_file(path) as draft:
        _write_stream(draft, source, corpus)
        size = draft.stat().st_size
        published = hashlib.md5(draft.read_bytes(), usedforsecurity=False).hexdigest() == MD5[corpus]
        if not size:
            raise TinyTransformersError("the source has no text")
        if not published and not Path(source).exists():
            raise TinyTransformersError(f"its {size:,} bytes are not those that were published (MD5 {MD5[corpus]})")
    print(f"{path}: {size:,} bytes{', as published' if published else ''}", flush=True)


def _write_stream(draft: Path, source: str, corpus: str) -> None:
    if Path(source).suffix == ".zip":
        with _unpacked(source) as folder:
            files = [file for file in folder.rglob("*") if file.is_file()]
            if len(files) != 1:
                raise TinyTransformersError(f"it holds {len(files)} files, not one")
            shutil.copyfile(files[0], draft)
    elif Path(source).is_file():
        shutil.copyfile(source, draft)
    else:
        from datasets import load_dataset

        splits = load_dataset(source, IN_ONE_ROW.get(corpus), streaming=True)
        with open(draft, "wb") as file:
            for split in ("train", "validation", "test"):  # parts of one text, in this order
                file.writelines(row["text"].encode() for row in splits.get(split, ()))


def cut_gpt2(tokenizer: dict[str, Any], size: int = VOCABULARY) -> dict[str, Any]:
    """GPT-2's tokenizer.json cut to its first `size` ids, as the study's: ids 0 to 3 become the special tokens and what
    they displace moves to the end, before `<mask>`; merges that make a token beyond are dropped; a text is encoded as
    `<s> text </s>`."""
    cut = copy.deepcopy(tokenizer)
    by_id = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    kept = {by_id[index]: index for index in range(len(SPECIAL), size - len(SPECIAL) - 1)}
    displaced = {by_id[index]: size - len(SPECIAL) - 1 + index for index in range(len(SPECIAL))}
    special = {token: index for index, token in enumerate(SPECIAL)} | {MASK: size - 1}
    vocabulary = special | kept | displaced
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in tokenizer["model"]["merges"]]
    cut["model"] |= {
        "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
        "merges": [merge for merge in merges if "".join(merge) in vocabulary],
        "unk_token": None,
    }
    cut["added_tokens"] = [
        {"id": index, "content": token, "single_word": False, "lstrip": token == MASK, "rstrip": False,
         "normalized": token != MASK, "special": True}
        for token, index in special.items()
    ]  # fmt: skip
    cut["post_processor"] = {
        "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True,
        "add_prefix_space": False,
    }  # fmt: skip
    return cut


def _kept(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    count = 0
    with whole_file(path) as draft, open(draft, "w", encoding="utf-8") as file:
        for row in progress.counted(rows, path.name):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
        if not count:
            raise TinyTransformersError("the source has no rows")
    return count


@contextmanager
def _unpacked(source: str) -> Iterator[Path]:
    """The folder of a folder, of a zip file, or of the zip file at an address."""
    if Path(source).is_dir():
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as name:
        archive = Path(source)
        if "://" in source:
            if os.environ.get("HF_HUB_OFFLINE") == "1":
                raise TinyTransformersError("HF_HUB_OFFLINE=1 forbids downloads; give a local file or folder")
            archive = Path(name) / "archive.zip"
            with (
                urllib.request.urlopen(source, timeout=60) as response,
                open(archive, "wb") as file,
                progress.shown(f"downloading {source}", lambda: f"{file.tell() >> 20:,} MB"),
            ):
                shutil.copyfileobj(response, file)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(Path(name) / "unpacked")
        yield Path(name) / "unpacked"


def _report(data_root: Path, wanted: list[str], problems: list[str]) -> int:
    lacking = lacking_files(data_root, wanted)
    for problem in problems:
        print(f"could not be had: {problem}", file=sys.stderr)
    if lacking:
        some = ", ".join(lacking[:FEW]) + (f" and {len(lacking) - FEW:,} files more" if len(lacking) > FEW else "")
        print(f"{data_root}: still lacks {some}. Run fetch again, where there is internet, or put them there.",
              file=sys.stderr)  # fmt: skip
    else:
        print(f"{data_root}: complete")
    return 2 if lacking or problems else 0


if __name__ == "__main__":
    sys.exit(main())
