"""What a cross-encoder learns from: groups of candidates of one question, and a teacher's margins. Pure torch.

Logits and labels come as (g, m): g questions with m candidates each; `mask` is False where a group has fewer.
`weights` (g,) float32 are what each group counts, None = 1 each; losses are divided by the number of groups, not by
their weights, so that a click's inverse propensity keeps its meaning from step to step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BCE_SHARE = 0.2


def listwise(logits: Tensor, labels: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy: mean over groups of −w Σ yᵢ/Σy · log softmax(z)ᵢ (ListNet's top-one, Cao et al. 2007)."""
    scores = logits.float().masked_fill(~mask, -torch.inf)
    target = labels / labels.sum(dim=1, keepdim=True).clamp_min(1e-9)
    chosen = torch.log_softmax(scores, dim=1).masked_fill(~mask, 0.0)
    losses = -(target * chosen).sum(dim=1)
    return (losses if weights is None else weights * losses).mean()


def pointwise(logits: Tensor, labels: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over all candidates; positives weigh as much as their group's negatives together.

    It gives the logits a common zero over questions, which the softmax alone leaves free.
    """
    negatives = ((labels <= 0) & mask).sum() / (labels > 0).sum().clamp_min(1)
    losses = functional.binary_cross_entropy_with_logits(
        logits.float(), labels, pos_weight=negatives.clamp_min(1.0), reduction="none"
    )
    return (losses if weights is None else weights[:, None] * losses).masked_select(mask).mean()


def ranking_loss(
    logits: Tensor, labels: Tensor, mask: Tensor, weights: Tensor | None = None, bce_share: float = BCE_SHARE
) -> Tensor:
    """`listwise` + `bce_share` · `pointwise`."""
    return listwise(logits, labels, mask, weights) + bce_share * pointwise(logits, labels, mask, weights)


def margin_mse(logits: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean over the pairs (first candidate, other) of ((z₀ − zᵢ) − (t₀ − tᵢ))² (Hofstätter et al. 2020); 0 for none."""
    ours, theirs = logits.float()[:, :1] - logits.float()[:, 1:], teacher[:, :1] - teacher[:, 1:]
    squares = (ours - theirs).square().masked_select(mask[:, 1:])
    return squares.sum() / max(1, squares.numel())
