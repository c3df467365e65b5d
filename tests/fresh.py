"""A Python that has imported nothing of ours, without the seconds that torch and transformers take to be imported: a
fork of a process that has these loaded. Hugging Face's libraries are offline in it, and what they keep is in a folder
of its own."""

import atexit
import functools
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BARE = ("torch.distributed.tensor", "torch._dynamo", "scipy.stats", "huggingface_hub.utils")  # what transformers loads
STOCK = ("torch", "transformers.modeling_utils", "transformers.tokenization_utils_tokenizers")
ROOT = Path(__file__).parents[1]


def python(
    code: str, *arguments: str | Path, loaded: tuple[str, ...] = STOCK, **environment: str | Path
) -> subprocess.CompletedProcess[str]:
    """`python -c code arguments` in this checkout, with nobody at its standard input. It may end with any code.

    The environment is for what is not loaded yet."""
    words = ["-c", *map(str, arguments)]
    with tempfile.NamedTemporaryFile("w+") as out, tempfile.NamedTemporaryFile("w+") as err:
        asked = {"code": code, "words": words, "cwd": os.getcwd(), "out": out.name, "err": err.name}
        asked["environment"] = {name: str(value) for name, value in environment.items()}
        process = _started(loaded)
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        code_of_exit = int(process.stdout.readline())
        return subprocess.CompletedProcess(words, code_of_exit, Path(out.name).read_text(), Path(err.name).read_text())


@functools.cache
def _started(loaded: tuple[str, ...]) -> subprocess.Popen[str]:
    """The process that forks, one for all tests of this worker that want these modules loaded."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    home = tempfile.TemporaryDirectory(prefix="hugging_face.")
    process = subprocess.Popen(
        [sys.executable, __file__, *loaded], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": path, "HF_HOME": home.name, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    )  # fmt: skip
    atexit.register(home.cleanup)
    atexit.register(process.kill)
    return process


def _serve(*loaded: str) -> None:
    gc.disable()  # all of it stays
    for name in loaded:
        importlib.import_module(name)
    gc.enable()
    assert not any(name.startswith("tiny_transformers") for name in sys.modules if "finder" not in name)
    gc.freeze()  # what is loaded is not looked through again: that would copy all of it
    for line in sys.stdin:
        if not (child := os.fork()):
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(code: str, words: list[str], cwd: str, out: str, err: str, environment: dict[str, str]) -> None:
    """What a child does, to its end."""
    ended = 1
    try:
        os.environ.update(environment)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(out, os.O_WRONLY | os.O_APPEND), 1)
        os.dup2(os.open(err, os.O_WRONLY | os.O_APPEND), 2)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
        os.chdir(cwd)
        sys.argv = words
        exec(compile(code, "-c", "exec"), {"__name__": "__main__"})
        ended = 0
    except SystemExit as end:
        ended = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python does at the end of a program
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
