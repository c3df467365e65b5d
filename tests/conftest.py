"""Fixtures that every part of the tests may use, and how the tests share the cores."""

import os
import sys
from pathlib import Path

import pytest

# Before torch is imported, here and in child processes: on models this small a second thread only waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
LIGHT = (  # what `make check` runs: these load no torch
    "test_", "cluster/", "jobs/", "tiny_transformers/test_brainformer_architecture", "tiny_transformers/test_characters",
    "tiny_transformers/test_data", "tiny_transformers/test_fetch", "tiny_transformers/test_order",
    "tiny_transformers/test_provenance", "tiny_transformers/test_stories",
)  # fmt: skip
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data: TinyStories, BLiMP, GLUE and the 10k tokenizer."""
    if not (SHARED / "data" / "tinystories").is_dir():
        pytest.skip("the real data is not here: ../shared/data is absent")
    return SHARED / "data"


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: the worker that has SLURM's tests mostly waits."""
    return min(os.cpu_count() or 1, 8) + 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--light", action="store_true", help="only the tests that need neither torch nor SLURM")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--light") or collection_path.suffix != ".py":
        return None
    place = collection_path.relative_to(Path(__file__).parent).as_posix()
    return None if place.startswith(LIGHT) else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a module's fixture go to one worker, so that it is made once (--dist loadgroup)."""
    for item in items:
        assert isinstance(item, pytest.Function)
        used = item._fixtureinfo.name2fixturedefs.values()
        if any(fixture.scope == "module" for definitions in used for fixture in definitions):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


MANIFEST = """
defaults:
  data: {source: builtin}
models:
  gpt: {family: gpt_neo, hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 48}
  bert: {family: roberta, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 48}
studies:
  first:
    grid:
      model: [gpt, bert]
      model.activation: [gelu, relu]
  second:
    model: gpt
    grid: {model.activation: [relu, silu]}
    seeds: [42, 1]
smoke:
  train.max_steps: 3
"""


@pytest.fixture(autouse=True)
def random_state(request: pytest.FixtureRequest) -> None:
    """Each test begins in the same random state, whichever ran before it; most never load torch."""
    if torch := sys.modules.get("torch"):
        assert not request.config.getoption("--light"), "something that should be light has loaded torch"
        torch.manual_seed(0)


@pytest.fixture
def manifest_file(tmp_path: Path) -> Path:
    """Seven runs: four in `first`, four in `second`, one of them shared."""
    path = tmp_path / "experiments.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def fake_science(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the stages in every child process; write to the returned file to tell them what to do."""
    told = tmp_path / "fake_science.json"
    told.write_text("{}")
    monkeypatch.setenv("FAKE_SCIENCE", str(told))
    here = Path(__file__).parent
    # This checkout, too, whatever is installed.
    monkeypatch.setenv("PYTHONPATH", f"{here / 'fake_science'}:{here.parent}")
    return told
