"""The terms of the SVG objective (paper, equation 3)."""

from __future__ import annotations

from torch import Tensor


def gaussian_kl(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL(q || p) of diagonal Gaussians in nats, elementwise: same shape as the arguments."""
    return 0.5 * (logvar_p - logvar_q + (logvar_q.exp() + (mu_q - mu_p) ** 2) / logvar_p.exp() - 1.0)


def reparameterize(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """z = mu + exp(logvar / 2) * eps, with eps drawn from N(0, I) by the caller."""
    return mu + (0.5 * logvar).exp() * eps
