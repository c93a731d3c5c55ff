"""
Watching a query attack
=======================

Who attacks by asking sends many variants of one input. ``SimilarQueryDetector``
notices them among the rows of honest clients, and ``GuardedClassifier`` acts.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from sk_advdef import (
    GuardedClassifier,
    QueryRefused,
    RandomSearch,
    SimilarQueryDetector,
)

X, y = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(X))
X, y = X[order] / 16, y[order]
model = LogisticRegression(C=0.1, max_iter=1000).fit(X[:600], y[:600])

# %%
# The monitor learns from genuine rows how similar those are to one another.

monitor = SimilarQueryDetector(false_positive_rate=0.005, random_state=0)
monitor.fit(X[600:1600])


# %%
# An attacker's questions, as the model gets to see them.

asked = []


class Listening(LogisticRegression):
    """A classifier that writes down what it is asked."""

    def decision_function(self, X):
        asked.extend(np.array(X))
        return super().decision_function(X)


listening = Listening(C=0.1, max_iter=1000).fit(X[:600], y[:600])
attack = RandomSearch(eps=0.2, max_queries=120, random_state=0)
right = 1700 + np.flatnonzero(model.predict(X[1700:]) == y[1700:])
asked.clear()
result = attack.run(listening, X[right[:1]], y[right[:1]])
questions = np.array(asked)
print(f"{len(questions)} questions, fooled: {bool(result.fooled[0])}")

# %%
# Honest clients and the attacker, each under an account of his own:

honest = monitor.observe(X[1600:1700], account="alice")
attacking = monitor.observe(questions, account="mallory")

fig, ax = plt.subplots(layout="constrained")
ax.plot(honest, ".", label="alice, genuine rows")
ax.plot(attacking, ".", label="mallory, one row attacked")
ax.axhline(monitor.offset_, color="black", linewidth=1, label="threshold")
ax.set(xlabel="query", ylabel="score (lower: more similar to earlier ones)")
ax.legend()
plt.show()

# %%
# A guard counts, watches and acts. Here it flags in the audit log, which the attacker
# cannot see, and limits every account; ``action="reject"`` would tell him how far
# apart his questions must be.

guarded = GuardedClassifier(
    FrozenEstimator(model),
    limit="40/minute",
    monitor=FrozenEstimator(monitor),
    action="flag",
)
answered = 0
try:
    for question in questions:
        guarded.predict_proba(question[None], account="eve")
        answered += 1
except QueryRefused as refused:
    print(f"refused after {answered} answers: {refused.reason}")
print({name: count for name, count in guarded.stats().items() if count})

# %%
# What this does not see: many accounts, questions that lie far apart, and whoever has
# a copy of the model and asks nothing.
