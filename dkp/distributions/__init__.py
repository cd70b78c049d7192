"""NumPyro distributions over factors of Gram matrices, their conditionals and divergences."""

from dkp.distributions.conditional import inverse_wishart_conditional
from dkp.distributions.kl import kl_divergence
from dkp.distributions.wishart import InverseBartlett, InverseWishartFactor

__all__ = ["InverseBartlett", "InverseWishartFactor", "inverse_wishart_conditional", "kl_divergence"]
