"""Mark what is not in `make test`, but in `make test-longer`."""

from typing import Any

import pytest


def longer(*values: Any, id: str | None = None) -> Any:
    """A test's parameters, for a kind of which another of its parameters is an example in `make test`."""
    return pytest.param(*values, id=id, marks=pytest.mark.longer)


def kept(is_kept: bool, *values: Any, id: str | None = None) -> Any:
    """A test's parameters, in `make test` or in `make test-longer`."""
    return pytest.param(*values, id=id) if is_kept else longer(*values, id=id)


ONE_FAMILY = ["gpt_neo", longer("roberta")]  # for what has no code of a family's own
