"""Names of the features that come out of squeezers that may change the width."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, OneToOneFeatureMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted


def has_features(squeezer: Any) -> bool:
    """Whether there are features to name: stacked images have none, and no frame."""
    return len(getattr(squeezer, "_sample_shape", (0,))) == 1


class NamesByWidth(ClassNamePrefixFeaturesOutMixin):
    """The input's names while each feature stays; new ones where the width changes."""

    _shape_out: tuple[int, ...]

    @property
    def _keeps_features(self) -> bool:
        raise NotImplementedError

    @property
    def _n_features_out(self) -> int:
        return int(np.prod(self._shape_out))

    @available_if(has_features)
    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the output's features.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the input's features; None takes those seen in ``fit``.

        Returns
        -------
        feature_names_out : ndarray of str objects
            The input's names if its features stay, else the name of the class in
            lowercase with a number: ``downscaler0``, ...
        """
        check_is_fitted(self)
        if self._keeps_features:
            return OneToOneFeatureMixin.get_feature_names_out(self, input_features)
        return super().get_feature_names_out(input_features)
