"""The layout of sequences that share their beginnings, read back into the sequences."""

import numpy as np
import pytest

from tiny_transformers.evaluation.prefixes import Forest

SEQUENCES = [
    (1, 5, 6, 7),
    (1, 5, 6, 8, 9),
    (1, 5),
    (1, 5, 6, 7),
    (2, 5, 6, 7),
    (1, 7, 7, 7, 7, 7, 7, 7),
    (1, 5, 6, 7, 3),
]


def random_sequences():
    random = np.random.default_rng(3)
    return [tuple(random.integers(1, 4, size=length).tolist()) for length in random.integers(2, 12, size=60)]


def read_back(batch):
    """(sequence, index, its tokens up to that index) of every scored token."""
    width = batch.ids.shape[1]
    for number, parent, target in zip(batch.sequence, batch.parent, batch.target, strict=True):
        row, column = divmod(parent, width)
        seen = np.flatnonzero(batch.attends[row, column])
        assert batch.positions[row, seen].tolist() == list(range(len(seen)))
        yield number, len(seen), (*batch.ids[row, seen].tolist(), target)


@pytest.mark.parametrize("width", [1, 3, 6, 1000])
@pytest.mark.parametrize("sequences", [SEQUENCES, random_sequences()], ids=["few", "random"])
def test_every_token_sees_what_precedes_it_in_its_sequence_and_nothing_else(sequences, width):
    forest = Forest(sequences, [1] * len(sequences), width)
    found = [token for row in range(len(forest.sizes)) for token in read_back(forest.batch(np.array([row])))]
    together = list(read_back(forest.batch(np.random.default_rng(0).permutation(len(forest.sizes)))))
    expected = [(n, i, s[: i + 1]) for n, s in enumerate(sequences) for i in range(1, len(s))]
    assert sorted(found) == sorted(together) == sorted(expected)


def test_a_wide_row_holds_every_beginning_once():
    prefixes = {sequence[:length] for sequence in SEQUENCES for length in range(1, len(sequence))}
    assert Forest(SEQUENCES, [1] * len(SEQUENCES), 1000).sizes.tolist() == [len(prefixes)]


def test_a_row_is_no_wider_than_it_may_be_unless_one_sequence_is():
    sizes = Forest(SEQUENCES, [1] * len(SEQUENCES), 5).sizes
    assert sorted(sizes)[-2] <= 5
    assert max(sizes) == len((1, 7, 7, 7, 7, 7, 7))


def test_tokens_before_the_start_are_not_scored():
    batch = Forest([(1, 5, 6, 8, 9), (1, 5, 6, 7)], [2, 3], 100).batch(np.array([0]))
    assert sorted(zip(batch.sequence, batch.target, strict=True)) == [(0, 6), (0, 8), (0, 9), (1, 7)]


def test_no_sequences_make_no_rows():
    assert len(Forest([], [], 10).sizes) == 0
