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
from sklearn.utils import gen_batches
from torch import nn

from sk_advdef._torch._lined import Ledger, Lined
from sk_advdef._torch._propagation import propagate, ties

#: Steps of a search, the size of the first, and what each is of the one before.
STEPS, STEP_SIZE, DECAY = 20, 0.1, 0.98

#: Most leads that are bounded together, and most slopes that are searched together.
LEADS_AT_A_TIME, MANY_SLOPES = 64, 2_000_000

Ends = tuple[torch.Tensor, torch.Tensor]


class Leads:
    """The lead of one class over another, a row each, sent through a view.

    Parameters
    ----------
    view : nn.Module
        From rows to scores.
    ends : tuple of tensors (lower, upper)
        The boxes, a row each.
    own, other : torch.Tensor
        Columns of the two classes.
    about : dict
        ``dtype`` and ``unit`` of the rows as the view gets them.
    slopes : sequence of torch.Tensor
        Those to begin with.
    known : sequence of pairs of tensors
        Bounds of what goes into each ReLU, where better ones are known.
    """

    def __init__(
        self,
        view: nn.Module,
        ends: Ends,
        own: torch.Tensor,
        other: torch.Tensor,
        about: dict[str, Any],
        slopes: Sequence[torch.Tensor] = (),
        known: Sequence[Ends] = (),
    ) -> None:
        ledger = Ledger(len(own), list(slopes), list(known))
        scores = propagate(view, Lined.start(*ends, ledger, raw=True, **about))
        assert scores.point is not None
        own, other = (columns.to(scores.point.device) for columns in (own, other))
        rows = torch.arange(len(own), device=own.device)
        lead = scores.point[rows, own] - scores.point[rows, other]
        self.account, self.slopes = ledger.account, ledger.slopes
        #: whether the bounds of rows are mixed up; not those of one
        self.astray = ledger.astray
        self.lead = lead.to(self.account)
        self.ties = ties(scores).detach().to(self.account)

    def bounds(self, *, learn: bool = False) -> torch.Tensor:
        """Return lower bounds under the slopes as they are, to ``learn`` them or not.

        Raising slopes to be learned needs no other way through the view.
        """
        (charge,) = torch.autograd.grad(
            self.lead.sum(), self.account, create_graph=learn, retain_graph=True
        )
        return self.lead.detach() + charge - self.ties

    def search(self) -> torch.Tensor:
        """Raise each bound by its own slopes until it is above 0; leave the best ones.

        What a row finds does not depend on the others.
        """
        best = [slope.detach().clone() for slope in self.slopes]
        found = self.bounds().detach()
        # where a lead owes nothing to any ReLU there is nothing to be learned
        if not best or not self.bounds(learn=True).requires_grad:
            return found
        step = torch.optim.Adam(self.slopes, lr=STEP_SIZE)
        falls = torch.optim.lr_scheduler.ExponentialLR(step, DECAY)
        for _ in range(STEPS):
            if bool((found > 0).all()):
                break
            total = -self.bounds(learn=True).sum()
            grads = torch.autograd.grad(
                total, self.slopes, retain_graph=True, allow_unused=True
            )
            for slope, grad in zip(self.slopes, grads, strict=True):
                slope.grad = grad
            step.step()
            falls.step()
            with torch.no_grad():
                for slope in self.slopes:
                    slope.clamp_(0, 1)
            bounds = self.bounds()
            better = (bounds > found) & ~(found > 0)
            found = torch.where(better, bounds, found)
            for kept, slope in zip(best, self.slopes, strict=True):
                # of one row, wherever it is, all are its own
                which = better.expand(len(kept)) if len(better) == 1 else better
                kept[which.to(kept.device)] = slope.detach()[which.to(kept.device)]
        self.slopes[:] = best
        return found


@torch.enable_grad()
def raised(
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
    # another axis may be as long as there are rows, but not as long as both numbers
    tried = [
        Leads(view, _of(some, ends), own[some], own[some], about)
        for some in (left[[0, -1]], left[[0, -1, 0]])
    ]
    values = sum(slope.numel() for slope in tried[0].slopes) // 2 + 1
    at_a_time = max(1, min(LEADS_AT_A_TIME, MANY_SLOPES // values))
    if any(one.astray for one in tried):
        at_a_time = 1
    for some in gen_batches(len(left), at_a_time):
        rows = left[some]
        given = _of(rows, ends)
        known = _refined(view, given, about) if refines else []
        leads[rows] = _raised(view, given, own[rows], leads[rows], about, known)
    return leads


def _raised(
    view: nn.Module,
    ends: Ends,
    own: torch.Tensor,
    leads: torch.Tensor,
    about: dict[str, Any],
    known: list[Ends],
) -> torch.Tensor:
    going = torch.arange(len(own))
    while len(going):
        # what is no number counts as the least
        other = leads[going].nan_to_num(-torch.inf, posinf=torch.inf).argmin(dim=1)
        of_them = known if len(own) == 1 else [_of(going, pair) for pair in known]
        given = _of(going, ends), own[going], other, about, of_them
        found, before = _found(view, *given), leads[going, other]
        leads[going, other] = torch.where(found > before, found, before)
        proved = leads[going, other] > 0
        going = going[proved & ~(leads[going] > 0).all(dim=1)]
    return leads


def _of(rows: torch.Tensor, ends: Ends) -> Ends:
    return ends[0][rows], ends[1][rows]


def _refined(view: nn.Module, ends: Ends, about: dict[str, Any]) -> list[Ends]:
    """Bound what goes into each ReLU, each row alone."""
    rows = []
    for row in torch.arange(len(ends[0])):
        ledger = Ledger(1, refines=True)
        propagate(view, Lined.start(*_of(row[None], ends), ledger, raw=True, **about))
        rows.append(ledger.known)
    return [
        (torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs]))
        for pairs in zip(*rows, strict=True)
    ]


def _found(
    view: nn.Module,
    ends: Ends,
    own: torch.Tensor,
    other: torch.Tensor,
    about: dict[str, Any],
    known: list[Ends],
) -> torch.Tensor:
    """Search for bounds of rows together, and prove what is above 0 by itself.

    Whatever a module does to the order of rows, one row alone owes all that is owed; so
    nothing else is taken for a bound.
    """
    leads = Leads(view, ends, own, other, about, known=known)
    together = leads.search()
    found = torch.full_like(together, -torch.inf)
    if len(own) == 1:
        return torch.where(together > 0, together, found)
    for row in (together > 0).nonzero()[:, 0]:
        at = row[None]
        slopes = [slope[at] for slope in leads.slopes]
        of_it = [_of(at, pair) for pair in known]
        alone = Leads(view, _of(at, ends), own[at], other[at], about, slopes, of_it)
        found[at] = alone.bounds()
    return found
