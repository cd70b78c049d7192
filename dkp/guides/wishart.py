"""Guides of Wishart bottlenecks: generalised singular Wishart laws."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from dkp._core.description import Pace
from dkp._core.types import Array, Float
from dkp.bottlenecks.base import Bottleneck
from dkp.bottlenecks.wishart import Wishart
from dkp.distributions.generalised import GeneralisedBartlett, GeneralisedWishartFactor
from dkp.guides.base import BottleneckGuide, GuidePosterior, Parameters
from dkp.guides.initial import (
    INITIAL_PRECISION,
    PRECISION_PACES,
    initial_precision,
    precision_tril,
    principal_root,
)
from dkp.linalg.bartlett import trapezoid, wishart_df
from dkp.linalg.cholesky import Cholesky, cholesky, shrinkage_tril
from dkp.linalg.diagonals import diagonal

__all__ = ["WishartGuide"]


_ENTRY_PACES: dict[str, Pace] = {
    "loc": "deviation",
    "log_scale": "deviation",
    "log_concentration": "deviation",
    "log_rate": "deviation",
}
_MIXED_PACES: dict[str, Pace] = {"mixed": "matrix", "logit": "kernel"}


@dataclasses.dataclass(frozen=True)
class WishartGuide(BottleneckGuide):
    """q(G | K): G = S S^T with S = R A T B, and R from the kernel matrix K.

    The entries of T are independent.

        T_jj^2 ~ Gamma(alpha_j, beta_j),   T_ij ~ N(mu_ij, sigma_ij^2),   A, B lower-triangular

    Where no parameter says otherwise it is the prior, G ~ W(K / nu, nu), with R R^T = K / nu.

    Args:
        rows: the matrix A that mixes rows of T: none, lower-triangular, or dense. The divergence of
            a dense one has no closed form; it is estimated from the draws.
        columns: whether there is a matrix B that mixes columns.
        mixing: how R is shrunk away from the prior.

            - "precision": R R^T = (nu K^-1 + Lam Lam^T)^-1. Precisions add, as in the posterior of
              a Gaussian process: R R^T is never larger than K / nu in any direction, so that no
              change of K costs much, and where Lam is large S hardly moves with K.
            - "sum": R R^T = (1 - q) K / nu + q V V^T, as published. Where K has small eigenvalues
              and V does not fit them, the divergence is of the order of their inverse.

    Source: Ober & Aitchison 2021 (arXiv 2107.10125), equation for Q(G_l | G_l-1); mixing of rows
    and columns: Ober, Anson, Milsom & Aitchison 2023 (arXiv 2305.14454). Shrinkage by precisions
    follows Ober & Aitchison 2021 (arXiv 2005.08140), where it is that of features.

    Examples:
        >>> from dkp import Wishart, guides
        >>> guide = guides.WishartGuide(rows="dense")
        >>> print(guide.name, guide.fits(Wishart(2)))
        a-dense True
    """

    rows: str | None = None
    columns: bool = False
    mixing: str = "precision"

    def __post_init__(self) -> None:
        if self.rows not in (None, "triangular", "dense"):
            raise ValueError(
                f'Expected rows to be None, "triangular" or "dense". Got {self.rows!r}.'
            )
        if self.mixing not in ("precision", "sum"):
            raise ValueError(f'Expected mixing to be "precision" or "sum". Got {self.mixing!r}.')

    @property
    def name(self) -> str:
        mixed = ("a" if self.rows else "") + ("b" if self.columns else "") or "standard"
        return (
            mixed
            + ("-dense" if self.rows == "dense" else "")
            + ("-sum" if self.mixing == "sum" else "")
        )

    @property
    def starts_at_kernel(self) -> bool:
        return False

    @property
    def paces(self) -> Mapping[str, Pace]:
        scale = PRECISION_PACES if self.mixing == "precision" else _MIXED_PACES
        return {**scale, **_ENTRY_PACES, "rows": "kernel", "columns": "kernel"}

    def fits(self, layer: Bottleneck) -> bool:
        return isinstance(layer, Wishart)

    def init(self, layer: Any, kernel: Float[Array, "P P"]) -> Parameters:
        p, dtype = len(kernel), kernel.dtype
        df = _degrees_of_freedom(layer, p, dtype)
        m = len(df)
        parameters = self._initial_scale(kernel)
        if self.rows is not None:
            parameters["rows"] = (
                jnp.eye(p, dtype=dtype) if self.rows == "dense" else jnp.zeros((p, p), dtype)
            )
        if self.columns:
            parameters["columns"] = jnp.zeros((m, m), dtype)
        scale = cholesky(kernel)
        width = jnp.asarray(layer.width, dtype)
        relative, _ = self._relative_tril(width, parameters, kernel, scale)
        root = scale.inverse @ principal_root(kernel, m) * jnp.sqrt(width)
        start = trapezoid(jnp.linalg.solve(relative, root))
        log_ratio = jnp.log(jnp.maximum(diagonal(start) ** 2 / df, jnp.ones_like(df)))
        return {
            **parameters,
            "loc": jnp.tril(start, -1),
            "log_scale": jnp.zeros((p, m), dtype),
            "log_concentration": log_ratio,
            "log_rate": jnp.zeros(m, dtype),
        }

    def posterior(
        self, layer: Any, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> GuidePosterior:
        p, dtype = len(kernel), kernel.dtype
        width, df = (
            jnp.asarray(layer.width, dtype),
            _degrees_of_freedom(layer, len(kernel), kernel.dtype),
        )
        relative, jitter = self._relative_tril(width, parameters, kernel, scale)
        if self.rows == "triangular":
            relative = relative @ _positive_tril(parameters["rows"])
        entries = GeneralisedBartlett(
            df / 2 * jnp.exp(parameters["log_concentration"]),
            jnp.exp(parameters["log_rate"]) / 2,
            parameters["loc"],
            jnp.exp(parameters["log_scale"]),
        )
        q = GeneralisedWishartFactor(
            relative,
            entries,
            columns=_positive_tril(parameters["columns"]) if self.columns else None,
            rows=parameters["rows"] if self.rows == "dense" else None,
        )
        prior: Any = layer.whitened_prior(p, dtype)
        return GuidePosterior(q, prior.base_dist, 1 / jnp.sqrt(width), jitter)

    def centre(
        self, layer: Any, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> Float[Array, "P M"]:
        law = self.posterior(layer, parameters, kernel, scale)
        value: Any = law.q.base_dist.moments[0]  # type: ignore[attr-defined]
        for transform in law.q.transforms:  # type: ignore[attr-defined]
            value = transform(value)
        return law.unit * value

    def _initial_scale(self, kernel: Float[Array, "P P"]) -> Parameters:
        if self.mixing == "precision":
            return initial_precision(len(kernel), kernel.dtype)
        # Nearly all of it V V^T, which is the matrix K of the start made narrow.
        factor = cholesky(kernel).tril / INITIAL_PRECISION
        return {"mixed": factor, "logit": jnp.asarray(4.0, kernel.dtype)}

    def _relative_tril(
        self, width: Array, parameters: Parameters, kernel: Float[Array, "P P"], scale: Cholesky
    ) -> tuple[Array, Array]:
        """sqrt(nu) L^-1 R, lower-triangular, and the jitter.

        It is the identity where the guide is the prior.
        """
        if self.mixing == "precision":
            return shrinkage_tril(scale.tril.T @ precision_tril(parameters) / jnp.sqrt(width))
        odds = jnp.exp(parameters["logit"])
        own = parameters["mixed"] @ parameters["mixed"].T
        factor = cholesky((kernel / width + odds * own) / (1 + odds))
        return jnp.sqrt(width) * (scale.inverse @ factor.tril), factor.jitter


def _degrees_of_freedom(layer: Any, size: int, dtype: Any) -> Float[Array, " M"]:
    return wishart_df(jnp.asarray(layer.width, dtype), layer.n_columns(size))


def _positive_tril(raw: Float[Array, "M M"]) -> Float[Array, "M M"]:
    """The lower-triangular matrix with the exponentials of the diagonal on its diagonal."""
    return jnp.tril(raw, -1) + jnp.diag(jnp.exp(diagonal(raw)))
