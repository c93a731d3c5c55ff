"""
Searching a threshold
=====================

A detector flags rows whose answer changes when they are squeezed. How strong the
squeezer should be, and how many genuine rows may be flagged, is searched as any
parameter.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split

from sk_advdef import (
    PGD,
    BlurSqueezer,
    DetectionCurveDisplay,
    FeatureSqueezingDetector,
    make_detection_scorer,
)

X, y = load_digits(return_X_y=True)
X_fit, X_rest, y_fit, y_rest = train_test_split(
    X / 16, y, test_size=0.6, random_state=0
)
X_cal, X_test, y_cal, y_test = train_test_split(
    X_rest, y_rest, test_size=200, random_state=0
)

# %%
# The model is fitted and frozen, so that all of ``X_cal`` is new to it.

model = FrozenEstimator(LogisticRegression(max_iter=1000).fit(X_fit, y_fit))
detector = FeatureSqueezingDetector(
    model, squeezers=[("blur", BlurSqueezer(image_shape=(8, 8)))], random_state=0
)
attack = PGD(eps=0.1, steps=10, random_state=0)
search = GridSearchCV(
    detector,
    {"blur__sigma": [0.3, 0.4, 0.6], "contamination": [0.02, 0.05, 0.1, 0.2]},
    scoring=make_detection_scorer(attack, metric="balanced_accuracy"),
    cv=3,
).fit(X_cal, y_cal)
print(search.best_params_)

# %%
# The mean of two shares, genuine rows let through and attacked rows flagged, over the
# grid:

fig, ax = plt.subplots(layout="constrained")
scores = search.cv_results_["mean_test_score"].reshape(3, 4)
image = ax.imshow(scores, cmap="viridis")
for (i, j), score in [((i, j), scores[i, j]) for i in range(3) for j in range(4)]:
    ax.text(j, i, f"{score:.2f}", ha="center", va="center", color="white")
ax.set_yticks(range(3), ["0.3", "0.4", "0.6"])
ax.set_xticks(range(4), ["0.02", "0.05", "0.1", "0.2"])
ax.set(xlabel="contamination", ylabel="sigma of the blur")

# %%
# The chosen detector on rows that the search has not used: one curve over all
# thresholds, and where its own threshold lies among the scores.

attacked = attack.perturb(model, X_test, y_test)
DetectionCurveDisplay.from_estimator(
    search.best_estimator_, X_test, attacked, name="ignores the detector"
)
plt.show()

# %%
# All of this is about an attacker who *ignores* the detector. What it is worth
# against one who knows it is another question: see
# :ref:`sphx_glr_gallery_plot_07_reject.py`.
