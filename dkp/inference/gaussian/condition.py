"""Exact inference where there is no bottleneck: a Gaussian process with Gaussian noise.

It is the prior of an infinitely wide network.

Learned hyperparameters maximise the log marginal likelihood; inferred ones are not integrated out
here, so they are refused. Kernel matrices are computed tile by tile, so that images and thousands
of points fit; only learning the hyperparameters of the kernel itself takes a differentiable program
for the whole matrix.
"""

import time
from typing import Any

import jax.numpy as jnp

from dkp._core import checks
from dkp._core.types import PRNGKeyArray
from dkp.data.dataset import Dataset
from dkp.inference.checks import Problem
from dkp.inference.gaussian.exact import ExactPosterior
from dkp.inference.gaussian.marginal_likelihood import maximise
from dkp.inference.gaussian.posterior import warn_where_noise_hides
from dkp.linalg.spectrum import Spectrum, spectrum
from dkp.model.hyperparameters import substitute
from dkp.model.nngp import nngp_kernel
from dkp.model.process import DeepKernelProcess

__all__ = ["check_exact", "condition"]


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

    With the kernel K of the layers and the ridge r = noise^2 + diag_reg tr K / N, the latent
    function f has mean K_*X (K_XX + r I)^-1 y and covariance K_** - K_*X (K_XX + r I)^-1 K_X*.

    Args:
        key: for the starts after the first, which are perturbed on the unconstrained scale; without
            a key there is one start.
        restarts: number of starts.
        max_iterations: of L-BFGS, for each start.
        max_points: refuse larger data sets: memory is several matrices of N x N, and time is cubic:
            one decomposition into eigenvectors, ten times as long as a Cholesky factorisation,
            after which other regularisations and leave-one-out prediction cost little.
        diag_reg: regularisation relative to the mean variance of the kernel, at least 0.
        progress: show a progress bar for the kernel matrix.

    Starts whose noise went to 0 where rows are repeated with equal targets are left out, unless all
    did: the evidence has no upper bound there, and the best model is the one that knows the
    repetitions by heart.

    Warns:
        RuntimeWarning: when the smallest eigenvalue of K + r I is below the rounding errors of the
            dtype: beyond this number of points a larger `diag_reg`, or float64, is needed.

    Raises:
        ValueError: for a model with bottlenecks, a likelihood other than Gaussian noise,
            hyperparameters with a distribution, too many data points, or numbers out of range.

    Source: Rasmussen & Williams 2006, equations 2.23 to 2.25; of networks: Lee et al. 2018 (arXiv
    1711.00165), section 2.4; relative regularisation: Lee et al. 2020 (arXiv 2007.15801).

    Examples:
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
        >>> print(f"{dkp.condition(model, data).log_marginal_likelihood:.3f}")
        -6.791
    """
    problem = check_exact(model, data, max_points)
    diag_reg = checks.nonnegative_number("diag_reg", diag_reg)
    checks.positive_int("max_iterations", max_iterations)
    if key is None:
        restarts = 1
    else:
        checks.random_key("key", key)
        checks.positive_int("restarts", restarts)
    began = time.perf_counter()
    fixed_kernel = not any(name.startswith("layers.") for name in problem.learned)
    kernel = _spectrum(model, data, progress) if fixed_kernel else None
    options: dict[str, Any] = {"key": key, "restarts": restarts, "max_iterations": max_iterations}
    found = maximise(problem, diag_reg, kernel, **options)
    posterior = ExactPosterior(
        model=model,
        data=data,
        values=found.values,
        diag_reg=diag_reg,
        kernel=_spectrum(substitute(model, found.values), data, progress)
        if kernel is None
        else kernel,
        starts=found.starts,
        iterations=found.iterations,
        converged=found.converged,
        seconds=time.perf_counter() - began,
    )
    warn_where_noise_hides(posterior.kernel, posterior.ridge)
    return posterior


def _spectrum(model: DeepKernelProcess, data: Dataset, progress: bool | None) -> Spectrum:
    return spectrum(jnp.asarray(nngp_kernel(model, data.x, progress=progress)))


def check_exact(model: DeepKernelProcess, data: Dataset, max_points: int) -> Problem:
    """The problem of a Gaussian process.

    Raises:
        ValueError: unless the model is a Gaussian process with Gaussian noise, and the data are few
            enough.
    """
    problem = Problem.of(model, data)
    if model.bottlenecks:
        raise ValueError(
            "Expected a model without bottlenecks for exact inference. Got "
            f"{model.bottlenecks[0]!r}: use dkp.fit_vi."
        )
    if problem.inferred:
        raise ValueError(
            "Expected numbers or learn() for exact inference. "
            f"Got distributions for {', '.join(problem.inferred)}: use dkp.fit_vi."
        )
    if not model.likelihood.is_gaussian:
        raise ValueError(
            f"Expected the Gaussian likelihood for exact inference. Got {model.likelihood!r}: use "
            "dkp.fit_vi."
        )
    problem.check_plain("use dkp.fit_vi or dkp.sample_hmc")
    if data.n > max_points:
        raise ValueError(
            f"Expected at most max_points = {max_points} data points. Got {data.n}, and each "
            "matrix takes "
            f"{data.n**2 * data.x.dtype.itemsize / 1e9:.1f} GB: use dkp.fit_vi, or raise "
            "max_points."
        )
    return problem
