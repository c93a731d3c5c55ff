"""The API page: every public name of sk_advdef, by family."""

import inspect

import sk_advdef
import sk_advdef.nets

# The sub-package that a name lives in decides its family. One that is missing here is a
# KeyError, so that no public name is left without a page.
FAMILIES = {
    "squeezers": "Squeezers",
    "attacks": "Attacks",
    "training": "Training",
    "detection": "Detection",
    "concealment": "Concealment",
    "evaluation": "Evaluation",
    "_torch": "The differentiable view",
    "nets": "Nets",
}


def by_family():
    """Return {family: sorted names to document}."""
    families = {unit: [] for unit in FAMILIES}
    families["nets"] += [f"nets.{name}" for name in sk_advdef.nets.__all__]
    for name in sk_advdef.__all__:
        found = getattr(sk_advdef, name)
        if name == "__version__" or inspect.ismodule(found):
            continue
        families[found.__module__.split(".")[1]].append(name)
    return {FAMILIES[unit]: sorted(names) for unit, names in families.items() if names}


def page():
    """Return the page as reST."""
    lines = ["API reference", "=============", "", ".. currentmodule:: sk_advdef", ""]
    lines += ["Import names from ``sk_advdef``, and nets from ``sk_advdef.nets``."]
    for family, names in by_family().items():
        lines += ["", family, "-" * len(family), "", ".. autosummary::"]
        lines += ["   :toctree: generated", "", *(f"   {name}" for name in names)]
    return "\n".join(lines) + "\n"
