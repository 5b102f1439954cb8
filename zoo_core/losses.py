"""Adversarial losses and penalties: pure functions of tensors, and the two usual `Loss` objects."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, relu, softplus

from zoo_core.interfaces import Loss


class Hinge(Loss):
    """Hinge loss (Lim and Ye, arXiv 1705.02894): max(0, 1 - real) + max(0, 1 + fake); the generator's is -fake."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return relu(1 - real).mean() + relu(1 + fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()


class Logistic(Loss):
    """Non-saturating logistic loss (Goodfellow et al., arXiv 1406.2661)."""

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return softplus(-real).mean() + softplus(fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        return softplus(-fake).mean()


def r1_penalty(judge: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """R1 (Mescheder et al., arXiv 1801.04406, Eq. 9): mean over the batch of ||d sum(logits) / d image||^2.

    Without the gamma / 2 in front. Differentiable once more; always in float32.
    """
    with torch.autocast(real.device.type, enabled=False):
        real = real.detach().float().requires_grad_(True)
        (gradient,) = torch.autograd.grad(judge(real).sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def consistency(logits: Tensor, augmented: Tensor) -> Tensor:
    """Balanced consistency regularisation (Zhao et al., arXiv 2002.04724), one half; gradients flow through both."""
    return mse_loss(augmented, logits)
