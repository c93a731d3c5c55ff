"""
Auditing somebody else's model
==============================

A colleague hands over a fitted model: "we blur and round the input, so attacks fail".
All there is to work with is the model and rows that it has not seen.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sk_advdef import (
    PGD,
    BitDepthSqueezer,
    BlurSqueezer,
    PerturbationDisplay,
    diagnose_defense,
    evaluate_robustness,
)

X, y = load_digits(return_X_y=True)
X_fit, X_test, y_fit, y_test = train_test_split(X / 16, y, test_size=80, random_state=0)
theirs = make_pipeline(
    BlurSqueezer(0.5, image_shape=(8, 8)),
    BitDepthSqueezer(2, value_range=(0, 1)),
    LogisticRegression(C=0.1, max_iter=1000),
).fit(X_fit, y_fit)

# %%
# All attacks at hand, through the blur and the rounding. ``baseline`` is a model
# without the defence, for the attacker who ignores it.

plain = LogisticRegression(C=0.1, max_iter=1000).fit(X_fit, y_fit)
report = evaluate_robustness(
    theirs, X_test, y_test, eps=0.1, baseline=plain, random_state=0
)
print(report)

# %%
# Accuracy by attack. The claim was about one bar; the verdict is the worst case per
# row.

fig, ax = plt.subplots(layout="constrained")
frame = report.to_frame()
ax.barh(frame["attack"], frame["share"], color="tab:blue")
ax.axvline(report.worst_case_accuracy, color="tab:red", label="worst case per row")
ax.invert_yaxis()
ax.set(xlabel="accuracy (an upper bound each)", xlim=(0, 1))
ax.legend(loc="lower right")

# %%
# Can these figures be trusted? The diagnosis looks for a hidden gradient, for answers
# that change from call to call, and for attacks that should have done better.

print(diagnose_defense(theirs, X_test, y_test, eps=0.1, random_state=0))

# %%
# Rows to show to the colleague:

PerturbationDisplay.from_estimator(
    theirs,
    X_test,
    y_test,
    attack=PGD(eps=0.1, steps=20, random_state=0),
    n_rows=3,
    image_shape=(8, 8),
)
plt.show()

# %%
# From the command line the same is one line, which also writes a page and a file of
# figures: ``sk-advdef audit model.joblib rows.npz --trust --eps 0.1``.
