"""Views of classifiers that read the answers of other classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from sk_advdef._torch._blocks import Mixture, Response, buffer, decision_of
from sk_advdef._torch._bpda import Rounding, evened, straight_through
from sk_advdef._torch._parts import reads_proba
from sk_advdef._torch._registry import build
from sk_advdef._torch._transformer_views import selector
from sk_advdef._torch._views import Branches


def _response(estimator: Any, *, proba: bool) -> Response:
    if proba:
        return Response(build(estimator, "proba"), proba=True)
    return Response(decision_of(build(estimator)), proba=False)


class SigmoidCalibration(nn.Module):
    """A sigmoid for each class, of classes that the member knows."""

    slope: torch.Tensor
    shift: torch.Tensor
    places: torch.Tensor

    def __init__(self, calibrators: Any, places: Any, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("slope", buffer([c.a_ for c in calibrators]))
        self.register_buffer("shift", buffer([c.b_ for c in calibrators]))
        # a member of two classes has one calibrator, even where there are more classes
        self.register_buffer("places", torch.tensor(places[: len(calibrators)]))
        self.n_classes = n_classes

    def forward(self, response: torch.Tensor) -> torch.Tensor:
        """Return scores whose softmax is the normalized probability."""
        logits = -(self.slope * response + self.shift)
        if self.n_classes == 2:
            return torch.cat([-logits / 2, logits / 2], dim=1)
        proba = nn.functional.logsigmoid(logits)
        # the class of an unknown column is as good as impossible
        scores = proba.new_full((len(proba), self.n_classes), -1e3)
        return scores.index_copy(1, self.places, proba)


class TemperatureCalibration(nn.Module):
    """Logits times the inverse of a temperature."""

    def __init__(self, beta: float, *, proba: bool) -> None:
        super().__init__()
        self.beta, self.proba = beta, proba

    def forward(self, response: torch.Tensor) -> torch.Tensor:
        """Return scores whose softmax is the probability."""
        if response.shape[1] == 1:
            first = 1 - response if self.proba else -response
            response = torch.cat([first, response], dim=1)
        # as much is added to probabilities in scikit-learn too
        return self.beta * ((response + 1e-12).log() if self.proba else response)


def _calibrated(one: Any, classes: np.ndarray) -> nn.Module:
    proba = reads_proba(one.estimator)
    calibration: nn.Module
    if one.method == "temperature":
        beta = float(one.calibrators[0].beta_)
        calibration = TemperatureCalibration(beta, proba=proba)
    else:
        places = np.searchsorted(classes, one.estimator.classes_)
        calibration = SigmoidCalibration(one.calibrators, places, len(classes))
    return nn.Sequential(_response(one.estimator, proba=proba), calibration)


def calibrated_classifier(model: Any) -> nn.Module:
    """Build the view of a CalibratedClassifierCV with a smooth calibration."""
    members = [_calibrated(c, model.classes_) for c in model.calibrated_classifiers_]
    return members[0] if len(members) == 1 else Mixture(members, np.ones(len(members)))


class Votes(Rounding):
    """The weight of the votes for each class.

    The gradient is that of soft votes: each member's softmax, of scores in units of
    their lead where that is large, sharpened on demand.
    """

    weights: torch.Tensor

    def __init__(self, views: list[nn.Module], weights: Any) -> None:
        super().__init__()
        self.views = nn.ModuleList(views)
        self.register_buffer("weights", buffer(weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of the votes' weights, a column a class."""
        total: Any = 0
        for view, weight in zip(self.views, self.weights, strict=True):
            scores = view(x).double()
            vote = nn.functional.one_hot(scores.argmax(dim=1), scores.shape[1]).double()
            soft = (evened(scores) * (self.sharpness or 1)).softmax(dim=1)
            total = total + weight * straight_through(vote, soft)
        return total


def voting_classifier(model: Any) -> nn.Module:
    """Build the view of a VotingClassifier."""
    weights = np.ones(len(model.estimators_))
    if model.weights is not None:
        weights = np.array(
            [
                weight
                for (_, member), weight in zip(
                    model.estimators, model.weights, strict=True
                )
                if member != "drop"
            ],
            dtype=np.float64,
        )
    if model.voting == "hard":
        return Votes([build(member) for member in model.estimators_], weights)
    return Mixture([build(member, "proba") for member in model.estimators_], weights)


def stacking_classifier(model: Any) -> nn.Module:
    """Build the view of a StackingClassifier."""
    features: list[tuple[Any, nn.Module, float]] = [
        (None, _response(member, proba=method == "predict_proba"), 1.0)
        for member, method in zip(model.estimators_, model.stack_method_, strict=True)
    ]
    if model.passthrough:
        features.append((None, nn.Identity(), 1.0))
    return nn.Sequential(Branches(features), build(model.final_estimator_))


def eliminated(model: Any) -> nn.Module:
    """Build the view of an RFE or RFECV that answers as a classifier."""
    return nn.Sequential(selector(model), build(model.estimator_))
