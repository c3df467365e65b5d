"""Fixtures that every part of the tests may use."""

import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data: TinyStories, BLiMP, GLUE and the 10k tokenizer."""
    if not (SHARED / "data" / "tinystories").is_dir():
        pytest.skip("the real data is not here: ../shared/data is absent")
    return SHARED / "data"


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
def random_state() -> None:
    """Each test begins in the same random state, whichever ran before it; most never load torch."""
    if torch := sys.modules.get("torch"):
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
