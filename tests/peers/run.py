"""Run transformers' own tests on our models, and hold the outcomes against those of the classes that ours extend.

    run.py CACHE [pytest's arguments]

The tests are those of the source archive of the installed transformers, which goes into the folder CACHE. What differs
has to be what expected.yaml says, no less and no more: the exit code is then 0."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.version import Version

HERE = Path(__file__).parent
MOST_LISTED = 30
PACKAGE = "transformers_tests"  # what the archive's folder `tests` is imported as
# What the tests import and the archive lacks: mixins, of which empty ones will do, and values for a configuration.
STAND_INS = {
    "__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False, "output_hidden_states": True, "dtype": "float16", "chunk_size_feed_forward": 5,
    "architectures": ["AnyModel"], "id2label": {0: "some", 1: "other"}, "problem_type": "regression",
}
""",
}


def main(cache: Path, arguments: list[str]) -> int:
    folder = fetch(cache)
    # One thread a worker, no look at the hub, and this checkout, whatever is installed.
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    sys.path[:0] = [str(folder), str(HERE.parents[1])]  # xdist's workers have the same
    outcomes = Outcomes()
    usual = ["-o", "addopts=", "--assert=plain", "--quiet", "--tb=short", "--disable-warnings", "-n", "2"]
    code = pytest.main([*usual, str(HERE / "common.py"), *arguments], plugins=[outcomes])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return code
    listed = read(HERE / "expected.yaml")
    wrong = judge(outcomes.of, listed) + ([] if arguments else unused(outcomes.of, listed))
    print(summary(outcomes.of), *wrong, sep="\n")
    return bool(wrong)


# --- the tests


def fetch(cache: Path) -> Path:
    """Return the folder that has the tests of the installed transformers as a package; downloads it if need be."""
    release = f"transformers-{version('transformers')}"
    folder = cache.resolve() / release
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            whole = unpack(download(release, Path(scratch)), release)
            whole.rename(folder)
    return folder


def download(release: str, to: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
    if subprocess.run([*pip, "--dest", str(to), release.replace("-", "==", 1)]).returncode:
        sys.exit(f"pip could not download the source archive of {release}, which has the tests.")
    return to / f"{release}.tar.gz"


def unpack(archive: Path, release: str) -> Path:
    """Unpack the tests, and put beside them what they import besides."""
    folder = archive.parent / release
    with tarfile.open(archive) as files:
        tests = [file for file in files if file.name.startswith(f"{release}/tests/")]
        files.extractall(archive.parent, tests, filter="data")
    package = (folder / "tests").rename(folder / PACKAGE)
    for name, text in STAND_INS.items():
        (package / name).parent.mkdir(exist_ok=True)
        if not (package / name).exists():
            (package / name).write_text(text)
    return folder


# --- their outcomes


class Case(NamedTuple):
    model: str  # its class of tests: the family, an underscore, and the variant or `stock`
    name: str

    def __str__(self) -> str:
        return f"{self.model}::{self.name}"


class Outcomes:
    """A plugin of pytest that keeps what became of each test: passed, failed or skipped."""

    def __init__(self) -> None:
        self.of: dict[Case, str] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.of[Case(report.nodeid, "collection")] = report.outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of set-up, call and tear-down."""
        if report.when == "call" or not report.passed:
            self.of[Case(*report.nodeid.split("::")[-2:])] = report.outcome


@dataclass(frozen=True)
class Listed:
    """Differences that are meant."""

    test: str
    models: list[str]  # patterns, as a shell's
    reason: str
    since: str = "0"  # the release of transformers that first has the test

    def has(self, test: Case) -> bool:
        ours = not test.model.endswith("_stock")
        return ours and test.name == self.test and any(fnmatchcase(test.model, model) for model in self.models)


def read(path: Path) -> list[Listed]:
    listed = [Listed(**entry) for entry in yaml.safe_load(path.read_text())]
    assert len(listed) <= MOST_LISTED, f"{path}: of {len(listed)} differences, {MOST_LISTED} are allowed"
    return [entry for entry in listed if Version(version("transformers")) >= Version(entry.since)]


def judge(outcomes: dict[Case, str], listed: list[Listed]) -> list[str]:
    """Say what is not as listed."""
    wrong = []
    for test in outcomes:
        expected = any(entry.has(test) for entry in listed)
        if differs(test, outcomes) and not expected:
            wrong.append(f"RED {test} fails, and it is not in expected.yaml")
        if expected and outcomes[test] != "failed":
            wrong.append(f"RED {test} {outcomes[test]}: take it out of expected.yaml")
    return wrong


def differs(test: Case, outcomes: dict[Case, str]) -> bool:
    """Whether it fails, and not with the class that ours extends, if there is one."""
    stock = Case(f"{test.model.partition('_')[0]}_stock", test.name)
    return outcomes[test] == "failed" and outcomes.get(stock) != "failed"


def unused(outcomes: dict[Case, str], listed: list[Listed]) -> list[str]:
    """Say which entries no test has."""
    idle = [entry.test for entry in listed if not any(entry.has(test) for test in outcomes)]
    return [f"RED expected.yaml: {name}: there is no such test" for name in idle]


def summary(outcomes: dict[Case, str]) -> str:
    counts, models = Counter(outcomes.values()), {test.model for test in outcomes}
    different = sum(differs(test, outcomes) for test in outcomes)
    return (
        f"transformers {version('transformers')}, torch {version('torch')}: {len(outcomes)} tests of {len(models)} "
        f"models, {counts['passed']} passed, {counts['skipped']} skipped, {counts['failed']} failed, "
        f"{different} of them unlike the class that ours extends"
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
