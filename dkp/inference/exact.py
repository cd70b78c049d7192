"""Exact inference where there is no bottleneck: a Gaussian process, the prior of an infinitely wide network, with
Gaussian noise.

Learned hyperparameters maximise the log marginal likelihood; inferred ones are not integrated out here, so they are
refused. Kernel matrices are computed tile by tile, so that images and thousands of points fit; only learning the
hyperparameters of the kernel itself takes a differentiable program for the whole matrix.
"""

import dataclasses
import functools
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dkp import _check
from dkp._types import Array, Float, PRNGKeyArray
from dkp.data import Dataset
from dkp.inference.checks import check_model_and_data, check_plain
from dkp.inference.marginal_likelihood import log_marginal_likelihood, maximise, ridge_of
from dkp.linalg.blocks import squared_norms
from dkp.linalg.spectrum import Spectrum, leave_one_out, spectrum
from dkp.model import DeepKernelProcess
from dkp.nngp import kernel_variances, nngp_kernel
from dkp.posterior import Draw, in_chunks
from dkp.priors import hyperparameters, substitute

__all__ = ["ExactPosterior", "check_exact", "condition", "warn_where_noise_hides"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactPosterior:
    """A Gaussian process conditioned on data.

    values: learned hyperparameters by name. diag_reg: regularisation relative to the mean variance. kernel: spectrum of
        the kernel matrix of the data. starts: log marginal likelihood of every start of the optimiser, where
        something was learned.
    """

    model: DeepKernelProcess
    data: Dataset
    values: dict[str, Array]
    diag_reg: float
    kernel: Spectrum
    starts: tuple[float, ...]
    iterations: int
    converged: bool
    seconds: float

    @property
    def hyperparameters(self) -> dict[str, np.ndarray]:
        """Values of the learned hyperparameters, by name."""
        return {name: np.asarray(value) for name, value in self.values.items()}

    @functools.cached_property
    def fitted_model(self) -> DeepKernelProcess:
        """The model with numbers for the hyperparameters that were learned."""
        return substitute(self.model, self.values)

    @property
    def ridge(self) -> float:
        """What was added to the diagonal of the kernel matrix: noise^2 + diag_reg tr K / N, standardised units."""
        return float(ridge_of(self.fitted_model, self.diag_reg, self.kernel.mean_variance))

    @functools.cached_property
    def log_marginal_likelihood(self) -> float:
        """log N(y; 0, K + ridge I) in nats: all data, standardised targets."""
        return float(log_marginal_likelihood(self.fitted_model, {}, self.data, self.diag_reg, self.kernel))

    def with_diag_reg(self, diag_reg: float) -> "ExactPosterior":
        """The posterior with another regularisation and the same hyperparameters; the matrix is not decomposed again.

        Warns:
            RuntimeWarning: as in :func:`condition`.

        Raises:
            ValueError: when it is not a finite number of at least 0.
        """
        changed = dataclasses.replace(self, diag_reg=_check.nonnegative_number("diag_reg", diag_reg))
        warn_where_noise_hides(changed.kernel, changed.ridge)
        return changed

    def leave_one_out(self) -> tuple[Float[Array, "N C"], Float[Array, " N"]]:
        """Mean and variance of each y_n given all the others, standardised units (Rasmussen & Williams 2006, equation
        5.12)."""
        return leave_one_out(self.kernel, self.data.y, self.ridge)

    def leave_one_out_mean(self, diag_reg: float | None = None) -> Float[np.ndarray, "N C"]:
        """The means of :meth:`leave_one_out`, with another regularisation where one is given."""
        value = self.diag_reg if diag_reg is None else _check.nonnegative_number("diag_reg", diag_reg)
        return np.asarray(dataclasses.replace(self, diag_reg=value).leave_one_out()[0], float)

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """The posterior itself: a stack of one."""
        draw = Draw(values=self.values, inducing=self.data.x, factors=())
        return jax.tree.map(lambda a: jnp.asarray(a)[None], draw)

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "1 B C"], Float[Array, "1 B C"]]:
        """Mean and variance of the latent functions at standardised points; nothing is random."""
        mean, variance = in_chunks(self._moments, x, chunk)
        return mean[None], jnp.broadcast_to(variance[None, :, None], (1, *mean.shape))

    def latent_mean(self, x: Float[Array, "B *space D"], chunk: int) -> Float[Array, "B C"]:
        """Mean of the latent functions at standardised points, without the cost of variances."""
        return in_chunks(lambda rows: self._cross(rows) @ self._weights, x, chunk)

    def latent_covariance(self, x: Float[Array, "B *space D"]) -> Float[Array, "B B"]:
        """Posterior covariance at standardised points, K_** - K_*X (K_XX + ridge I)^-1 K_X*."""
        removed = self._cross(x) @ self._root.T
        return jnp.asarray(nngp_kernel(self.fitted_model, x)) - removed @ removed.T

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the fit."""
        return {
            "engine": "exact",
            "log_marginal_likelihood_per_point": self.log_marginal_likelihood / self.data.n,
            "starts": self.starts,
            "iterations": self.iterations,
            "converged": self.converged,
            "smallest_eigenvalue": float(self.kernel.values[0]),
            "eigenvalue_noise": float(self.kernel.noise),
            "ridge": self.ridge,
            "seconds": self.seconds,
        }

    @functools.cached_property
    def _weights(self) -> Array:
        """(K + ridge I)^-1 y."""
        return self.kernel.apply(1 / self.kernel.shifted(self.ridge), self.data.y)

    @functools.cached_property
    def _root(self) -> Array:
        """R with R^T R = (K + ridge I)^-1."""
        return self.kernel.vectors.T / jnp.sqrt(self.kernel.shifted(self.ridge))[:, None]

    def _cross(self, x: Float[Array, "B *space D"]) -> Array:
        return jnp.asarray(nngp_kernel(self.fitted_model, x, self.data.x))

    def _moments(self, x: Float[Array, "B *space D"]) -> tuple[Array, Array]:
        cross, own = self._cross(x), kernel_variances(self.fitted_model, x)
        variance = own - squared_norms(cross @ self._root.T)
        return cross @ self._weights, jnp.maximum(variance, jnp.finfo(own.dtype).eps * own)


def condition(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    key: PRNGKeyArray | None = None,
    restarts: int = 3,
    max_iterations: int = 200,
    max_points: int = 10_000,
    diag_reg: float = 0.0,
    progress: bool | None = False,
) -> ExactPosterior:
    """Condition a model without bottlenecks on data, exactly: the NNGP posterior.

    With the kernel K of the layers and the ridge r = noise^2 + diag_reg tr K / N, the latent function f has mean
    K_*X (K_XX + r I)^-1 y and covariance K_** - K_*X (K_XX + r I)^-1 K_X*.

    Args:
        key: for the starts after the first, which are perturbed on the unconstrained scale; without a key there is
            one start.
        restarts: number of starts.
        max_iterations: of L-BFGS, for each start.
        max_points: refuse larger data sets: memory is several matrices of N x N, and time is cubic: one decomposition
            into eigenvectors, ten times as long as a Cholesky factorisation, after which other regularisations and
            leave-one-out prediction cost little.
        diag_reg: regularisation relative to the mean variance of the kernel, at least 0.
        progress: show a progress bar for the kernel matrix.

    Starts whose noise went to 0 where rows are repeated with equal targets are left out, unless all did: the evidence
    has no upper bound there, and the best model is the one that knows the repetitions by heart.

    Warns:
        RuntimeWarning: when the smallest eigenvalue of K + r I is below the rounding errors of the dtype: beyond this
            number of points a larger `diag_reg`, or float64, is needed.

    Raises:
        ValueError: for a model with bottlenecks, a likelihood other than Gaussian noise, hyperparameters with a
            distribution, too many data points, or numbers out of range.

    Source: Rasmussen & Williams 2006, equations 2.23 to 2.25; of networks: Lee et al. 2018 (arXiv 1711.00165), section
        2.4; relative regularisation: Lee et al. 2020 (arXiv 2007.15801).
    """
    check_exact(model, data, max_points)
    diag_reg = _check.nonnegative_number("diag_reg", diag_reg)
    _check.positive_int("max_iterations", max_iterations)
    if key is None:
        restarts = 1
    else:
        _check.random_key("key", key)
        _check.positive_int("restarts", restarts)
    began = time.perf_counter()
    names = hyperparameters(model, data.d, data.n_outputs)
    fixed_kernel = not any(h.is_learned and name.startswith("layers.") for name, h in names.items())
    kernel = _spectrum(model, data, progress) if fixed_kernel else None
    options: dict[str, Any] = {"key": key, "restarts": restarts, "max_iterations": max_iterations}
    found = maximise(model, data, diag_reg, kernel, **options)
    posterior = ExactPosterior(
        model=model,
        data=data,
        values=found.values,
        diag_reg=diag_reg,
        kernel=_spectrum(substitute(model, found.values), data, progress) if kernel is None else kernel,
        starts=found.starts,
        iterations=found.iterations,
        converged=found.converged,
        seconds=time.perf_counter() - began,
    )
    warn_where_noise_hides(posterior.kernel, posterior.ridge)
    return posterior


def _spectrum(model: DeepKernelProcess, data: Dataset, progress: bool | None) -> Spectrum:
    return spectrum(jnp.asarray(nngp_kernel(model, data.x, progress=progress)))


def warn_where_noise_hides(kernel: Spectrum, ridge: float, stacklevel: int = 3) -> None:
    """Warn when rounding errors are as large as the smallest eigenvalue of the matrix that is inverted."""
    smallest, noise = float(kernel.values[0]) + ridge, float(kernel.noise)
    if smallest <= noise:
        warnings.warn(
            f"Expected the smallest eigenvalue of the regularised kernel matrix to be above {noise:.1e}, the size of "
            f"{kernel.values.dtype} rounding errors at this number of points. Got {smallest:.1e}: predictions depend "
            f"on the errors. Use a diag_reg above {noise / float(kernel.mean_variance):.1e}"
            + (" or float64." if kernel.values.dtype == jnp.float32 else "."),
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def check_exact(model: DeepKernelProcess, data: Dataset, max_points: int) -> None:
    """Raise ValueError unless the model is a Gaussian process with Gaussian noise, and the data are few enough."""
    check_model_and_data(model, data)
    if model.bottlenecks:
        raise ValueError(
            f"Expected a model without bottlenecks for exact inference. Got {model.bottlenecks[0]!r}: use dkp.fit_vi."
        )
    inferred = [n for n, h in hyperparameters(model, data.d, data.n_outputs).items() if h.is_inferred]
    if inferred:
        raise ValueError(
            "Expected numbers or learn() for exact inference. "
            f"Got distributions for {', '.join(inferred)}: use dkp.fit_vi."
        )
    if not model.likelihood.is_gaussian:
        raise ValueError(
            f"Expected the Gaussian likelihood for exact inference. Got {model.likelihood!r}: use dkp.fit_vi."
        )
    check_plain(data, "use dkp.fit_vi or dkp.sample_hmc")
    if data.n > max_points:
        raise ValueError(
            f"Expected at most max_points = {max_points} data points. Got {data.n}, and each matrix takes "
            f"{data.n**2 * data.x.dtype.itemsize / 1e9:.1f} GB: use dkp.fit_vi, or raise max_points."
        )
