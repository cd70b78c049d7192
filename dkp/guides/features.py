"""The guide of a deep Gaussian process: features of a Wishart bottleneck, one by one.

Their Gram matrix is not a variable of its own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from dkp._core.description import Pace
from dkp._core.types import Array, Float
from dkp.bottlenecks.base import Bottleneck
from dkp.bottlenecks.wishart import Wishart
from dkp.distributions.features import FeatureNormal
from dkp.guides.base import BottleneckGuide, GuidePosterior, Parameters
from dkp.guides.initial import PRECISION_PACES, initial_precision, precision_tril, principal_root
from dkp.linalg.cholesky import Cholesky, shrinkage_tril

__all__ = ["FeatureGuide"]


@dataclasses.dataclass(frozen=True)
class FeatureGuide(BottleneckGuide):
    """q(F | K) for G = F F^T, where the nu columns of F are Gaussian processes.

    Under the prior they are f_j ~ N(0, K / nu).

    Pseudo-observations of F with values v and precision Lam Lam^T, shared by the columns, give

        q(f_j | K) = N(Sigma Lam w_j, Sigma),   Sigma = (nu K^-1 + Lam Lam^T)^-1,   w = Lam^T v

    Rotations of the features leave G as it is, and the guide covers one of them: the divergence
    counts the others.

    Source: Ober & Aitchison 2021 (arXiv 2005.08140), global inducing points for deep Gaussian
    processes.

    Examples:
        >>> from dkp import Wishart, guides
        >>> guide = guides.FeatureGuide()
        >>> print(guide.name, guide.fits(Wishart(2)))
        features True
    """

    @property
    def name(self) -> str:
        return "features"

    @property
    def starts_at_kernel(self) -> bool:
        return False

    @property
    def paces(self) -> Mapping[str, Pace]:
        return {"target": "deviation", **PRECISION_PACES}

    def fits(self, layer: Bottleneck) -> bool:
        return isinstance(layer, Wishart) and layer.n_features is not None

    def init(self, layer: Any, kernel: Float[Array, "P P"]) -> Parameters:
        p, dtype = len(kernel), kernel.dtype
        root = principal_root(kernel, layer.n_columns(p))
        root = jnp.pad(root, ((0, 0), (0, layer.n_features - root.shape[1])))
        precision = initial_precision(p, dtype)
        return {"target": precision_tril(precision).T @ root, **precision}

    def posterior(
        self, layer: Any, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> GuidePosterior:
        target, width = parameters["target"], jnp.asarray(layer.width, kernel.dtype)
        a = scale.tril.T @ precision_tril(parameters) / jnp.sqrt(width)
        tril, jitter = shrinkage_tril(a)
        q = FeatureNormal(tril @ (tril.T @ (a @ target)), tril)
        return GuidePosterior(q, FeatureNormal(jnp.zeros_like(target)), 1 / jnp.sqrt(width), jitter)

    def centre(
        self, layer: Any, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> Float[Array, "P M"]:
        law = self.posterior(layer, parameters, kernel, scale)
        return law.unit * law.q.loc  # type: ignore[attr-defined]
