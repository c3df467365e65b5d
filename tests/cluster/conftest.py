"""What tests of the login node's half share: an empty OUTPUT_ROOT, its ledger, the runs of the small manifest."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import made_by_statements

from cluster.files.folders import OutputRoot
from cluster.files.records import Run
from cluster.ledger.database import Ledger
from cluster.manifest import grids, loading
from cluster.plan import expansion

made_by_statements()


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
    return expansion.expand(grids.cells(loading.load(manifest_file)))
