"""NumPyro distributions: factors of Gram matrices, their conditionals and divergences, and random scales."""

from dkp.distributions.conditional import inverse_wishart_conditional
from dkp.distributions.kl import kl_divergence
from dkp.distributions.stable import PositiveStable, SqrtPositiveStable
from dkp.distributions.wishart import InverseBartlett, InverseWishartFactor

__all__ = [
    "InverseBartlett",
    "InverseWishartFactor",
    "PositiveStable",
    "SqrtPositiveStable",
    "inverse_wishart_conditional",
    "kl_divergence",
]
