"""Train a defended model with a guard around it, and pickle it."""

import argparse
from pathlib import Path

import joblib
import torch
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    ConcealedClassifier,
    GuardedClassifier,
    SimilarQueryDetector,
)
from sk_advdef.nets import DropoutMLP


def train(store: str) -> GuardedClassifier:
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype("float32")
    X_fit, X_genuine, y_fit, _ = train_test_split(X, y, test_size=900, random_state=0)
    net = NeuralNetClassifier(
        DropoutMLP,
        module__n_classes=10,
        module__hidden=(64,),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.01,
        max_epochs=10,
        train_split=None,
        verbose=0,
    )
    attack = PGD(eps=0.1, steps=5, random_state=0)
    defended = AdversariallyAugmentedClassifier(net, attack=attack, random_state=0)
    defended.fit(X_fit, y_fit)
    concealed = ConcealedClassifier(FrozenEstimator(defended), reveal="rounded")
    # fitted on rows that the net has not learned from
    monitor = SimilarQueryDetector(false_positive_rate=0.005, random_state=0)
    monitor.fit(X_genuine)
    return GuardedClassifier(
        FrozenEstimator(concealed),
        limit="60/minute",
        monitor=FrozenEstimator(monitor),
        store=store,
        action="flag",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", default="memory://")
    args = parser.parse_args()
    joblib.dump(train(args.store), args.file)


if __name__ == "__main__":
    main()
