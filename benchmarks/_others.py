"""Attacks of other libraries, each as a function from rows to attacked rows."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from sk_advdef import as_module

Attacked = Callable[[np.ndarray, np.ndarray], np.ndarray]


class AsNet(nn.Module):
    """A fitted model as other libraries want it: float32 in and out, of any shape.

    ``shape`` is that of a sample as the model takes it.
    """

    def __init__(self, model: Any, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.view, self.shape = as_module(model), shape
        self.fused: Any = None

    def fuse(self, x: torch.Tensor) -> "AsNet":
        """Answer without gradients by a traced copy, whose steps are fused."""
        x = x.reshape(-1, *self.shape)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            wanted = self.view.eval()(x)  # also looks whether answers are random
            traced = torch.jit.trace(self.view, x, check_trace=False)
            self.fused = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
            torch.testing.assert_close(self.fused(x), wanted)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        asked = self.view
        if self.fused is not None and not torch.is_grad_enabled():
            asked = self.fused
        return asked(x.reshape(-1, *self.shape)).float()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed what other libraries draw from, and silence what they warn of."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def art_classifier(net: nn.Module, shape: tuple[int, ...]) -> Any:
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        net,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )


def pgd_of_foolbox(net: nn.Module, eps: float, steps: int, batch: int) -> Attacked:
    import foolbox

    attack = foolbox.attacks.LinfPGD(steps=steps, rel_stepsize=2.5 / steps)
    module = foolbox.PyTorchModel(net.eval(), bounds=(0, 1), device="cpu")

    def run(X: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = [
            attack(module, torch.tensor(X[i : i + batch]), labels, epsilons=eps)[1]
            for i, labels in batches(y, batch)
        ]
        return torch.cat(found).numpy()

    return run


def pgd_of_torchattacks(net: nn.Module, eps: float, steps: int, batch: int) -> Attacked:
    import torchattacks

    attack = torchattacks.PGD(net.eval(), eps=eps, alpha=2.5 * eps / steps, steps=steps)

    def run(X: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = [
            attack(torch.tensor(X[i : i + batch]), labels)
            for i, labels in batches(y, batch)
        ]
        return torch.cat(found).numpy()

    return run


def pgd_of_art(
    net: nn.Module, eps: float, steps: int, batch: int, shape: tuple[int, ...]
) -> Attacked:
    from art.attacks.evasion import ProjectedGradientDescent

    attack = ProjectedGradientDescent(
        art_classifier(net, shape),
        norm=np.inf,
        eps=eps,
        eps_step=2.5 * eps / steps,
        max_iter=steps,
        num_random_init=1,
        batch_size=batch,
        verbose=False,
    )
    return attack.generate


def batches(y: np.ndarray, size: int) -> Iterator[tuple[int, torch.Tensor]]:
    for i in range(0, len(y), size):
        yield i, torch.tensor(y[i : i + size])


def smallest_of_foolbox(
    name: str, net: nn.Module, X: np.ndarray, y: np.ndarray, **params: Any
) -> np.ndarray:
    """Rows that an L2 attack of foolbox makes."""
    import foolbox

    attack = getattr(foolbox.attacks, name)(**params)
    module = foolbox.PyTorchModel(net.eval(), bounds=(0, 1), device="cpu")
    found = attack(module, torch.tensor(X), torch.tensor(y), epsilons=None)
    return found[1].numpy()


def auto_attack(
    net: nn.Module,
    X: np.ndarray,
    y: np.ndarray,
    eps: float,
    attacks: list[str],
    batch: int,
) -> np.ndarray:
    """Rows that pyautoattack makes; images get a channel axis of their own."""
    from pyautoattack import AutoAttack

    suite = AutoAttack(net.eval(), eps=eps, seed=0, version="standard")
    suite.attacks_to_run = attacks
    shape = (1, *X.shape[1:]) if X.ndim == 3 else X.shape[1:]
    rows = torch.tensor(X).reshape(-1, *shape)
    with contextlib.redirect_stdout(None):
        found, _ = suite.run_standard_evaluation(
            rows, torch.tensor(y), batch_size=batch
        )
    return found.numpy().reshape(X.shape)


def jsma_of_art(
    net: nn.Module, shape: tuple[int, ...], theta: float, gamma: float, batch: int
) -> Attacked:
    from art.attacks.evasion import SaliencyMapMethod

    attack = SaliencyMapMethod(
        art_classifier(net, shape), theta, gamma, batch_size=batch, verbose=False
    )
    return attack.generate


def hop_skip_jump_of_art(model: Any, n_features: int, iterations: int) -> Attacked:
    """ART's attack on labels of a scikit-learn model."""
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import BlackBoxClassifierNeuralNetwork

    classifier = BlackBoxClassifierNeuralNetwork(
        lambda X: np.eye(10)[model.predict(X)],
        (n_features,),
        10,
        clip_values=(0, 1),
    )
    attack = HopSkipJump(
        classifier, max_iter=iterations, init_size=100, max_eval=1000, verbose=False
    )
    return attack.generate
