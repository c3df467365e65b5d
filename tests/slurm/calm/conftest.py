"""These tests have a cluster beside the one to which the others do faults, so that both go on at the same time."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def slurm(slurm_beside: Path) -> Iterator[Path]:
    """The cluster with accounting: its slurm.conf, which SLURM_CONF names for a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(slurm_beside))
        yield slurm_beside
