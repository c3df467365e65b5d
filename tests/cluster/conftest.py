"""What tests of the login node's half share: an empty OUTPUT_ROOT, its ledger, the runs of the small manifest."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import manifest, plan
from cluster.ledger import Ledger
from cluster.plan import Run
from cluster.rundir import OutputRoot


@pytest.fixture
def root(tmp_path: Path) -> OutputRoot:
    return OutputRoot(tmp_path / "output")


@pytest.fixture
def ledger(root: OutputRoot) -> Iterator[Ledger]:
    opened = Ledger(root.ledger)
    yield opened
    opened.close()


@pytest.fixture
def runs(manifest_file: Path) -> list[Run]:
    return plan.expand(manifest.cells(manifest.load(manifest_file)))
