"""
A detector, and rejecting what it flags
=======================================

``RejectingClassifier`` gives flagged rows a label of their own. An attacker must now
be wrong *and* accepted. Genuine rows that are refused are the price.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from sk_advdef import (
    PGD,
    BitDepthSqueezer,
    BlurSqueezer,
    FeatureSqueezingDetector,
    RejectingClassifier,
    rejection_robust_error,
)

X, y = load_digits(return_X_y=True)
X_fit, X_rest, y_fit, y_rest = train_test_split(
    X / 16, y, test_size=0.6, random_state=0
)
X_cal, X_test, y_cal, y_test = train_test_split(
    X_rest, y_rest, test_size=100, random_state=0
)

# %%
# Three parts of the data: the model, the threshold, the verdict.

model = FrozenEstimator(
    MLPClassifier((64,), max_iter=400, random_state=0).fit(X_fit, y_fit)
)
squeezers = [
    ("bit_depth", BitDepthSqueezer(2, value_range=(0, 1))),
    ("blur", BlurSqueezer(0.4, image_shape=(8, 8))),
]
defended = RejectingClassifier(
    model, FeatureSqueezingDetector(squeezers=squeezers, random_state=0)
).fit(X_cal, y_cal)
print(f"genuine rows refused: {(defended.predict(X_test) == -1).mean():.0%}")

# %%
# What becomes of rows, by an attacker who looks at the model alone and by one who
# goes through the detector as well:

attack = PGD(eps=0.1, steps=20, random_state=0)
answers = {
    "clean": defended.predict(X_test),
    "ignores it": defended.predict(attack.perturb(model, X_test, y_test)),
    "knows it": defended.predict(attack.perturb(defended, X_test, y_test)),
}
fig, ax = plt.subplots(layout="constrained")
below = [0.0] * 3
for label, color, share in (
    ("right", "tab:blue", lambda a: (a == y_test).mean()),
    ("refused", "tab:gray", lambda a: (a == -1).mean()),
    ("wrong and accepted", "tab:red", lambda a: ((a != y_test) & (a != -1)).mean()),
):
    shares = [share(a) for a in answers.values()]
    ax.bar(list(answers), shares, bottom=below, color=color, label=label)
    below = [b + s for b, s in zip(below, shares, strict=True)]
ax.set(ylabel="share of rows", title="PGD, Linf 0.1, 20 steps, 100 rows")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
plt.show()

# %%
# One figure that holds both prices: the share of rows lost (wrong or refused clean,
# or fooled and accepted), at thresholds where 1 % and 5 % of genuine rows are
# refused.

errors = rejection_robust_error(defended, X_test, y_test, attack=attack)
alone = 1 - model.score(attack.perturb(model, X_test, y_test), y_test)
print(f"lost without the detector: {alone:.2f}")
print({level: round(error, 2) for level, error in errors.items()})
