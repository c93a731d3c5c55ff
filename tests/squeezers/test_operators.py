import numpy as np
import pytest
from scipy import sparse

from sk_advdef.squeezers._operators import (
    LONGEST_DENSE_AXIS,
    apply_along,
    area_matrix,
    gaussian_matrix,
)


@pytest.mark.parametrize("length", [1, 2, 7, LONGEST_DENSE_AXIS, 200])
@pytest.mark.parametrize(
    "build",
    [
        lambda length: gaussian_matrix(length, 0.8),
        lambda length: gaussian_matrix(length, 30.0),
        lambda length: gaussian_matrix(length, 0),
        lambda length: area_matrix(length, max(1, length // 3)),
        lambda length: area_matrix(length, 2 * length + 1),
    ],
    ids=["blur", "wide blur", "no blur", "smaller", "larger"],
)
def test_rows_are_weights(build, length):
    matrix = build(length)
    assert sparse.issparse(matrix) == (max(matrix.shape) > LONGEST_DENSE_AXIS)
    weights = matrix.toarray() if sparse.issparse(matrix) else matrix
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("length", [1, 3, 49, 200])
def test_whole_cells_take_nothing_from_their_neighbors(length):
    for cells in {1, 3, 7, 49} & {d for d in range(1, length + 1) if length % d == 0}:
        matrix = sparse.csr_array(area_matrix(length, cells))
        assert (matrix.data > 1e-12).sum() == length


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["dense", "sparse", "torch dense", "torch sparse"])
def test_apply_along(axis, channels, kind):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 5, 6, channels))
    matrix = rng.normal(size=(3, images.shape[axis]))
    matrix[matrix < 0] = 0
    expected = np.moveaxis(np.tensordot(matrix, images, (1, axis)), 0, axis)
    if kind == "sparse":
        matrix = sparse.csr_matrix(matrix)
    elif kind.startswith("torch"):
        import torch

        images, matrix = torch.tensor(images), torch.tensor(matrix)
        matrix = matrix.to_sparse() if kind == "torch sparse" else matrix
    applied = np.asarray(apply_along(matrix, images, axis))
    np.testing.assert_allclose(applied, expected, atol=1e-12)
