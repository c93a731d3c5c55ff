"""Settings that must be made before anything heavy is imported, and shared fixtures."""

import os
import random
import sys

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SK_ADVDEF_SECRET", "a secret for tests, not for use")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: more threads each would only slow all of them.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

import hypothesis
import numpy as np
import pytest

# A shared machine is at times too slow for any deadline. Under CI the examples are the
# same at every run, so that a change is judged for what it changed.
hypothesis.settings.register_profile(
    "sk_advdef", deadline=None, derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("sk_advdef")


@pytest.fixture
def global_generators():
    """Fail a test that moves a global random generator."""
    python_state = random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    torch = sys.modules.get("torch")
    torch_state = None if torch is None else torch.random.get_rng_state()
    yield
    assert random.getstate() == python_state, "random was used"
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    np.testing.assert_equal(after, numpy_state, "numpy.random was used")
    if torch is not None:
        after = torch.random.get_rng_state()
        assert torch.equal(after, torch_state), "torch's global generator was used"
