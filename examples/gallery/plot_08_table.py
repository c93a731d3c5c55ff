"""
A table with features that the attacker cannot change
=====================================================

Payments, some of them fraud. The fraudster can lower an amount and wait, at a price;
he cannot change how old his account is. ``FeatureSpace`` says so once, for every
attack. The data are made up here, so that every relation in them is known.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

from sk_advdef import FeatureSpace, PerturbationDisplay, RandomSearch, TreeExact

rng = np.random.default_rng(0)
n = 1500
y = (rng.random(n) < 0.3).astype(int)
X = pd.DataFrame(
    {
        "amount": np.round(rng.lognormal(4 + 1.0 * y, 0.7), 2),
        "hours_since_last": rng.exponential(np.where(y, 6, 30)),
        "payments_today": rng.poisson(np.where(y, 4, 1.5)),
        "new_payee": (rng.random(n) < np.where(y, 0.7, 0.2)).astype(int),
        "account_days": rng.integers(10, 3000, n) // np.where(y, 3, 1),
        "country_risk": rng.beta(np.where(y, 4, 2), 4),
    }
)
X_fit, X_test, y_fit, y_test = X[:1000], X[1000:], y[:1000], y[1000:]
forest = RandomForestClassifier(8, max_depth=4, random_state=0).fit(X_fit, y_fit)
print(f"clean accuracy: {forest.score(X_test, y_test):.2f}")

# %%
# What he can do: take up to 60 less, wait up to a day longer, make one payment more
# or fewer on that day, and pay somebody he has paid before. He has no other account
# and no other country. Only fraud is attacked: nobody wants a good payment to be
# taken for fraud.

eps = {"amount": 60.0, "hours_since_last": 24.0, "payments_today": 1, "new_payee": 1}
rules = {
    "bounds": {"amount": (0, 1e5), "payments_today": (0, 50), "new_payee": (0, 1)},
    "decreasing": ["amount", "new_payee"],
    "increasing": ["hours_since_last"],
}
spaces = {
    "only the amount": FeatureSpace(
        eps={"amount": eps["amount"]}, bounds=rules["bounds"], decreasing=["amount"]
    ),
    "any one of four": FeatureSpace(eps=eps, max_changed=1, **rules),
    "any two of four": FeatureSpace(eps=eps, max_changed=2, **rules),
    "all four": FeatureSpace(eps=eps, **rules),
}
caught = (y_test == 1) & (forest.predict(X_test) == 1)
rows, labels = X_test[caught][:15], y_test[caught][:15]

# %%
# For trees the exact answer can be computed, beside what random search finds by
# asking.

found, exact = [], []
for space in spaces.values():
    asked = RandomSearch(None, max_queries=100, space=space, random_state=0)
    found.append(asked.run(forest, rows, labels).fooled.mean())
    exact.append(TreeExact(None, space=space).run(forest, rows, labels).fooled.mean())

fig, ax = plt.subplots(layout="constrained")
places = np.arange(len(spaces))
ax.barh(places - 0.2, found, height=0.38, label="random search, 100 queries")
ax.barh(places + 0.2, exact, height=0.38, label="exact")
ax.set_yticks(places, list(spaces))
ax.set(xlabel="share of caught fraud that gets through", xlim=(0, 1))
ax.legend()

# %%
# What it takes: the most changed features of some rows that get through.

PerturbationDisplay.from_estimator(
    forest,
    rows[:5],
    labels[:5],
    attack=TreeExact(None, space=spaces["all four"]),
    n_rows=2,
)
plt.show()

# %%
# The features that cost him least are those that the model should lean on least.
# Fitting without ``new_payee`` and attacking again is one line each.
