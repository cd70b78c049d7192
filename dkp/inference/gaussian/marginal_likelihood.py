"""Hyperparameters of a Gaussian process by maximum marginal likelihood.

L-BFGS runs from several starts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dkp._core.compiled import compiled
from dkp._core.record import record
from dkp._core.types import Array, PRNGKeyArray, Scalar
from dkp.data.dataset import Dataset
from dkp.gram.gram import Inputs
from dkp.inference.checks import Problem
from dkp.linalg.diagonals import diagonal
from dkp.linalg.spectrum import Spectrum
from dkp.model.hyperparameters import hyperparameters, resolve, substitute
from dkp.model.nngp import kernel_variances
from dkp.model.outputs import exact_outputs
from dkp.model.process import DeepKernelProcess
from dkp.model.propagate import from_features

__all__ = ["Optimum", "log_marginal_likelihood", "maximise", "ridge_of"]

_NO_NOISE = 1e-10
_STALLED_ITERATIONS, _STALLED_NATS = 10, 0.05


@record
class Optimum:
    """Where the optimiser ended.

    Attributes:
        values: learned hyperparameters by name, at the best start.
        starts: log marginal likelihood of each start.
        iterations: from the best start.
        converged: whether the optimiser stopped by itself.
    """

    values: dict[str, Array]
    starts: tuple[float, ...]
    iterations: int
    converged: bool


def maximise(
    problem: Problem,
    diag_reg: float,
    kernel: Spectrum | None,
    *,
    key: PRNGKeyArray | None,
    restarts: int,
    max_iterations: int,
) -> Optimum:
    """Maximise the log marginal likelihood over the learned hyperparameters.

    Args:
        kernel: spectrum of the kernel matrix, where only the likelihood is learned; None where the
            kernel is.
        key: perturbs the starts after the first.
    """
    model, data, learned = problem.model, problem.data, problem.learned
    start = {name: h.unconstrain(h.initial(data.x, data.y)) for name, h in learned.items()}
    if not start:
        return Optimum(values={}, starts=(), iterations=0, converged=True)
    fits = [
        _maximise(model, max_iterations, _perturbed(start, key, i), data, diag_reg, kernel)
        for i in range(restarts)
    ]
    heights = [float(height) if np.isfinite(height) else -np.inf for _, height, _ in fits]
    values = [{name: h.constrain(free[name]) for name, h in learned.items()} for free, _, _ in fits]
    best = _highest(heights, lambda i: _has_no_noise(model, values[i], data, diag_reg), data)
    _, height, iterations = fits[best]
    return Optimum(
        values=values[best],
        starts=tuple(heights),
        iterations=int(iterations),
        converged=int(iterations) < max_iterations and bool(np.isfinite(height)),
    )


def log_marginal_likelihood(
    model: DeepKernelProcess,
    values: dict[str, Array],
    data: Dataset,
    diag_reg: Any,
    kernel: Spectrum | None = None,
) -> Scalar:
    """log N(y; 0, K + ridge I), summed over outputs (Rasmussen & Williams 2006, equation 2.30).

    With the spectrum of K it costs no more than products with its eigenvectors; without, K is
    computed from the hyperparameters and factorised.
    """
    resolved = resolve(model, values, data.x.dtype, data.d, data.n_outputs)
    if kernel is None:
        matrix = from_features(resolved.layers)[0](Inputs(i=data.x)).ii
        return exact_outputs(
            matrix, data.y, ridge_of(resolved, diag_reg, jnp.mean(diagonal(matrix)))
        )[0]
    eigenvalues = kernel.shifted(ridge_of(resolved, diag_reg, kernel.mean_variance))
    scaled = jnp.sum((kernel.vectors.T @ data.y) ** 2 / eigenvalues[:, None])
    return -(data.n_outputs * jnp.sum(jnp.log(2 * jnp.pi * eigenvalues)) + scaled) / 2


def ridge_of(model: DeepKernelProcess, diag_reg: Any, mean_variance: Scalar) -> Scalar:
    """What is added to the diagonal of the kernel matrix: noise^2 + diag_reg tr K / N."""
    noise = model.likelihood.noise_variance(1)
    assert noise is not None
    return noise[0] + jnp.asarray(diag_reg, mean_variance.dtype) * mean_variance


def _highest(heights: list[float], has_no_noise: Callable[[int], bool], data: Dataset) -> int:
    """The best start.

    Where rows are repeated with equal targets the evidence has no upper bound as the noise goes to
    0; a start that went there says nothing, and counts only where all did.
    """
    best = int(np.argmax(heights))
    rows = np.asarray(data.x).reshape(data.n, -1)
    if len(heights) == 1 or not has_no_noise(best) or len(np.unique(rows, axis=0)) == data.n:
        return best
    proper = [i for i, height in enumerate(heights) if np.isfinite(height) and not has_no_noise(i)]
    return max(proper, key=lambda i: heights[i], default=best)


def _has_no_noise(
    model: DeepKernelProcess, values: dict[str, Array], data: Dataset, diag_reg: float
) -> bool:
    """Whether what is added to the diagonal is smaller than rounding errors of the kernel matrix.

    So counts what is on its way there: noise with less than a hundred-thousandth of the standard
    deviation of f.
    """
    fitted = substitute(model, values)
    variance = jnp.mean(kernel_variances(fitted, data.x))
    rounding = data.n * float(jnp.finfo(data.x.dtype).eps) * float(variance)
    return not float(ridge_of(fitted, diag_reg, variance)) > max(
        rounding, _NO_NOISE * float(variance)
    )


def _perturbed(start: dict[str, Array], key: PRNGKeyArray | None, index: int) -> dict[str, Array]:
    if key is None or index == 0:
        return start
    keys = jax.random.split(jax.random.fold_in(key, index), len(start))
    return {
        n: v + jax.random.normal(k, v.shape, v.dtype) / 2
        for k, (n, v) in zip(keys, start.items(), strict=True)
    }


@compiled(static_argnums=(1,))
def _maximise(
    model: DeepKernelProcess,
    max_iterations: int,
    start: dict[str, Array],
    data: Dataset,
    diag_reg: Any,
    kernel: Spectrum | None,
) -> tuple[dict[str, Array], Array, Array]:
    """L-BFGS with a zoom line search.

    It ends when the gradient is small against the number of points, or ten iterations have gained
    less than 0.05 nats: weights of features that do not matter go on growing or shrinking for
    hundreds.
    """
    names = hyperparameters(model, data.d, data.n_outputs)
    optimizer = optax.lbfgs()
    tolerance = jnp.asarray(1e-4 if data.x.dtype == jnp.float64 else 1e-3, data.x.dtype)

    def loss(free: dict[str, Array]) -> Scalar:
        values = {n: names[n].constrain(v) for n, v in free.items()}
        return -log_marginal_likelihood(model, values, data, diag_reg, kernel) / data.x.shape[0]

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        free, state, count, _, before = carry
        value, gradient = value_and_grad(free, state=state)
        updates, state = optimizer.update(
            gradient, state, free, value=value, grad=gradient, value_fn=loss
        )
        place = count % _STALLED_ITERATIONS
        goes_on = (optax.tree.norm(gradient) > tolerance) & (
            before[place] - value >= _STALLED_NATS / data.x.shape[0]
        )
        return (
            optax.apply_updates(free, updates),
            state,
            count + 1,
            goes_on,
            before.at[place].set(value),
        )

    def unfinished(carry: Any) -> Array:
        return (carry[2] < max_iterations) & carry[3]

    none_before = jnp.full(_STALLED_ITERATIONS, jnp.inf, data.x.dtype)
    first = (start, optimizer.init(start), jnp.zeros((), jnp.int32), jnp.asarray(True), none_before)
    free, _, count, _, _ = jax.lax.while_loop(unfinished, step, first)
    return free, -loss(free) * data.x.shape[0], count
