"""The ways in which samples may lie in X, shared by the tests of the squeezers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """Samples of one shape; ``spatial`` are the axes of the stack that are squeezed."""

    shape: tuple[int, ...]
    channel_axis: int = -1

    @property
    def spatial(self):
        axes = range(1, len(self.shape) + 1)
        channel = self.channel_axis % 3 + 1 if len(self.shape) == 3 else None
        return tuple(axis for axis in axes if axis != channel)

    @property
    def sides(self):
        return tuple(self.shape[axis - 1] for axis in self.spatial)

    @property
    def channel_of_image(self):
        return self.channel_axis if len(self.shape) == 3 else None

    @property
    def n_channels(self):
        return self.shape[self.channel_axis] if len(self.shape) == 3 else 1

    def samples(self, n=3, dtype=np.float64, seed=0):
        values = np.random.default_rng(seed).normal(size=(n, *self.shape))
        return values.astype(dtype)

    def inputs(self, X):
        """Yield what a squeezer may be given: arguments and X, as rows and stacked."""
        axis = {"channel_axis": self.channel_axis}
        yield {"image_shape": self.shape, **axis}, X.reshape(len(X), -1)
        if len(self.shape) > 1:
            yield axis, X


# Axes of up to 128 are squeezed by dense products and longer ones by sparse.
CASES = {
    "signal": Case((37,)),
    "long signal": Case((150,)),
    "gray": Case((9, 12)),
    "color": Case((9, 12, 3)),
    "channels first": Case((3, 9, 12), channel_axis=0),
    "channels between": Case((9, 2, 12), channel_axis=1),
    "long and wide": Case((131, 150)),
    "wide color": Case((5, 140, 2)),
    "one row of pixels": Case((1, 20)),
}

TOLERANCE = {np.float64: 1e-10, np.float32: 1e-5}
