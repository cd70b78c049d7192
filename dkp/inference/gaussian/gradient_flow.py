"""Ensembles of infinitely wide networks trained by gradient flow on squared errors.

Their predictions are those of the tangent kernel.

In the wide limit training is linear: every network f_t of the ensemble obeys df/dt = -Theta(., X)
(f(X) - y) from a start f_0 ~ N(0, K), so that the ensemble stays Gaussian at every time. The
moments are functions of the tangent kernel Theta and of the NNGP kernel K.
"""

import dataclasses
import math
import time as clock
from typing import Any

import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.record import record
from dkp._core.types import Array, Float
from dkp.data.dataset import Dataset
from dkp.inference.gaussian.condition import check_exact
from dkp.inference.gaussian.posterior import GaussianPosterior, warn_where_noise_hides
from dkp.linalg.spectrum import Spectrum, leave_one_out, spectrum
from dkp.model.hyperparameters import substitute
from dkp.model.nngp import kernel_variances, nngp_and_ntk_kernels, nngp_kernel, ntk_kernel
from dkp.model.process import DeepKernelProcess
from dkp.posterior.rows import in_chunks

__all__ = ["GradientFlowEnsemble", "diag_reg_of_time", "gradient_flow", "time_of_diag_reg"]


@record
class GradientFlowEnsemble(GaussianPosterior):
    """The Gaussian law of networks after training for `time`; make it with :func:`gradient_flow`.

    Attributes:
        values: initial values of hyperparameters to be learned.
        time: of training.
        tangent: spectrum of the tangent kernel of the data.
        kernel: NNGP kernel of the data, (N, N).

    Examples:
        >>> import dkp
        >>> layers = [dkp.kernels.Affine(2.0), dkp.kernels.ReLU(), dkp.kernels.Affine(1.0)]
        >>> model = dkp.DeepKernelProcess(layers=layers, likelihood=dkp.likelihoods.Gaussian(0.1))
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
        >>> ensemble = dkp.gradient_flow(model, data, time=float("inf"), diag_reg=0.1)
        >>> print(ensemble.time, ensemble.at(2.0).time)
        inf 2.0
    """

    time: float
    tangent: Spectrum
    kernel: Float[Array, "N N"]

    @property
    def ridge(self) -> float:
        """What was added to the diagonal of the tangent kernel: diag_reg tr Theta / N."""
        return self.diag_reg * float(self.tangent.mean_variance)

    def at(self, time: float) -> "GradientFlowEnsemble":
        """The ensemble after another time of training; the matrix is not decomposed again.

        Warns:
            RuntimeWarning: as in :func:`gradient_flow`.

        Raises:
            ValueError: when the time is not positive (infinity will do).
        """
        return dataclasses.replace(self, time=_check_time(time))._warned()

    def leave_one_out_mean(self, diag_reg: float | None = None) -> Float[np.ndarray, "N C"]:
        """Mean prediction of each y_n by an ensemble that was trained on all the others.

        It is in standardised units.

        At infinite time this is ridge regression. At time t it is an integral over ridges s,
        because (1 - exp(-l t)) / l is the inverse Laplace transform of 1 / (s (s + l)): by 32 nodes
        on a contour in the complex plane, to about nine digits.

        Args:
            diag_reg: another regularisation than the ensemble's.

        Source: leave-one-out: Rasmussen & Williams 2006, equation 5.12; contour: Trefethen,
        Weideman & Schmelzer 2006, *BIT* 46, section 3.
        """
        ridge = self._regularised(diag_reg).ridge
        if self.time == math.inf:
            return np.asarray(leave_one_out(self.tangent, self.data.y, ridge)[0], float)
        values, vectors = (
            np.asarray(self.tangent.shifted(ridge), float),
            np.asarray(self.tangent.vectors, float),
        )
        y, squares = np.asarray(self.data.y, float), vectors**2
        projected, mean = vectors.T @ y, np.zeros(y.shape)
        for node, weight in zip(*_contour(self.time), strict=True):
            resolvent = 1 / (values + node)
            solution = vectors @ (resolvent[:, None] * projected)
            mean += np.real(weight * (y - solution / (squares @ resolvent)[:, None]))
        return mean

    def latent_mean(self, x: Float[Array, "B *space D"], chunk: int) -> Float[Array, "B C"]:
        """Mean over the ensemble at standardised points, without the cost of variances."""
        weights = self.tangent.apply(self._filter, self.data.y)
        return in_chunks(
            lambda rows: ntk_kernel(self.fitted_model, rows, self.data.x) @ weights, x, chunk
        )

    def latent_covariance(self, x: Float[Array, "B *space D"]) -> Float[Array, "B B"]:
        """Covariance over the ensemble at standardised points."""
        cross, trained = self._cross(x)
        mixed = trained @ cross.T
        return (
            jnp.asarray(nngp_kernel(self.fitted_model, x))
            + trained @ self.kernel @ trained.T
            - mixed
            - mixed.T
        )

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

    @property
    def _filter(self) -> Array:
        """(1 - exp(-l t)) / l at the eigenvalues l of the regularised tangent kernel."""
        shifted = self.tangent.shifted(self.ridge)
        return -jnp.expm1(-shifted * self.time) / shifted

    def _cross(self, x: Float[Array, "B *space D"]) -> tuple[Array, Array]:
        """K_*X, and Theta_*X Theta^-1 (I - exp(-Theta t))."""
        cross, tangent = map(jnp.asarray, nngp_and_ntk_kernels(self.fitted_model, x, self.data.x))
        vectors = self.tangent.vectors
        return cross, ((tangent @ vectors) * self._filter[None, :]) @ vectors.T

    def _moments(self, x: Float[Array, "B *space D"]) -> tuple[Array, Array]:
        (cross, trained), own = self._cross(x), kernel_variances(self.fitted_model, x)
        variance = own + jnp.sum((trained @ self.kernel - 2 * cross) * trained, axis=1)
        return trained @ self.data.y, jnp.maximum(variance, jnp.finfo(own.dtype).eps * own)

    def _warned(self) -> "GradientFlowEnsemble":
        warn_where_noise_hides(self.tangent, self.ridge + 1 / self.time, stacklevel=4)
        return self


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

    With the regularised tangent kernel Theta = Theta_XX + diag_reg tr(Theta_XX) / N I and F =
    Theta^-1 (I - exp(-Theta t)), networks started at f_0 ~ N(0, K) have at time t

        mean = Theta_*X F y,
        covariance = K_** + Theta_*X F K_XX F Theta_X* - (Theta_*X F K_X* + transpose).

    Args:
        model: layers without bottlenecks, of which some have weights (``Affine``, ``Conv``,
            ``LocallyConnected``), and a Gaussian likelihood, whose noise is added in predictions of
            y. Hyperparameters to be learned stand at their initial values;
            ``ExactPosterior.fitted_model`` has better ones.
        time: the learning rate times the number of small steps, positive; infinity trains to the
            end. Training on the mean of squared errors, the loss above divided by N C, takes N C
            times as long.
        diag_reg: regularisation relative to the mean diagonal of the tangent kernel, at least 0.
        max_points: refuse larger data sets: memory is several matrices of N x N, time is cubic.
        progress: show a progress bar for the kernel matrices.

    Warns:
        RuntimeWarning: when the smallest eigenvalue of Theta is below the rounding errors of the
            dtype, and infinite time would divide by it.

    Raises:
        ValueError: for a model with bottlenecks or without weights, a likelihood other than
            Gaussian noise, too many data points, or numbers out of range.

    Source: Lee et al. 2019 (arXiv 1902.06720), equations 14 to 16; regularised: Lee et al. 2020
    (arXiv 2007.15801).

    Examples:
        >>> import dkp
        >>> layers = [dkp.kernels.Affine(2.0), dkp.kernels.ReLU(), dkp.kernels.Affine(1.0)]
        >>> model = dkp.DeepKernelProcess(layers=layers, likelihood=dkp.likelihoods.Gaussian(0.1))
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
        >>> ensemble = dkp.gradient_flow(model, data, time=float("inf"), diag_reg=0.1)
        >>> print(ensemble.latent_mean(data.x, 3).round(3).ravel())
        [-0.541  0.    -0.541]
    """
    problem = check_exact(model, data, max_points)
    time, diag_reg = _check_time(time), checks.nonnegative_number("diag_reg", diag_reg)
    began = clock.perf_counter()
    values = {n: h.initial(data.x, data.y) for n, h in problem.learned.items()}
    kernel, tangent = map(
        jnp.asarray, nngp_and_ntk_kernels(substitute(model, values), data.x, progress=progress)
    )
    if not bool(jnp.any(tangent)):
        raise ValueError(
            "Expected layers with weights to train, such as Affine() or Conv(3). Got a tangent "
            "kernel of 0: add one, "
            "or use dkp.condition."
        )
    return GradientFlowEnsemble(
        model=model,
        data=data,
        values=values,
        time=time,
        diag_reg=diag_reg,
        tangent=spectrum(tangent),
        kernel=kernel,
        seconds=clock.perf_counter() - began,
    )._warned()


def diag_reg_of_time(time: float, kernel: Any) -> float:
    """The relative ridge that acts like training for `time`: diag_reg tr K / N = 1 / time.

    Gradient flow multiplies the component of y along an eigenvector of K by 1 - exp(-lambda t),
    ridge regression by lambda / (lambda + ridge): equal to first order for small lambda, and 0.63
    against 0.5 at lambda = 1 / t.

    Args:
        time: as in :func:`gradient_flow`.
        kernel: the matrix, (N, N), of which the trace is taken.

    Raises:
        ValueError: when the time is not positive, or the matrix is not square or has no positive
            trace.

    Examples:
        >>> import numpy as np
        >>> import dkp
        >>> print(f"{dkp.diag_reg_of_time(10.0, np.eye(3)):.3f}")
        0.100
    """
    return 1 / (_check_time(time) * _mean_variance(kernel))


def time_of_diag_reg(diag_reg: float, kernel: Any) -> float:
    """The time of training that acts like a relative ridge; infinite for 0.

    It is the inverse of :func:`diag_reg_of_time`.

    Examples:
        >>> import numpy as np
        >>> import dkp
        >>> print(f"{dkp.time_of_diag_reg(0.1, np.eye(3)):.3f}")
        10.000
    """
    ridge = checks.nonnegative_number("diag_reg", diag_reg) * _mean_variance(kernel)
    return 1 / ridge if ridge else math.inf


def _contour(time: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes s and weights c of the inverse Laplace transform.

    The sum Re c F(s) is that of F(s) / s at `time`, for F that is real on the real axis and
    analytic off its negative half.
    """
    count = 32
    # the other half of the nodes are conjugates
    angle = (2 * np.arange(count // 2) + 1) * np.pi / count
    z = count * (-0.4814 + 0.6122 * angle / np.tan(0.6407 * angle) + 0.2645j * angle)
    slope = (
        0.6122 / np.tan(0.6407 * angle)
        - 0.6122 * 0.6407 * angle / np.sin(0.6407 * angle) ** 2
        + 0.2645j
    )
    return z / time, 2 * np.exp(z) * slope / (1j * z)


def _mean_variance(kernel: Any) -> float:
    matrix = checks.finite_array("kernel", kernel, ndim=2)
    if matrix.shape[0] != matrix.shape[1] or np.trace(matrix) <= 0:
        raise ValueError(
            "Expected kernel to be a square matrix with a positive trace. "
            f"Got shape {matrix.shape} and trace {np.trace(matrix):.3g}."
        )
    return float(np.trace(matrix)) / len(matrix)


def _check_time(time: Any) -> float:
    return math.inf if time == math.inf else checks.positive_number("time", time)
