"""The first stage's losses (Esser et al., section 3.1, Eq. 4 to 7): pure functions, and the one that composes them.

Shapes: B batch, images `[B, 3, H, W]`, logits of any shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from zoo_core import losses
from zoo_core.formulation import is_plain
from zoo_core.interfaces import Loss

Distance = Callable[[Tensor, Tensor], Tensor]
"""`(reconstruction, image) -> [B]`, such as LPIPS."""

Judge = Callable[[Tensor], Tensor]
"""Images -> logits."""


class Hinge(Loss):
    """Half of the hinge loss; the generator's is -mean."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * losses.Hinge().discriminator(real, fake)

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()


class Vanilla(Loss):
    """Half of the logistic loss, with the generator's of the hinge loss, as the official code has it."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * losses.Logistic().discriminator(real, fake)

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()


@dataclass(frozen=True)
class Weights:
    """What each term counts, and how the adversarial one is balanced."""

    perceptual: float = 1.0
    quantizer: float = 1.0
    adversarial: float = 1.0
    """Multiplies the adaptive weight."""
    delta: float = 1e-4
    """Added to the denominator of the adaptive weight; 1e-6 in the paper's Eq. 7."""
    limit: float = 1e4
    """Largest adaptive weight; 0 for none, as in the paper."""


@dataclass(frozen=True)
class AutoEncoderLoss:
    """`total` has the value and the gradient of the whole loss; `terms` are for the log, detached."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


def adaptive_weight(nll: Tensor, adversarial: Tensor, weights: Weights) -> Tensor:
    """lambda (Eq. 7) from the two terms' gradients with respect to the last layer's weight, times `adversarial`."""
    ratio = nll.float().norm() / (adversarial.float().norm() + weights.delta)
    if weights.limit:
        ratio = ratio.clamp(0.0, weights.limit)
    return ratio * weights.adversarial


def autoencoder_loss(
    image: Tensor,
    reconstruction: Tensor,
    quantizer_loss: Tensor,
    *,
    last_weight: Tensor,
    judge: Judge,
    loss: Loss,
    distance: Distance | None,
    weights: Weights,
    factor: float,
) -> AutoEncoderLoss:
    """mean |x - x'| + w mean LPIPS + lambda factor g + w quantizer loss, g the adversarial term.

    `judge` is called once, on the reconstruction, for its running statistics also where `factor` is 0; there lambda
    (two partial backward passes) and g's gradient are left out, as they count for nothing. Where the reconstruction has
    no graph, lambda is 0.

    The official formulation runs the networks behind the reconstruction backward twice: to the last layer for lambda,
    then in the whole loss. Here each runs once, to the reconstruction x'. With c_nll and c_g those two gradients,
    lambda compares their products with d x' / d W, one convolution's gradient each, and the rest of the backward
    pass starts from c_nll + lambda factor c_g. Under the plain formulation all is done the official way.
    """
    graph = reconstruction.requires_grad and torch.is_grad_enabled()
    active = graph and (factor != 0 or is_plain())
    split = active and not is_plain()
    seen = reconstruction.detach().requires_grad_() if split else reconstruction

    absolute = (image - seen).abs().mean()
    perceptual = distance(seen, image).mean() if distance and weights.perceptual > 0 else absolute.new_zeros(())
    nll = absolute + weights.perceptual * perceptual
    with torch.set_grad_enabled(active):
        adversarial = loss.generator(judge(seen))

    weight = absolute.new_zeros(())
    if split:
        nll_slope, adversarial_slope = torch.autograd.grad(nll, seen)[0], torch.autograd.grad(adversarial, seen)[0]
        at_last = [
            torch.autograd.grad(reconstruction, last_weight, slope, retain_graph=True)[0]
            for slope in (nll_slope, adversarial_slope)
        ]
        weight = adaptive_weight(*at_last, weights)
        slope = nll_slope + weight * factor * adversarial_slope
        total = _with_gradient(nll + weight * factor * adversarial, reconstruction, slope)
    else:
        if active:
            at_last = [torch.autograd.grad(term, last_weight, retain_graph=True)[0] for term in (nll, adversarial)]
            weight = adaptive_weight(*at_last, weights)
        total = nll + weight * factor * adversarial
    total = total + weights.quantizer * quantizer_loss
    terms = {"total": total, "nll": nll, "absolute": absolute, "quantizer": quantizer_loss, "adversarial": adversarial}
    terms |= {"perceptual": perceptual} if distance else {}
    terms |= {"adaptive_weight": weight} if active else {}
    return AutoEncoderLoss(total, {name: value.detach() for name, value in terms.items()})


def _with_gradient(value: Tensor, of: Tensor, slope: Tensor) -> Tensor:
    """A scalar that is worth `value` and whose gradient with respect to `of` is `slope`."""
    inner = (of * slope.detach()).sum()
    return value.detach() + (inner - inner.detach())


def discriminator_loss(real: Tensor, fake: Tensor, *, loss: Loss, factor: float) -> Tensor:
    """`factor` times the loss on logits. With a factor of 0 there is no gradient, but logits still move statistics."""
    return factor * loss.discriminator(real, fake)


def segmentation_loss(
    logits: Tensor, one_hot: Tensor, quantizer_loss: Tensor, quantizer_weight: float = 1.0
) -> AutoEncoderLoss:
    """The loss of an autoencoder of label maps `[B, labels, H, W]`: cross-entropy of each label for itself."""
    entropy = binary_cross_entropy_with_logits(logits, one_hot)
    total = entropy + quantizer_weight * quantizer_loss
    terms = {"total": total, "cross_entropy": entropy, "quantizer": quantizer_loss}
    return AutoEncoderLoss(total, {name: value.detach() for name, value in terms.items()})
