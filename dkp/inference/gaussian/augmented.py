"""Ensembles of posteriors: the average over fits to several versions of the data.

Versions are, for example, augmented images.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.record import record
from dkp._core.types import Array, Float, PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.inference.gaussian.posterior import GaussianPosterior
from dkp.model.process import DeepKernelProcess
from dkp.posterior.draw import Draw

__all__ = ["AugmentedPosterior", "fit_augmented"]


@record
class AugmentedPosterior:
    """The equal mixture of posteriors that were fitted to augmented copies of one data set.

    Examples:
        >>> import jax
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
        >>> posterior = dkp.fit_augmented(
        ...     lambda data: dkp.condition(model, data),
        ...     data,
        ...     lambda key, x: -x,
        ...     key=jax.random.key(0),
        ...     copies=2,
        ... )
        >>> print(posterior.diag_reg)
        0.0
    """

    members: tuple[GaussianPosterior, ...]
    data: Dataset

    @property
    def model(self) -> DeepKernelProcess:
        """The model that was fitted; learned values differ between the members."""
        return self.members[0].model

    def with_diag_reg(self, diag_reg: float) -> "AugmentedPosterior":
        """All members with another regularisation."""
        return dataclasses.replace(
            self, members=tuple(m.with_diag_reg(diag_reg) for m in self.members)
        )

    @property
    def diag_reg(self) -> float:
        """The regularisation of the members."""
        return self.members[0].diag_reg

    def leave_one_out_mean(self, diag_reg: float | None = None) -> Float[np.ndarray, "N C"]:
        """Mean prediction of each y_n given all the others, standardised units.

        Every member predicts its own copy of the point, where new points are not augmented.
        """
        return np.mean([member.leave_one_out_mean(diag_reg) for member in self.members], axis=0)

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """The members themselves, as a stack."""
        draws = [member.sample(key, 1) for member in self.members]
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *draws)

    def latent_mean(self, x: Float[Array, "B *space D"], chunk: int) -> Float[Array, "B C"]:
        """Mean of the latent functions at standardised points, without the cost of variances."""
        return jnp.mean(
            jnp.stack([member.latent_mean(x, chunk) for member in self.members]), axis=0
        )

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "S B C"], Float[Array, "S B C"]]:
        """Mean and variance of the latent functions at standardised points, of every member."""
        found = [member.latent_moments(draws, key, x, chunk) for member in self.members]
        mean, variance = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
        return mean, variance

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the fit: the worst of the members."""
        found = [member.summary() for member in self.members]
        smallest = min(found, key=lambda s: s["smallest_eigenvalue"])
        return {**smallest, "members": len(found), "seconds": sum(s["seconds"] for s in found)}


def fit_augmented(
    fit: Callable[[Dataset], Any],
    data: Dataset,
    augment: Callable[[PRNGKeyArray, Array], Array],
    *,
    key: PRNGKeyArray,
    copies: int = 4,
) -> AugmentedPosterior:
    """Average the predictors fitted to augmented copies T_b of the whole training set:

        mean = (1 / B) sum_b K(x, T_b X) (K(T_b X, T_b X) + ridge I)^-1 y.

    The cost is B N^3, against (B N)^3 of one predictor for all copies together. The first copy is
    the data itself.

    Args:
        fit: from a data set to a posterior, such as ``lambda data: dkp.condition(model, data,
            diag_reg=0.1)``.
        data: the training set.
        augment: (key, x) -> x, such as ``dkp.preprocessing.random_flips``; of standardised
            features.
        key: for `augment`; the b-th copy gets ``fold_in(key, b)``.
        copies: B, at least 1.

    Raises:
        ValueError: when `augment` changes the shape or the dtype of the features, or `fit` makes
            another posterior.

    Source: Lee et al. 2020 (arXiv 2007.15801), ensembles of kernel predictors.

    Examples:
        >>> import jax
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
        >>> posterior = dkp.fit_augmented(
        ...     lambda data: dkp.condition(model, data),
        ...     data,
        ...     lambda key, x: -x,
        ...     key=jax.random.key(0),
        ...     copies=2,
        ... )
        >>> print(len(posterior.members))
        2
    """
    checks.random_key("key", key)
    copies = checks.positive_int("copies", copies)
    members = [fit(data)]
    if not isinstance(members[0], GaussianPosterior):
        raise ValueError(
            "Expected fit to return a posterior of dkp.condition or dkp.gradient_flow. "
            f"Got {type(members[0]).__name__}."
        )
    for b in range(1, copies):
        x = augment(jax.random.fold_in(key, b), data.x)
        if jnp.shape(x) != data.x.shape or jnp.result_type(x) != data.x.dtype:
            raise ValueError(
                f"Expected augment(key, x) to keep shape {data.x.shape} and dtype {data.x.dtype}. "
                f"Got {jnp.shape(x)} and {jnp.result_type(x)}."
            )
        members.append(fit(dataclasses.replace(data, x=x)))
    return AugmentedPosterior(members=tuple(members), data=data)
