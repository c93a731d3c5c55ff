"""Write ``saved-VERSION.joblib``: small fitted models, rows, and what they answer.

Run it once for each release, ``python -m tests.data.make_saved``, and keep the file: it
stands for the models that users have saved, and tests/test_persistence.py opens all.
"""

from io import BytesIO
from pathlib import Path

import joblib
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import sk_advdef
from tests._instances import make_rows, outputs, small_net

HERE = Path(__file__).parent


def models(X, y):
    """Return fitted models of every family, by name."""
    linear = LogisticRegression(max_iter=1000)
    net = small_net(module__hidden=(8,), max_epochs=10)
    attack = sk_advdef.PGD(0.3, steps=3, bounds=None, random_state=0)
    squeezing = make_pipeline(
        sk_advdef.BitDepthSqueezer(4),
        sk_advdef.BlurSqueezer(0.5),
        sk_advdef.Downscaler(0.5),
        sk_advdef.MedianSqueezer(3),
        linear,
    )
    distilled = sk_advdef.DistilledClassifier(net, temperature=2, random_state=0)
    frozen = FrozenEstimator(clone(distilled).fit(X, y))
    made = {
        "squeezed": squeezing,
        "distilled": distilled,
        "trained in rounds": sk_advdef.AdversariallyAugmentedClassifier(
            linear, attack=attack, random_state=0
        ),
        "dropout": sk_advdef.DropoutUncertaintyDetector(
            frozen, n_passes=5, contamination=0.2, random_state=0
        ),
        "density": sk_advdef.DensityDetector(
            FrozenEstimator(clone(linear).fit(X, y)), contamination=0.2, random_state=0
        ),
        "squeezing": sk_advdef.FeatureSqueezingDetector(
            FrozenEstimator(clone(linear).fit(X, y)),
            squeezers=[("bits", sk_advdef.BitDepthSqueezer(2))],
            contamination=0.2,
            random_state=0,
        ),
        "rejecting": sk_advdef.RejectingClassifier(
            frozen,
            sk_advdef.DropoutUncertaintyDetector(
                n_passes=5, contamination=0.2, random_state=0
            ),
        ),
        "concealed": sk_advdef.ConcealedClassifier(linear),
        "guarded": sk_advdef.GuardedClassifier(linear),
    }
    return {name: model.fit(X, y) for name, model in made.items()}


def main():
    X, y = make_rows(n_samples=90)
    fitted = models(X, y)
    X = X[:20]
    # each is opened by itself, so each is a file of its own, in bytes
    saved = {name: joblib_bytes(model) for name, model in fitted.items()}
    answers = {name: outputs(model, X) for name, model in fitted.items()}
    path = HERE / f"saved-{sk_advdef.__version__}.joblib"
    joblib.dump({"X": X, "models": saved, "answers": answers}, path, compress=9)
    print(path.name, path.stat().st_size, "bytes")


def joblib_bytes(model):
    """Return what joblib.dump writes to a file."""
    buffer = BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
