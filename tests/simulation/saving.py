"""Save time in simulated worlds: each of these does what the function of the product does in whose place it stands, but
once for the same values, or without what nobody in a world looks at. A call of the disk stays one."""

from __future__ import annotations

import functools
import json
import marshal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import typer.main
from rich.text import Text
from simulation.disk import Disk
from sqlite_utils import Database

from cluster.cli import entry
from cluster.console import CleanConsole, clean
from cluster.files import kept_code
from cluster.manifest.follow_ups import FollowUp
from cluster.status.showing import StatusLines, lines

K, V = TypeVar("K"), TypeVar("V")
MOST = 5_000  # values of one kind


class Known(dict[K, V]):
    """What is remembered, as far as it is few: where what is asked differs in each walk, all is forgotten at times."""

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= MOST:
            self.clear()
        super().__setitem__(key, value)


def render_once(render: Callable[..., str]) -> Callable[..., str]:
    """Templates filled in once for the same values, since jinja2 takes long."""
    known: Known[str, str] = Known()

    def remembered(template: str, **values: Any) -> str:
        key = repr((template, values))
        if (text := known.get(key)) is None:
            known[key] = text = render(template, **values)
        else:
            Path(template).is_file()  # as is asked before it is filled in: a call of the disk
        return text

    return remembered


def printed_plainly(laid_out: Callable[..., None]) -> Callable[..., None]:
    """Print what is only text, and what `status` shows, without laying it out."""

    def printed(self: CleanConsole, *texts: Any, **options: Any) -> None:
        if all(isinstance(text, (str, Text)) for text in texts):
            self.file.write(clean(" ".join(map(str, texts))) + "\n")
        elif len(texts) == 1 and isinstance(shown := texts[0], StatusLines):
            told = lines(shown.status, shown.root, self, self.width, shown.show, shown.everything)
            self.file.write("".join(f"{clean(str(line.text))}\n" for line in told))
        else:
            laid_out(self, *texts, **options)

    return printed


def small_package(read: Callable[[Path], dict[str, bytes]]) -> Callable[[Path], dict[str, bytes]]:
    """Of the code that a submission keeps each package has one small file: to write ours takes more calls of the disk
    than all else that `submit` does."""
    files = {f"{name}/__init__.py": name.encode() for name in kept_code.PACKAGES}
    return lambda home: dict(files) if home == kept_code.HOME else read(home)


def outlined_once(outline: Callable[..., Any]) -> Callable[..., Any]:
    """Check the outline of each manifest once."""
    known: Known[tuple[str, bytes], Any] = Known()

    def remembered(path: Path, document: Any) -> Any:
        key = str(path), marshal.dumps(document)
        if key not in known:
            known[key] = outline(path, document)
        return known[key]

    return remembered


def once_for_these(compute: Callable[..., Any], copy: Callable[[Any], Any]) -> Callable[..., Any]:
    """Compute once of the same objects, which stay, so that each is known by its address. `copy`: for who asks."""
    known: Known[Any, tuple[Any, Any]] = Known()

    def remembered(*given: Any) -> Any:
        values = [list(each) if isinstance(each, (list, Iterator)) else each for each in given]
        key = tuple(_told_apart(each) for each in values)
        if key not in known:
            known[key] = values, compute(*values)
        return copy(known[key][1])

    return remembered


def _told_apart(value: Any) -> Any:
    if isinstance(value, FollowUp):
        return value.study, *map(id, value.all_cells)
    return tuple(map(_told_apart, value)) if isinstance(value, list) else value if isinstance(value, str) else id(value)


def keyed_once(key_of: Callable[[Any], str]) -> Callable[[Any], str]:
    """Compute once what is of the same sections of settings, and not of a run's seed."""
    known: Known[tuple[int, ...], tuple[Any, str]] = Known()

    def remembered(config: Any) -> str:
        key = id(config.model), id(config.data), id(config.train), id(config.teacher)
        if key not in known:
            known[key] = config, key_of(config)
        return known[key][1]

    return remembered


def validated_once(validate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Check the same settings once: nobody changes them."""
    known: Known[bytes, Any] = Known()

    def remembered(given: Any) -> Any:
        try:
            key = marshal.dumps(given)
        except ValueError:  # no plain values
            return validate(given)
        if key not in known:
            known[key] = validate(given)
        return known[key]

    return remembered


def expanded_once(cells: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Expand the grids of each manifest once; it is one that `outlined_once` keeps."""
    known: Known[tuple[int, str], list[Any]] = Known()

    def remembered(manifest: Any, **asked: Any) -> list[Any]:
        key = id(manifest), repr(asked)
        if key not in known:
            known[key] = cells(manifest, **asked)
        return list(known[key])

    return remembered


class Held:
    """A file that was read, in the place of its path: what it holds, or why it could not be read."""

    def __init__(self, path: Path, content: bytes | OSError) -> None:
        self.path, self.name, self.content = path, path.name, content

    def read_bytes(self) -> bytes:
        if isinstance(error := self.content, OSError):
            raise OSError(error.errno, error.strerror, error.filename)  # anew: one that is raised holds its callers
        return self.content

    def __str__(self) -> str:
        return str(self.path)


def read_once(read: Callable[..., Any]) -> Callable[..., Any]:
    """Parse and check the same file once. Each who reads it has values of his own."""
    known: Known[tuple[bytes, Any], bytes] = Known()

    def remembered(path: Path, kind: Any) -> Any:
        try:
            content = path.read_bytes()
        except OSError as error:
            return read(Held(path, error), kind)
        if (content, kind) not in known:
            known[content, kind] = marshal.dumps(read(Held(path, content), kind))
        return marshal.loads(known[content, kind])

    return remembered


def dumped(value: Any, **options: Any) -> str:
    """What `json.dumps` makes without indents, for which Python's own takes five times as long."""
    options.pop("indent", None)
    return json.dumps(value, **options)


def query(db: Database, sql: str, values: Any = ()) -> Iterator[dict[str, Any]]:
    """sqlite-utils' question, without a savepoint around it."""
    found = db.conn.execute(sql, values)
    if not (rows := found.fetchall()):
        return iter(())
    names = [column[0] for column in found.description]
    return iter([dict(zip(names, row)) for row in rows])  # noqa: B905 - each has all columns


@functools.cache
def commands(disk: Disk) -> Any:
    """The commands, taken from their functions once, and each line of words parsed once. That typer looks for each path
    is no call here."""
    entry.load()
    made = typer.main.get_command(entry.app)
    known: Known[tuple[str, ...], tuple[Callable[..., Any], dict[str, Any]]] = Known()

    def main(args: list[str], prog_name: str) -> None:
        words = tuple(args)
        if words not in known:
            kernel, disk.kernel = disk.kernel, None
            try:
                known[words] = _parsed(made, args, prog_name)
            finally:
                disk.kernel = kernel
        function, values = known[words]
        try:
            function(**{name: list(value) if isinstance(value, list) else value for name, value in values.items()})
        except typer.Exit as left:
            sys.exit(left.exit_code)

    return main


def _parsed(command: Any, words: list[str], name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function of a command, and what it is given."""
    context = command.make_context(name, list(words))
    while hasattr(command, "commands"):
        name, command, left = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, left, parent=context)
    return command.callback, context.params
