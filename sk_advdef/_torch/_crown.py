"""Lower bounds of leads between classes by CROWN, with slopes searched for each.

Zhang et al., "Efficient Neural Network Robustness Certification with General Activation
Functions", 2018, arXiv:1811.00866; the search for slopes as in Xu et al., "Fast and
Complete: Enabling Complete Neural Network Verification with Rapid and Massively
Parallel Incomplete Verifiers", 2021, arXiv:2011.13824.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sk_advdef._torch._interval import NoBoundsError
from sk_advdef._torch._lined import Ends, Ledger, Lined
from sk_advdef._torch._propagation import propagate, ties

#: Steps of a search, the size of the first, and what each is of the one before.
STEPS, STEP_SIZE, DECAY = 20, 0.1, 0.98

#: Most rows that are bounded together, and most slopes that are searched together.
ROWS_AT_A_TIME, MANY_SLOPES = 64, 2_000_000


class Pass:
    """Rows that went through a view, to be followed backward from any lead.

    Parameters
    ----------
    view : nn.Module
        From rows to scores.
    ends : tuple of tensors (lower, upper)
        The boxes, a row each.
    about : dict
        ``dtype`` and ``unit`` of the rows as the view gets them.
    slopes : sequence of torch.Tensor
        Those to begin with.
    refines : bool, default=False
        Whether what goes into each ReLU is bounded backward too; for one row.
    """

    def __init__(
        self,
        view: nn.Module,
        ends: Ends,
        about: dict[str, Any],
        *,
        slopes: Sequence[torch.Tensor] = (),
        refines: bool = False,
    ) -> None:
        self.ledger = Ledger(len(ends[0]), list(slopes), refines)
        # as intervals go through it, for a module may ask whether gradients are on
        with torch.no_grad():
            try:
                box = Lined.start(*ends, self.ledger, raw=True, **about)
                scores = propagate(view, box)
            except RuntimeError as error:
                raise NoBoundsError(
                    f"{type(view).__name__} cannot be bounded by CROWN: {error}. Take "
                    'method="ibp".'
                ) from error
        assert scores.point is not None
        self.scores, self.ties = scores.point, ties(scores).to(self.account)

    @property
    def account(self) -> torch.Tensor:
        """What is charged to each row."""
        return self.ledger.account

    def bounds(
        self, own: torch.Tensor, other: torch.Tensor, *, learn: bool = False
    ) -> torch.Tensor:
        """Return lower bounds of the lead of one class of each row over another.

        They are those under the slopes as they are, which may ``learn`` from them.
        """
        rows, own, other = (
            columns.to(self.scores.device)
            for columns in (torch.arange(len(own)), own, other)
        )
        lead = (self.scores[rows, own] - self.scores[rows, other]).to(self.account)
        (charge,) = torch.autograd.grad(
            lead.sum(), self.account, create_graph=learn, retain_graph=True
        )
        return lead.detach() + charge - self.ties

    def search(self, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Raise each bound by its own slopes until it is above 0; leave the best ones.

        What a row finds does not depend on the others, where rows stay apart.
        """
        slopes = self.ledger.slopes
        best = [slope.detach().clone() for slope in slopes]
        found = torch.full_like(self.account, -torch.inf).detach()
        step = torch.optim.Adam(slopes, lr=STEP_SIZE) if slopes else None
        for left in reversed(range(STEPS + 1)):
            bounds = self.bounds(own, other, learn=left > 0)
            better = (bounds.detach() > found) & ~(found > 0)
            found = torch.where(better, bounds.detach(), found)
            for kept, slope in zip(best, slopes, strict=True):
                if len(better) == 1:  # wherever it is, all of it is its own
                    kept.copy_(slope.detach() if bool(better) else kept)
                else:
                    at = better.to(kept.device)
                    kept[at] = slope.detach()[at]
            # a lead that owes nothing to any ReLU has nothing to learn
            if step is None or not bounds.requires_grad or bool((found > 0).all()):
                break
            grads = torch.autograd.grad(
                -bounds.sum(), slopes, retain_graph=True, allow_unused=True
            )
            for slope, grad in zip(slopes, grads, strict=True):
                slope.grad = grad
            step.step()
            step.param_groups[0]["lr"] *= DECAY
            with torch.no_grad():
                for slope in slopes:
                    slope.clamp_(0, 1)
        with torch.no_grad():
            for slope, kept in zip(slopes, best, strict=True):
                slope.copy_(kept)
        return found


@torch.enable_grad()
def raise_leads(
    view: nn.Module,
    ends: Ends,
    own: torch.Tensor,
    leads: torch.Tensor,
    *,
    about: dict[str, Any],
    refines: bool,
) -> torch.Tensor:
    """Raise lower bounds of a class's leads, of rows where one is not above 0.

    The lowest of a row comes first. A row that has one left at or below 0 is done with,
    for it takes all of them to prove an answer.

    Parameters
    ----------
    view : nn.Module
        From rows to scores.
    ends : tuple of tensors (lower, upper)
        The boxes, a row each, float64.
    own : torch.Tensor
        Column of the class that leads.
    leads : torch.Tensor of shape (n_samples, n_classes)
        Lower bounds so far, infinite in a class's own column.
    about : dict
        ``dtype`` and ``unit`` of the rows as the view gets them.
    refines : bool
        Whether to bound what goes into each ReLU this way too, and not by intervals.
    """
    leads = leads.clone()
    left = (~(leads > 0).all(dim=1)).nonzero()[:, 0]
    if not len(left):
        return leads
    at_a_time = 1 if refines else _at_a_time(view, ends, left[[0, -1, 0]], about)
    for rows in left.split(at_a_time):
        given = _of(rows, ends), own[rows], leads[rows]
        leads[rows] = _raise_some(view, *given, about, refines)
    return leads


def _at_a_time(
    view: nn.Module, ends: Ends, rows: torch.Tensor, about: dict[str, Any]
) -> int:
    """Return how many rows can go through the view together, by trying some."""
    # another axis may be as long as there are rows, but not for both numbers of them
    tried = [Pass(view, _of(rows[:n], ends), about).ledger for n in (2, 3)]
    if any(ledger.astray for ledger in tried):
        return 1
    values = sum(slope.numel() for slope in tried[0].slopes) // 2 + 1
    return max(1, min(ROWS_AT_A_TIME, MANY_SLOPES // values))


def _raise_some(
    view: nn.Module,
    ends: Ends,
    own: torch.Tensor,
    leads: torch.Tensor,
    about: dict[str, Any],
    refines: bool,
) -> torch.Tensor:
    """Raise leads of rows that go through the view together."""
    going, sent = torch.arange(len(own)), None
    while len(going):
        # what is no number counts as the least
        other = leads[going].nan_to_num(-torch.inf, posinf=torch.inf).argmin(dim=1)
        given = _of(going, ends)
        if sent is None or len(own) > 1:
            sent = Pass(view, given, about, refines=refines)
        if sent.ledger.astray and len(own) > 1:
            parts = [
                _raise_some(view, _of(at, ends), own[at], leads[at], about, refines)
                for at in torch.arange(len(own)).split(1)
            ]
            return torch.cat(parts)
        found, before = sent.search(own[going], other), leads[going, other]
        if len(own) > 1:
            found = _alone(view, given, own[going], other, about, found, sent)
        found = found.masked_fill(~(found > 0), -torch.inf)  # alone as together
        leads[going, other] = torch.where(found > before, found, before)
        proved = leads[going, other] > 0
        going = going[proved & ~(leads[going] > 0).all(dim=1)]
    return leads


def _of(rows: torch.Tensor, ends: Ends) -> Ends:
    return ends[0][rows], ends[1][rows]


def _alone(
    view: nn.Module,
    ends: Ends,
    own: torch.Tensor,
    other: torch.Tensor,
    about: dict[str, Any],
    found: torch.Tensor,
    sent: Pass,
) -> torch.Tensor:
    """Prove what rows found together for each by itself, and leave the rest unsaid.

    Whatever a module does to the order of rows, one row alone owes all that is owed.
    """
    proved = torch.full_like(found, -torch.inf)
    for at in (found > 0).nonzero():
        slopes = [slope[at].detach() for slope in sent.ledger.slopes]
        alone = Pass(view, _of(at, ends), about, slopes=slopes)
        proved[at] = alone.bounds(own[at], other[at])
    return proved
