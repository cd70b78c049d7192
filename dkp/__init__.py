"""Bayesian inference for deep kernel processes in JAX and NumPyro."""

from dkp import datasets, distributions, guides, kernels, likelihoods, preprocessing, theory
from dkp._spec import learn
from dkp._version import __version__
from dkp.bottlenecks import InverseWishart, Wishart
from dkp.classification import CalibratedClassifier, calibrate
from dkp.data import Dataset
from dkp.diagnostics.arviz import to_arviz
from dkp.inference.ensembles import AugmentedPosterior, fit_augmented
from dkp.inference.evidence import Evidence, log_evidence
from dkp.inference.exact import ExactPosterior, condition
from dkp.inference.gradient_flow import GradientFlowEnsemble, diag_reg_of_time, gradient_flow, time_of_diag_reg
from dkp.inference.hmc import sample_hmc
from dkp.inference.mcmc import MCMCPosterior
from dkp.inference.tuning import tune_diag_reg
from dkp.inference.vi import VariationalPosterior, fit_vi, fit_vi_many
from dkp.io import load, save
from dkp.model import DeepKernelProcess
from dkp.nngp import nngp_and_ntk_kernels, nngp_kernel, ntk_kernel
from dkp.predict import Prediction, predict, prior_predictive
from dkp.widths import WidthComparison, compare_widths

__all__ = [
    "AugmentedPosterior",
    "CalibratedClassifier",
    "Dataset",
    "DeepKernelProcess",
    "Evidence",
    "ExactPosterior",
    "GradientFlowEnsemble",
    "InverseWishart",
    "MCMCPosterior",
    "Prediction",
    "VariationalPosterior",
    "WidthComparison",
    "Wishart",
    "__version__",
    "calibrate",
    "compare_widths",
    "condition",
    "datasets",
    "diag_reg_of_time",
    "distributions",
    "fit_augmented",
    "fit_vi",
    "fit_vi_many",
    "gradient_flow",
    "guides",
    "kernels",
    "learn",
    "likelihoods",
    "load",
    "log_evidence",
    "nngp_and_ntk_kernels",
    "nngp_kernel",
    "ntk_kernel",
    "predict",
    "preprocessing",
    "prior_predictive",
    "sample_hmc",
    "save",
    "theory",
    "time_of_diag_reg",
    "to_arviz",
    "tune_diag_reg",
]
