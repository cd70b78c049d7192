"""Bayesian inference for deep kernel processes in JAX and NumPyro."""

from dkp import datasets, distributions, kernels, likelihoods
from dkp._spec import learn
from dkp._version import __version__
from dkp.bottlenecks import InverseWishart
from dkp.data import Dataset
from dkp.diagnostics.arviz import to_arviz
from dkp.inference.exact import ExactPosterior, condition
from dkp.inference.vi import VariationalPosterior, fit_vi
from dkp.model import DeepKernelProcess
from dkp.nngp import nngp_and_ntk_kernels, nngp_kernel, ntk_kernel
from dkp.predict import Prediction, predict, prior_predictive

__all__ = [
    "Dataset",
    "DeepKernelProcess",
    "ExactPosterior",
    "InverseWishart",
    "Prediction",
    "VariationalPosterior",
    "__version__",
    "condition",
    "datasets",
    "distributions",
    "fit_vi",
    "kernels",
    "learn",
    "likelihoods",
    "nngp_and_ntk_kernels",
    "nngp_kernel",
    "ntk_kernel",
    "predict",
    "prior_predictive",
    "to_arviz",
]
