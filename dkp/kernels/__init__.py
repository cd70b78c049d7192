"""Kernels: deterministic maps of Gram matrices, and the maps from features to the first one."""

from dkp.kernels.activation import Activation
from dkp.kernels.angular import NormalisedGaussian
from dkp.kernels.base import InputKernel, Kernel, PointwiseKernel
from dkp.kernels.compose import Chain, Product, Repeat, Residual, Scale, Sum
from dkp.kernels.conv import AvgPool, Conv, Flatten, GlobalAvgPool, LocallyConnected
from dkp.kernels.dense import Affine
from dkp.kernels.elu import ELU
from dkp.kernels.inputs import Linear
from dkp.kernels.isotropic import Matern, RationalQuadratic, SquaredExponential
from dkp.kernels.polynomials import Identity, Monomial, Polynomial
from dkp.kernels.rectified import ABReLU, Abs, ArcCosine, LeakyReLU, RectifiedMonomial, ReLU, Sign
from dkp.kernels.smooth import GELU, Cosine, Erf, Exponential, Gaussian, Sine

__all__ = [
    "ELU",
    "GELU",
    "ABReLU",
    "Abs",
    "Activation",
    "Affine",
    "ArcCosine",
    "AvgPool",
    "Chain",
    "Conv",
    "Cosine",
    "Erf",
    "Exponential",
    "Flatten",
    "Gaussian",
    "GlobalAvgPool",
    "Identity",
    "InputKernel",
    "Kernel",
    "LeakyReLU",
    "Linear",
    "LocallyConnected",
    "Matern",
    "Monomial",
    "NormalisedGaussian",
    "PointwiseKernel",
    "Polynomial",
    "Product",
    "RationalQuadratic",
    "ReLU",
    "RectifiedMonomial",
    "Repeat",
    "Residual",
    "Scale",
    "Sign",
    "Sine",
    "SquaredExponential",
    "Sum",
]
