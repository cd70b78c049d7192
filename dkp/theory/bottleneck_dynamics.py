"""Training of an infinitely wide network with one bottleneck, in function space.

F = f o g, where g maps inputs to d numbers, f has one hidden layer, and all other widths are
infinite: the tangent kernel of g, and that of f as a function of its inputs, do not change. The
kernel of F does, through g and the gradient of f: bottlenecks let infinite networks learn
representations.

Source: Littwin et al. 2021 (arXiv 2107.00364); the recursion, the linear case and its invariant are
derived here.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dkp._core import checks
from dkp._core.compiled import compiled
from dkp._core.record import value
from dkp._core.types import Array, Float, Scalar
from dkp.kernels.base import PointwiseKernel
from dkp.theory.parametrisation import critical_learning_rate

__all__ = ["LinearFlow", "Training", "acceleration", "flow", "linear_flow", "train"]


@value
class Training:
    """The network after 0, 1, …, T steps.

    Attributes:
        outputs: F at the training points, (T + 1, N).
        bottleneck: g there, (T + 1, N, d).
        new_outputs: F at the new points, (T + 1, M).
        loss: sum of squares / 2.

    Examples:
        >>> import jax.numpy as jnp
        >>> from dkp import kernels
        >>> from dkp.theory import bottleneck_dynamics
        >>> g, y = jnp.array([[1.0], [-1.0]]), jnp.array([1.0, 2.0])
        >>> trained = bottleneck_dynamics.train(kernels.Erf(), jnp.eye(2), g, y, step=0.5, steps=3)
        >>> trained.outputs.shape, trained.bottleneck.shape
        ((4, 2), (4, 2, 1))
    """

    outputs: Float[Array, "T N"]
    bottleneck: Float[Array, "T N d"]
    new_outputs: Float[Array, "T M"]
    loss: Float[Array, " T"]


def train(
    activation: PointwiseKernel,
    kernel: Float[Array, "N N"],
    bottleneck: Float[Array, "N d"],
    y: Float[Array, " N"],
    *,
    step: float,
    steps: int,
    new_kernel: Float[Array, "M N"] | None = None,
    new_bottleneck: Float[Array, "M d"] | None = None,
) -> Training:
    """Gradient descent on sum_i (F(x_i) - y_i)^2 / 2 in the NTK parametrisation.

    With chi_i = F(x_i) - y_i,

        g_t+1(x) = g_t(x) - eta sum_i Theta_g(x, x_i) chi_i grad f_t(g_t(x_i))
        f_t(z)   = - eta sum_s<t sum_i Theta_f(z, g_s(x_i)) chi_i(s)

    where Theta_f(z, w) = Sigma(z, w) + (z.w / d) Sigma'(z, w), Sigma = E[phi phi] of inputs with
    covariance z.w / d. f starts at 0, as two equal networks that are subtracted do. The history of
    all g_s(x_i) is kept: memory grows with steps x N, time with its square.

    Args:
        activation: of the hidden layer of f: a kernel of an activation that has a gradient, such as
            ``dkp.kernels.Erf()``.
        kernel: Theta_g, the tangent kernel of g between the training points, for each of its d
            outputs.
        bottleneck: g_0 at the training points, d independent draws from the NNGP of g.
        y: targets.
        step: eta.
        steps: T.
        new_kernel: Theta_g between new points and training points.
        new_bottleneck: g_0 at the new points, drawn jointly with `bottleneck`.

    Raises:
        ValueError: for shapes that do not fit, a step or a number of steps that is not positive,
            one of the new arguments without the other.

    Warns:
        RuntimeWarning: when the step lies above 2 / lambda_max of the tangent kernel at the start,
            Theta_f(g_0, g_0), and says what that is.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from dkp import kernels
        >>> from dkp.theory import bottleneck_dynamics
        >>> g, y = jnp.array([[1.0], [-1.0]]), jnp.array([1.0, 2.0])
        >>> trained = bottleneck_dynamics.train(kernels.Erf(), jnp.eye(2), g, y, step=0.5, steps=3)
        >>> print(np.asarray(trained.loss).round(3))
        [2.5   2.25  2.097 1.773]
    """
    both = _checked_training(kernel, bottleneck, y, new_kernel, new_bottleneck)
    checks.positive_number("step", step)
    checks.positive_int("steps", steps)
    critical_learning_rate(
        np.asarray(_tangent_kernel(activation, bottleneck, bottleneck)), warn_at=step
    )
    return _train(activation, *both, y, jnp.asarray(step, y.dtype), steps)


def flow(
    activation: PointwiseKernel,
    kernel: Float[Array, "N N"],
    bottleneck: Float[Array, "N d"],
    y: Float[Array, " N"],
    *,
    time: float,
    steps: int = 100,
    new_kernel: Float[Array, "M N"] | None = None,
    new_bottleneck: Float[Array, "M d"] | None = None,
) -> Training:
    """Gradient flow, the limit of :func:`train` for small steps.

    At the time t = eta times their number,

        dg_t(x)/dt = - sum_i Theta_g(x, x_i) chi_i(t) grad f_t(g_t(x_i))
        f_t(z)     = - int_0^t sum_i Theta_f(z, g_s(x_i)) chi_i(s) ds

    g by the method of Heun, f by the trapezoid rule, whose last term depends on f itself and is
    solved for: no step is too large to be stable for f. Errors are of the order 1 / steps^2 for
    smooth activations, and about 1 / steps for ReLU, whose Theta_f has a kink where a point is
    compared with itself.

    Args:
        time: until when.
        steps: of equal length. The others are those of :func:`train`.

    Returns:
        the network at the times 0, time / steps, …, time.

    Raises:
        ValueError: as :func:`train` does.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from dkp import kernels
        >>> from dkp.theory import bottleneck_dynamics
        >>> g, y = jnp.array([[1.0], [-1.0]]), jnp.array([1.0, 2.0])
        >>> trained = bottleneck_dynamics.flow(kernels.Erf(), jnp.eye(2), g, y, time=1.0, steps=3)
        >>> print(np.asarray(trained.loss).round(3))
        [2.5   2.292 2.172 1.985]
    """
    both = _checked_training(kernel, bottleneck, y, new_kernel, new_bottleneck)
    step = checks.positive_number("time", time) / checks.positive_int("steps", steps)
    return _flow(activation, *both, y, jnp.asarray(step, y.dtype), steps)


def _recalled(activation: Any, z: Float[Array, " d"], visited: Array, weights: Array) -> Scalar:
    """f(z) = - sum of Theta_f between z and the points that were visited, by weights."""
    kernel = _tangent_kernel(activation, z[None], visited.reshape(-1, z.shape[0]))[0]
    return -jnp.sum(kernel * weights.reshape(-1))


@compiled(static_argnums=(5,))
def _flow(
    activation: Any, kernel: Array, g0: Array, y: Array, step: Scalar, steps: int
) -> Training:
    n, d = y.shape[0], g0.shape[1]

    def now(g: Array, visited: Array, weights: Array, last: Scalar) -> tuple[Array, Array, Array]:
        """f at all points, chi, and the velocity of g; the present has the weight `last`."""
        past = jax.vmap(lambda z: _recalled(activation, z, visited, weights))(g[:n])
        present = jnp.eye(n, dtype=y.dtype) + last * _tangent_kernel(activation, g[:n], g[:n])
        chi = jnp.linalg.solve(present, past - y)
        points = jnp.concatenate([visited.reshape(-1, d), g[:n]])
        shares = jnp.concatenate([weights.reshape(-1), last * chi])
        value, slope = jax.vmap(
            jax.value_and_grad(lambda z: _recalled(activation, z, points, shares))
        )(g)
        return value, chi, -kernel @ (chi[:, None] * slope[:n])

    def advance(carry: tuple[Array, Array, Array], t: Array) -> tuple[Any, Any]:
        g, visited, weights = carry  # weights of what is still to come are 0
        inside = jnp.where(t > 0, step, 0)  # the integral begins at t = 0
        value, chi, velocity = now(g, visited, weights, inside / 2)
        visited, weights = visited.at[t].set(g[:n]), weights.at[t].set((step + inside) / 2 * chi)
        ahead = now(g + step * velocity, visited, weights, step / 2)[2]
        return (g + step / 2 * (velocity + ahead), visited, weights), (value, g[:n])

    return _collect(advance, g0, y, steps)


@compiled(static_argnums=(5,))
def _train(
    activation: Any, kernel: Array, g0: Array, y: Array, step: Scalar, steps: int
) -> Training:
    n = y.shape[0]

    def f(z: Array, visited: Array, chi: Array) -> Scalar:
        return _recalled(activation, z, visited, step * chi)

    def advance(carry: tuple[Array, Array, Array], t: Array) -> tuple[Any, Any]:
        g, visited, chi = carry  # entries of chi that are still to come are 0
        value, slope = jax.vmap(jax.value_and_grad(f), (0, None, None))(g, visited, chi)
        error = value[:n] - y
        visited, chi = visited.at[t].set(g[:n]), chi.at[t].set(error)
        moved = g - step * kernel @ (error[:, None] * slope[:n])
        return (moved, visited, chi), (value, g[:n])

    return _collect(advance, g0, y, steps)


def _collect(advance: Any, g0: Array, y: Array, steps: int) -> Training:
    """The states of ``steps + 1`` advances of (g, points visited, their weights)."""
    n, d = y.shape[0], g0.shape[1]
    # Visited points start at 1 and not at 0, where kernels may have no gradient.
    start = (g0, jnp.ones((steps + 1, n, d), g0.dtype), jnp.zeros((steps + 1, n), g0.dtype))
    outputs, bottleneck = jax.lax.scan(advance, start, jnp.arange(steps + 1))[1]
    loss = jnp.sum((outputs[:, :n] - y[None]) ** 2, axis=1) / 2
    return Training(
        outputs=outputs[:, :n], bottleneck=bottleneck, new_outputs=outputs[:, n:], loss=loss
    )


def _tangent_kernel(
    activation: Any, z: Float[Array, "A d"], w: Float[Array, "B d"]
) -> Float[Array, "A B"]:
    """Theta_f."""
    d = z.shape[1]
    c = z @ w.T / d
    a, b = jnp.sum(z**2, axis=1)[:, None] / d, jnp.sum(w**2, axis=1)[None, :] / d
    return activation.evaluate(c, a, b) + c * activation.derivative(c, a, b)


# --- the linear case ------------------------------------------------------------------------------


class LinearFlow(NamedTuple):
    """Gradient flow of a linear bottleneck at some times; w w^T - U U^T does not change.

    Attributes:
        times: t, (T,).
        beta: (T, D) with F(x) = beta.x, relative to its start.
        w: (T, d), behind it.
        u: U, (T, d, D), behind it.
        loss: (T,).

    Examples:
        >>> import numpy as np
        >>> from dkp.theory.bottleneck_dynamics import linear_flow
        >>> path = linear_flow(np.eye(2), np.ones(2), np.eye(2), np.ones(2), time=1.0, steps=20)
        >>> path.times.shape, path.beta.shape
        ((21,), (21, 2))
    """

    times: Float[np.ndarray, " T"]
    beta: Float[np.ndarray, "T D"]
    w: Float[np.ndarray, "T d"]
    u: Float[np.ndarray, "T d D"]
    loss: Float[np.ndarray, " T"]


def linear_flow(
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, " N"],
    u0: Float[np.ndarray, "d D"],
    w0: Float[np.ndarray, " d"],
    *,
    time: float,
    steps: int = 1000,
) -> LinearFlow:
    """Gradient flow of f(z) = w.z / sqrt(d) and g(x) = U x / sqrt(D).

    Each is the limit of a linear network of two layers, so that their tangent kernels are twice the
    kernels: with beta = U^T w / sqrt(d D) and m = X^T chi,

        dw/dt = -(2 / sqrt(d D)) U m,   dU/dt = -(2 / sqrt(d D)) w m^T,
        d beta/dt = -(2 / (d D)) (U^T U + |w|^2 I) m

    The output is centred: chi = X (beta - beta_0) - y. As d grows with unit Gaussian starts,
    U^T U / d -> I and |w|^2 / d -> 1, a constant tangent kernel 4 x.x' / D.

    Args:
        x: inputs.
        y: targets.
        u0: where U starts.
        w0: where w starts.
        time: until when.
        steps: of the Runge-Kutta method of order four.

    Raises:
        ValueError: for shapes that do not fit, and numbers that are not positive.

    Examples:
        >>> import numpy as np
        >>> from dkp.theory.bottleneck_dynamics import linear_flow
        >>> path = linear_flow(np.eye(2), np.ones(2), np.eye(2), np.ones(2), time=1.0, steps=20)
        >>> print(path.loss[[0, -1]].round(3))
        [1.    0.002]
    """
    x, y = checks.finite_array("x", x, ndim=2), checks.finite_array("y", y, ndim=1)
    u, w = checks.finite_array("u0", u0, ndim=2), checks.finite_array("w0", w0, ndim=1)
    checks.same_length("x", x, "y", y)
    if u.shape != (len(w), x.shape[1]):
        raise ValueError(
            f"Expected u0 of shape {(len(w), x.shape[1])}, as w0 and x have it. Got {u.shape}."
        )
    h = checks.positive_number("time", time) / checks.positive_int("steps", steps)
    root = math.sqrt(u.size)
    gram, target = x.T @ x, x.T @ (y + x @ (u.T @ w) / root)  # m = gram beta - target

    def slope(w: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m = gram @ (u.T @ w) / root - target
        return -2 / root * (u @ m), -2 / root * np.outer(w, m)

    path = [(w, u)]
    for _ in range(steps):
        k1 = slope(w, u)
        k2 = slope(w + h / 2 * k1[0], u + h / 2 * k1[1])
        k3 = slope(w + h / 2 * k2[0], u + h / 2 * k2[1])
        k4 = slope(w + h * k3[0], u + h * k3[1])
        w, u = (
            s + h / 6 * (a + 2 * b + 2 * c + d)
            for s, a, b, c, d in zip((w, u), k1, k2, k3, k4, strict=True)
        )
        path.append((w, u))
    ws, us = (np.stack(part) for part in zip(*path, strict=True))
    beta = np.einsum("tad,ta->td", us, ws) / root
    beta = beta - beta[0]
    loss = np.sum((beta @ x.T - y) ** 2, axis=1) / 2
    return LinearFlow(times=h * np.arange(steps + 1), beta=beta, w=ws, u=us, loss=loss)


def acceleration(
    width: int | float,
    norm: float,
    *,
    n_features: int = 20,
    fraction: float = 0.01,
    repeats: int = 10,
    seed: int = 0,
) -> float:
    """Time until the loss is `fraction` of its start, relative to that without a bottleneck.

    On whitened data, X^T X = D I, with a target of |beta| = `norm`, a mean over starts.

    Below 1, a bottleneck accelerates: only where the target is large beside its dimension, since
    the rate along beta is about 4 |beta| sqrt(D / d) against 4. With small targets a small d is
    slower (measured, D = 20: at |beta| = 3 the time of d = 1 is half of that without a bottleneck,
    at |beta| = 1 it is 1.7 times as long).

    Args:
        width: d; infinity gives 1.
        norm: |beta|.
        n_features: D.
        fraction: between 0 and 1.
        repeats: starts.
        seed: of them.

    Raises:
        ValueError: for numbers out of range.

    Examples:
        >>> import math
        >>> from dkp.theory.bottleneck_dynamics import acceleration
        >>> acceleration(math.inf, norm=3.0)
        1.0
    """
    size, n = checks.positive_number("norm", norm), checks.positive_int("n_features", n_features)
    if not 0 < fraction < 1:
        raise ValueError(f"Expected fraction between 0 and 1. Got {fraction}.")
    if width == math.inf:
        return 1.0
    d, rng = checks.positive_int("width", width), np.random.default_rng(seed)
    times = [
        _time(rng, d, n, size, fraction) for _ in range(checks.positive_int("repeats", repeats))
    ]
    return float(np.mean(times)) / (-math.log(fraction) / 8)


def _time(rng: np.random.Generator, d: int, n: int, norm: float, fraction: float) -> float:
    direction = rng.normal(size=n)
    y = math.sqrt(n) * norm * direction / np.linalg.norm(direction)
    u0, w0, end = rng.normal(size=(d, n)), rng.normal(size=d), 2.0
    while True:
        flow = linear_flow(math.sqrt(n) * np.eye(n), y, u0, w0, time=end, steps=400)
        below = np.flatnonzero(flow.loss <= fraction * flow.loss[0])
        if below.size:
            logs = np.log(flow.loss / flow.loss[0])
            i = below[0]
            return float(
                np.interp(-math.log(fraction), -logs[i - 1 : i + 1], flow.times[i - 1 : i + 1])
            )
        end *= 2


def _checked_training(
    kernel: Any, bottleneck: Any, y: Any, new_kernel: Any, new_bottleneck: Any
) -> tuple[Any, Any]:
    """Theta_g and g_0 at the training points and the new ones, one below the other."""
    n = len(y)
    if kernel.shape != (n, n) or bottleneck.shape[0] != n or bottleneck.shape[1] < 1:
        raise ValueError(
            f"Expected kernel of shape {(n, n)} and bottleneck of shape ({n}, d). Got "
            f"{kernel.shape} and {bottleneck.shape}."
        )
    if (new_kernel is None) != (new_bottleneck is None):
        raise ValueError("Expected both new_kernel and new_bottleneck, or none of them. Got one.")
    if new_kernel is not None and new_bottleneck is not None:
        shapes = (len(new_kernel), n), (len(new_kernel), bottleneck.shape[1])
        if (new_kernel.shape, new_bottleneck.shape) != shapes:
            raise ValueError(
                f"Expected new_kernel and new_bottleneck of shapes {shapes[0]} and {shapes[1]}. "
                f"Got {new_kernel.shape} and {new_bottleneck.shape}."
            )
    else:
        new_kernel, new_bottleneck = kernel[:0], bottleneck[:0]
    return jnp.concatenate([kernel, new_kernel]), jnp.concatenate([bottleneck, new_bottleneck])
