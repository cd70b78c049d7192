"""NumPyro distributions: factors of Gram matrices, their relatives, and random scales."""

from dkp.distributions import priors as priors  # the codec of files learns of them
from dkp.distributions.bartlett import Bartlett
from dkp.distributions.conditional import inverse_wishart_conditional, wishart_conditional
from dkp.distributions.features import FeatureNormal
from dkp.distributions.generalised import GeneralisedBartlett, GeneralisedWishartFactor
from dkp.distributions.kl import kl_divergence
from dkp.distributions.stable import PositiveStable, SqrtPositiveStable
from dkp.distributions.wishart import InverseWishartFactor, WishartFactor

__all__ = [
    "Bartlett",
    "FeatureNormal",
    "GeneralisedBartlett",
    "GeneralisedWishartFactor",
    "InverseWishartFactor",
    "PositiveStable",
    "SqrtPositiveStable",
    "WishartFactor",
    "inverse_wishart_conditional",
    "kl_divergence",
    "wishart_conditional",
]
