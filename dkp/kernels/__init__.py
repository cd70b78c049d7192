"""Kernels: deterministic maps of Gram matrices, and the maps from features to the first one."""

from dkp.kernels.activations import ABReLU, Abs, ArcCosine, LeakyReLU, RectifiedMonomial, ReLU, Sign
from dkp.kernels.base import InputKernel, Kernel, PointwiseKernel
from dkp.kernels.compose import Chain, Product, Repeat, Scale, Sum
from dkp.kernels.inputs import Linear
from dkp.kernels.isotropic import Matern, RationalQuadratic, SquaredExponential
from dkp.kernels.polynomials import Identity, Monomial, Polynomial
from dkp.kernels.smooth import GELU, Cosine, Erf, Exponential, Gaussian, Sine

__all__ = [
    "GELU",
    "ABReLU",
    "Abs",
    "ArcCosine",
    "Chain",
    "Cosine",
    "Erf",
    "Exponential",
    "Gaussian",
    "Identity",
    "InputKernel",
    "Kernel",
    "LeakyReLU",
    "Linear",
    "Matern",
    "Monomial",
    "PointwiseKernel",
    "Polynomial",
    "Product",
    "RationalQuadratic",
    "ReLU",
    "RectifiedMonomial",
    "Repeat",
    "Scale",
    "Sign",
    "Sine",
    "SquaredExponential",
    "Sum",
]
