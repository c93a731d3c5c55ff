"""
Distillation, and why it is not enough
======================================

Defensive distillation trains a student on a teacher's softened answers. Attacks on
the student's probabilities then fail, which looks like a defence. Most of that is a
gradient that has vanished.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch import NeuralNetClassifier

from sk_advdef import PGD, DistilledClassifier, RandomSearch, diagnose_defense
from sk_advdef.nets import DropoutMLP

X, y = load_digits(return_X_y=True)
X = (X / 16).astype("float32")
X_fit, X_test, y_fit, y_test = train_test_split(X, y, test_size=100, random_state=0)

net = NeuralNetClassifier(
    DropoutMLP,
    module__n_classes=10,
    module__dropout=0.0,
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.01,
    max_epochs=20,
    batch_size=64,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)

# %%
# Temperature 1 is a student without the trick, 50 one with it.

students = {
    t: DistilledClassifier(net, temperature=t, random_state=0).fit(X_fit, y_fit)
    for t in (1, 50)
}
for t, student in students.items():
    print(f"T={t}: clean {student.score(X_test, y_test):.2f}")
    print(f"      rows with a saturated softmax: {student.saturated_:.0%}")

# %%
# Three attacks of the same size. The first follows the gradient of the cross-entropy,
# which is zero where the softmax is saturated. The second looks at the difference of
# logits, the third only asks for scores.

attacks = {
    "PGD, cross-entropy": PGD(eps=0.1, steps=20, random_state=0),
    "PGD, margin": PGD(eps=0.1, steps=20, loss="margin", random_state=0),
    "random search": RandomSearch(eps=0.1, max_queries=300, random_state=0),
}
left = {
    t: [
        student.score(a.perturb(student, X_test, y_test), y_test)
        for a in attacks.values()
    ]
    for t, student in students.items()
}

fig, ax = plt.subplots(layout="constrained")
for i, (t, accuracies) in enumerate(left.items()):
    ax.bar([k + 0.4 * i for k in range(3)], accuracies, width=0.38, label=f"T = {t}")
ax.set_xticks([k + 0.2 for k in range(3)], list(attacks))
ax.set(ylabel="accuracy under this attack", title="Linf 0.1, 100 rows", ylim=(0, 1))
ax.legend()
plt.show()

# %%
# A defence that holds against one attack and not against the next has hidden
# something. ``diagnose_defense`` looks for such signs by itself:

print(diagnose_defense(students[50], X_test, y_test, eps=0.1, random_state=0))
