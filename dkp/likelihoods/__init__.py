"""Likelihoods: the law of the targets given the latent functions."""

from dkp.likelihoods.base import Likelihood, PointwiseLikelihood
from dkp.likelihoods.classes import Bernoulli, Categorical, Ordinal
from dkp.likelihoods.coregionalised import LinearCoregionalization
from dkp.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedPoisson
from dkp.likelihoods.gaussian import Gaussian, Heteroskedastic
from dkp.likelihoods.robust import Laplace, StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Heteroskedastic",
    "Laplace",
    "Likelihood",
    "LinearCoregionalization",
    "NegativeBinomial",
    "Ordinal",
    "PointwiseLikelihood",
    "Poisson",
    "StudentT",
    "ZeroInflatedPoisson",
]
