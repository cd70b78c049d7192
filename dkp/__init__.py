"""Bayesian inference for deep kernel processes in JAX and NumPyro."""

import sys

from dkp import distributions, guides, kernels, likelihoods, theory
from dkp._core.description import hyperparameter, learn
from dkp._version import __version__
from dkp.bottlenecks.inverse_wishart import InverseWishart
from dkp.bottlenecks.wishart import Wishart
from dkp.data import catalogue as datasets
from dkp.data import preprocessing
from dkp.data.dataset import Dataset
from dkp.diagnostics.arviz import to_arviz
from dkp.inference.gaussian.augmented import AugmentedPosterior, fit_augmented
from dkp.inference.gaussian.calibrate import CalibratedClassifier, calibrate
from dkp.inference.gaussian.condition import condition
from dkp.inference.gaussian.exact import ExactPosterior
from dkp.inference.gaussian.gradient_flow import (
    GradientFlowEnsemble,
    diag_reg_of_time,
    gradient_flow,
    time_of_diag_reg,
)
from dkp.inference.gaussian.regularisation import tune_diag_reg
from dkp.inference.markov.posterior import MCMCPosterior
from dkp.inference.markov.sample import sample_hmc
from dkp.inference.tempered.evidence import Evidence, log_evidence
from dkp.inference.tempered.widths import WidthComparison, compare_widths
from dkp.inference.variational.fit import fit_vi, fit_vi_many
from dkp.inference.variational.posterior import VariationalPosterior
from dkp.io import load, save
from dkp.model import defaults
from dkp.model.nngp import nngp_and_ntk_kernels, nngp_kernel, ntk_kernel
from dkp.model.process import DeepKernelProcess
from dkp.posterior.predict import predict, prior_predictive
from dkp.posterior.prediction import Prediction

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
    "defaults",
    "diag_reg_of_time",
    "distributions",
    "fit_augmented",
    "fit_vi",
    "fit_vi_many",
    "gradient_flow",
    "guides",
    "hyperparameter",
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

# Their public paths: `import dkp.datasets` works as `dkp.datasets.load` does.
_PUBLIC = {"datasets": datasets, "defaults": defaults, "preprocessing": preprocessing}
sys.modules.update({f"{__name__}.{name}": module for name, module in _PUBLIC.items()})
