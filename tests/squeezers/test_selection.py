import itertools

import numpy as np
import pytest

from sk_advdef.squeezers._selection import comparators, selection


@pytest.mark.parametrize("n", range(13))
def test_comparators_sort(n):
    # what sorts all rows of zeros and ones sorts everything
    values = np.array(list(itertools.product([0, 1], repeat=n)), dtype=np.int8)
    expected = np.sort(values, axis=1)
    for i, j in comparators(n):
        assert i < j
        values[:, [i, j]] = np.sort(values[:, [i, j]], axis=1)
    np.testing.assert_array_equal(values, expected)


def selected(network, windows):
    """Run a network on windows of shape (n, height, width)."""
    n, height, width = windows.shape
    registers = np.full((2, 99, n), -1, windows.dtype)
    columns = [
        [
            sorted_column.copy()
            for sorted_column in network.columns.run(
                [windows[:, i, j].copy() for i in range(height)], registers[0]
            )
        ]
        for j in range(width)
    ]
    reads = [columns[j][rank] for rank, j in network.reads]
    (found,) = network.window.run(reads, registers[1])
    return found


SIDES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 7), (7, 1), (2, 3), (3, 2), (3, 3)]
SIDES += [(2, 5), (5, 2), (3, 4), (4, 3)]


@pytest.mark.parametrize(("height", "width"), SIDES)
def test_every_rank_is_found(height, width):
    size = height * width
    windows = np.array(list(itertools.product([0, 1], repeat=size)), dtype=np.int8)
    for rank in range(size):
        found = selected(
            selection(height, width, rank), windows.reshape(-1, height, width)
        )
        np.testing.assert_array_equal(found, np.sort(windows, axis=1)[:, rank])


@pytest.mark.parametrize("side", [5, 6, 7, 9])
def test_larger_windows(side):
    windows = np.random.default_rng(0).normal(size=(200, side, side))
    network = selection(side, side, side**2 // 2)
    expected = np.sort(windows.reshape(200, -1), axis=1)[:, side**2 // 2]
    np.testing.assert_array_equal(selected(network, windows), expected)


def test_median_of_nine_takes_twenty_steps():
    # six of them are shared by the windows that a column lies in
    network = selection(3, 3, 4)
    assert (len(network.columns.steps), len(network.window.steps)) == (6, 14)
    assert network.n_steps == 20
    assert network.columns.n_registers + network.window.n_registers <= 8
