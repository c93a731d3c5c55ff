"""Every public docstring is complete numpydoc, with an example."""

import inspect

import pytest
from numpydoc.validate import validate
from sklearn.base import BaseEstimator

import sk_advdef
import sk_advdef.nets

IGNORED = {
    "ES01",  # an extended summary only where one is needed
    "GL01",  # the summary starts on the line of the opening quotes, as PEP 257 shows
    "RT02",  # what is returned has a name, as in scikit-learn
    "SA01",  # See Also only where there is something to see
}
# Methods are shown at work in the example of their class.
IGNORED_FOR_METHODS = IGNORED | {"EX01"}

DEFENCES = ("squeezers", "training", "detection", "concealment")
ADAPTIVE = "What an adaptive attacker does to it"


def public_objects():
    for name in sk_advdef.__all__:
        found = getattr(sk_advdef, name)
        if inspect.isclass(found) or inspect.isroutine(found):
            yield f"sk_advdef.{name}", found
    for name in sk_advdef.nets.__all__:
        yield f"sk_advdef.nets.{name}", getattr(sk_advdef.nets, name)


OBJECTS = dict(public_objects())


def public_methods(cls):
    """Yield the names of methods and properties that sk_advdef itself defines."""
    for name in sorted(set(dir(cls))):
        if name.startswith("_"):
            continue
        owner = next((c for c in cls.__mro__ if name in vars(c)), None)
        if owner is None or not owner.__module__.startswith("sk_advdef"):
            continue
        member = inspect.getattr_static(cls, name)
        is_method = isinstance(member, (property, classmethod, staticmethod))
        if is_method or inspect.isroutine(member):
            yield name


METHODS = [
    f"{path}.{method}"
    for path, found in OBJECTS.items()
    if inspect.isclass(found)
    for method in public_methods(found)
]


def complaints(path, ignored):
    errors = validate(path)["errors"]
    return [f"{code}: {text}" for code, text in errors if code not in ignored]


@pytest.mark.parametrize("path", OBJECTS)
def test_docstring(path):
    found = complaints(path, IGNORED)
    assert not found, f"{path}: {found}"


@pytest.mark.parametrize("path", METHODS)
def test_docstring_of_method(path):
    found = complaints(path, IGNORED_FOR_METHODS)
    assert not found, f"{path}: {found}"


@pytest.mark.parametrize("path", OBJECTS)
def test_defence_says_what_an_adaptive_attacker_does(path):
    found = OBJECTS[path]
    is_estimator = inspect.isclass(found) and issubclass(found, BaseEstimator)
    if is_estimator and found.__module__.split(".")[1] in DEFENCES:
        assert ADAPTIVE in inspect.getdoc(found)
