"""Ensembles of infinitely wide networks trained by gradient flow on squared errors: the tangent kernel's predictions.

In the wide limit training is linear: every network f_t of the ensemble obeys df/dt = -Theta(., X) (f(X) - y) from a
start f_0 ~ N(0, K), so that the ensemble stays Gaussian at every time. The moments are functions of the tangent
kernel Theta and of the NNGP kernel K.
"""

import dataclasses
import functools
import math
import time as clock
from typing import Any

import jax.numpy as jnp
import numpy as np

from dkp import _check
from dkp._types import Array, Float, PRNGKeyArray
from dkp.data import Dataset
from dkp.inference.exact import check_exact, leave_one_out, warn_where_noise_hides
from dkp.linalg.spectrum import Spectrum, spectrum
from dkp.model import DeepKernelProcess
from dkp.nngp import kernel_variances, nngp_and_ntk_kernels, nngp_kernel
from dkp.posterior import Draw
from dkp.priors import hyperparameters, substitute

__all__ = ["GradientFlowEnsemble", "diag_reg_of_time", "gradient_flow", "time_of_diag_reg"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientFlowEnsemble:
    """The Gaussian law of networks after training for `time`; make it with :func:`gradient_flow`.

    tangent: spectrum of the tangent kernel of the data. kernel: NNGP kernel of the data, (N, N).
    """

    model: DeepKernelProcess
    data: Dataset
    time: float
    diag_reg: float
    tangent: Spectrum
    kernel: Float[Array, "N N"]
    seconds: float

    @property
    def ridge(self) -> float:
        """What was added to the diagonal of the tangent kernel: diag_reg tr Theta / N."""
        return self.diag_reg * float(self.tangent.mean_variance)

    def at(self, time: float) -> "GradientFlowEnsemble":
        """The ensemble after another time of training; the matrix is not decomposed again.

        Raises:
            ValueError: when the time is not positive (infinity will do).
        """
        return dataclasses.replace(self, time=_check_time(time))

    def with_diag_reg(self, diag_reg: float) -> "GradientFlowEnsemble":
        """The ensemble with another regularisation; the matrix is not decomposed again.

        Raises:
            ValueError: when it is not a finite number of at least 0.
        """
        return dataclasses.replace(self, diag_reg=_check.nonnegative_number("diag_reg", diag_reg))

    def leave_one_out(self) -> tuple[Float[Array, "N C"], Float[Array, " N"]]:
        """Mean and variance of each y_n given all the others, standardised units, by ridge regression on the tangent
        kernel.

        Exact for the mean at infinite time; at time t the flow is replaced by the ridge 1 / t, which acts like it
        (:func:`diag_reg_of_time`).
        """
        return leave_one_out(self.tangent, self.data.y, self.ridge + 1 / self.time)

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """The ensemble's law itself: a stack of one."""
        return Draw(values={}, inducing=self.data.x[None], factors=())

    def latent_moments(
        self, draws: Draw, key: PRNGKeyArray, x: Float[Array, "B *space D"], chunk: int
    ) -> tuple[Float[Array, "1 B C"], Float[Array, "1 B C"]]:
        """Mean and variance over the ensemble at standardised points; nothing is random."""
        parts = [self._moments(x[start : start + chunk]) for start in range(0, len(x), chunk)]
        mean, variance = (jnp.concatenate(blocks) for blocks in zip(*parts, strict=True))
        return mean[None], jnp.broadcast_to(variance[None, :, None], (1, *mean.shape))

    def latent_covariance(self, x: Float[Array, "B *space D"]) -> Float[Array, "B B"]:
        """Covariance over the ensemble at standardised points."""
        cross, trained = self._cross(x)
        mixed = trained @ cross.T
        return jnp.asarray(nngp_kernel(self.model, x)) + trained @ self.kernel @ trained.T - mixed - mixed.T

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the fit."""
        return {
            "engine": "gradient flow",
            "time": self.time,
            "smallest_eigenvalue": float(self.tangent.values[0]),
            "eigenvalue_noise": float(self.tangent.noise),
            "ridge": self.ridge,
            "seconds": self.seconds,
        }

    @functools.cached_property
    def _filter(self) -> Array:
        """Theta^-1 (I - exp(-Theta t)), of the regularised Theta."""
        shifted = self.tangent.shifted(self.ridge)
        return self.tangent.matrix(-jnp.expm1(-shifted * self.time) / shifted)

    def _cross(self, x: Float[Array, "B *space D"]) -> tuple[Array, Array]:
        """K_*X, and Theta_*X Theta^-1 (I - exp(-Theta t))."""
        cross, tangent = map(jnp.asarray, nngp_and_ntk_kernels(self.model, x, self.data.x))
        return cross, tangent @ self._filter

    def _moments(self, x: Float[Array, "B *space D"]) -> tuple[Array, Array]:
        (cross, trained), own = self._cross(x), kernel_variances(self.model, x)
        variance = own + jnp.sum((trained @ self.kernel - 2 * cross) * trained, axis=1)
        return trained @ self.data.y, jnp.maximum(variance, jnp.finfo(own.dtype).eps * own)


def gradient_flow(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    time: float = math.inf,
    diag_reg: float = 0.0,
    max_points: int = 10_000,
    progress: bool | None = False,
) -> GradientFlowEnsemble:
    """Train an ensemble of infinitely wide networks by gradient flow on sum_n (f(x_n) - y_n)^2 / 2.

    With the regularised tangent kernel Theta = Theta_XX + diag_reg tr(Theta_XX) / N I and F = Theta^-1 (I - exp(-Theta
    t)), networks started at f_0 ~ N(0, K) have at time t

        mean = Theta_*X F y,
        covariance = K_** + Theta_*X F K_XX F Theta_X* - (Theta_*X F K_X* + transpose).

    Args:
        model: layers without bottlenecks, of which some have weights (``Affine``, ``Conv``, ``LocallyConnected``), and
            a Gaussian likelihood, whose noise is added in predictions of y. Hyperparameters to be learned stand at
            their initial values; ``ExactPosterior.fitted_model`` has better ones.
        time: the learning rate times the number of small steps, positive; infinity trains to the end.
        diag_reg: regularisation relative to the mean diagonal of the tangent kernel, at least 0.
        max_points: refuse larger data sets: memory is several matrices of N x N, time is cubic.
        progress: show a progress bar for the kernel matrices.

    Warns:
        RuntimeWarning: when the smallest eigenvalue of Theta is below the rounding errors of the dtype, and infinite
            time would divide by it.

    Raises:
        ValueError: for a model with bottlenecks or without weights, a likelihood other than Gaussian noise, too many
            data points, or numbers out of range.

    Source: Lee et al. 2019 (arXiv 1902.06720), equations 14 to 16; regularised: Lee et al. 2020 (arXiv 2007.15801).
    """
    check_exact(model, data, max_points)
    time, diag_reg = _check_time(time), _check.nonnegative_number("diag_reg", diag_reg)
    began = clock.perf_counter()
    learned = {n: h for n, h in hyperparameters(model, data.d, data.n_outputs).items() if h.is_learned}
    fixed = substitute(model, {n: h.initial(data.x, data.y) for n, h in learned.items()})
    kernel, tangent = map(jnp.asarray, nngp_and_ntk_kernels(fixed, data.x, progress=progress))
    if not bool(jnp.any(tangent)):
        raise ValueError(
            "Expected layers with weights to train, such as Affine() or Conv(3). Got a tangent kernel of 0: add one, "
            "or use dkp.condition."
        )
    found = spectrum(tangent)
    ensemble = GradientFlowEnsemble(
        model=fixed,
        data=data,
        time=time,
        diag_reg=diag_reg,
        tangent=found,
        kernel=kernel,
        seconds=clock.perf_counter() - began,
    )
    warn_where_noise_hides(found, ensemble.ridge + 1 / time)
    return ensemble


def diag_reg_of_time(time: float, kernel: Any) -> float:
    """The relative ridge that acts like training for `time`: diag_reg tr K / N = 1 / time.

    Gradient flow multiplies the component of y along an eigenvector of K by 1 - exp(-lambda t), ridge regression by
    lambda / (lambda + ridge): equal to first order for small lambda, and 0.63 against 0.5 at lambda = 1 / t.

    Args:
        time: as in :func:`gradient_flow`.
        kernel: the matrix, (N, N), of which the trace is taken.

    Raises:
        ValueError: when the time is not positive, or the matrix is not square or has no positive trace.
    """
    return 1 / (_check_time(time) * _mean_variance(kernel))


def time_of_diag_reg(diag_reg: float, kernel: Any) -> float:
    """The time of training that acts like a relative ridge, the inverse of :func:`diag_reg_of_time`; infinite for 0."""
    ridge = _check.nonnegative_number("diag_reg", diag_reg) * _mean_variance(kernel)
    return 1 / ridge if ridge else math.inf


def _mean_variance(kernel: Any) -> float:
    matrix = _check.finite_array("kernel", kernel, ndim=2)
    if matrix.shape[0] != matrix.shape[1] or np.trace(matrix) <= 0:
        raise ValueError(f"Expected kernel to be a square matrix with a positive trace. Got shape {matrix.shape}.")
    return float(np.trace(matrix)) / len(matrix)


def _check_time(time: Any) -> float:
    return math.inf if time == math.inf else _check.positive_number("time", time)
