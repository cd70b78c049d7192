"""Variational families: guides of bottlenecks, of the outputs, and of inferred hyperparameters.

The guide of a bottleneck is a small object that makes parameters (a dictionary of arrays) and,
given them and the kernel matrix that enters, the law of the Gram matrix and its prior in the same
coordinates. A new one is a subclass of
:class:`BottleneckGuide` and, to have a name, one row of ``GUIDES``.
"""

from dkp.guides.base import BottleneckGuide, GuidePosterior
from dkp.guides.choose import GUIDES, GuideChoice, choose_guides
from dkp.guides.features import FeatureGuide
from dkp.guides.hyperparameters import HyperparameterGuide
from dkp.guides.inverse_wishart import InverseWishartGuide
from dkp.guides.outputs import OutputGuide
from dkp.guides.wishart import WishartGuide

__all__ = [
    "GUIDES",
    "BottleneckGuide",
    "FeatureGuide",
    "GuideChoice",
    "GuidePosterior",
    "HyperparameterGuide",
    "InverseWishartGuide",
    "OutputGuide",
    "WishartGuide",
    "choose_guides",
]
