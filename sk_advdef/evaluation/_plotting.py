"""What all displays share: matplotlib when it is there, and places to draw in."""

from __future__ import annotations

from typing import Any

import numpy as np

from sk_advdef._pyplot import pyplot
from sk_advdef._validation import invalid


def check_text(owner: object, **values: Any) -> None:
    """Refuse what cannot stand in a legend."""
    for name, value in values.items():
        if value is not None and not isinstance(value, str):
            raise invalid(owner, name, "a str or None", value)


def axes_for(
    owner: object, ax: Any, shape: tuple[int, int], size: tuple[float, float]
) -> np.ndarray:
    """Return a grid of axes: new ones, the given array, or parts of a single one."""
    plt = pyplot(owner)
    if ax is None:
        _, axes = plt.subplots(
            *shape, figsize=size, squeeze=False, layout="constrained"
        )
        return axes
    if isinstance(ax, plt.Axes):
        if shape == (1, 1):
            return np.array([[ax]])
        ax.set_axis_off()
        parts = ax.get_subplotspec().subgridspec(*shape, wspace=0.4)
        return np.array(
            [
                [ax.figure.add_subplot(parts[i, j]) for j in range(shape[1])]
                for i in range(shape[0])
            ]
        )
    axes = np.asarray(ax, dtype=object)
    if axes.size != shape[0] * shape[1]:
        raise ValueError(
            f"{type(owner).__name__}.plot draws in {shape[0] * shape[1]} axes. Got "
            f"{axes.size}: pass as many, a single one to be divided, or None."
        )
    return axes.reshape(shape)
