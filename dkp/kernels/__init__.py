"""Kernels: deterministic maps of Gram matrices, and the maps from features to the first one."""

from dkp.kernels.activations import ArcCosine
from dkp.kernels.base import InputKernel, Kernel, PointwiseKernel
from dkp.kernels.compose import Chain, Product, Repeat, Scale, Sum
from dkp.kernels.inputs import Linear
from dkp.kernels.isotropic import Matern, RationalQuadratic, SquaredExponential

__all__ = [
    "ArcCosine",
    "Chain",
    "InputKernel",
    "Kernel",
    "Linear",
    "Matern",
    "PointwiseKernel",
    "Product",
    "RationalQuadratic",
    "Repeat",
    "Scale",
    "SquaredExponential",
    "Sum",
]
