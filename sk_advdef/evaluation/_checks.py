"""Checks of a model's answers, gradients and rejections: figures in, finding out.

Each check is a function of shares of rows in [0, 1] (or counts), with a threshold of
its own above it.
"""

from __future__ import annotations

from sk_advdef.evaluation._diagnosis import Finding

#: Share of rows whose label may differ between two calls.
CHANGED_LABELS = 0.005


def repeats(labels: float, scores: float) -> Finding | None:
    """Labels or scores that differ between two calls on the same rows.

    ``labels`` and ``scores`` are the shares of rows in which they do.
    """
    if max(labels, scores) <= CHANGED_LABELS:
        return None
    return Finding(
        "outputs_change",
        "severe" if labels > CHANGED_LABELS else "warning",
        f"Between calls on the same rows {labels:.1%} of the labels and {scores:.1%} "
        "of the scores changed.",
        "The defence answers at random. An attack that follows one draw follows noise, "
        "and an attacker who may ask again needs to be lucky only once.",
        "Average over the randomness in attacks (as_module.register(..., random=True) "
        "does), attack with the randomness fixed too, and judge repeated calls.",
    )


def ignores_company(labels: float) -> Finding | None:
    """Labels that depend on which other rows are in the same call."""
    if labels <= CHANGED_LABELS:
        return None
    return Finding(
        "depends_on_batch",
        "severe",
        f"{labels:.1%} of the labels changed when rows were asked in another company.",
        "Rows influence each other, as with batch normalization left in training mode: "
        "an attack on many rows at once attacks another model than one row alone.",
        "Put the model in evaluation mode, and predict each row by itself.",
    )


#: Share of verdicts that may change when the masks are drawn again.
CHANGED_VERDICTS = 0.05


def ignores_masks(verdicts: float) -> Finding | None:
    """Verdicts of a dropout detector that hang on the draw of its masks."""
    if verdicts <= CHANGED_VERDICTS:
        return None
    return Finding(
        "depends_on_masks",
        "warning",
        f"{verdicts:.1%} of the answers changed when the masks were drawn again.",
        "The verdict hangs on one draw, so that figures from it say little of others.",
        "Raise n_passes, and evaluate with several random_state.",
    )


def has_gradient(missing: str, *, trees: bool) -> Finding | None:
    """Whether gradient attacks could be run at all; ``missing`` says why not."""
    if not missing:
        return None
    exact = "TreeExact gives the exact answer. Else: " if trees else ""
    return Finding(
        "no_gradient",
        "note" if trees else "warning",
        missing,
        "No gradient attack was run. What only asks is weaker, so the accuracy it "
        "leaves is the less of an upper bound to rely on.",
        f"{exact}register a differentiable view (as_module.register), attack a "
        "surrogate (Transfer), and give query attacks more queries.",
    )


#: Share of rows in which view and ``predict`` may answer differently.
VIEW_DIFFERS = 0.02


def view_agrees(clean: float, attacked: float) -> Finding | None:
    """Compare view and ``predict``, on clean and on changed rows."""
    if max(clean, attacked) <= VIEW_DIFFERS:
        return None
    return Finding(
        "view_disagrees",
        "severe",
        f"The differentiable view and predict differ in {clean:.1%} of the rows as "
        f"they are and {attacked:.1%} of attacked rows.",
        "Gradient attacks fool another model than the one that answers.",
        "Correct the registered view, or look for steps in predict that it leaves out.",
    )


#: Share of rows whose gradient may be unusable.
DEAD_GRADIENT = 0.1


def gradient_flows(zero: float, bad: float) -> Finding | None:
    """Rows whose gradient, even of the margin, is all zero or not finite."""
    if zero + bad < DEAD_GRADIENT:
        return None
    return Finding(
        "zero_gradient",
        "severe",
        f"The gradient of the margin is zero in {zero:.1%} of the rows and not finite "
        f"in {bad:.1%}.",
        "Gradient attacks stand still there. The gradient is hidden, as by rounding or "
        "a sign; the model is not the harder to fool for it.",
        "Give the step a gradient (straight through, arXiv 1802.00420), and rely on "
        "RandomSearch, HopSkipJump and Transfer.",
    )


def cross_entropy_flows(dead: float, margin_dead: float) -> Finding | None:
    """Rows in which the cross-entropy's gradient is lost and the margin's is not."""
    if dead - margin_dead < DEAD_GRADIENT:
        return None
    return Finding(
        "vanishing_cross_entropy",
        "warning",
        f"The gradient of the cross-entropy is zero or not finite in {dead:.1%} of the "
        f"rows, that of the margin in {margin_dead:.1%}.",
        "The softmax is so sure that its gradient underflows: attacks on the "
        "cross-entropy stand still without the model being harder to fool.",
        'Attack the margin (PGD(loss="margin"), APGD(loss="dlr-t")), or divide the '
        "logits by a temperature.",
    )


#: Shares of rows with a saturated softmax that deserve a note, and a warning.
SATURATED_NOTE, SATURATED_WARNING = 0.1, 0.5


def is_unsaturated(share: float) -> Finding | None:
    """Rows whose softmax is 1 to float32 precision."""
    if share < SATURATED_NOTE:
        return None
    return Finding(
        "saturated_scores",
        "warning" if share >= SATURATED_WARNING else "note",
        f"In {share:.1%} of the rows the highest probability is 1 within rounding.",
        "Scores as sure as these carry little gradient and little for an attacker who "
        "asks; attacks on the cross-entropy and on predict_proba may fail for it.",
        "Attack the margin of the logits, and do not rely on the cross-entropy.",
    )


def are_logits(probabilities: bool) -> Finding | None:
    """Find a view that returns probabilities where logits belong."""
    if not probabilities:
        return None
    return Finding(
        "probabilities_as_scores",
        "warning",
        "The scores of the view lie in [0, 1] and sum to 1 in every row.",
        "A softmax on top of a softmax flattens the gradient of the cross-entropy.",
        "Let the module end in logits.",
    )


def beats_constant(clean: float, largest: float) -> Finding | None:
    """Clean accuracy no better than one answer for all rows."""
    if clean > largest or largest == 1:  # of one class nothing can be told
        return None
    return Finding(
        "useless_when_clean",
        "warning",
        f"Clean accuracy is {clean:.1%}; the most frequent class has {largest:.1%}.",
        "What answers the same to everything cannot be fooled, and is of no use.",
        "Report accuracy under attack beside clean accuracy, on the same rows.",
    )


#: Number of right rows below which a figure is no more than an anecdote.
FEW_ROWS = 30


def has_rows(right: int) -> Finding | None:
    """Too few rows that are right, and can thus be lost, to say anything."""
    if right >= FEW_ROWS:
        return None
    return Finding(
        "few_rows",
        "note",
        f"Only {right} rows are answered right.",
        "Shares of so few rows mean little, and most checks cannot speak.",
        "Pass more rows.",
    )


#: Shares of genuine rows rejected that deserve a warning, and are severe.
REJECTED_WARNING, REJECTED_SEVERE = 0.2, 0.5


def accepts_genuine(rejected: float) -> Finding | None:
    """Find a defence that rejects much of what is genuine."""
    if rejected <= REJECTED_WARNING:
        return None
    return Finding(
        "rejects_genuine",
        "severe" if rejected > REJECTED_SEVERE else "warning",
        f"{rejected:.1%} of the genuine rows are rejected.",
        "Attacks fail against it because nearly nothing is answered.",
        "Set the threshold on genuine rows that neither model nor detector has seen, "
        "and compare at equal clean rejection (rejection_robust_error).",
    )


def accepts_noisy(rejected: float, size: float) -> Finding | None:
    """Find a defence that rejects genuine rows with a little noise on them.

    ``size`` is that of the noise in parts of eps, ``rejected`` the share of rows that
    were right and no longer are accepted.
    """
    if rejected <= REJECTED_WARNING:
        return None
    return Finding(
        "rejects_noise",
        "severe" if rejected > REJECTED_SEVERE else "warning",
        f"Random noise of {size:g} eps gets {rejected:.1%} of the right rows rejected.",
        "Rows beside genuine ones count as attacks: any change is flagged, harmful or "
        "not, and everyday noise stops the service.",
        "Judge detectors with noisy genuine rows among the genuine ones.",
    )


#: Share of rows from nowhere that are accepted by a detector that minds neighbors only.
FAR_ACCEPTED = 0.5


def flags_far_rows(rejected_near: float, accepted_far: float) -> Finding | None:
    """Find a detector that flags what is near genuine rows and accepts the rest.

    ``accepted_far`` is the share of rows drawn at random from the box that it accepts.
    """
    if rejected_near <= REJECTED_WARNING or accepted_far < FAR_ACCEPTED:
        return None
    return Finding(
        "flags_near_rows_only",
        "severe",
        f"{rejected_near:.1%} of slightly noisy genuine rows are rejected, and "
        f"{accepted_far:.1%} of rows drawn at random from the whole box are accepted.",
        "The detector knows small changes, not adversarial rows: a larger change gets "
        "past it.",
        "Attack with larger eps, and look at accepted wrong answers over eps.",
    )
