"""What adversarial training does inside the batch loop of a net."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch.nn import functional as F

from sk_advdef._progress import progress
from sk_advdef._torch._criteria import ScoreLoss
from sk_advdef._torch._loader import fast_iterator
from sk_advdef._torch._net import LiveModel
from sk_advdef._torch._net_view import output_kind, view_of_net
from sk_advdef._torch._resume import hooked, settings, take_part
from sk_advdef._validation import check_option
from sk_advdef.attacks._base import Attack
from sk_advdef.attacks._fgsm import FGSM
from sk_advdef.attacks._gradient import class_goal
from sk_advdef.attacks._pgd import LOSSES, PGD
from sk_advdef.attacks._scaled import scaled
from sk_advdef.training import _steps as steps
from sk_advdef.training import _watch, _weights
from sk_advdef.training._reach import Reach, Room

#: Length of the one step of a method, in radii, unless another is asked for.
ALPHAS = {"fast": 1.0, "fgsm-rs": 1.25, "free": 1.0}

#: Batches over which BatchNorm learns its statistics anew for averaged weights.
STATISTICS_BATCHES = 100


class Loop:
    """Hooks on a net: batches of raw rows come in, a part of them leaves attacked.

    Positions of classes stand for labels; ``before`` are the transformers before the
    net, through whose views rows go. ``held`` are rows to stop by, or None.
    """

    def __init__(
        self,
        owner: Any,
        net: Any,
        X: np.ndarray,
        codes: np.ndarray,
        *,
        attacks: list[Attack],
        classes: np.ndarray,
        before: list[Any],
        seed: int,
        held: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        self.owner, self.net = owner, net
        self.seed, self.attacks = seed, attacks
        codes = codes.astype(np.int64)
        genuine = np.isin(classes, owner.genuine_classes_)
        self.n_classes = len(classes)
        self.genuine = torch.tensor(genuine)
        self.live = LiveModel(net, before, len(classes), np.flatnonzero(genuine))
        self.X = X = self.live.as_rows(X)
        if held is not None:
            held = self.live.as_rows(held[0]), held[1]
        label = owner.adversarial_label
        self.own_class = None if label is None else int(np.searchsorted(classes, label))
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        #: of soft labels, where the criterion does not take them as it is
        self.loss = None
        if owner.method == "ccat" and output_kind(net) != "logits":
            self.loss = ScoreLoss(net)
            #: of all outputs, as the criterion takes them
            self.outputs = view_of_net(net, live=True)
        self._view = view_of_net(net, len(classes), live=True)
        self.reaches = [self._reach(attack, codes) for attack in attacks]
        count = _watch.HELD_STEPS
        if held is None:
            count = _watch.WATCHED_STEPS
            rows = self.rng.permutation(len(X))[: _watch.WATCHED_ROWS]
            held = X[rows], codes[rows]
        self.watched = held
        self.probes = [_watch.probe(attack, seed, count) for attack in attacks]
        self.best = _watch.Best(owner.n_iter_no_change)
        self.best_values: list[torch.Tensor] | None = None
        self.average = None
        if owner.averaging is not None:
            self.average = _weights.Average(owner.averaging, owner.averaging_decay)
        self.history: list[dict[str, float]] = []
        self.training = take_part(net, settings(owner), self)
        self.bar: Any = None
        self.turn = self.batch = 0
        self.batches = 1
        self.used = 1.0
        #: accuracy under one step at the end, where single steps are what is learned
        self.single: float | None = None
        self.iterator: Any = None
        #: of the batch at work: rows for TRADES, labels of confidence calibration
        self.rows: torch.Tensor | None = None
        self.targets: torch.Tensor | None = None
        self.change: torch.Tensor | None = None

    # --- attacked rows

    def _reach(self, attack: Attack, codes: np.ndarray) -> Reach | None:
        """Return the room that steps of our own move in; None leaves it to the attack.

        PGD and FGSM without a space are stepped here, to their last iterate.
        """
        if self.owner.method == "pgd" and not (
            type(attack) in (PGD, FGSM)
            and attack.space is None
            and not attack.targeted
            and getattr(attack, "goal", "fool") == "fool"
        ):
            return None
        return Reach(attack, self.X, codes, self.live)

    def _climbed(self, attack: Attack) -> steps.Climbed:
        loss = "ce"
        if self.owner.method == "pgd":
            loss = check_option(attack, "loss", attack.loss, LOSSES)
        if loss == "ce" and bool(self.genuine.all()):
            return steps.cross_entropy
        goal = class_goal(loss, self.genuine, targeted=False, reject=False)
        return lambda scores, y: goal(scores, scores, y)[0]

    def attacked(
        self, model: Any, x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, Room | None]:
        """Attack rows by the method, in the reach of the attack whose turn it is."""
        at = self.turn % len(self.attacks)
        attack, reach = self.attacks[at], self.reaches[at]
        if reach is None:
            return self._by_attack(scaled(attack, self.part), model, x, y), None
        room = reach.room(x, y, self.part)
        return self._stepped(attack, reach, room, model._as_module(), y), room

    def _stepped(
        self, attack: Attack, reach: Reach, room: Room, view: Any, y: torch.Tensor
    ) -> torch.Tensor:
        owner, drawn = self.owner, self.generator
        climbed = self._climbed(attack)
        if owner.method == "pgd":
            climb = attack._climb(reach)
            start = drawn if climb.random_start else None
            count, size = climb.steps, climb.step_size
            return steps.pgd(
                view, room, y, climbed, steps=count, alpha=size, generator=start
            )
        count, size = owner.steps, self._alpha()
        if owner.method == "trades":
            return steps.trades(view, room, steps=count, alpha=size, generator=drawn)
        if owner.method == "ccat":
            return steps.ccat(view, room, y, steps=count, alpha=size, generator=drawn)
        if owner.method == "fast":
            return steps.n_fgsm(
                view, room, y, climbed, k=owner.noise, alpha=size, generator=drawn
            )
        return steps.fgsm_rs(view, room, y, climbed, alpha=size, generator=drawn)

    def _alpha(self) -> float:
        """Length of a step, in radii."""
        if self.owner.relative_step_size is not None:
            return float(self.owner.relative_step_size)
        return ALPHAS.get(self.owner.method, 2.5 / self.owner.steps)

    def _by_attack(
        self, attack: Attack, model: Any, x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        if "random_state" in attack.get_params():
            # other starts in each batch, the same for the same seed
            seed = int(self.rng.integers(2**31))
            attack = clone(attack).set_params(random_state=seed)
        found = attack.rows_to_train_on(model, x.numpy(), y.numpy())
        return torch.from_numpy(np.asarray(found)).to(x.dtype)

    @property
    def part(self) -> float:
        """Part of the radius that is in force."""
        warmup = self.owner.eps_warmup
        epochs = len(self.history) + (self.batch + 1) / self.batches
        return 1.0 if not warmup else min(1.0, epochs / warmup)

    def mixed(self, model: Any, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        """Return rows and labels to learn from; leave what only a method needs."""
        owner, labels = self.owner, y.long()
        if owner.method == "trades":
            self.rows, _ = self.attacked(model, x, labels)
            return [x, y]
        ratio = owner._ratio()
        count = max(1, round(ratio * len(x)))
        if count == len(x):
            picked: Any = slice(None)
        else:
            picked = torch.from_numpy(np.sort(self.rng.permutation(len(x))[:count]))
        found, room = self.attacked(model, x[picked], labels[picked])
        if owner.method == "ccat":
            assert room is not None
            targets = F.one_hot(labels, self.n_classes).float()
            lengths = self.part * room.lengths(found).float()
            targets[picked] = steps.ccat_targets(
                labels[picked], lengths, self.n_classes, owner.rho
            )
            self.targets = targets
        given = x
        if count == len(x):
            x = found
        else:
            x = x.clone()
            x[picked] = found
        if self.own_class is not None:
            # what stayed as it was is genuine
            changed = (x != given).flatten(1).any(dim=1)
            y = torch.where(changed, self.own_class, y)
        return [x, y]

    # --- hooks

    def get_iterator(
        self, original: Callable[..., Any], dataset: Any, training: bool = False
    ) -> Any:
        """Cut batches out of the arrays at once."""
        iterator = fast_iterator(original, dataset, training=training)
        if training:
            self.iterator = iterator
            if hasattr(iterator, "__len__"):
                self.batches = max(1, len(iterator))
        return iterator

    def infer(self, original: Callable[..., Any], x: Any, **params: Any) -> Any:
        """Let rows go through the transformers before the net."""
        return original(self.live.inputs(x), **params)

    def train_step(
        self, original: Callable[..., Any], batch: Any, **params: Any
    ) -> Any:
        """Take a step on attacked rows; for "free" several, which attack as they go."""
        x, y = batch
        self.used = self.part
        if self.owner.method == "free":
            step = self._replayed(original, x, y, **params)
        else:
            step = original(self.mixed(self.live, x, y), **params)
            if self.average is not None and self.average.kind == "ema":
                self.average.update(self.net.module_)
        self.turn += 1
        self.batch += 1
        return step

    def _replayed(
        self,
        original: Callable[..., Any],
        x: torch.Tensor,
        y: torch.Tensor,
        **params: Any,
    ) -> Any:
        """Replay a batch; the pass that trains also says where the rows go next."""
        owner, n = self.owner, len(x)
        reach = self.reaches[self.turn % len(self.reaches)]
        assert reach is not None
        room = reach.room(x, y.long(), self.part)
        if self.change is None or len(self.change) < n:
            self.change = torch.zeros_like(x)
        alpha = self._alpha()
        for _ in range(owner.replays):
            moved = room.inside(x + self.change[:n])
            rows = room.point(moved).detach().requires_grad_()
            step = original([rows, y], **params)
            assert rows.grad is not None
            self.change[:n] = room.inside(room.up(moved, rows.grad, alpha)) - x
            if self.average is not None and self.average.kind == "ema":
                self.average.update(self.net.module_)
        return step

    def train_step_single(
        self, original: Callable[..., Any], batch: Any, **params: Any
    ) -> Any:
        """Gradient of the method's own loss, at weights that are moved where asked."""
        with self._moved(batch, **params):
            if self.owner.method not in ("trades", "ccat"):
                return original(batch, **params)
            self.net._set_training(True)
            loss, y_pred = self._loss(batch, **params)
            loss.backward()
            return {"loss": loss, "y_pred": y_pred}

    def _loss(self, batch: Any, **params: Any) -> tuple[torch.Tensor, Any]:
        net, (x, y) = self.net, batch
        y_pred = net.infer(x, **params)
        if self.owner.method == "ccat":
            return self._soft_loss(y_pred, x), y_pred
        loss = net.get_loss(y_pred, y, X=x, training=True)
        if self.owner.method == "trades":
            other = net.infer(self.rows, **params)
            apart = steps.kl_divergence(self._scores(y_pred), self._scores(other))
            loss = loss + self.owner.beta * apart.mean()
        return loss, y_pred

    def _scores(self, y_pred: Any) -> torch.Tensor:
        return self._view.scores(y_pred[0] if isinstance(y_pred, tuple) else y_pred)

    def _soft_loss(self, y_pred: Any, x: torch.Tensor) -> torch.Tensor:
        assert self.targets is not None
        targets = self.targets
        logits = y_pred[0] if isinstance(y_pred, tuple) else y_pred
        if self.loss is not None:
            return self.loss(self.outputs.scores(logits), targets)
        targets = F.pad(targets, (0, logits.shape[1] - targets.shape[1]))
        return self.net.get_loss(y_pred, targets.to(logits.device), X=x, training=True)

    def _moved(self, batch: Any, **params: Any) -> Any:
        gamma, module = self.owner.weight_perturbation, self.net.module_
        if not gamma:
            return nullcontext()
        weights = [w for w in module.parameters() if w.requires_grad and w.ndim > 1]
        buffers = [b.clone() for b in module.buffers()]
        self.net._set_training(True)
        loss, _ = self._loss(batch, **params)
        gradients = torch.autograd.grad(
            loss, weights, allow_unused=True, materialize_grads=True
        )
        # statistics are learned once a step, at the moved weights
        for buffer, value in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(value)
        return _weights.moved(weights, steps.awp_direction(weights, gradients, gamma))

    def on_epoch_begin(
        self, original: Callable[..., Any], *args: Any, **params: Any
    ) -> Any:
        """Stop where nothing better came for long."""
        if self.owner.early_stopping and self.best.is_over:
            if self.training is not None:
                self.training.is_under_way = False
            raise KeyboardInterrupt  # skorch's word for the end of training
        self.live.renew()
        return original(*args, **params)

    def on_epoch_end(
        self, original: Callable[..., Any], *args: Any, **params: Any
    ) -> Any:
        """Note what the net reaches, with the weights that it would be left with."""
        owner, net, average = self.owner, self.net, self.average
        epoch = len(self.history) + 1
        if average is not None and average.kind == "swa" and 2 * epoch > net.max_epochs:
            average.update(net.module_)
        values = None if average is None else average.values
        self.live.renew()
        with _weights.swapped(net.module_, values):
            reached = _watch.accuracies(
                self.live, *self.watched, self.probes, self.flagged
            )
            # a radius that still grows says nothing of what the whole one will leave
            whole = self.used >= 1
            if owner.early_stopping and whole and self.best.is_new(reached):
                self.best_values = _weights.kept(net.module_)
        self.history.append(reached)
        self.batch = 0
        for name, value in reached.items():
            net.history.record(name, value)
        if owner.eps_warmup:
            net.history.record("eps_part", self.used)
        self._show(reached)
        return original(*args, **params)

    def flagged(self, proba: np.ndarray) -> np.ndarray:
        """Tell which rows the net takes for adversarial."""
        if self.owner.method == "ccat":
            return _watch.uniform_share(proba) > 0.5
        if self.own_class is None:
            return np.zeros(len(proba), dtype=bool)
        return proba.argmax(axis=1) == self.own_class

    def _show(self, reached: dict[str, float]) -> None:
        if self.bar is None or self.bar.disable:
            return
        losses = [b["train_loss"] for b in self.net.history[-1]["batches"]]
        shown = {k.removesuffix("_accuracy"): f"{v:.3f}" for k, v in reached.items()}
        self.bar.set_postfix({"loss": f"{np.mean(losses):.3f}"} | shown)
        self.bar.update(len(self.history) - self.bar.n)

    # --- what a checkpoint holds

    def state_dict(self) -> dict[str, Any]:
        """Return all that was gathered so far."""
        average, best = self.average, self.best
        return {
            "history": self.history,
            "turn": self.turn,
            "change": self.change,
            "best": [*best.score, best.waited],
            "best_values": self.best_values,
            "average": None if average is None else [average.count, average.values],
            "rng": json.dumps(self.rng.bit_generator.state),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another process was."""
        self.history, self.turn = state["history"], state["turn"]
        self.change, self.best_values = state["change"], state["best_values"]
        *score, self.best.waited = state["best"]
        self.best.score = (score[0], score[1])
        if self.average is not None:
            self.average.count, self.average.values = state["average"]
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.generator.set_state(state["generator"].cpu())

    # --- the end

    def finish(self) -> None:
        """Leave the net with the weights that were asked for."""
        module = self.net.module_
        values = self.best_values
        if values is None and self.average is not None:
            values = self.average.values
        if values is not None:
            _weights.restore(module, values)
        if self.average is not None and _weights.has_batch_norm(module):
            _weights.relearn_statistics(
                module, self._statistics_batches(), self.net.infer
            )
        if self.owner.method in ALPHAS and self.history:
            reached = _watch.accuracies(
                *(self.live, *self.watched),
                [_watch.single_step(attack) for attack in self.attacks],
                self.flagged,
            )
            self.single = reached["attacked_accuracy"]

    def _statistics_batches(self) -> Iterator[torch.Tensor]:
        """Return rows as they enter training, attacked on the net as it is now."""
        # which is soon to lose its statistics: not when the first rows are asked for
        twin = LiveModel(
            _weights.twin_of(self.net), [], self.n_classes, self.live.genuine_classes_
        )
        twin.before = self.live.before
        return self._rows_attacked_on(twin)

    def _rows_attacked_on(self, twin: LiveModel) -> Iterator[torch.Tensor]:
        for x, y in islice(iter(self.iterator), STATISTICS_BATCHES):
            self.turn += 1
            if self.owner.method == "free":
                reach = self.reaches[self.turn % len(self.reaches)]
                assert reach is not None
                room = reach.room(x, y.long(), 1.0)
                yield steps.fgsm_rs(
                    twin._as_module(),
                    *(room, y.long(), steps.cross_entropy),
                    alpha=1.0,
                    generator=self.generator,
                )
                continue
            yield self.mixed(twin, x, y)[0]
            if self.owner.method == "trades":
                assert self.rows is not None
                yield self.rows


@contextmanager
def in_the_loop(
    owner: Any, net: Any, X: np.ndarray, codes: np.ndarray, **known: Any
) -> Iterator[Loop]:
    """Put a loop on a net, and let it finish unless training failed."""
    loop = Loop(owner, net, X, codes, **known)
    hooks: dict[str, Any] = {
        name: getattr(loop, name)
        for name in (
            "get_iterator",
            "infer",
            "train_step",
            "on_epoch_begin",
            "on_epoch_end",
        )
    }
    if owner.weight_perturbation or owner.method in ("trades", "ccat"):
        hooks["train_step_single"] = loop.train_step_single
    bar = progress(owner, owner.verbose, total=net.max_epochs, desc="epochs")
    with bar, hooked(net, **hooks):
        loop.bar = bar
        yield loop
        loop.finish()


def around(owner: Any, X: np.ndarray, loops: list[Loop], **known: Any) -> Any:
    """Make what ``fit_net`` puts around the epochs; the loop goes to ``loops``."""

    @contextmanager
    def wrapped(
        net: Any, Xt: Any, codes: np.ndarray, before: list[Any]
    ) -> Iterator[Any]:
        with in_the_loop(owner, net, X, codes, before=before, **known) as loop:
            loops.append(loop)
            yield loop.X

    return wrapped
