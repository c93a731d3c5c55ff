"""
Adversarial training, of a net and of a forest
==============================================

Rows are attacked while the model learns. A net meets attacked rows in each batch; any
other classifier is fitted again on them, round by round.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    RandomSearch,
    RobustnessCurveDisplay,
    TrainingHistoryDisplay,
)
from sk_advdef.nets import DropoutMLP

X, y = load_digits(return_X_y=True)
X = (X / 16).astype("float32")
X_fit, X_test, y_fit, y_test = train_test_split(X, y, test_size=100, random_state=0)

# %%
# A net
# -----

torch.manual_seed(0)
net = NeuralNetClassifier(
    DropoutMLP,
    module__n_classes=10,
    module__dropout=0.0,
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.005,
    max_epochs=15,
    batch_size=64,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)
plain = clone(net).fit(X_fit, y_fit)
trained = AdversariallyAugmentedClassifier(
    net, attack=PGD(eps=0.1, steps=5, random_state=0), random_state=0
).fit(X_fit, y_fit)
TrainingHistoryDisplay.from_estimator(trained)

# %%
# Judged on rows that neither has seen, by an attack of more steps:

fig, ax = plt.subplots(layout="constrained")
epsilons = [0, 0.05, 0.1, 0.15, 0.2]
judge = PGD(eps=0.1, steps=20, loss="margin", random_state=0)
for name, model in (("as it is", plain), ("trained at 0.1", trained)):
    RobustnessCurveDisplay.from_estimator(
        model, X_test, y_test, epsilons=epsilons, attack=judge, name=name, ax=ax
    )
ax.set_title("a net, under PGD")

# %%
# A forest
# --------
# A forest has no gradient, so attacks ask for its scores. Here too the plain forest
# and the trained one are attacked in the same way, with more queries than in
# training.

forest = RandomForestClassifier(30, random_state=0)
plain = clone(forest).fit(X_fit[:600], y_fit[:600])
trained = AdversariallyAugmentedClassifier(
    forest,
    attack=RandomSearch(0.1, max_queries=30, random_state=0),
    rounds=2,
    random_state=0,
).fit(X_fit[:600], y_fit[:600])

fig, ax = plt.subplots(layout="constrained")
judge = RandomSearch(0.1, max_queries=150, random_state=0)
for name, model in (("as it is", plain), ("trained at 0.1", trained)):
    RobustnessCurveDisplay.from_estimator(
        model,
        X_test[:50],
        y_test[:50],
        epsilons=epsilons[:4],
        attack=judge,
        name=name,
        ax=ax,
    )
ax.set_title("a forest, under random search")
plt.show()

# %%
# Neither curve is the last word: each is the accuracy under the attack that was run,
# an upper bound. For the forest ``TreeExact`` gives the exact answer, in more time.
