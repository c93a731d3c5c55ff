"""
Fooling a model in five lines
=============================

A classifier of handwritten digits is right on nearly all rows. An attacker who may
change each pixel by a tenth of the way from black to white makes it wrong on nearly
half of them.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from sk_advdef import PGD, PerturbationDisplay, RobustnessCurveDisplay

X, y = load_digits(return_X_y=True)
X_fit, X_test, y_fit, y_test = train_test_split(
    X / 16, y, test_size=200, random_state=0
)

# %%
# The five lines:

model = LogisticRegression(max_iter=1000).fit(X_fit, y_fit)
attack = PGD(eps=0.1, steps=20, random_state=0)
result = attack.run(model, X_test, y_test)
print(f"clean accuracy: {model.score(X_test, y_test):.2f}")
print(f"under this attack, an upper bound: {model.score(result.X_adv, y_test):.2f}")

# %%
# What was changed: the row, the change, and the row as the model sees it.

PerturbationDisplay.from_estimator(
    model, X_test, y_test, attack=attack, n_rows=3, image_shape=(8, 8)
)

# %%
# The more he may change, the more rows fall. The curve falls on, whatever the model:
# a figure without its eps says nothing.

display = RobustnessCurveDisplay.from_estimator(
    model,
    X_test,
    y_test,
    epsilons=[0, 0.02, 0.05, 0.1, 0.15, 0.2],
    attack=attack,
    name="logistic regression",
)
display.ax_.set_ylim(0, 1)
plt.show()
