"""The Wishart bottleneck: a linear layer of finite width."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dkp._core.description import Learn, hyperparameter
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.bottlenecks.base import Bottleneck
from dkp.distributions.conditional import wishart_conditional, wishart_conditional_mean
from dkp.distributions.wishart import WishartFactor
from dkp.gram.gram import Gram
from dkp.linalg.cholesky import Cholesky

__all__ = ["Wishart"]


class Wishart(Bottleneck):
    """G ~ W(K / nu, nu), so that E[G] = K: a linear layer of finite width nu.

    G = F F^T / nu for nu features drawn from N(0, K). With nu below the number of points G is
    singular, of rank nu; nu -> infinity is the deterministic network.

    Args:
        width: nu, an integer of at least 1; or a real number, or a distribution over real numbers,
            of at least the number P of points at which the matrix lives (so that P + 1 points have
            a Wishart law too, and one more can be predicted). Infinity is no bottleneck: a model
            leaves the layer out, and says so.

    Raises:
        ValueError: when `width` is anything else: not positive, or learned.

    Source: Aitchison, Yang & Ober 2021 (arXiv 2010.01590); Ober & Aitchison 2021 (arXiv
    2107.10125), section 2.

    Examples:
        >>> import dkp
        >>> print(dkp.Wishart(2).n_columns(3))
        2
    """

    width: Any = hyperparameter()
    integer: int | None = dataclasses.field(init=False, repr=False, default=None)
    """nu where it is an integer: known when a program is traced, since it may be the rank of G."""

    def __post_init__(self) -> None:
        if isinstance(self.width, Learn):
            raise ValueError(
                "Expected Wishart(width=…) to be a number or a distribution. Got learn(): compare "
                "the evidence of "
                "several widths (dkp.compare_widths), or give it a prior."
            )
        number = (
            None
            if hasattr(self.width, "log_prob") or isinstance(self.width, Tracer)
            else np.asarray(self.width)
        )
        number = (
            number
            if number is not None and number.ndim == 0 and number.dtype.kind in "iuf"
            else None
        )
        if number is not None and number == math.inf:
            return
        self.check_hyperparameters()
        if number is not None and float(number).is_integer():
            object.__setattr__(self, "integer", int(number))

    @property
    def n_features(self) -> int | None:
        return self.integer

    @property
    def is_identity(self) -> bool:
        return isinstance(self.width, (int, float)) and self.width == math.inf

    def check_points(self, n: int) -> None:
        lowest = self.width
        if hasattr(self.width, "log_prob"):
            support = getattr(self.width.support, "base_constraint", self.width.support)
            lowest = getattr(support, "lower_bound", 0.0)
        if self.integer is None and not np.all(np.asarray(lowest, float) >= n):
            raise ValueError(
                "Expected Wishart(width=…) to be an integer, or real numbers of at least the "
                f"number of points, {n}. "
                f"Got {self.width!r} with smallest value {lowest}."
            )

    def whiten(self, noise: Float[Array, "P M"]) -> Float[Array, "P M"]:
        return noise / jnp.sqrt(jnp.asarray(self.width, noise.dtype))

    def prior(self, scale: Cholesky) -> WishartFactor:
        size = scale.tril.shape[-1]
        root = jnp.sqrt(jnp.asarray(self.width, scale.tril.dtype))
        df = jnp.asarray(self.width) if self.integer is None else self.integer
        columns = None if self.integer is None else self.n_columns(size)
        return WishartFactor(df, scale.tril / root, columns, scale.inverse * root)

    def draw_data(
        self,
        key: PRNGKeyArray,
        kernel: Gram,
        scale: Cholesky,
        factor: Array,
        whitened: Array | None,
    ) -> Gram:
        width = jnp.asarray(self.width, factor.dtype) if self.integer is None else self.integer
        return wishart_conditional(key, kernel, scale, width, factor, whitened)

    def mean_data(self, kernel: Gram, scale: Cholesky, factor: Array, whitened: Array) -> Gram:
        return wishart_conditional_mean(kernel, scale, factor, whitened)
