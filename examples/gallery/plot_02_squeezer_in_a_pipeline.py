"""
A Pipeline with a squeezer
==========================

A squeezer takes precision away before the model sees the input. It is a transformer
like any other. Whether it helps depends on whether the attacker knows of it.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sk_advdef import PGD, BitDepthSqueezer, BlurSqueezer, MedianSqueezer

X, y = load_digits(return_X_y=True)
X_fit, X_test, y_fit, y_test = train_test_split(
    X / 16, y, test_size=200, random_state=0
)

squeezers = {
    "blur": BlurSqueezer(0.7, image_shape=(8, 8)),
    "median": MedianSqueezer(2, image_shape=(8, 8)),
    "2 bits": BitDepthSqueezer(2, value_range=(0, 1)),
}

# %%
# What a squeezer does to one picture:

fig, axes = plt.subplots(1, 4, figsize=(8, 2.3), layout="constrained")
shown = {"as it is": X_test[:1]}
shown |= {name: s.fit(X_fit).transform(X_test[:1]) for name, s in squeezers.items()}
for ax, (name, row) in zip(axes, shown.items(), strict=True):
    ax.imshow(row.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
    ax.set_title(name)
    ax.set_axis_off()

# %%
# One model alone, and one trained behind each squeezer. The attacker who *ignores*
# the squeezer attacks the model alone and hopes; the one who *knows* it attacks the
# Pipeline, through its steps.

attack = PGD(eps=0.1, steps=20, random_state=0)
plain = LogisticRegression(max_iter=1000).fit(X_fit, y_fit)
ignoring = attack.perturb(plain, X_test, y_test)
figures = {"none": [plain.score(X_test, y_test), *[plain.score(ignoring, y_test)] * 2]}
for name, squeezer in squeezers.items():
    pipe = make_pipeline(squeezer, LogisticRegression(max_iter=1000)).fit(X_fit, y_fit)
    knowing = attack.perturb(pipe, X_test, y_test)
    figures[name] = [pipe.score(rows, y_test) for rows in (X_test, ignoring, knowing)]

# %%
# The gap between the last two bars is what the secret was worth, and the last bar is
# what the squeezer is worth.

fig, ax = plt.subplots(layout="constrained")
for i, label in enumerate(["clean", "who ignores it", "who knows it"]):
    places = [place + 0.27 * (i - 1) for place in range(len(figures))]
    ax.bar(places, [f[i] for f in figures.values()], width=0.25, label=label)
ax.set_xticks(range(len(figures)), list(figures))
ax.set(ylabel="accuracy", title="PGD, Linf 0.1, 20 steps, 200 rows")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
plt.show()
