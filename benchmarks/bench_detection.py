"""Detectors on MNIST: Feinman et al. again, held out, and against who knows them.

Nets: those of Feinman et al. (arXiv:1703.00410) for MNIST, trained for 10 epochs by
Adadelta in batches of 128 from torch's initial weights, a seed each; products are in
bfloat16 while they are trained. Attacks are those of their repository: FGSM at 0.3; BIM
in 50 steps of 0.01 up to 0.3, its first iterate that is misclassified (A) or its last
(B); JSMA (theta 1, gamma 0.1) toward a class drawn at random; and the L2 attack of
Carlini and Wagner (untargeted, confidence 0, 2 constants of 100 steps), which their
repository lacks and the paper has. The last two are run on 500 rows, the others on
1,000: test rows that the net gets right. 50 passes; 20 draws of masks. An interval (2.5
to 97.5 %) is of figures under a draw of masks and of source rows at a time, with
replacement. On a quiet core a net takes about 20 minutes and who knows it 25.

- *As the paper scores it*: variance over the passes and the log-density of the last
  hidden layer (bandwidth 1.2, fitted on all training rows), in units of their standard
  deviation over all rows, in a logistic regression that is scored on the very rows it
  was fitted on. Positives are all attacked rows, failures too; negatives are the rows
  and noisy copies of them (Gaussian of the attack's mean length; for JSMA as many white
  pixels). "all" pools the attacks. For Carlini and Wagner noise is Gaussian.
- *Held out*: positives are successful attacks on rows that nothing was fitted on,
  negatives the rows and noisy copies of them, or the rows alone. "others" is a
  combination trained on rows of the other attacks only, "same" one trained on rows of
  all. "paper" combines variance and density, "dropout" the six statistics of the
  passes, "ours" these, the density and feature squeezing, each as the last stage of
  `CombinedDetector` does. TPR is at thresholds where 5 % and 1 % of the negatives are
  flagged. Baselines on the same rows: largest probability, margin of log-probabilities,
  smoothness (which asks no model). "useful" is where "ours", trained on the others, is
  ahead of all three, the interval of the lead above 0.
- *Shared against independent masks*: area under the curve (AUC) of the same rows under
  20 draws of each, as differences of draws.
- *Who knows it*: share of rows lost (wrong or rejected clean, or fooled and accepted),
  with thresholds where 1 % or 5 % of these rows are rejected clean. Attacks know net,
  detector and threshold: PGD of 30 steps by the margin in each of the four ways to join
  class and detector, for dropout through fresh masks too; the net alone also by
  cross-entropy. The small net has two convolutions of stride 2 and a hidden layer, with
  dropout, and is trained as it is or by PGD at 0.2 (5 steps). "ours" is
  `CombinedDetector` on variance, density, logit variance, lead and feature squeezing,
  "attacked longer" is PGD of 150 steps with a restart, and RandomSearch with 1,500
  queries; "hinges" the attack of Carlini and Wagner of 2017 (arXiv:1705.07263), one
  hinge on the margin for each mask, here as PGD in the same ball. Each figure is a
  lower bound: a better attack may only raise it.
"""

import functools
import json
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from benchmarks._detection_tables import table
from benchmarks._feinman import ATTACKS, EPS, Subject, mean_l2, small_net
from benchmarks._harness import arguments, unit
from benchmarks._pictures import pictures, short
from sk_advdef import (
    PGD,
    CombinedDetector,
    DensityDetector,
    DropoutUncertaintyDetector,
    FeatureSqueezingDetector,
    RandomSearch,
    RejectingClassifier,
    as_module,
    as_score_module,
    rejection_robust_error,
    robust_accuracy_score,
)
from sk_advdef._torch._models import class_scores
from sk_advdef.detection._base import Detector
from sk_advdef.detection._combined import location_and_scale
from sk_advdef.detection._dropout import (
    LOGIT_STATISTICS,
    NAMES,
    STATISTICS,
)
from sk_advdef.evaluation._detection import tpr_at_fpr

__all__ = ["main", "table"]

SETS = {
    "paper": ("variance", "density"),
    "dropout": NAMES,
    "ours": (*NAMES, "density", "squeezing"),
}
SINGLE = ("variance", "density", "squeezing")
BASELINES = ("probability", "margin", "smoothness")
#: The last is against the genuine rows alone, the others against noisy ones too.
METRICS = ("auc", "tpr 5%", "tpr 1%", "tpr 5% genuine")
LEVELS = (0.05, 0.01)


@functools.cache
def subject(setting: str, seed: int, folder: Any, quick: bool) -> Subject:
    return Subject(json.loads(setting), seed, folder, quick)


def of(setting: dict, seed: int, folder: Any, quick: bool) -> Subject:
    return subject(json.dumps(setting, sort_keys=True), seed, folder, quick)


# --- nets and rows


def net(**given: Any) -> dict[str, Any]:
    """Train a net, an epoch at a time."""
    found = of(**given)
    return {"accuracy": short(found.accuracy), "test_rows": found.n_rest}


def rows(*, attack: str, **given: Any) -> dict[str, Any]:
    """Attack the net; what is made is kept for the other units."""
    found = of(**given)
    attacked, noisy = found.attacked(attack), found.noisy(attack)
    X, y = found.X[: len(attacked)], found.y[: len(attacked)]
    fooled = found.model.predict(attacked) != y
    number = ATTACKS.index(attack)
    return {
        "rows": len(X),
        "accuracy_left": short(1 - fooled.mean()),
        "l2": short(mean_l2(attacked, X)),
        "noise_l2": short(mean_l2(noisy, X)),
        "learned_from": len(found.lesson.blocks[0]),
        "fooled_of_these": short(found.lesson.fooled[number]),
    }


# --- scores


class Figures:
    """Figures of several draws, and of source rows drawn again, one of each a time."""

    def __init__(self, n_draws: int, n_rows: int, repeats: int) -> None:
        rng = np.random.default_rng(0)
        self.draws = range(n_draws)
        self.again = [
            (
                int(rng.integers(n_draws)),
                np.bincount(rng.integers(n_rows, size=n_rows), minlength=n_rows),
            )
            for _ in range(repeats)
        ]
        self.once = np.ones(n_rows, dtype=int)

    def of(self, figure: Any) -> list[float]:
        """Return mean over the draws and the interval of ``figure(draw, counts)``.

        Where rows drawn again have no success among them there is no figure.
        """
        mean = np.mean([figure(draw, self.once) for draw in self.draws])
        again = np.array([figure(*drawn) for drawn in self.again])
        again = again[~np.isnan(again)]
        low, high = np.quantile(again, [0.025, 0.975]) if len(again) else (mean, mean)
        return [short(mean), short(low), short(high)]


def auc_of(genuine: np.ndarray, seen: np.ndarray) -> float:
    """Area under the curve; scores are higher for more genuine."""
    truth = np.repeat([0, 1], [len(genuine), len(seen)])
    return float(roc_auc_score(truth, -np.concatenate([genuine, seen])))


def as_the_paper(*, repeats: int, **given: Any) -> dict[str, Any]:
    """Score the paper's combination on the rows it was fitted on."""
    found, setting = of(**given), given["setting"]
    columns = {attack: [attack] for attack in ATTACKS} | {"all": list(ATTACKS)}
    odds: dict[tuple[str, int], Any] = {}
    for draw in range(setting["draws"]):
        scores = found.fixed | found.draw(draw)
        for column, attacks in columns.items():
            n = max(found.sources(attack) for attack in attacks)
            blocks = [
                ("genuine", np.arange(n), 0),
                *((f"{a} noise", np.arange(found.sources(a)), 0) for a in attacks),
                *((a, np.arange(found.sources(a)), 1) for a in attacks),
            ]
            given_scores = np.concatenate(
                [
                    np.stack([scores[s][b][: len(at)] for s in SETS["paper"]], axis=1)
                    for b, at, _ in blocks
                ]
            )
            truth = np.concatenate([np.full(len(at), t) for _, at, t in blocks])
            source = np.concatenate([at for _, at, _ in blocks])
            units = StandardScaler().fit_transform(given_scores)
            fitted = LogisticRegression().fit(units, truth)
            odds[column, draw] = fitted.decision_function(units), truth, source

    def figure(column: str, draw: int, counts: np.ndarray) -> float:
        values, truth, source = odds[column, draw]
        weights = counts[source]
        return float(roc_auc_score(truth, values, sample_weight=weights))

    figures = Figures(setting["draws"], len(found.X), repeats)
    return {column: figures.of(partial(figure, column)) for column in columns}


def combined(
    found: Subject, scores: dict, names: tuple, attacks: list[str]
) -> dict[str, np.ndarray]:
    """Fit the last stage of CombinedDetector; return minus its log-odds, by block."""

    def units(block: str) -> np.ndarray:
        columns = np.stack([scores[name][block] for name in names], axis=1)
        return np.arcsinh((columns - location) / scale)

    location, scale = location_and_scale(
        np.stack([scores[name]["learn genuine"] for name in names], axis=1)
    )
    learned = ["learn genuine", *(f"learn {a} noise" for a in attacks)]
    attacked = [f"learn {a}" for a in attacks]
    given = [units(block) for block in learned + attacked]
    target = np.repeat(
        [0] * len(learned) + [1] * len(attacked), [len(part) for part in given]
    )
    final = LogisticRegression(class_weight="balanced", max_iter=1000)
    final.fit(np.concatenate(given), target)
    judged = ("genuine", *ATTACKS, *(f"{a} noise" for a in ATTACKS))
    return {block: -final.decision_function(units(block)) for block in judged}


def held_out(*, repeats: int, **given: Any) -> dict[str, Any]:
    """Tell successful attacks on new rows from the rows."""
    found, n_draws = of(**given), given["setting"]["draws"]
    success = {
        a: np.flatnonzero(
            found.model.predict(found.attacked(a)) != found.y[: found.sources(a)]
        )
        for a in ATTACKS
    }
    #: {way: [of a draw: {attack: scores of genuine, noisy and attacked rows}]}
    ways: dict[str, list[dict[str, tuple[np.ndarray, ...]]]] = {}
    for draw in range(n_draws):
        scores = found.fixed | found.draw(draw)
        of_draw = {name: scores[name] for name in (*SINGLE, *BASELINES)}
        for name, columns in SETS.items():
            of_draw[f"{name}, same"] = combined(found, scores, columns, list(ATTACKS))
            others: dict[str, Any] = {}
            for attack in ATTACKS:
                rest = [a for a in ATTACKS if a != attack]
                without = combined(found, scores, columns, rest)
                others |= {f"{k} {attack}": v for k, v in without.items()}
            of_draw[f"{name}, others"] = others
        for name, blocks in of_draw.items():
            ways.setdefault(name, []).append(
                {a: _of_attack(blocks, a) for a in ATTACKS}
            )

    def figure(
        way: str, attack: str, metric: str, draw: int, counts: np.ndarray
    ) -> float:
        genuine, noisy, attacked = ways[way][draw][attack]
        rows = success[attack]
        seen = np.repeat(attacked[rows], counts[rows])
        known = np.repeat(genuine, counts[: len(genuine)])
        if "genuine" not in metric:
            known = np.r_[known, np.repeat(noisy, counts[: len(noisy)])]
        if not len(seen):
            return np.nan
        if metric == "auc":
            return auc_of(known, seen)
        return tpr_at_fpr(known, seen, 0.01 if "1%" in metric else 0.05)

    def lead(attack: str, metric: str, draw: int, counts: np.ndarray) -> float:
        ours, *others = (
            figure(way, attack, metric, draw, counts)
            for way in ("ours, others", *BASELINES)
        )
        return ours - max(others)

    figures = Figures(n_draws, len(found.X), repeats)
    return {
        "successes": {a: len(success[a]) for a in ATTACKS},
        "lead": {
            a: {m: figures.of(partial(lead, a, m)) for m in METRICS}
            for a in ATTACKS
            if len(success[a])
        },
        "ways": {
            way: {
                a: {m: figures.of(partial(figure, way, a, m)) for m in METRICS}
                for a in ATTACKS
                if len(success[a])
            }
            for way in ways
        },
    }


def _of_attack(blocks: dict[str, np.ndarray], attack: str) -> tuple[np.ndarray, ...]:
    """Return scores of as many genuine rows as were attacked, noisy and attacked."""
    names = ("genuine", f"{attack} noise", attack)
    if f"genuine {attack}" in blocks:  # by a combination that did not learn from it
        names = tuple(f"{name} {attack}" for name in names)
    genuine, noisy, attacked = (blocks[name] for name in names)
    return genuine[: len(attacked)], noisy, attacked


# --- masks


def masks(*, rows: int, **given: Any) -> dict[str, Any]:
    """Compare AUC under shared and under independent masks, draw by draw."""
    found, setting = of(**given), given["setting"]
    figures: dict[str, Any] = {}
    for attack in ("FGSM", "BIM-A", "BIM-B"):
        attacked = found.attacked(attack)[:rows]
        fooled = found.model.predict(attacked) != found.y[: len(attacked)]
        genuine, seen = found.X[:rows], attacked[fooled]
        areas: dict[str, list[list[float]]] = {"shared": [], "independent": []}
        for draw in range(setting["draws"]):
            shared = found.draw(draw)
            areas["shared"].append(
                [
                    auc_of(
                        shared[n]["genuine"][:rows], shared[n][attack][:rows][fooled]
                    )
                    for n in NAMES
                ]
            )
            apart = independent(found.model, [genuine, seen], setting["passes"], draw)
            areas["independent"].append(
                [auc_of(*(-part[:, i] for part in apart)) for i in range(len(NAMES))]
            )
        figures[attack] = {}
        for i, name in enumerate(NAMES):
            one, other = (np.array(areas[k])[:, i] for k in ("shared", "independent"))
            # draws of one kind and of the other have nothing to do with each other
            error = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / len(one))
            figures[attack][name] = {
                "shared": short(one.mean()),
                "independent": short(other.mean()),
                "spread": [short(one.std(ddof=1)), short(other.std(ddof=1))],
                "difference": short((one - other).mean()),
                "half_interval": short(1.96 * error),
            }
    return figures


def independent(
    model: Any, blocks: list[np.ndarray], passes: int, seed: int
) -> list[np.ndarray]:
    """Statistics of passes that draw a mask for each row, as dropout in training."""
    layers = model.net_.module_.layers
    first = next(i for i, m in enumerate(layers) if isinstance(m, torch.nn.Dropout))
    found = []
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        for block in blocks:
            parts = []
            for x in torch.tensor(block).split(250):
                hidden = layers[:first](x[:, None])
                logits = torch.stack(
                    [_dropped(layers[first:], hidden) for _ in range(passes)]
                )
                logits = logits.numpy().astype(np.float64)
                proba = np.exp(logits - logits.max(-1, keepdims=True))
                proba /= proba.sum(-1, keepdims=True)
                parts.append(
                    np.stack(
                        [
                            STATISTICS[n](proba)
                            if n in STATISTICS
                            else LOGIT_STATISTICS[n](logits)
                            for n in NAMES
                        ],
                        axis=1,
                    )
                )
            found.append(np.concatenate(parts))
    return found


def _dropped(layers: Any, x: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        if isinstance(layer, torch.nn.Dropout):
            x = torch.nn.functional.dropout(x, layer.p, training=True)
        else:
            x = layer(x)
    return x


# --- who knows it


class SoftmaxDetector(Detector):
    """The largest class probability, by its logarithm: a baseline."""

    def __init__(
        self,
        estimator: Any = None,
        *,
        contamination: float = 0.05,
        cv: Any = 0.2,
        random_state: Any = None,
    ) -> None:
        self.estimator, self.contamination = estimator, contamination
        self.cv, self.random_state = cv, random_state

    def _raw_scores(self, X: Any) -> np.ndarray:
        scores = class_scores(self.estimator_, X)
        return scores.max(axis=1) - np.logaddexp.reduce(scores, axis=1)

    def _as_score_module(self) -> torch.nn.Module:
        return _Softmax(as_module(self.estimator_))


class _Softmax(torch.nn.Module):
    def __init__(self, view: torch.nn.Module) -> None:
        super().__init__()
        self.view = view

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.view(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.view(x).double().log_softmax(dim=1).amax(dim=1)


def detector_of(name: str, passes: int, eps: float) -> Any:
    dropout = partial(DropoutUncertaintyDetector, n_passes=passes)
    density = DensityDetector(random_state=0)
    if name == "softmax":
        return SoftmaxDetector(random_state=0)
    if name == "dropout":
        return dropout(random_state=0)
    if name == "density":
        return density
    named = [("variance", dropout()), ("density", density)]
    if name == "ours":
        named += [
            ("logits", dropout(statistic="logit_variance")),
            ("lead", dropout(statistic="logit_margin")),
            ("squeezing", FeatureSqueezingDetector()),
        ]
    attack = [PGD(eps, steps=20), PGD(eps, steps=20, early_stop=False)]
    return CombinedDetector(named, attack=attack, cv=0.5, random_state=0)


def known(
    *,
    model: str,
    detector: str,
    eps: float,
    rows: int,
    steps: int,
    passes: int,
    small: list | None,
    setting: dict,
    seed: int,
    folder: Any,
    quick: bool,
    restarts: int = 1,
    queries: int = 0,
) -> dict[str, Any]:
    """Attack a net and its detector by who knows both."""
    if model == "feinman":
        found = of(setting, seed, folder, quick)
        net, held, X, y = found.model, found.held, found.X[:rows], found.y[:rows]
    else:
        assert small is not None
        width, (data, n_train, epochs, n_test), n_held = small
        train = (data, n_train, epochs, n_test)
        net = small_net(model, width, train, folder, quick)
        *_, X_test, y_test = pictures(data, folder, n_train, n_test)
        held, X, y = (
            X_test[:n_held],
            *(part[n_held : n_held + rows] for part in (X_test, y_test)),
        )
    climb = partial(PGD, eps, steps=steps, loss="margin", random_state=0)
    attacks: list[Any] = [climb(restarts=restarts)]
    if queries:
        attacks.append(RandomSearch(eps, max_queries=queries, random_state=0))
    figures = {"rows": len(X), "accuracy": short((net.predict(X) == y).mean())}
    if detector == "none":
        both = [*attacks, climb(loss="ce")]
        error = 1 - robust_accuracy_score(net, X, y, attack=both)
        return figures | {"error": {"0": short(error)}}
    frozen = FrozenEstimator(net)
    found = RejectingClassifier(frozen, detector_of(detector, passes, eps)).fit(held)
    if getattr(found.detector_, "masks", None) == "fixed":
        attacks.append(climb(masks="fresh"))
    errors = rejection_robust_error(found, X, y, attack=attacks, clean_rejection=LEVELS)
    figures["error"] = {str(level): short(error) for level, error in errors.items()}
    blind = climb(early_stop=False).run(net, X, y)
    scores = found.detector_.score_samples
    genuine, seen = scores(X), scores(blind.X_adv)
    figures["ignoring"] = {
        str(level): short(
            _lost(genuine, seen, blind.fooled, net.predict(X) == y, level)
        )
        for level in LEVELS
    }
    return figures


def _lost(
    genuine: np.ndarray,
    seen: np.ndarray,
    fooled: np.ndarray,
    right: np.ndarray,
    level: float,
) -> float:
    """Share of rows lost to rows that were made without a look at the detector."""
    offset = np.sort(genuine)[int(level * len(genuine) * (1 + 1e-12))]
    return float((~right | (genuine < offset) | (fooled & (seen >= offset))).mean())


def hinges(
    *,
    eps: float,
    rows: int,
    steps: int,
    passes: int,
    setting: dict,
    seed: int,
    folder: Any,
    quick: bool,
) -> dict[str, Any]:
    """The attack of 2017: every sub-network is to answer another class."""
    found = of(setting, seed, folder, quick)
    X, y = found.X[:rows], found.y[:rows]
    detector = detector_of("dropout", passes, eps).set_params(estimator=found.frozen)
    detector.fit(found.held)
    passes_of, view = as_score_module(detector), as_module(found.model)
    genuine, lost = detector.score_samples(X), {}
    best: dict[float, np.ndarray] = {level: np.zeros(len(X), bool) for level in LEVELS}
    offsets = {
        level: np.sort(genuine)[int(level * len(X) * (1 + 1e-12))] for level in LEVELS
    }
    x = center = torch.tensor(X)
    label = torch.tensor(y)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        logits = torch.cat([passes_of.scores(x), view(x)[None]])
        own = torch.nn.functional.one_hot(label, logits.shape[-1]).bool()
        margin = (
            logits.masked_fill(own, -torch.inf).amax(-1)
            - logits.gather(-1, label.expand(len(logits), -1)[..., None])[..., 0]
        )
        hinge = margin.clamp(max=1.0).sum()
        x = x.detach() + 2.5 * eps / steps * torch.autograd.grad(hinge, x)[0].sign()
        x = torch.clamp(x, center - eps, center + eps).clamp(0, 1)
        tried = x.numpy()
        wrong, scores = found.model.predict(tried) != y, detector.score_samples(tried)
        for level in LEVELS:
            best[level] |= wrong & (scores >= offsets[level])
    for level in LEVELS:
        lost[str(level)] = short((best[level] | (genuine < offsets[level])).mean())
    return {"rows": len(X), "error": lost}


def tasks(quick: bool) -> list[tuple[str, dict[str, Any], Any]]:
    """Return (name, params, function) of all units, the most telling ones first."""
    cw = {
        **{"binary_search_steps": 2, "steps": 100, "learning_rate": 0.05},
        "initial_const": 1.0,
    }
    setting = {
        **{"data": "mnist", "part": 1.0, "epochs": 10, "train": 60000, "held": 1000},
        **{"pool": 3000, "rows": 1000, "few": 500, "draws": 20, "passes": 50},
        **{"bandwidth": 1.2, "cw": cw},
    }
    small: list[Any] = [16, ["mnist", 60000, 6, 4000], 2000]
    many, few, steps, repeats, n_nets = 200, 100, 30, 200, 3
    knows = [
        *(
            ("small", d)
            for d in ("none", "softmax", "dropout", "density", "paper", "ours")
        ),
        *(("trained", d) for d in ("none", "softmax", "ours")),
    ]
    of_feinman = ["none", "dropout", "density", "paper", "ours"]
    if quick:
        cw |= {"binary_search_steps": 1, "steps": 20}
        setting |= {"data": "digits", "part": 0.125, "epochs": 10, "train": 800}
        setting |= {"held": 80, "pool": 80, "rows": 24, "few": 12, "draws": 2}
        setting |= {"passes": 6}
        small = [4, ["digits", 200, 3, 200], 100]
        many, few, steps, repeats, n_nets = 12, 10, 3, 3, 1
        knows, of_feinman = [("small", "softmax"), ("trained", "softmax")], ["ours"]
    common = {"passes": setting["passes"], "setting": setting, "seed": 0}

    def of_net(seed: int) -> list[tuple[str, dict[str, Any], Any]]:
        own = {"setting": setting, "seed": seed}
        return [
            (f"net-{seed}-training", own, net),
            *(
                (f"net-{seed}-rows-{a.lower()}", own | {"attack": a}, rows)
                for a in ATTACKS
            ),
            (f"net-{seed}-paper", own | {"repeats": repeats}, as_the_paper),
            (f"net-{seed}-held-out", own | {"repeats": repeats}, held_out),
        ]

    of_knowing = [
        (
            f"knows-{model}-{detector}",
            {"model": model, "detector": detector, "eps": 0.2, "rows": many}
            | {"steps": steps, "small": small}
            | common,
            known,
        )
        for model, detector in knows
    ]
    harder = {"eps": EPS, "rows": few, "steps": steps} | common
    return [
        *of_net(0),
        *of_knowing,
        (
            "knows-small-ours-longer",
            {"model": "small", "detector": "ours", "eps": 0.2, "rows": few // 2}
            | {"steps": 5 * steps, "restarts": 2, "queries": 50 * steps}
            | {"small": small}
            | common,
            known,
        ),
        *(
            (
                f"knows-feinman-{detector}",
                harder
                | {"model": "feinman", "detector": detector, "small": None}
                # five detectors, four ways: hours for more
                | ({"rows": few // 4} if detector == "ours" else {}),
                known,
            )
            for detector in of_feinman
        ),
        ("knows-feinman-hinges", harder, hinges),
        ("masks", {"rows": setting["few"], "setting": setting, "seed": 0}, masks),
        *(task for seed in range(1, n_nets) for task in of_net(seed)),
    ]


def main() -> None:
    given = arguments(__doc__)
    run = partial(unit, "detection", quick=given.quick)
    units = [
        run(name, params, partial(function, folder=given.data, quick=given.quick))
        for name, params, function in tasks(given.quick)
        if name.startswith(given.only)
    ]
    print(table(units))


if __name__ == "__main__":
    main()
