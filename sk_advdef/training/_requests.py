"""What AdversariallyAugmentedClassifier asks of its parameters and its rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing

from sk_advdef._torch._models import is_net
from sk_advdef._validation import check_flag, check_number, check_option, invalid
from sk_advdef.attacks._several import attacks_of
from sk_advdef.training._watch import has_radius

METHODS = ("pgd", "fast", "fgsm-rs", "free", "trades", "ccat")
AVERAGING = ("ema", "swa")

#: Methods that can give attacked rows a class of their own, and those that attack all
#: rows of a batch.
WITH_OWN_CLASS = ("pgd", "fast", "fgsm-rs")
OF_ALL_ROWS = ("free", "trades")


def check_parameters(owner: Any) -> None:
    """Check each parameter by itself."""
    check_option(owner, "method", owner.method, METHODS)
    above = partial(check_number, owner, low=0, closed="neither")
    counts = partial(check_number, owner, integer=True, low=1)
    for name in ("rounds", "steps", "replays", "n_iter_no_change"):
        counts(name, getattr(owner, name))
    for name in ("noise", "beta", "eps_warmup", "weight_perturbation"):
        check_number(owner, name, getattr(owner, name), low=0)
    above("rho", owner.rho)
    above("validation_fraction", owner.validation_fraction, high=1)
    check_number(
        owner, "averaging_decay", owner.averaging_decay, low=0, high=1, closed="left"
    )
    if owner.relative_step_size is not None:
        above("relative_step_size", owner.relative_step_size, otherwise=" or None")
    if owner.ratio is not None:
        check_number(
            owner,
            "ratio",
            owner.ratio,
            low=0,
            high=1,
            closed="right",
            otherwise=" or None",
        )
    check_option(owner, "averaging", owner.averaging, (*AVERAGING, None))
    check_flag(owner, "early_stopping", owner.early_stopping)
    attacks_of(owner)


def check_together(owner: Any) -> None:
    """Refuse what does not go together."""
    name = type(owner).__name__
    if not is_net(owner.estimator):
        asked = {
            "method": (owner.method, "pgd"),
            "eps_warmup": (owner.eps_warmup, 0),
            "averaging": (owner.averaging, None),
            "weight_perturbation": (owner.weight_perturbation, 0),
        }
        for parameter, (value, otherwise) in asked.items():
            if value != otherwise:
                raise ValueError(
                    f"{parameter}={value!r} of {name} is for nets, and "
                    f"{owner.estimator!r} is none. Leave it at {otherwise!r}: other "
                    "classifiers are fitted in rounds."
                )
    if owner.adversarial_label is not None and owner.method not in WITH_OWN_CLASS:
        raise ValueError(
            f"method={owner.method!r} of {name} has no class for attacked rows. "
            f"Take one of {list(WITH_OWN_CLASS)}, or adversarial_label=None."
        )
    if owner.method in OF_ALL_ROWS and owner.ratio not in (None, 1):
        raise ValueError(
            f"method={owner.method!r} of {name} attacks all rows of a batch. Take "
            f"ratio=None. Got ratio={owner.ratio!r}."
        )
    for attack in attacks_of(owner) or ():
        if any(v for k, v in attack.get_params().items() if _last(k) == "targeted"):
            raise ValueError(
                f"{attack!r} is targeted, and {name} has no classes to aim at but the "
                "true ones: rows would be moved toward their own. Take "
                "targeted=False."
            )
        asks = {
            f"method={owner.method!r}": owner.method != "pgd",
            f"eps_warmup={owner.eps_warmup!r}": owner.eps_warmup,
            "early_stopping=True": owner.early_stopping,
        }
        asked_by = next((what for what, given in asks.items() if given), None)
        if asked_by is not None and not has_radius(attack):
            raise ValueError(
                f"{asked_by} of {name} takes its radius from the attack, and "
                f"{attack!r} has no eps. Use PGD(eps), or another that has one."
            )


def _last(parameter: str) -> str:
    return parameter.rpartition("__")[2]


def all_classes(owner: Any, genuine: np.ndarray) -> np.ndarray:
    """Return the classes with the adversarial one among them."""
    label = owner.adversarial_label
    if label is None:
        return genuine
    if len(genuine) < 2:
        raise ValueError(
            "Classifier can't train when only one class is present: "
            f"{genuine.tolist()[0]!r}. The adversarial one does not count."
        )
    text = isinstance(label, str)
    if not text:
        check_number(owner, "adversarial_label", label, otherwise=", a string or None")
        # labels that are no whole numbers, or beyond those of floats, are no classes
        if label != int(label) or abs(int(label)) > 2**53:
            allowed = "a whole number of at most 2**53, a string or None"
            raise invalid(owner, "adversarial_label", allowed, label)
    of_text = isinstance(genuine[0], str)
    if genuine.dtype.kind in "mM":
        raise ValueError(
            "adversarial_label of AdversariallyAugmentedClassifier has no place among "
            f"labels of {genuine.dtype}. Pass them as strings."
        )
    if text != of_text:
        raise ValueError(
            f"adversarial_label={label!r} of AdversariallyAugmentedClassifier is "
            f"of another kind than the labels {genuine.tolist()}. Take a "
            f"{'string' if of_text else 'number'}."
        )
    if label in genuine:
        raise ValueError(
            f"adversarial_label={label!r} of AdversariallyAugmentedClassifier is "
            f"among the labels {genuine.tolist()}. Take one that is not."
        )
    if genuine.dtype.kind in "biu":
        kind = _whole(genuine, int(label))
        return np.unique(np.append(genuine.astype(kind), kind(int(label))))
    return np.unique(np.append(genuine, label))


def _whole(genuine: np.ndarray, label: int) -> type[np.int64] | type[np.uint64]:
    """Return what holds whole labels and one more: floats would make some the same."""
    if int(genuine.max()) <= np.iinfo(np.int64).max:
        return np.int64
    if label < 0:
        raise ValueError(
            f"adversarial_label={label} of AdversariallyAugmentedClassifier is below "
            "0, and labels of 2**63 and more leave no place for it. Take one above."
        )
    return np.uint64


def split(
    owner: Any, X: Any, y: np.ndarray, seed: int
) -> tuple[Any, np.ndarray, tuple[Any, np.ndarray]]:
    """Cut rows to hold out, of each class where that can be.

    A row of each class stays to be fitted.
    """
    counts = np.unique(y, return_counts=True)[1]
    count = round(owner.validation_fraction * len(y))
    even = counts.min() >= 2 and min(count, len(y) - count) >= len(counts)
    if not 0 < count <= len(y) - len(counts):
        raise ValueError(
            f"early_stopping holds out {owner.validation_fraction} of {len(y)} rows of "
            f"{len(counts)} classes, which leaves nothing on one side. Give more rows, "
            "or early_stopping=False."
        )
    if even:
        fit, held = train_test_split(
            np.arange(len(y)), test_size=count, stratify=y, random_state=seed
        )
    else:
        order = np.random.default_rng(seed).permutation(len(y))
        first = np.unique(y[order], return_index=True)[1]
        order = np.append(order[first], np.delete(order, first))
        fit, held = order[:-count], order[-count:]
    rows = partial(_safe_indexing, X)
    return rows(fit), y[fit], (rows(held), y[held])
