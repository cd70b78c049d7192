"""Likelihoods."""

from dkp.likelihoods.base import Likelihood
from dkp.likelihoods.gaussian import Gaussian

__all__ = ["Gaussian", "Likelihood"]
