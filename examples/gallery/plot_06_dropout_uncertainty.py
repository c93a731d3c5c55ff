"""
Asking many sub-networks
========================

A net trained with dropout holds many sub-networks. Where they disagree, the row may
not be genuine. Whether that shows depends on where the attack stops.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from sk_advdef import PGD, DetectionCurveDisplay, DropoutUncertaintyDetector

X, y = load_digits(return_X_y=True)
X = (X / 16).astype("float32")
X_fit, X_test, y_fit, y_test = train_test_split(X, y, test_size=200, random_state=0)

# %%
# Without an estimator the detector trains a small net with dropout itself. Fifty
# masks are drawn once and shared by all rows, so that answers are repeatable.

detector = DropoutUncertaintyDetector(random_state=0).fit(X_fit, y_fit)
net = FrozenEstimator(detector.estimator_)

# %%
# Two attacks of the same size: one stops as soon as the answer is wrong, the other
# goes on to the end of its steps.

rows = {}
for name, early_stop in (("stops early", True), ("goes on", False)):
    attack = PGD(eps=0.15, steps=20, early_stop=early_stop, random_state=0)
    result = attack.run(net, X_test, y_test)
    rows[name] = result.X_adv[result.fooled]
    print(f"{name}: {result.fooled.mean():.0%} fooled")

fig, ax = plt.subplots(layout="constrained")
for name, attacked in rows.items():
    DetectionCurveDisplay.from_estimator(
        detector, X_test, attacked, name=name, kind="roc", ax=ax
    )

# %%
# Just past the boundary the sub-networks disagree; far beyond it they agree on the
# wrong class. No knowledge of the detector was needed for that.

fig, ax = plt.subplots(layout="constrained")
spread = {"genuine": X_test} | rows
entropies = [
    np.log10(detector.statistics(part, ("predictive_entropy",)) + 1e-9).ravel()
    for part in spread.values()
]
ax.boxplot(entropies, tick_labels=list(spread))
ax.set_ylabel("log10 of the predictive entropy")
plt.show()
