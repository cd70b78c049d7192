"""Exact inference where there is no bottleneck: a Gaussian process with Gaussian noise.

Learned hyperparameters maximise the log marginal likelihood, by L-BFGS from several starts; inferred ones are not
integrated out here, so they are refused.
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dkp import _check
from dkp._types import Array, PRNGKeyArray, Scalar
from dkp.data import Dataset
from dkp.distributions.outputs import OutputLaw, exact_outputs
from dkp.inference.checks import check_model_and_data
from dkp.linalg.blocks import Gram, Inputs
from dkp.model import DeepKernelProcess, propagate
from dkp.posterior import Draw
from dkp.priors import hyperparameters, resolve

__all__ = ["ExactPosterior", "condition"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactPosterior:
    """A Gaussian process conditioned on data.

    values: hyperparameters by name. log_marginal_likelihood: nats, all data, standardised targets; one value a start
        in `starts`.
    """

    model: DeepKernelProcess
    data: Dataset
    values: dict[str, Array]
    log_marginal_likelihood: float
    starts: tuple[float, ...]
    iterations: int
    converged: bool
    seconds: float

    @property
    def hyperparameters(self) -> dict[str, np.ndarray]:
        """Values of the learned hyperparameters, by name."""
        return {name: np.asarray(value) for name, value in self.values.items()}

    def sample(self, key: PRNGKeyArray, n: int) -> Draw:
        """The posterior itself: a stack of one."""
        _, law = _log_marginal_likelihood(self.model, self.values, self.data)
        draw = Draw(values=self.values, inducing=self.data.x, factors=(), outputs=law)
        return jax.tree.map(lambda a: jnp.asarray(a)[None], draw)

    def summary(self) -> dict[str, Any]:
        """What to look at before trusting the fit."""
        return {
            "engine": "exact",
            "log_marginal_likelihood_per_point": self.log_marginal_likelihood / self.data.n,
            "starts": self.starts,
            "iterations": self.iterations,
            "converged": self.converged,
            "seconds": self.seconds,
        }


def condition(
    model: DeepKernelProcess,
    data: Dataset,
    *,
    key: PRNGKeyArray | None = None,
    restarts: int = 3,
    max_iterations: int = 200,
    max_points: int = 10_000,
) -> ExactPosterior:
    """Condition a model without bottlenecks on data, exactly.

    Args:
        key: for the starts after the first, which are perturbed on the unconstrained scale; without a key there is
            one start.
        restarts: number of starts.
        max_iterations: of L-BFGS, for each start.
        max_points: refuse larger data sets: memory is several matrices of N x N.

    Raises:
        ValueError: for a model with bottlenecks, a likelihood other than Gaussian noise, hyperparameters with a
            distribution, or too many data points.
    """
    check_model_and_data(model, data)
    _check_exact(model, data, max_points)
    _check.positive_int("max_iterations", max_iterations)
    if key is None:
        restarts = 1
    else:
        _check.random_key("key", key)
        _check.positive_int("restarts", restarts)
    names = hyperparameters(model, data.d, data.n_outputs)
    learned = {name: h for name, h in names.items() if h.is_learned}
    start = {name: h.unconstrain(h.initial(data.x, data.y)) for name, h in learned.items()}
    began = time.perf_counter()
    fits = [_maximise(model, data, _perturbed(start, key, i), max_iterations) for i in range(restarts)]
    heights = [float(height) if np.isfinite(height) else -np.inf for _, height, _ in fits]
    best, height, iterations = fits[int(np.argmax(heights))]
    return ExactPosterior(
        model=model,
        data=data,
        values={name: h.constrain(best[name]) for name, h in learned.items()},
        log_marginal_likelihood=float(height),
        starts=tuple(heights),
        iterations=int(iterations),
        converged=int(iterations) < max_iterations and bool(np.isfinite(height)),
        seconds=time.perf_counter() - began,
    )


def _perturbed(start: dict[str, Array], key: PRNGKeyArray | None, index: int) -> dict[str, Array]:
    if key is None or index == 0:
        return start
    keys = jax.random.split(jax.random.fold_in(key, index), len(start))
    return {n: v + jax.random.normal(k, v.shape, v.dtype) / 2 for k, (n, v) in zip(keys, start.items(), strict=True)}


@functools.partial(jax.jit, static_argnums=(0, 3))
def _maximise(
    model: DeepKernelProcess, data: Dataset, start: dict[str, Array], max_iterations: int
) -> tuple[dict[str, Array], Array, Array]:
    """L-BFGS with a zoom line search, until the gradient is small against the number of points."""
    names = hyperparameters(model, data.d, data.n_outputs)
    optimizer = optax.lbfgs()
    tolerance = jnp.asarray(1e-4 if data.x.dtype == jnp.float64 else 1e-3, data.x.dtype)

    def loss(free: dict[str, Array]) -> Scalar:
        values = {n: names[n].constrain(v) for n, v in free.items()}
        return -_log_marginal_likelihood(model, values, data)[0] / data.x.shape[0]

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        free, state, count, _ = carry
        value, gradient = value_and_grad(free, state=state)
        updates, state = optimizer.update(gradient, state, free, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(free, updates), state, count + 1, optax.tree.norm(gradient)

    def unfinished(carry: Any) -> Array:
        return (carry[2] < max_iterations) & (carry[3] > tolerance)

    if not start:
        return start, -loss(start) * data.x.shape[0], jnp.zeros((), jnp.int32)
    first = (start, optimizer.init(start), jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, data.x.dtype))
    free, _, count, _ = jax.lax.while_loop(unfinished, step, first)
    return free, -loss(free) * data.x.shape[0], count


def _log_marginal_likelihood(
    model: DeepKernelProcess, values: dict[str, Array], data: Dataset
) -> tuple[Scalar, OutputLaw]:
    resolved = resolve(model, values, data.x.dtype, data.x.shape[1], data.y.shape[1])
    gram = propagate(resolved.layers, Inputs(i=data.x), _no_bottleneck)
    noise = resolved.likelihood.noise_variance(data.y.shape[1])
    assert noise is not None
    return exact_outputs(gram.ii, data.y, noise[0])


def _no_bottleneck(index: int, layer: Any, kernel: Gram) -> Gram:
    raise AssertionError("a bottleneck in a model that was checked to have none")


def _check_exact(model: DeepKernelProcess, data: Dataset, max_points: int) -> None:
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
    if data.n > max_points:
        raise ValueError(
            f"Expected at most max_points = {max_points} data points. Got {data.n}, and each matrix takes "
            f"{data.n**2 * data.x.dtype.itemsize / 1e9:.1f} GB: use dkp.fit_vi, or raise max_points."
        )
