"""Small networks that return logits, for use with skorch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sk_advdef._images import ImageLayout, check_channel_axis, warn_of_channels
from sk_advdef._validation import check_number, invalid

__all__ = ["DropoutCNN", "DropoutMLP"]


def _check_widths(owner: object, name: str, widths: Any) -> tuple[int, ...]:
    try:
        if isinstance(widths, bytes):
            raise TypeError
        checked = [check_number(owner, name, w, integer=True, low=1) for w in widths]
    except (TypeError, ValueError):
        raise invalid(owner, name, "a tuple of positive ints", widths) from None
    return tuple(int(width) for width in checked)


def _as_parameters(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x.to(next(module.parameters()).dtype)


class DropoutMLP(nn.Module):
    """A multilayer perceptron with dropout after each hidden layer.

    The number of inputs is taken from the first batch; rows with more than one axis
    are flattened.

    Parameters
    ----------
    n_classes : int
        Number of classes, at least 2.
    hidden : tuple of int, default=(100,)
        Widths of the hidden layers (ReLU).
    dropout : float, default=0.5
        Probability, in [0, 1), that an activation is dropped in training.

    See Also
    --------
    DropoutCNN : The same for images.

    Examples
    --------
    >>> import torch
    >>> from sk_advdef.nets import DropoutMLP
    >>> DropoutMLP(3, hidden=(16,))(torch.zeros(5, 8)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self, n_classes: int, *, hidden: tuple[int, ...] = (100,), dropout: float = 0.5
    ) -> None:
        super().__init__()
        check_number(self, "n_classes", n_classes, integer=True, low=2)
        check_number(self, "dropout", dropout, low=0, high=1, closed="left")
        layers: list[nn.Module] = []
        for width in _check_widths(self, "hidden", hidden):
            layers += [nn.LazyLinear(width), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.LazyLinear(n_classes))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, ...)
            The batch.

        Returns
        -------
        logits : torch.Tensor of shape (n_samples, n_classes)
            Scores whose softmax is the class probability.
        """
        return self.layers(_as_parameters(self, X.flatten(1)))


class DropoutCNN(nn.Module):
    """A small convolutional net with dropout before each of its linear layers.

    Each block is a 3 by 3 convolution, ReLU and 2 by 2 max pooling; then follow one
    hidden linear layer and the output. The size of the input is taken from the first
    batch.

    Parameters
    ----------
    n_classes : int
        Number of classes, at least 2.
    image_shape : tuple of int or None, default=None
        Shape of the image in a row, ``(height, width)`` or with a channel axis. None
        is for stacked images, of shape (n_samples, height, width) with or without a
        channel axis.
    channel_axis : int, default=-1
        Axis of the channels within one image of three axes.
    channels : tuple of int, default=(16, 32)
        Channels of the convolutions.
    hidden : int, default=100
        Width of the hidden linear layer.
    dropout : float, default=0.5
        Probability, in [0, 1), that an activation is dropped in training.

    See Also
    --------
    DropoutMLP : The same for rows.

    Examples
    --------
    >>> import torch
    >>> from sk_advdef.nets import DropoutCNN
    >>> DropoutCNN(10)(torch.zeros(5, 8, 8)).shape
    torch.Size([5, 10])
    >>> DropoutCNN(10, image_shape=(8, 8))(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        n_classes: int,
        *,
        image_shape: tuple[int, ...] | None = None,
        channel_axis: int = -1,
        channels: tuple[int, ...] = (16, 32),
        hidden: int = 100,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_number(self, "n_classes", n_classes, integer=True, low=2)
        check_number(self, "hidden", hidden, integer=True, low=1)
        check_number(self, "dropout", dropout, low=0, high=1, closed="left")
        self.channel_axis = check_channel_axis(self, channel_axis)
        if image_shape is not None:
            image_shape = _check_widths(self, "image_shape", image_shape)
            if len(image_shape) not in (2, 3):
                allowed = "a tuple of 2 or 3 positive ints or None"
                raise invalid(self, "image_shape", allowed, image_shape)
        self.image_shape = image_shape
        blocks: list[nn.Module] = []
        for width in _check_widths(self, "channels", channels):
            blocks += [
                nn.LazyConv2d(width, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.LazyLinear(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.LazyLinear(n_classes),
        )

    def _images(self, X: torch.Tensor) -> torch.Tensor:
        shape = tuple(X.shape[1:])
        if len(shape) == 1 and self.image_shape is None:
            raise ValueError(
                f"DropoutCNN got rows of {shape[0]} features and does not know the "
                "shape of the images in them. Pass image_shape=(height, width) or "
                "image_shape=(height, width, n_channels), for skorch as "
                "module__image_shape=..., or give stacked images."
            )
        if len(shape) == 1:
            assert self.image_shape is not None
            if shape[0] != math.prod(self.image_shape):
                raise ValueError(
                    f"DropoutCNN was made for images of shape {self.image_shape}, "
                    f"{math.prod(self.image_shape)} values a row. Got rows of "
                    f"{shape[0]} features."
                )
            shape = self.image_shape
        elif self.image_shape is not None and shape != self.image_shape:
            raise ValueError(
                f"DropoutCNN was made for images of shape {self.image_shape}. Got "
                f"{shape}."
            )
        if len(shape) not in (2, 3):
            raise ValueError(
                "DropoutCNN takes images of shape (height, width) with or without a "
                f"channel axis. Got samples of shape {shape}."
            )
        axis = self.channel_axis if len(shape) == 3 else None
        if axis is not None and isinstance(self.features[0], nn.LazyConv2d):
            warn_of_channels(self, shape, axis)
        return ImageLayout(shape, axis, stacked=True).unfold(X).permute(0, 3, 1, 2)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return the logits of a batch.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features) or stacked images
            The batch.

        Returns
        -------
        logits : torch.Tensor of shape (n_samples, n_classes)
            Scores whose softmax is the class probability.
        """
        return self.head(self.features(_as_parameters(self, self._images(X))))
