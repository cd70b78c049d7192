"""Bottlenecks: the places where the Gram matrix is random."""

from dkp.bottlenecks.base import Bottleneck
from dkp.bottlenecks.inverse_wishart import InverseWishart
from dkp.bottlenecks.wishart import Wishart

__all__ = ["Bottleneck", "InverseWishart", "Wishart"]
