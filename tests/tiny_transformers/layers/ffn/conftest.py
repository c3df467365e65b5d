"""The known answers of the original layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def known() -> dict[str, Tensor]:
    """`case/name` -> array."""
    path = Path(__file__).resolve().parents[5] / "shared" / "known_answers" / "ffn.npz"
    if not path.is_file():
        pytest.skip("the known answers are not here: ../shared/known_answers/ffn.npz is absent")
    with np.load(path) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}
