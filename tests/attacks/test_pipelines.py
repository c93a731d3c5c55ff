"""Attacks through whole Pipelines: the view must find what questions alone find."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

import sk_advdef
from sk_advdef import PGD, RandomSearch, robust_accuracy_score

EPS = 0.2
SQUEEZERS = {
    "half": ("Downscaler", {"image_shape": "square"}),
    "blur": ("BlurSqueezer", {"sigma": 0.7, "image_shape": "square"}),
    "1 bit": ("BitDepthSqueezer", {"bits": 1, "value_range": (0, 1)}),
    "2 bits": ("BitDepthSqueezer", {"bits": 2, "value_range": (0, 1)}),
    "4 bits": ("BitDepthSqueezer", {"bits": 4, "value_range": (0, 1)}),
    "median 2": ("MedianSqueezer", {"window_size": 2, "image_shape": "square"}),
    "median 3": ("MedianSqueezer", {"window_size": 3, "image_shape": "square"}),
    "jpeg": (
        "JpegSqueezer",
        {"quality": 75, "value_range": (0, 1), "image_shape": "square"},
    ),
}
MODELS = {
    "linear": LogisticRegression(max_iter=1000),
    "mlp": MLPClassifier((32,), max_iter=100, random_state=0),
}


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer:UserWarning")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("squeezer", SQUEEZERS)
def test_the_view_takes_what_five_thousand_questions_take(digits, squeezer, model):
    name, params = SQUEEZERS[squeezer]
    if name not in sk_advdef.__all__:
        pytest.skip(f"{name} is not there")
    pipe = make_pipeline(getattr(sk_advdef, name)(**params), MODELS[model])
    pipe.fit(digits.X_fit, digits.y_fit)
    X, y = digits.X, digits.y
    looking = [
        PGD(EPS, loss=loss, steps=40, restarts=2, random_state=0)
        for loss in ("ce", "margin")
    ]
    asking = RandomSearch(EPS, max_queries=5000, random_state=0)
    left = robust_accuracy_score(pipe, X, y, attack=looking)
    assert left <= robust_accuracy_score(pipe, X, y, attack=asking) + 0.01
    assert left < np.mean(pipe.predict(X) == y)
